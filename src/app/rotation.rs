//! The thread that announces rotations, and what webhooks need of the master secret.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::error::AppError;
use super::secrets::given;
use super::workers::runtime;
use crate::background;
use crate::clock::Clock;
use crate::config::Config;
use crate::key::WebhookSecrets;
use crate::manage::{Manager, Webhooks};
use crate::rotation::{Outbound, Parts, RotationMetrics, Rotator, SystemResolver};
use crate::store::SharedStore;

/// A manager of `store` that lets keys have webhooks where the configuration does: where
/// `[admin] public_url` says where their receivers rotate them.
///
/// # Errors
/// When the master secret cannot be read.
pub fn manager(config: &Config, store: &SharedStore) -> Result<Manager, AppError> {
    Ok(manager_with(config, store, WebhookSecrets::derive(&given(config)?, store.id().0)))
}

/// The same with these secrets of webhooks.
pub(super) fn manager_with(config: &Config, store: &SharedStore, secrets: WebhookSecrets) -> Manager {
    let manager = Manager::new(Arc::clone(store), config.proxy.token_prefix.clone());
    let manager = manager.with_usage_flush(config.sync.usage_flush);
    if config.rotation.public_url.is_none() {
        return manager;
    }
    manager.with_webhooks(Webhooks { secrets, reach: config.rotation.reach })
}

/// The thread that announces rotations.
pub(super) struct Rotating {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Rotating {
    /// Starts it.
    ///
    /// # Errors
    /// When the operating system has no thread, runtime or randomness to give.
    pub(super) fn start(
        config: &Config,
        store: &SharedStore,
        secrets: WebhookSecrets,
        clock: Arc<dyn Clock>,
        metrics: RotationMetrics,
    ) -> Result<Self, AppError> {
        let settings = config.rotation.clone();
        let resolver = Arc::new(SystemResolver);
        let post = Outbound::new(settings.reach, settings.timeout, settings.ca.clone(), resolver);
        let parts = Parts {
            settings,
            store: Arc::clone(store),
            manager: manager_with(config, store, secrets.clone()),
            secrets,
            clock,
            metrics,
            post: Arc::new(post),
        };
        let rotator = Rotator::new(parts).map_err(std::io::Error::other);
        let rotator = rotator.map_err(AppError::runtime("cannot draw a random number"))?;
        let (stop, stopped) = watch::channel(false);
        let runtime = runtime()?;
        let work = move || runtime.block_on(rotator.run(stopped));
        let thread = background::spawn("rotation", work);
        Ok(Self { stop, thread: thread.map_err(AppError::runtime("cannot start a thread"))? })
    }

    /// Tells it to end.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for its end.
    pub(super) fn join(self) {
        self.stop();
        if self.thread.join().is_err() {
            tracing::error!("the thread that announces rotations ended by a panic");
        }
    }
}
