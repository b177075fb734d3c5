//! A gateway whose threads run: until it is told to stop, or another process has taken its place,
//! and on to the end of its last request.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle as Task};

use super::error::AppError;
use super::management::Upkeep;
use super::reload::Reloader;
use super::rotation::Rotating;
use super::serve::{Bound, OnReady};
use super::signals::{Signals, Told};
use super::sockets::Sockets;
use super::supervisor::Supervisor;
use super::upgrade::{Handing, NotTakenOver, Predecessor, Program, Successor, Taken};
use super::watch::FileWatch;
use super::workers::{Workers, runtime};
use crate::background;
use crate::ready::Readiness;
use crate::report::Chain;
use crate::sync::{Runner, StateLoan};
use crate::table::Table;

/// A gateway whose threads run.
pub(super) struct Running {
    pub(super) reloader: Reloader,
    pub(super) readiness: Arc<Readiness>,
    pub(super) table: Arc<Table>,
    pub(super) bound: Bound,
    pub(super) sockets: Sockets,
    /// What answers callers.
    pub(super) workers: Crew,
    /// What tells of this process: it answers as long as there is something to tell.
    pub(super) tellers: Crew,
    /// The thread that follows the store outlives the workers: what they count is written back last.
    pub(super) following: Following,
    /// Ended by its drop, after everything that it writes down.
    pub(super) upkeep: Upkeep,
    pub(super) rotating: Rotating,
    /// True once connections may be accepted.
    pub(super) open: watch::Sender<bool>,
    pub(super) program: Program,
    pub(super) predecessor: Option<Arc<Predecessor>>,
    pub(super) supervisor: Supervisor,
}

/// Threads that end together.
pub(super) struct Crew {
    pub(super) workers: Workers,
    pub(super) stop: watch::Sender<bool>,
}

impl Crew {
    /// Threads that are yet to be started, and what tells them to end.
    pub(super) fn new() -> (Self, watch::Receiver<bool>) {
        let (stop, stopped) = watch::channel(false);
        (Self { workers: Workers::new(), stop }, stopped)
    }

    fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// The thread that follows the store.
pub(super) struct Following {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
    loan: StateLoan,
}

/// Why a gateway serves no longer.
enum End {
    Told,
    Failed(AppError),
    Replaced(Taken),
}

/// An upgrade under way.
struct Upgrading {
    successor: Successor,
    conversation: Task<Result<Taken, NotTakenOver>>,
}

impl Running {
    /// Serves until a signal says stop or another process takes over, then drains.
    pub(super) async fn until_told_to_stop(mut self, on_ready: Option<OnReady>) -> Result<(), AppError> {
        let mut signals = Signals::listen().map_err(AppError::runtime("cannot listen for signals"))?;
        self.reloader.process_metrics.reloaded(self.reloader.clock.now().seconds());
        self.reloader.show_certificates();
        for address in &self.bound.gateway {
            tracing::info!(listener = "gateway", %address, "listening");
        }
        for address in &self.bound.cleartext {
            tracing::info!(listener = "gateway_cleartext", %address, "listening");
        }
        let Bound { ops, admin, own_keys, .. } = &self.bound;
        for (listener, address) in [("admin", admin), ("self", own_keys), ("ops", ops)] {
            if let Some(address) = address {
                tracing::info!(listener, %address, "listening");
            }
        }
        self.readiness.bound();
        let end = self.serve(&mut signals, on_ready).await;
        self.leave(&mut signals, end).await
    }

    async fn serve(&mut self, signals: &mut Signals, on_ready: Option<OnReady>) -> End {
        let mut watch = match FileWatch::new() {
            Ok(watch) => watch,
            Err(error) => {
                let cause = std::io::Error::other(error);
                return End::Failed(AppError::runtime("cannot watch the configuration's files")(cause));
            }
        };
        watch.follow(self.reloader.files().iter().map(PathBuf::as_path));
        let patience = tokio::time::sleep(QUEUE_FOR);
        let mut patience = std::pin::pin!(patience);
        let mut on_ready = Some(on_ready);
        let mut upgrading: Option<Upgrading> = None;
        loop {
            tokio::select! {
                () = self.table.wait_ready(), if on_ready.is_some() => {
                    self.is_ready().await;
                    if let Some(Some(tell)) = on_ready.take() {
                        tell(&self.bound);
                    }
                }
                // Nobody else serves: better a refusal than silence.
                () = &mut patience, if self.predecessor.is_none() && !*self.open.borrow() => {
                    self.open.send_replace(true);
                }
                told = signals.next() => match told {
                    Told::Stop => {
                        if let Some(upgrading) = upgrading.take() {
                            upgrading.give_up().await;
                        }
                        return End::Told;
                    }
                    Told::Reload => {
                        self.supervisor.reloading("reloading the configuration");
                        self.read_again(&mut watch).await;
                        self.supervisor.ready();
                    }
                    Told::Upgrade if on_ready.is_some() => {
                        tracing::warn!("not upgraded: this process is not ready yet");
                    }
                    Told::Upgrade if upgrading.is_some() => tracing::warn!("an upgrade is under way already"),
                    Told::Upgrade => upgrading = self.begin_upgrade(),
                },
                ended = ended(&mut upgrading) => {
                    upgrading = None;
                    match ended {
                        Ok(Ok(taken)) => return End::Replaced(taken),
                        Ok(Err(fault)) => self.not_replaced(&fault),
                        Err(panicked) => tracing::error!(error = %panicked, "an upgrade broke off"),
                    }
                }
                () = watch.changed() => self.read_again(&mut watch).await,
                () = self.supervisor.watch() => {}
                name = self.workers.workers.one_ended() => return thread_ended(name),
                name = self.tellers.workers.one_ended() => return thread_ended(name),
            }
        }
    }

    /// Reads every file again: the deny list in force first, whatever is wrong elsewhere, and that of
    /// the new configuration once its file is watched, so that no change of it is missed.
    async fn read_again(&mut self, watch: &mut FileWatch) {
        self.reloader.reload_deny();
        self.reloader.reload();
        self.reloader.reload_secrets().await;
        watch.follow(self.reloader.files().iter().map(PathBuf::as_path));
        self.reloader.reload_deny();
    }

    /// The table answers: connections are accepted, and whoever waits for that is told.
    async fn is_ready(&mut self) {
        self.open.send_replace(true);
        tracing::info!(keys = self.table.keys(), process = std::process::id(), "ready");
        if let Some(predecessor) = self.predecessor.take() {
            let said = tokio::task::spawn_blocking(move || predecessor.is_ready()).await;
            if let Err(panicked) = said {
                tracing::error!(error = %panicked, "the process before this one could not be told");
            }
        }
        self.supervisor.ready();
    }

    fn begin_upgrade(&mut self) -> Option<Upgrading> {
        self.supervisor.reloading("starting the new binary");
        let handing = Handing {
            program: self.program.clone(),
            loan: self.following.loan.clone(),
            patience: self.reloader.config.gateway.leaving.upgrade,
            clock: Arc::clone(&self.reloader.clock),
        };
        match Successor::start(&self.sockets, handing) {
            Ok((successor, conversation)) => {
                tracing::info!(process = conversation.process(), "started the new binary");
                let conversation = tokio::task::spawn_blocking(move || conversation.lead());
                Some(Upgrading { successor, conversation })
            }
            Err(fault) => {
                self.not_replaced(&fault);
                None
            }
        }
    }

    fn not_replaced(&self, fault: &NotTakenOver) {
        self.reloader.process_metrics.upgrade_failed();
        tracing::error!(error = %Chain(fault), "not upgraded: this process goes on serving");
        self.supervisor.ready();
    }

    /// Finishes what is open, as long as there is time, and ends.
    async fn leave(mut self, signals: &mut Signals, end: End) -> Result<(), AppError> {
        let outcome = match end {
            End::Replaced(taken) => return self.make_way(signals, &taken).await,
            End::Told => Ok(()),
            End::Failed(error) => Err(error),
        };
        tracing::info!("stopping");
        self.supervisor.stopping();
        self.readiness.draining();
        let delay = self.reloader.config.gateway.leaving.drain_delay;
        if outcome.is_ok() && !delay.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.supervisor.watch() => {}
                () = signals.stop() => tracing::warn!("told to stop again: not waiting for load balancers"),
            }
        }
        let Self { mut sockets, workers, tellers, following, upkeep, rotating, mut supervisor, .. } = self;
        sockets.let_go();
        workers.stop();
        rotating.stop();
        let drained = tokio::task::spawn_blocking(move || {
            workers.workers.join();
            drop(upkeep);
            rotating.join();
            tellers.stop();
            tellers.workers.join();
            following.end();
        });
        tokio::select! {
            ended = drained => note(ended),
            () = supervisor.watch() => {}
            () = signals.stop() => tracing::warn!("told to stop again: ending at once"),
        }
        tracing::info!("stopped");
        outcome
    }

    /// Another process serves: this one accepts nothing more, and finishes what is open.
    async fn make_way(self, signals: &mut Signals, taken: &Taken) -> Result<(), AppError> {
        let Self { mut sockets, workers, tellers, following, upkeep, rotating, mut supervisor, reloader, .. } = self;
        tracing::info!(process = taken.process, "the new process is ready; finishing open requests");
        following.loan.give();
        supervisor.hand_over(taken.process);
        taken.is_over();
        let gateway = &reloader.config.gateway;
        let mut listening = gateway.listen_settings();
        listening.timeouts.drain = gateway.leaving.upgrade_drain;
        reloader.listen_settings.store(Arc::new(listening));
        sockets.let_go();
        workers.stop();
        tellers.stop();
        rotating.stop();
        let drained = tokio::task::spawn_blocking(move || {
            workers.workers.join();
            drop(upkeep);
            rotating.join();
            tellers.workers.join();
            following.end();
        });
        // Told to stop with its successor, it has the time that it would have had by itself.
        let cut_short = async {
            signals.stop().await;
            tokio::select! {
                () = tokio::time::sleep(gateway.timeouts.drain) => {}
                () = signals.stop() => {}
            }
        };
        tokio::select! {
            ended = drained => note(ended),
            () = cut_short => tracing::warn!("told to stop: ending before open requests have"),
        }
        tracing::info!("made way");
        Ok(())
    }
}

impl Upgrading {
    /// Ends the new process.
    async fn give_up(self) {
        self.successor.give_up();
        if let Ok(Ok(taken)) = self.conversation.await {
            tracing::warn!(process = taken.process, "the new process was ready already: stop it as well");
            taken.is_over();
        }
    }
}

/// How long connections wait in a socket of the service manager for keys to be loaded.
const QUEUE_FOR: Duration = Duration::from_secs(5);

/// How an upgrade ended. Cancel-safe; waits for ever where there is none.
async fn ended(upgrading: &mut Option<Upgrading>) -> Result<Result<Taken, NotTakenOver>, JoinError> {
    match upgrading {
        Some(upgrading) => (&mut upgrading.conversation).await,
        None => std::future::pending().await,
    }
}

fn thread_ended(name: String) -> End {
    End::Failed(AppError::Runtime { what: "a thread ended before it should", cause: std::io::Error::other(name) })
}

fn note(ended: Result<(), JoinError>) {
    if let Err(panicked) = ended {
        tracing::error!(error = %panicked, "the end broke off");
    }
}

impl Following {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system has no thread or runtime to give.
    pub(super) fn start(runner: Runner, loan: StateLoan) -> Result<Self, AppError> {
        let (stop, stopped) = watch::channel(false);
        let runtime = runtime()?;
        let work = move || runtime.block_on(runner.run(stopped));
        let thread = background::spawn("sync", work);
        Ok(Self { stop, thread: thread.map_err(AppError::runtime("cannot start a thread"))?, loan })
    }

    fn end(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("the thread that follows the store ended by a panic");
        }
    }
}
