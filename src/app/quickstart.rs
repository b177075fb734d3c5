//! `quickstart`: a folder in which a whole gateway lies ready, made on the first run and reused after.
//!
//! A token is never written to disk, so a later run cannot show the demo key's token again: it
//! replaces the key, with an hour of grace for the old one.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::AppError;
use super::init::{Initialised, init, make_folder, write_secret};
use crate::clock::Clock;
use crate::config::{Config, Environment, Fronted};
use crate::key::{FlagSet, Grants, Key, KeyId, ProjectId, Status, Token};
use crate::listen::bind;
use crate::manage::{Caller, Manager, NewKey};
use crate::proxy::Target;
use crate::store::KeyQuery;
use crate::tls;

/// How long the demo key of an earlier run goes on working.
const GRACE: Duration = Duration::from_secs(3600);
const DEMO: &str = "demo";

/// What was asked for.
#[derive(Debug)]
pub struct Quickstart<'q> {
    /// The folder.
    pub folder: &'q Path,
    /// The service to stand in front of; none to start one that echoes.
    pub upstream: Option<&'q str>,
    /// Where it will listen; none for what the folder's configuration says.
    pub listen: Option<SocketAddr>,
}

/// A folder that is ready to be served from.
#[derive(Debug)]
pub struct Demo {
    /// Its configuration.
    pub config: Config,
    /// What was made by this run.
    pub made: Initialised,
    /// The demo key.
    pub key: KeyId,
    /// Its token.
    pub token: Token,
    /// The certificate that clients must trust.
    pub certificate: PathBuf,
    /// Where an echoing upstream shall listen, unless a service was named.
    pub echo: Option<SocketAddr>,
    /// A path that the demo key may GET, and not POST.
    pub path: String,
}

/// Makes what is missing in the folder, and a demo key.
///
/// # Errors
/// When something can be neither made nor used.
pub async fn prepare(
    asked: &Quickstart<'_>,
    environment: &Environment,
    clock: Arc<dyn Clock>,
) -> Result<Demo, AppError> {
    let upstream = asked.upstream.map(read_upstream).transpose()?;
    make_folder(asked.folder)?;
    let mut new_files = Vec::new();
    let certificate = asked.folder.join("tls/server.pem");
    new_files.extend(make_certificate(&certificate, &asked.folder.join("tls/server.key"), clock.as_ref())?);
    new_files.extend(make_config(asked.folder, asked.upstream)?);
    let config = Config::load(&asked.folder.join("keyward.toml"), environment).map_err(AppError::Config)?;
    check_same(&config, asked.folder, upstream)?;
    are_free(&config, asked.listen)?;
    let caller = Caller::Local { login: "quickstart".to_owned() };
    let mut made = init(&config, &caller, Arc::clone(&clock)).await?;
    new_files.append(&mut made.made);
    made.made = new_files;
    let store = config.store.open(Arc::clone(&clock))?;
    let manager = Manager::new(store, config.proxy.token_prefix.clone());
    let (key, token) = demo_key(&manager, &caller, clock.as_ref()).await?;
    let echo = config.proxy.upstreams.get(Fronted::Echo.name()).and_then(|echo| echo.targets.first()?.address);
    let path = demo_path(&config);
    Ok(Demo { config, made, key, token, certificate, echo, path })
}

/// The certificate and its key, where there are none.
fn make_certificate(chain: &Path, key: &Path, clock: &dyn Clock) -> Result<Vec<PathBuf>, AppError> {
    if chain.exists() && key.exists() {
        return Ok(Vec::new());
    }
    super::init::make_folder_of(chain)?;
    let generated = tls::generate(clock.now())?;
    if key.exists() {
        std::fs::remove_file(key).map_err(AppError::file("replace", key))?;
    }
    write_secret(key, &generated.key)?;
    std::fs::write(chain, &generated.chain).map_err(AppError::file("write", chain))?;
    Ok(vec![chain.to_owned(), key.to_owned()])
}

/// The configuration, where there is none.
fn make_config(folder: &Path, upstream: Option<&str>) -> Result<Option<PathBuf>, AppError> {
    let path = folder.join("keyward.toml");
    if path.exists() {
        return Ok(None);
    }
    let text = match upstream {
        Some(url) => Fronted::Service.quickstart_text(url),
        None => {
            let address = free_address().map_err(AppError::runtime("no port for the echo upstream"))?;
            Fronted::Echo.quickstart_text(&format!("http://{address}"))
        }
    };
    std::fs::write(&path, text).map_err(AppError::file("write", &path))?;
    Ok(Some(path))
}

/// Whether the folder's configuration is of the service that was asked for, where one was.
fn check_same(config: &Config, folder: &Path, upstream: Option<Vec<Target>>) -> Result<(), AppError> {
    let Some(asked) = upstream else { return Ok(()) };
    if config.proxy.upstreams.get(Fronted::Service.name()).is_some_and(|service| service.targets == asked) {
        return Ok(());
    }
    Err(AppError::Occupied {
        path: folder.join("keyward.toml"),
        remedy: "it has another upstream: change `targets` there, or give another --dir",
    })
}

/// Where the route for the demo key is, which may have been changed since it was written.
fn demo_path(config: &Config) -> String {
    let route = config.proxy.routes.routes().iter().find(|route| route.name() == "demo-read");
    let path = route.and_then(|route| route.spec().path.strip_suffix("{*rest}"));
    path.unwrap_or("/").to_owned()
}

/// Holds an upstream that was typed against what a configuration takes, before anything is made.
fn read_upstream(url: &str) -> Result<Vec<Target>, AppError> {
    let is_text = !url.contains(['"', '\\', '\n']);
    let text = Fronted::Service.quickstart_text(if is_text { url } else { "" });
    let cause = match Config::parse(Path::new("keyward.toml"), &text, &Environment::default()) {
        Ok(config) => {
            return Ok(config
                .proxy
                .upstreams
                .get(Fronted::Service.name())
                .map_or_else(Vec::new, |found| found.targets.clone()));
        }
        Err(faults) => faults.first().map(|fault| fault.what().to_owned()).unwrap_or_default(),
    };
    Err(AppError::Option { option: "--upstream", cause })
}

/// Whether nobody else listens where this shall: asked before the demo key of another run, which may
/// still be going on, is replaced.
fn are_free(config: &Config, listen: Option<SocketAddr>) -> Result<(), AppError> {
    let addresses = listen.map_or_else(|| config.gateway.listen.clone(), |listen| vec![listen]);
    for address in addresses {
        bind(address, 1).map_err(|fault| AppError::Listen { key: "gateway.listen".to_owned(), fault })?;
    }
    let any_port = listen.is_some_and(|listen| listen.port() == 0);
    // With any port for the gateway, any will do for the other listeners.
    if any_port {
        return Ok(());
    }
    for &address in &config.gateway.listen_cleartext {
        bind(address, 1).map_err(|fault| AppError::Listen { key: "gateway.listen_cleartext".to_owned(), fault })?;
    }
    let admin = config.admin.as_ref().map(|admin| admin.listen);
    let own_keys = config.own_keys.as_ref().map(|own| own.listen);
    for (name, address) in [("admin", admin), ("self", own_keys), ("ops", config.ops)] {
        if let Some(address) = address {
            bind(address, 1).map_err(|fault| AppError::Listen { key: format!("{name}.listen"), fault })?;
        }
    }
    Ok(())
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// A demo key: a new one, or what replaces the last run's.
async fn demo_key(manager: &Manager, caller: &Caller, clock: &dyn Clock) -> Result<(KeyId, Token), AppError> {
    let project: ProjectId = DEMO.parse().expect("a project id");
    let query = KeyQuery {
        project: Some(project.clone()),
        status: Some(Status::Active),
        text: Some(DEMO.to_owned()),
        ..KeyQuery::default()
    };
    let keys = manager.keys(caller, query).await?.keys;
    let usable =
        |key: &Key| key.name == DEMO && key.status(None, clock.now()) == Status::Active && key.replaced_by.is_none();
    if let Some(old) = keys.iter().find(|view| usable(&view.key)) {
        let rotated = manager.rotate_key(caller, old.key.id, GRACE).await?;
        return Ok((rotated.new.id, rotated.token));
    }
    let flags = FlagSet::parse(["demo.read"]).expect("a flag");
    let new = NewKey { grants: Grants::Only(flags), ..NewKey::named(DEMO, Some(project)) };
    let created = manager.create_key(caller, new).await?;
    Ok((created.key.id, created.token))
}
