//! Making what a configuration names and is not there yet: the master secret, the store, and the
//! first operator key. Running it again changes nothing.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::AppError;
use super::opening::remembers_a_store;
use super::secrets::{fingerprints, given};
use crate::clock::Clock;
use crate::config::Config;
use crate::key::{KeyId, Token};
use crate::manage::{Caller, Manager};
use crate::secret::{MasterSecret, Secret};
use crate::store::{SharedStore, check_secrets};

/// What was made.
#[derive(Debug)]
pub struct Initialised {
    /// Every file that was made, in order; a store that is no file by its name.
    pub made: Vec<PathBuf>,
    /// The first operator key, where the store held no key. Its token is nowhere else.
    pub operator: Option<(KeyId, Token)>,
}

/// Makes what `config` names and is missing.
///
/// # Errors
/// When something can be neither made nor used. What was made by then stays, and a second run goes on
/// from there.
pub async fn init(config: &Config, caller: &Caller, clock: Arc<dyn Clock>) -> Result<Initialised, AppError> {
    let mut made = Vec::new();
    let state = &config.sync.state_dir;
    if config.store.is_lacking_file() && remembers_a_store(state) {
        return Err(AppError::StoreLost { store: config.store.name(), state: state.clone() });
    }
    if config.store.make(Arc::clone(&clock))? {
        made.push(PathBuf::from(config.store.name()));
    }
    let store = config.store.open(clock)?;
    if let Some(file) = make_master_secret(config, &store).await? {
        made.push(file);
    }
    check_secrets(&*store, &fingerprints(&given(config)?)).await?;
    let manager = Manager::new(store, config.proxy.token_prefix.clone());
    let operator = manager.create_first_operator(caller).await?;
    Ok(Initialised { made, operator: operator.map(|created| (created.key.id, created.token)) })
}

/// The file that was made, where there was none and the environment holds no secret. A store that
/// was made with one never gets a second.
async fn make_master_secret(config: &Config, store: &SharedStore) -> Result<Option<PathBuf>, AppError> {
    let path = &config.master_file;
    if config.has_master_secret_in_environment() || path.exists() {
        return Ok(None);
    }
    if !store.secrets().await?.is_empty() {
        return Err(AppError::SecretMissing { store: store.name().to_owned(), path: path.clone() });
    }
    make_folder_of(path)?;
    write_secret(path, &MasterSecret::generate()?.to_text())?;
    Ok(Some(path.clone()))
}

/// Makes the folder that `path` shall lie in, closed to others.
pub(super) fn make_folder_of(path: &Path) -> Result<(), AppError> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => make_folder(folder),
        _ => Ok(()),
    }
}

/// Makes a folder and those above it, closed to others.
pub(super) fn make_folder(folder: &Path) -> Result<(), AppError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).map_err(AppError::file("make the folder", folder))
}

/// Writes a new file that only its owner can read, and waits until it is on the disk.
pub(super) fn write_secret(path: &Path, secret: &Secret) -> Result<(), AppError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(secret.expose())?;
        if !secret.expose().ends_with(b"\n") {
            file.write_all(b"\n")?;
        }
        file.sync_all()?;
        sync_folder_of(path)
    };
    write().map_err(AppError::file("write", path))
}

/// Makes the names in the folder of `path` survive a loss of power.
pub(super) fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
