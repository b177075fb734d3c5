//! Hearing of commits: one connection that listens. A hint and no more, for what was told while nobody
//! listened is lost; what changed, the poll tells.
//!
//! A connection that looks alive may be deaf: after a failover, behind a pooler. So whoever has heard
//! nothing for a while tells itself, and everybody who listens, that it is there; whoever does not hear
//! that either begins anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Config};

use super::connect::{self, Connector};
use super::fault::Fault;
use super::{CHANNEL, PostgresSettings, Shared};

/// After how long without news one makes sure that one would hear of any. Each takes a little more or
/// less, and then one speaks for all of a fleet.
const SILENCE: Duration = Duration::from_secs(4);
/// How long it takes to say a word at most.
const SAID: Duration = Duration::from_secs(5);
/// How long it takes at most until it is heard.
const ECHO: Duration = Duration::from_secs(2);
/// How long until another attempt where nothing is ever heard, as behind a pooler.
const DEAF: Duration = Duration::from_secs(30);
/// What is told when there is no news.
const PULSE: &str = "pulse";

/// Where to listen.
pub(super) struct Ear {
    config: Config,
    connector: Connector,
}

impl Ear {
    /// At `listen_url`, or where all else is asked.
    pub(super) fn new(settings: &PostgresSettings, connector: Connector) -> Self {
        let address = settings.listen.as_ref().unwrap_or(&settings.address);
        let mut config = connect::config(address, settings);
        let password = settings.address.config();
        if let (None, Some(password)) = (config.get_password(), password.get_password()) {
            config.password(password);
        }
        Self { config, connector }
    }

    /// Listens for as long as the store is open.
    pub(super) async fn listen(self, shared: Arc<Shared>) {
        let mut failed = 0;
        let mut told_why = false;
        loop {
            let ended = self.hear(&shared, &mut failed).await;
            // Whatever was missed is to be looked for.
            shared.tell();
            if failed == 0 {
                told_why = false;
            }
            failed += 1;
            let is_deaf = matches!(ended, Ended::Deaf);
            if !told_why && (is_deaf || failed > 1) {
                told_why = true;
                tracing::warn!(
                    store = %shared.name,
                    cause = %ended,
                    "commits of other gateways are not heard of, and are found by polling until they are; \
                     LISTEN needs a connection of its own, past any pooler: see store.postgres.listen_url"
                );
            }
            let pause = if is_deaf { shared.about(DEAF) } else { shared.pause(failed) };
            tokio::time::sleep(pause).await;
        }
    }

    /// Listens until that ends.
    async fn hear(&self, shared: &Shared, failed: &mut usize) -> Ended {
        let (tell, mut told) = unbounded_channel();
        let connected = self.connector.connect(&self.config, move |message| {
            if let AsyncMessage::Notification(note) = message {
                // Nobody hears it once the listening has ended.
                let _gone = tell.send(note.payload() == PULSE);
            }
        });
        let (client, task) = match timeout(shared.connect_timeout, connected).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Ended::Failed(Fault::from(error).told(&shared.name).to_string()),
            Err(_elapsed) => return Ended::Failed("no connection in time".to_owned()),
        };
        let _ends_with_this = Ending(task);
        match timeout(SAID, client.batch_execute(&format!("LISTEN {CHANNEL}"))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Ended::Failed(Fault::from(error).told(&shared.name).to_string()),
            Err(_elapsed) => return Ended::Failed("it gave no answer".to_owned()),
        }
        // The first word is our own, at once: is this connection one that hears?
        let mut heard = false;
        loop {
            let silence = if heard { shared.about(SILENCE) } else { Duration::ZERO };
            match timeout(silence, told.recv()).await {
                Ok(Some(is_pulse)) => {
                    if !is_pulse {
                        shared.tell();
                    }
                    continue;
                }
                Ok(None) => return Ended::Failed("the connection was lost".to_owned()),
                Err(_elapsed) => {}
            }
            if let Err(ended) = echo(shared, &mut told, heard).await {
                return ended;
            }
            if !heard {
                heard = true;
                if *failed > 0 {
                    tracing::info!(store = %shared.name, "commits of other gateways are heard of again");
                }
                *failed = 0;
                // What was committed before cannot be told from what was there.
                shared.tell();
            }
        }
    }
}

/// Says a word and hears it, or any other. It is said where all else is asked, for what is said on the
/// listening connection itself comes back on it even behind a pooler that keeps all other words from it.
async fn echo(shared: &Shared, told: &mut UnboundedReceiver<bool>, heard: bool) -> Result<(), Ended> {
    let pulse = format!("SELECT pg_notify('{CHANNEL}', '{PULSE}')");
    match timeout(SAID, shared.begin_by(&pulse, None)).await {
        Ok(Ok((said, _rows))) => said.release(),
        Ok(Err(fault)) => return Err(Ended::Failed(fault.told(&shared.name).to_string())),
        Err(_elapsed) => return Err(Ended::Failed("it gave no answer".to_owned())),
    }
    match timeout(ECHO, told.recv()).await {
        Ok(Some(is_pulse)) => {
            if !is_pulse {
                shared.tell();
            }
            Ok(())
        }
        Ok(None) => Err(Ended::Failed("the connection was lost".to_owned())),
        Err(_elapsed) if heard => Err(Ended::Failed("nothing is heard any more".to_owned())),
        Err(_elapsed) => Err(Ended::Deaf),
    }
}

/// Why listening ended.
enum Ended {
    /// It never began to hear.
    Deaf,
    /// The connection failed.
    Failed(String),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Deaf => f.write_str("what is told is not heard there"),
            Self::Failed(cause) => f.write_str(cause),
        }
    }
}

/// A connection's task, which ends with this.
struct Ending(JoinHandle<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}
