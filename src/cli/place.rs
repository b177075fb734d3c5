//! Where a command works: the configuration, the store that it names, and who asks. The only file of
//! the command line that opens any of them.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::failure::Failure;
use super::operations::Operations;
use super::remote::Remote;
use super::values::{Asked, Whom};
use crate::app::{self, AppError, Bound, Demo, Quickstart, ServeOptions};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Environment};
use crate::manage::{Caller, Manager};
use crate::store::{Acceptance, Backup, Copied, GATEWAY_LOGIN, Retold, Settings, SharedStore, Step};

/// An opened store, and who asks.
pub(super) struct Place {
    pub(super) config: Config,
    pub(super) store: SharedStore,
    pub(super) manager: Manager,
    pub(super) caller: Caller,
    runtime: Runtime,
}

impl Place {
    /// Opens the store that the configuration in `path` names, with its master secret.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        Self::of(load(path)?)
    }

    /// Opens the store that `config` names, with its master secret.
    pub(super) fn of(config: Config) -> Result<Self, Failure> {
        let runtime = runtime()?;
        let app::Opened { store, signers } = runtime.block_on(app::open_store(&config, clock()))?;
        let manager = app::manager(&config, &store)?.with_jwt(signers);
        Ok(Self { config, store, manager, caller: caller(), runtime })
    }

    /// What `future` comes to.
    pub(super) fn wait<T, E: Into<Failure>>(&self, future: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
        self.runtime.block_on(future).map_err(Into::into)
    }

    /// Waits for `future`, which cannot fail.
    pub(super) fn wait_for(&self, future: impl Future<Output = ()>) {
        self.runtime.block_on(future);
    }
}

/// Whoever answers what is asked of keys and users.
pub(super) fn open(whom: &Whom) -> Result<Box<dyn Operations>, Failure> {
    Ok(match whom.meaning()? {
        Asked::Store(config) => Box::new(Place::open(config)?),
        Asked::Admin(url) => Box::new(Remote::open(url, whom.token_file.as_deref(), whom.ca.as_deref())?),
    })
}

/// The configuration in `path`.
pub(super) fn load(path: &Path) -> Result<Config, Failure> {
    Config::load(path, &Environment::of_process()).map_err(Failure::config)
}

/// Where the gateway of the configuration in `path` answers questions about itself.
pub(super) fn ops_address(path: &Path) -> Result<SocketAddr, Failure> {
    load(path)?.ops.ok_or_else(|| {
        Failure::config([format!("{}: ops.listen is missing: add [ops], which is what health asks", path.display())])
    })
}

/// Makes what `config` names and is missing.
pub(super) fn init(config: &Config) -> Result<app::Initialised, Failure> {
    Ok(runtime()?.block_on(app::init(config, &caller(), clock()))?)
}

/// Adds a master secret to those that `config` names, used once `after` has passed.
pub(super) fn rotate_secrets(config: &Config, after: Duration) -> Result<app::AddedSecret, Failure> {
    Ok(runtime()?.block_on(app::rotate_secrets(config, after, clock()))?)
}

/// Forgets one of the master secrets that `config` names.
pub(super) fn forget_secret(config: &Config, number: u32) -> Result<(), Failure> {
    Ok(runtime()?.block_on(app::forget_secret(config, number, clock()))?)
}

/// The master secrets that `config` names, and those that its store knows.
pub(super) fn list_secrets(config: &Config) -> Result<Vec<app::SecretStanding>, Failure> {
    Ok(runtime()?.block_on(app::list_secrets(config, clock()))?)
}

/// The public keys of all that is signed with the master secrets that `config` names, as a JWK set.
pub(super) fn jwks(config: &Config) -> Result<String, Failure> {
    let opened = runtime()?.block_on(app::open_store(config, clock()))?;
    Ok(opened.signers.jwks().to_owned())
}

/// Makes what is missing in the folder of a quickstart, and a demo key.
pub(super) fn prepare_quickstart(
    folder: &Path,
    upstream: Option<&str>,
    listen: Option<SocketAddr>,
) -> Result<Demo, Failure> {
    let asked = Quickstart { folder, upstream, listen };
    Ok(runtime()?.block_on(app::prepare_quickstart(&asked, &Environment::of_process(), clock()))?)
}

/// Serves a quickstart; `ready` is told where, once it answers.
pub(super) fn serve_quickstart(
    demo: Demo,
    listen: Option<SocketAddr>,
    ready: impl FnOnce(&Bound) + 'static,
) -> Result<(), Failure> {
    let options = ServeOptions { echo: demo.echo, listen, on_ready: Some(Box::new(ready)), ..ServeOptions::default() };
    Ok(app::serve(demo.config, options)?)
}

/// Serves what the configuration in `path` says.
pub(super) fn serve(path: &Path, accept_old_snapshot: bool) -> Result<(), Failure> {
    Ok(app::serve(load(path)?, ServeOptions { accept_old_snapshot, ..ServeOptions::default() })?)
}

/// Copies a store; `told` is told how far it has come.
pub(super) fn copy_store(
    from: &Settings,
    to: &Settings,
    told: &mut (dyn FnMut(Step) + Send),
) -> Result<Copied, Failure> {
    Ok(runtime()?.block_on(app::copy_store(from, to, clock(), told))?)
}

/// Writes the store that `config` names into a new file.
pub(super) fn back_up(config: &Config, to: &Path) -> Result<Backup, Failure> {
    Ok(app::back_up(config, to, &clock())?)
}

/// Puts a backup in the place of the store that `config` names.
pub(super) fn restore(config: &Config, from: &Path) -> Result<Backup, Failure> {
    Ok(app::restore(config, from, &clock())?)
}

/// What gateways told a restored store again.
pub(super) fn retold(place: &Place, after: u64) -> Result<Vec<Retold>, Failure> {
    place.wait(app::retold(&place.store, after))
}

/// Takes a restored store for right.
pub(super) fn accept_restore(place: &Place, after: u64) -> Result<(Acceptance, Vec<Retold>), Failure> {
    place.wait(app::accept_restore(&place.store, &place.caller, after))
}

/// A runtime for one command.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::of("cannot start", &error))
}

/// The machine's clock.
pub(super) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::default())
}

/// Whoever runs this: trusted, for they hold the master secret; named, for the audit log.
pub(super) fn caller() -> Caller {
    #[expect(clippy::disallowed_methods, reason = "the one place where the command line reads the environment")]
    let name = std::env::var("USER").ok();
    let plain = |name: &String| {
        name != GATEWAY_LOGIN
            && !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let login = name.filter(plain).unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    Caller::Local { login }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        let told = crate::report::Chain(&error);
        match &error {
            AppError::Config(faults) => Self::config(faults),
            _ if error.is_configuration() => Self::config([told]),
            _ => Self::failed(told),
        }
    }
}
