//! The store and the secrets that go with it: for commands, which need it now, and for a gateway,
//! which can start without it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::AppError;
use super::init::FIRST_SECRET;
use crate::clock::Clock;
use crate::config::{Config, MasterSecret, master_secret};
use crate::store::{self, AwaitedStore, SharedStore, SqliteStore, Store as _, StoreError, StoreId};
use crate::sync::MacKey;

/// Where a gateway keeps the id of the store it follows, so that it knows it with the store away.
const STORE_ID_FILE: &str = "store-id";

/// The store that `config` names, opened, with its master secret held against it.
///
/// # Errors
/// When the store cannot be opened, the secret cannot be read, or they do not belong together.
pub async fn open_store(config: &Config, clock: Arc<dyn Clock>) -> Result<SharedStore, AppError> {
    let secret = secret_of(config)?;
    let store = open(config, clock)?;
    store.check_secret(FIRST_SECRET, secret.fingerprint()).await?;
    Ok(store)
}

/// A store to follow, and the key of what is remembered of it.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) store: SharedStore,
    pub(super) mac_key: MacKey,
}

/// How long a start waits for a store that it can begin without.
const PATIENCE: Duration = Duration::from_millis(600);

/// The store that `config` names, opened now or, where it is away and this gateway has followed it
/// before, once it is there. A store that somebody keeps locked is away.
///
/// # Errors
/// When the secret cannot be read or is not the store's, the store is of a newer version, or it is
/// away and was never followed.
pub(super) async fn open_followed(config: &Config, clock: Arc<dyn Clock>) -> Result<Followed, AppError> {
    let secret = secret_of(config)?;
    let remembered = config.sync.state_dir.join(STORE_ID_FILE);
    if let Some(id) = recall(&remembered) {
        let store = awaited(config, id, &secret, Arc::clone(&clock));
        let mac_key = mac_key(&secret, id);
        match tokio::time::timeout(PATIENCE, store.ready()).await {
            Ok(Ok(())) => return Ok(Followed { store: Arc::new(store), mac_key }),
            Err(_elapsed) => {
                tracing::error!(store = store.name(), "the store gives no answer; starting from what is remembered");
                return Ok(Followed { store: Arc::new(store), mac_key });
            }
            Ok(Err(
                error @ (StoreError::Missing { .. } | StoreError::Unavailable { .. } | StoreError::Damaged { .. }),
            )) => {
                tracing::error!(%error, "the store is away; starting from what is remembered of it");
                return Ok(Followed { store: Arc::new(store), mac_key });
            }
            // Another store was put in its place while nothing ran: that one is followed.
            Ok(Err(StoreError::OtherStore { .. })) => {}
            Ok(Err(error)) => return Err(error.into()),
        }
    }
    let store = open(config, clock)?;
    store.check_secret(FIRST_SECRET, secret.fingerprint()).await?;
    remember(&remembered, store.id())?;
    let mac_key = mac_key(&secret, store.id());
    Ok(Followed { store, mac_key })
}

fn secret_of(config: &Config) -> Result<MasterSecret, AppError> {
    master_secret(config).map_err(|fault| AppError::Config(vec![fault]))
}

fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<SharedStore, StoreError> {
    let store::Settings::Sqlite { path } = &config.store;
    Ok(Arc::new(SqliteStore::open(path, clock)?))
}

fn awaited(config: &Config, id: StoreId, secret: &MasterSecret, clock: Arc<dyn Clock>) -> AwaitedStore {
    let store::Settings::Sqlite { path } = config.store.clone();
    let name = path.display().to_string();
    let open =
        move || -> Result<SharedStore, StoreError> { Ok(Arc::new(SqliteStore::open(&path, Arc::clone(&clock))?)) };
    AwaitedStore::new(name, id, (FIRST_SECRET, secret.fingerprint()), Arc::new(open))
}

fn mac_key(secret: &MasterSecret, store: StoreId) -> MacKey {
    MacKey::new(&secret.derive(store, "snapshot", ""))
}

/// Notes the store's id. It is no secret, and one that was tampered with only makes the snapshot's
/// code not match.
fn remember(path: &Path, id: StoreId) -> Result<(), AppError> {
    if recall(path) == Some(id) {
        return Ok(());
    }
    super::init::make_folder_of(path)?;
    let new = PathBuf::from(format!("{}.new", path.display()));
    let text = format!("{:032x}\n", id.0);
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).map_err(AppError::file("write", path))
}

fn recall(path: &Path) -> Option<StoreId> {
    let text = fs::read_to_string(path).ok()?;
    u128::from_str_radix(text.trim(), 16).ok().map(StoreId)
}
