//! Webhooks of keys: which URLs may be set, the secrets that their receivers verify with, and the end of
//! one whose receiver wants no more.

use std::time::Duration;

use super::manager::{Asked, Done, Kept};
use super::may::{Acting, Operation, Target, may};
use super::plan::{Plan, seen};
use super::{Answered, Caller, ManageError, Manager, Once, check, told};
use crate::clock::Timestamp;
use crate::key::{Actor, EventKind, Key, KeyId, Subject, WebhookSecrets};
use crate::secret::Secret;
use crate::store::{Changes, Committed, Delivery, Planned, ReadRequest, Reading};
use crate::wire::{Reach, ReceiverUrl, UrlFault};

/// How long what is announced is signed with the secret before the newest, too: 24 hours.
pub const OLD_WEBHOOK_SECRET_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// How many announcements are told of a key.
const ANNOUNCEMENTS_TOLD: usize = 5;

/// What webhooks need.
#[derive(Debug, Clone)]
pub struct Webhooks {
    /// The secrets that receivers verify with.
    pub secrets: WebhookSecrets,
    /// Which receivers may be named.
    pub reach: Reach,
}

impl Webhooks {
    /// What the receiver of this key's announcements verifies with; none where it has no webhook.
    pub(super) fn secret_of(&self, key: &Key, now: Timestamp) -> Option<Secret> {
        key.rotation.webhook_url.as_ref()?;
        Some(self.secrets.newest(key.lineage, key.rotation.secret_version, now).to_text())
    }
}

/// A webhook secret that was changed.
#[derive(Debug, Clone)]
pub struct WebhookSecretRotated {
    /// The key that was named.
    pub key: Key,
    /// The new secret, `whsec_…`. It can be derived again, and is shown to nobody who may not mint such
    /// a key.
    pub secret: Secret,
    /// Until when the one before it signs too.
    pub old_until: Timestamp,
    /// The commit.
    pub committed: Committed,
}

impl Manager {
    /// Lets keys have webhooks. Without this, setting one is refused.
    #[must_use]
    pub fn with_webhooks(mut self, webhooks: Webhooks) -> Self {
        self.webhooks = Some(webhooks);
        self
    }

    /// What was announced lately of a key's lineage, or is to be, newest first.
    ///
    /// # Errors
    /// When the key is not there, the caller may not read it, or the store fails.
    pub async fn announcements(&self, caller: &Caller, id: KeyId) -> Result<Vec<Delivery>, ManageError> {
        let lineage = self.key(caller, id).await?.key.lineage;
        match self.store.rotation() {
            Some(store) => Ok(store.deliveries(lineage, ANNOUNCEMENTS_TOLD).await?),
            None => Ok(Vec::new()),
        }
    }

    /// Whether `url` can be a key's webhook.
    pub(super) fn check_webhook(&self, url: Option<&str>) -> Result<(), ManageError> {
        let Some(url) = url else { return Ok(()) };
        let webhooks = self.webhooks.as_ref().ok_or(ManageError::WebhooksNotAvailable)?;
        match ReceiverUrl::parse(url, webhooks.reach) {
            Ok(_) => Ok(()),
            Err(fault @ UrlFault::Form(_)) => Err(check::invalid("rotation_webhook_url", fault)),
            // Which of them may be reached is configured.
            Err(fault @ (UrlFault::Cleartext | UrlFault::Address(_))) => {
                Err(check::conflicting("rotation_webhook_url", fault))
            }
        }
    }

    /// Changes the secret that the receiver of a key's announcements verifies with, for its whole lineage.
    /// For [`OLD_WEBHOOK_SECRET_KEPT`] announcements are signed with the one before it, too.
    ///
    /// # Errors
    /// When the key has no webhook, is revoked or not there, the caller may not change it, or the store
    /// fails.
    pub async fn rotate_webhook_secret(&self, caller: &Caller, id: KeyId) -> Result<WebhookSecretRotated, ManageError> {
        let (asked, plan, finish) = self.secret_rotation(caller, id)?;
        self.change(caller, asked, plan, finish).await
    }

    /// [`Manager::rotate_webhook_secret`], once. `answer` makes the answer that is kept; it runs inside the
    /// transaction.
    ///
    /// # Errors
    /// As [`Manager::rotate_webhook_secret`], and when the same was asked for before with other words.
    pub async fn rotate_webhook_secret_once(
        &self,
        caller: &Caller,
        id: KeyId,
        once: Once,
        answer: impl Fn(&WebhookSecretRotated) -> Vec<u8> + Send + 'static,
    ) -> Result<Answered<WebhookSecretRotated>, ManageError> {
        let (asked, plan, finish) = self.secret_rotation(caller, id)?;
        let kept = Kept { once, answer: Box::new(answer), key: |_: &WebhookSecretRotated| None };
        self.change_once(caller, asked, plan, finish, kept).await
    }

    #[expect(clippy::type_complexity, reason = "two functions without a name")]
    fn secret_rotation(
        &self,
        caller: &Caller,
        id: KeyId,
    ) -> Result<
        (
            Asked,
            impl FnMut(&Reading) -> Result<Plan<Key>, ManageError> + Send + use<>,
            impl Fn(Done<Key>) -> WebhookSecretRotated + Send + use<>,
        ),
        ManageError,
    > {
        let webhooks = self.webhooks.clone().ok_or(ManageError::WebhooksNotAvailable)?;
        let by = caller.clone();
        let read = ReadRequest { keys: vec![id], lineage_of: Some(id), ..ReadRequest::default() };
        let asked = Asked::of("rotate_webhook_secret", Some(Subject::Key(id)), read);
        let asked = Asked { glance: Some(Operation::Update), ..asked };
        let plan = move |reading: &Reading| rotate_secret(&by, id, reading);
        let finish = move |done: Done<Key>| {
            let mut key = done.outcome.clone();
            done.settle_key(&mut key, 0);
            let version = key.rotation.secret_version;
            let secret = webhooks.secrets.newest(key.lineage, version, done.committed.at).to_text();
            let old_until = key.rotation.old_secret_until.unwrap_or(done.committed.at);
            WebhookSecretRotated { key, secret, old_until, committed: done.committed }
        };
        Ok((asked, plan, finish))
    }

    /// Takes `url` off every key of the lineage of `id` that has it: its receiver wants no more.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget_webhook(&self, id: KeyId, url: &str) -> Result<(), ManageError> {
        let url = url.to_owned();
        let plan = move |reading: &Reading| -> Planned {
            let mut changes = Vec::new();
            let named = |key: &&Key| key.rotation.webhook_url.as_deref() == Some(&url) && !key.states.revoked;
            for key in reading.keys.iter().filter(named) {
                let mut after = key.clone();
                after.rotation.webhook_url = None;
                changes.extend(told::changed_key(EventKind::KeyUpdated, key, after));
            }
            Ok(Changes::by(Actor::System, changes))
        };
        let read = ReadRequest { lineage_of: Some(id), ..ReadRequest::default() };
        // The plan refuses nothing.
        let _committed = self.store.mutate(read, Box::new(plan)).await?;
        Ok(())
    }
}

fn rotate_secret(caller: &Caller, id: KeyId, reading: &Reading) -> Result<Plan<Key>, ManageError> {
    let acting = Acting::of(caller, reading)?;
    let (before, user) = seen(id, reading, acting)?;
    let lineage = || reading.keys.iter().filter(|key| key.lineage == before.lineage);
    let version = lineage().map(|key| key.rotation.secret_version).max().unwrap_or(1);
    let changed = |key: &Key| {
        let mut after = key.clone();
        after.rotation.secret_version = version.saturating_add(1);
        after.rotation.old_secret_until = Some(reading.now.plus(OLD_WEBHOOK_SECRET_KEPT));
        after
    };
    let after = changed(before);
    let (target, changed_target) = (Target::Key { key: before, user }, Target::Key { key: &after, user });
    may(acting, Operation::TellWebhookSecret, Some(target), changed_target)?;
    if before.states.revoked {
        return Err(ManageError::KeyRevoked { id });
    }
    if before.rotation.webhook_url.is_none() {
        return Err(check::conflicting("rotation_webhook_url", "the key has no webhook; set its URL first"));
    }
    // One secret for all of them: a receiver does not know which key of the lineage it is told of. What is
    // sent is signed with the newest of the lineage, so that those out of the caller's sight stay as they are.
    let is_seen = |key: &&Key| acting.sees(Target::Key { key, user: reading.user_of(key) });
    let others = lineage().filter(|key| key.id != id && !key.states.revoked).filter(is_seen);
    let all = std::iter::once(before).chain(others);
    let changes = all.filter_map(|key| told::changed_key(EventKind::KeyUpdated, key, changed(key))).collect();
    Ok(Plan { changes, outcome: after })
}

/// Gives `key` the newest secret of its lineage, as far as it was read.
pub(super) fn take_newest_secret(key: &mut Key, reading: &Reading) {
    let lineage = reading.keys.iter().filter(|kin| kin.lineage == key.lineage);
    if let Some(newest) = lineage.max_by_key(|kin| kin.rotation.secret_version)
        && newest.rotation.secret_version > key.rotation.secret_version
    {
        key.rotation.secret_version = newest.rotation.secret_version;
        key.rotation.old_secret_until = newest.rotation.old_secret_until;
    }
}
