//! Connections: how they are made and how many are kept.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime};
use rustls::ClientConfig;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Address;
use super::fault::{Fault, words};
use super::{PostgresSettings, Shared};
use crate::report::Chain;
use crate::tls::{self, ClientSettings};

/// After how long without a word a connection is asked whether anybody is there, and how often.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_RETRIES: u32 = 3;
/// After how long without an acknowledgement a connection is given up.
const USER_TIMEOUT: Duration = Duration::from_secs(15);

/// How a connection is told to be made.
pub(super) fn config(address: &Address, settings: &PostgresSettings) -> Config {
    let mut config = address.config();
    if config.get_application_name().is_none() {
        config.application_name("keyward");
    }
    config
        .connect_timeout(settings.connect_timeout)
        .keepalives(true)
        .keepalives_idle(KEEPALIVE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES)
        .tcp_user_timeout(USER_TIMEOUT)
        .target_session_attrs(TargetSessionAttrs::ReadWrite)
        .ssl_mode(if settings.tls.is_some() { SslMode::Require } else { SslMode::Disable });
    config
}

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    tls: Option<Arc<Tls>>,
}

/// TLS to the server, its files read anew when they change.
struct Tls {
    settings: ClientSettings,
    current: ArcSwap<(tls::Client, MakeRustlsConnect)>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("tls", &self.tls.is_some()).finish()
    }
}

impl Connector {
    /// Reads the files that TLS needs.
    pub(super) fn new(settings: Option<&ClientSettings>) -> Result<Self, Fault> {
        let tls = settings.map(|settings| {
            let current = load(settings).map_err(Fault::Around)?;
            Ok::<_, Fault>(Arc::new(Tls { settings: settings.clone(), current: ArcSwap::from_pointee(current) }))
        });
        Ok(Self { tls: tls.transpose()? })
    }

    /// Connects. `told` gets what the server says on its own.
    pub(super) async fn connect(
        &self,
        config: &Config,
        told: impl FnMut(AsyncMessage) + Send + 'static,
    ) -> Result<(Client, JoinHandle<()>), Error> {
        match &self.tls {
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                Ok((client, serve(connection, told)))
            }
            Some(tls) => {
                let (client, connection) = config.connect(tls.make()).await?;
                Ok((client, serve(connection, told)))
            }
        }
    }
}

impl Tls {
    /// With the certificate as it lies there now: one that was renewed needs no restart. Files that cannot
    /// be used leave the last good ones in use.
    fn make(&self) -> MakeRustlsConnect {
        match load(&self.settings) {
            Ok(fresh) => {
                if !fresh.0.is_same(&self.current.load().0) {
                    tracing::info!("the certificates for the store's server were read anew");
                    self.current.store(Arc::new(fresh));
                }
            }
            Err(cause) => {
                tracing::warn!(cause, "certificates for the store's server cannot be read; the last are used");
            }
        }
        self.current.load().1.clone()
    }
}

fn load(settings: &ClientSettings) -> Result<(tls::Client, MakeRustlsConnect), String> {
    let client = tls::Client::new(settings.clone());
    client.load().map_err(|faults| {
        faults.iter().map(|fault| format!("store.postgres: {fault}")).collect::<Vec<_>>().join("; ")
    })?;
    let mut config: ClientConfig = client.config(true).map(|config| (*config).clone()).expect("it was loaded just now");
    // Servers from version 17 on look at what is offered, and refuse another protocol's name.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let make = MakeRustlsConnect::new(config);
    Ok((client, make))
}

/// Serves a connection until it ends.
fn serve<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    mut told: impl FnMut(AsyncMessage) + Send + 'static,
) -> JoinHandle<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    // Whoever holds the handle ends it.
    Handle::current().spawn(async move {
        while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            match message {
                Ok(message) => told(message),
                Err(error) => {
                    tracing::debug!(cause = words(&error), "a connection to the store's server ended");
                    return;
                }
            }
        }
    })
}

impl Connect for Connector {
    fn connect(
        &self,
        config: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        let config = config.clone();
        Box::pin(async move { self.connect(&config, |_notice| {}).await })
    }
}

/// The connections that are kept.
pub(super) fn pool(settings: &PostgresSettings, connector: Connector) -> Result<Pool, Fault> {
    let manager = Manager::from_connect(
        config(&settings.address, settings),
        connector,
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    Pool::builder(manager)
        .max_size(settings.pool_max)
        .wait_timeout(Some(settings.connect_timeout + settings.statement_timeout))
        .create_timeout(Some(settings.connect_timeout))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| Fault::Around(Chain(&error).to_string()))
}

impl Shared {
    /// Why there is no connection.
    pub(super) fn no_connection(&self, error: PoolError) -> Fault {
        match error {
            PoolError::Backend(error) => match error.as_db_error() {
                Some(_) => Fault::from(error),
                // "Session does not allow writes": how the library says that it found no primary.
                None if Chain(&error).to_string().contains("does not allow writes") => Fault::Replica,
                None => Fault::Around(Chain(&error).to_string()),
            },
            PoolError::Timeout(_) => {
                let seconds = self.connect_timeout.as_secs_f32();
                Fault::Around(format!(
                    "no connection within store.postgres.connect_timeout, {seconds} s, or all in use"
                ))
            }
            other => Fault::Around(Chain(&other).to_string()),
        }
    }
}
