//! The master secrets while there are several: adding one, forgetting one, and taking over what the
//! file holds while serving.
//!
//! The file is written before the store hears of a new secret, so that no secret is ever expected that is
//! written nowhere; whoever opens the store next tells it of one that it has not heard of.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::error::AppError;
use super::init::{sync_folder_of, write_secret};
use super::opening::open_store;
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, MASTER_SECRETS_MAX, master_file_text, master_secrets};
use crate::key::{Signers, WebhookSecrets};
use crate::secret::{MasterSecret, MasterSecrets, NumberedMaster};
use crate::store::{NumberedSecret, SharedStore, StoreId, check_secrets};
use crate::sync::MacKey;

/// How long a running gateway waits for its store before it leaves new secrets for later.
const PATIENCE: Duration = Duration::from_secs(2);

/// The master secrets that `config` names.
pub(super) fn given(config: &Config) -> Result<MasterSecrets, AppError> {
    master_secrets(config).map_err(|fault| AppError::Config(vec![fault]))
}

/// What a store knows of these secrets.
pub(super) fn fingerprints(secrets: &MasterSecrets) -> Vec<NumberedSecret> {
    secrets.iter().map(|one| (one.number, one.secret.fingerprint())).collect()
}

/// What a gateway derives from its master secrets.
#[derive(Debug)]
pub(super) struct Derived {
    pub(super) mac_key: MacKey,
    pub(super) signers: Arc<Signers>,
    pub(super) webhooks: WebhookSecrets,
}

impl Derived {
    pub(super) fn from(secrets: &MasterSecrets, store: StoreId, config: &Config) -> Self {
        let key = |one: &NumberedMaster| one.secret.derive(store.0, "snapshot", "");
        let others: Vec<_> = secrets.iter().skip(1).map(key).collect();
        let mac_key = MacKey::with_others(&key(secrets.newest()), others.iter().map(|key| &**key));
        let signers = Signers::derive(secrets, store.0, &config.gateway.issuer);
        let webhooks = WebhookSecrets::derive(secrets, store.0);
        Self { mac_key, signers: Arc::new(signers), webhooks }
    }
}

/// The secrets of a running gateway, and all that must hear of others.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) store: SharedStore,
    pub(super) secrets: MasterSecrets,
    pub(super) issuer: String,
    pub(super) mac_key: MacKey,
    pub(super) signers: Arc<ArcSwap<Signers>>,
    pub(super) webhooks: WebhookSecrets,
}

impl Held {
    /// Takes over what `config` names by now, if that is other than what is held. Whatever is wrong with it
    /// leaves the old in force.
    pub(super) async fn reload(&mut self, config: &Config) {
        match self.try_reload(config).await {
            Ok(true) => {
                let numbers: Vec<u32> = self.secrets.iter().map(|one| one.number).collect();
                tracing::info!(?numbers, "master secrets taken over");
            }
            Ok(false) => {}
            Err(error) => {
                for fault in error.to_string().lines() {
                    tracing::error!(fault, "master secrets not taken over, the old ones stay in force");
                }
            }
        }
    }

    async fn try_reload(&mut self, config: &Config) -> Result<bool, AppError> {
        let secrets = given(config)?;
        let are_new = secrets != self.secrets;
        if !are_new && self.issuer == config.gateway.issuer {
            return Ok(false);
        }
        if are_new {
            let given = fingerprints(&secrets);
            let checked = tokio::time::timeout(PATIENCE, check_secrets(&*self.store, &given)).await;
            checked.map_err(|_elapsed| AppError::StoreSilent { store: self.store.name().to_owned() })??;
        }
        let derived = Derived::from(&secrets, self.store.id(), config);
        self.mac_key.replace(&derived.mac_key);
        self.signers.store(derived.signers);
        self.webhooks.replace(&derived.webhooks);
        self.issuer.clone_from(&config.gateway.issuer);
        self.secrets = secrets;
        Ok(are_new)
    }
}

/// A master secret that was added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedSecret {
    /// Its number.
    pub number: u32,
    /// From when on it is used.
    pub used_from: Timestamp,
    /// The file that holds it.
    pub file: PathBuf,
}

/// One master secret, as far as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretStanding {
    /// Its number.
    pub number: u32,
    /// The beginning of its fingerprint.
    pub fingerprint: [u8; 8],
    /// Whether it is given here, by file or variable.
    pub is_given: bool,
    /// Whether the store knows it.
    pub is_stored: bool,
    /// Whether it makes what is made now.
    pub is_in_use: bool,
    /// From when on it does, where that is to come.
    pub used_from: Option<Timestamp>,
}

/// Adds a master secret, which is used once `after` has passed: to the file first, then to the store.
///
/// # Errors
/// When the file cannot be written, somebody else is changing it, the secrets do not belong to the store,
/// or the file lacks one that the store knows.
pub async fn rotate_secrets(config: &Config, after: Duration, clock: Arc<dyn Clock>) -> Result<AddedSecret, AppError> {
    let file = MasterFile::lock(config)?;
    let secrets = given(config)?;
    let store = open_store(config, Arc::clone(&clock)).await?.store;
    let newest = secrets.newest().number;
    let known = store.secrets().await?;
    if let Some(missing) = known.iter().map(|&(number, _)| number).find(|&number| number > newest) {
        return Err(AppError::SecretLacking { number: missing, path: config.master_file.clone() });
    }
    if secrets.iter().count() >= MASTER_SECRETS_MAX {
        return Err(AppError::TooManySecrets { oldest: secrets.oldest().number });
    }
    let used_from = clock.now().plus(after).seconds();
    let all = secrets.with(MasterSecret::generate()?, used_from);
    file.replace(&all)?;
    let NumberedMaster { number, secret, .. } = all.newest();
    store.add_secret(*number, secret.fingerprint()).await?;
    Ok(AddedSecret { number: *number, used_from: Timestamp::from_seconds(used_from), file: file.path.to_owned() })
}

/// Forgets the master secret of this number: in the file, where it is there, and then in the store.
///
/// # Errors
/// When it is the one in use or the only one, the file cannot be written, or somebody else is changing it.
pub async fn forget_secret(config: &Config, number: u32, clock: Arc<dyn Clock>) -> Result<(), AppError> {
    let file = if config.has_master_secret_in_environment() { None } else { Some(MasterFile::lock(config)?) };
    let secrets = given(config)?;
    let store = open_store(config, Arc::clone(&clock)).await?.store;
    if secrets.in_use(clock.now().seconds()).number == number {
        return Err(AppError::SecretInUse { number });
    }
    let is_given = secrets.numbered(number).is_some();
    if !is_given && !store.secrets().await?.iter().any(|&(known, _)| known == number) {
        return Err(AppError::NoSuchSecret { number });
    }
    match file {
        _ if !is_given => {}
        None => return Err(AppError::SecretInEnvironment { remedy: "take it out of the variable first" }),
        Some(file) => {
            let kept = secrets.without(number).ok_or(AppError::SecretInUse { number })?;
            file.replace(&kept)?;
        }
    }
    Ok(store.forget_secret(number).await?)
}

/// The master secrets, those given here and those that the store knows: the newest first.
///
/// # Errors
/// When they cannot be read, or do not belong to the store.
pub async fn list_secrets(config: &Config, clock: Arc<dyn Clock>) -> Result<Vec<SecretStanding>, AppError> {
    let secrets = given(config)?;
    let store = open_store(config, Arc::clone(&clock)).await?.store;
    let now = clock.now().seconds();
    let (known, given) = (store.secrets().await?, fingerprints(&secrets));
    let in_use = secrets.in_use(now).number;
    let mut all: Vec<NumberedSecret> = known.iter().chain(&given).copied().collect();
    all.sort_unstable_by(|one, other| other.cmp(one));
    all.dedup();
    let standing = |(number, fingerprint): NumberedSecret| {
        let from = secrets.numbered(number).map(|one| one.used_from_seconds).filter(|&from| from > now);
        let [a, b, c, d, e, f, g, h, ..] = fingerprint;
        SecretStanding {
            number,
            fingerprint: [a, b, c, d, e, f, g, h],
            is_given: given.contains(&(number, fingerprint)),
            is_stored: known.contains(&(number, fingerprint)),
            is_in_use: number == in_use,
            used_from: from.map(Timestamp::from_seconds),
        }
    };
    Ok(all.into_iter().map(standing).collect())
}

/// The file of the master secrets, held against others who would change it.
struct MasterFile<'c> {
    path: &'c Path,
    _lock: File,
}

impl<'c> MasterFile<'c> {
    fn lock(config: &'c Config) -> Result<Self, AppError> {
        if config.has_master_secret_in_environment() {
            return Err(AppError::SecretInEnvironment {
                remedy: "set it to `2:` and the output of `openssl rand -hex 32`, a comma, `1:` and what it holds now",
            });
        }
        let path = config.master_file.as_path();
        // Its faults are told by whoever reads it.
        given(config)?;
        let file = File::open(path).map_err(AppError::file("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(AppError::SecretsBusy { path: path.to_owned() }),
            Err(TryLockError::Error(cause)) => return Err(AppError::file("lock", path)(cause)),
        }
        // Somebody may have put another in its place since it was opened.
        let (ours, there) = (file.metadata(), fs::metadata(path));
        match (ours, there) {
            (Ok(ours), Ok(there)) if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) => {}
            _ => return Err(AppError::SecretsBusy { path: path.to_owned() }),
        }
        Ok(Self { path, _lock: file })
    }

    /// Puts a file with these secrets in its place: the old one or the new one is there, whatever happens.
    fn replace(&self, secrets: &MasterSecrets) -> Result<(), AppError> {
        // A link stays one: what it points to is replaced.
        let path = fs::canonicalize(self.path).map_err(AppError::file("find", self.path))?;
        let beside = PathBuf::from(format!("{}.new", path.display()));
        match fs::remove_file(&beside) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(AppError::file("remove", beside)(error)),
        }
        write_secret(&beside, &master_file_text(secrets))?;
        keep_owner(&path, &beside);
        let moved = fs::rename(&beside, &path).map_err(AppError::file("replace", &path));
        if moved.is_err() {
            let _left = fs::remove_file(&beside);
        }
        moved?;
        sync_folder_of(&path).map_err(AppError::file("write", &path))
    }
}

/// Leaves the file to whoever it belongs to, where it is the superuser who replaces it.
fn keep_owner(of: &Path, to: &Path) {
    let Ok(owner) = fs::metadata(of) else { return };
    if let Err(error) = std::os::unix::fs::chown(to, Some(owner.uid()), Some(owner.gid())) {
        tracing::warn!(file = %to.display(), %error, "the owner of the master secrets' file could not be kept");
    }
}
