//! The store and the secrets that go with it: for commands, which need it now, and for a gateway,
//! which can start without it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::AppError;
use super::secrets::{Derived, fingerprints, given};
use crate::clock::Clock;
use crate::config::Config;
use crate::key::Signers;
use crate::secret::MasterSecrets;
use crate::store::{AwaitedStore, SharedStore, Store as _, StoreError, StoreId, check_secrets};

/// Where a gateway keeps the id of the store it follows, so that it knows it with the store away.
const STORE_ID_FILE: &str = "store-id";

/// Whether a gateway that kept its state in `folder` followed a store. A folder may hold other things: a volume has a
/// `lost+found` from the beginning.
#[must_use]
pub fn remembers_a_store(folder: &Path) -> bool {
    let is_of_a_store = |name: &str| name == STORE_ID_FILE || name.starts_with("snapshot");
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.map(|file| file.file_name()).any(|name| name.to_str().is_some_and(is_of_a_store))
}

/// A store that was opened, and what mints its keys in JWT form.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: SharedStore,
    /// What signs.
    pub signers: Arc<Signers>,
}

/// The store that `config` names, opened, with its master secrets held against it.
///
/// # Errors
/// When the store cannot be opened, a secret cannot be read, or they do not belong together.
pub async fn open_store(config: &Config, clock: Arc<dyn Clock>) -> Result<Opened, AppError> {
    let secrets = given(config)?;
    let store = open(config, clock)?;
    check_secrets(&*store, &fingerprints(&secrets)).await?;
    let signers = Signers::derive(&secrets, store.id().0, &config.gateway.issuer);
    Ok(Opened { store, signers: Arc::new(signers) })
}

/// A store to follow, and what is derived for it.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) store: SharedStore,
    pub(super) secrets: MasterSecrets,
    pub(super) derived: Derived,
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
    let secrets = given(config)?;
    let followed = |store: SharedStore, id| {
        let derived = Derived::from(&secrets, id, config);
        Followed { store, secrets: secrets.clone(), derived }
    };
    let remembered = config.sync.state_dir.join(STORE_ID_FILE);
    let mut is_another = false;
    if let Some(id) = recall(&remembered) {
        let store = awaited(config, id, &secrets, Arc::clone(&clock));
        match tokio::time::timeout(PATIENCE, store.ready()).await {
            Ok(Ok(())) => return Ok(followed(Arc::new(store), id)),
            Err(_elapsed) => {
                tracing::error!(store = store.name(), "the store gives no answer; starting from what is remembered");
                return Ok(followed(Arc::new(store), id));
            }
            Ok(Err(
                error @ (StoreError::Missing { .. } | StoreError::Unavailable { .. } | StoreError::Damaged { .. }),
            )) => {
                tracing::error!(%error, "the store is away; starting from what is remembered of it");
                return Ok(followed(Arc::new(store), id));
            }
            Ok(Err(StoreError::OtherStore { .. })) => is_another = true,
            Ok(Err(error)) => return Err(error.into()),
        }
    }
    let store = open(config, clock)?;
    check_secrets(&*store, &fingerprints(&secrets)).await?;
    if is_another {
        tracing::warn!(
            store = store.name(),
            "this is another store than the one that was followed: from now on it is, and its keys alone are served"
        );
    }
    let id = store.id();
    remember(&remembered, id)?;
    Ok(followed(store, id))
}

fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<SharedStore, StoreError> {
    config.store.open(clock)
}

fn awaited(config: &Config, id: StoreId, secrets: &MasterSecrets, clock: Arc<dyn Clock>) -> AwaitedStore {
    let settings = config.store.clone();
    let name = settings.name();
    let open = move || settings.open(Arc::clone(&clock));
    AwaitedStore::new(name, id, fingerprints(secrets), Arc::new(open))
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
