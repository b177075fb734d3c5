//! What the commands are told and print: the management API's own documents. The store's rows are turned
//! into the same ones, so that a command prints the same whichever road it took.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::failure::Failure;
use crate::clock::Timestamp;
use crate::key::{KeyId, Rotation, RotationState};

/// A key. Never its token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) id: KeyId,
    pub(super) project_id: Option<String>,
    pub(super) name: String,
    pub(super) key_prefix: Option<String>,
    pub(super) scopes: Vec<String>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) last_used_at: Option<Timestamp>,
    pub(super) created_at: Timestamp,
    pub(super) revoked_at: Option<Timestamp>,
    pub(super) replaced_by_key_id: Option<KeyId>,
    pub(super) grace_expires_at: Option<Timestamp>,
    pub(super) environment_id: String,
    pub(super) rotation_interval_days: Option<u32>,
    pub(super) next_rotation_at: Option<Timestamp>,
    pub(super) rotation_webhook_url: Option<String>,
    pub(super) active: bool,
    pub(super) status: String,
    pub(super) inherit: bool,
    pub(super) user_id: Option<String>,
    pub(super) props: BTreeMap<String, String>,
    pub(super) updated_at: Timestamp,
    pub(super) revision: u64,
    pub(super) format: String,
    pub(super) lineage_id: String,
    pub(super) minted_by: Option<KeyId>,
    pub(super) self_rotate: bool,
    pub(super) may_grant: Vec<String>,
    pub(super) operates_on: Option<OperatesOn>,
    /// The SHA-512 of its token, where it was asked for and can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hash: Option<String>,
}

/// Which keys an operator manages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OperatesOn {
    pub(super) project: String,
    pub(super) environment: String,
}

impl Key {
    /// When it stops working by the clock alone.
    pub(super) fn ends_at(&self) -> Option<Timestamp> {
        self.expires_at.into_iter().chain(self.grace_expires_at).min()
    }

    /// How far its next rotation is off.
    pub(super) fn rotation_state(&self, now: Timestamp) -> RotationState {
        Rotation { next_at: self.next_rotation_at, ..Rotation::default() }.state(now)
    }
}

/// Text that is shown once and never by accident.
#[derive(Clone)]
pub(super) struct Clear(Zeroizing<String>);

impl Clear {
    /// The text.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Clear {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Zeroizing::new).map(Self)
    }
}

/// For `--json`, which is how a script is told a token.
impl Serialize for Clear {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Debug for Clear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clear(..)")
    }
}

/// A key that was made, or changed, with what is told this once.
#[derive(Debug, Serialize)]
pub(super) struct Told<T> {
    #[serde(flatten)]
    pub(super) key: Key,
    #[serde(flatten)]
    pub(super) told: T,
}

/// What is told of a key that was made.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Token {
    pub(super) key: Clear,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rotation_webhook_secret: Option<Clear>,
}

/// What is told of a key that was changed.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct WebhookSecret {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rotation_webhook_secret: Option<Clear>,
}

/// A key with what became of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WholeKey {
    #[serde(flatten)]
    pub(super) key: Key,
    pub(super) uses: u64,
    #[serde(default)]
    pub(super) last_four: Option<String>,
    #[serde(default)]
    pub(super) webhook_secret_version: Option<u32>,
    #[serde(default)]
    pub(super) old_webhook_secret_valid_until: Option<Timestamp>,
    pub(super) lineage: Vec<Member>,
    #[serde(default)]
    pub(super) announcements: Vec<Announcement>,
    /// Its user's flags, or why they are not known; none where it has no user.
    #[serde(skip)]
    pub(super) flags_of_user: Option<String>,
}

/// One key of a lineage.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) id: KeyId,
    pub(super) status: String,
    pub(super) created_at: Timestamp,
    pub(super) replaced_by_key_id: Option<KeyId>,
    pub(super) grace_expires_at: Option<Timestamp>,
    pub(super) last_used_at: Option<Timestamp>,
    pub(super) uses: u64,
}

/// Something that was announced at a webhook, or is to be.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Announcement {
    pub(super) id: String,
    pub(super) key_id: KeyId,
    pub(super) r#type: String,
    pub(super) state: String,
    pub(super) created_at: Timestamp,
    pub(super) failed_attempts: u32,
    pub(super) next_attempt_at: Option<Timestamp>,
    pub(super) last_outcome: String,
}

/// A key that was replaced, and what replaces it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Replacement {
    pub(super) old_key_id: KeyId,
    pub(super) new_key_id: KeyId,
    pub(super) project_id: Option<String>,
    pub(super) name: String,
    pub(super) key: Clear,
    pub(super) key_prefix: Option<String>,
    pub(super) scopes: Vec<String>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) created_at: Timestamp,
    pub(super) grace_expires_at: Option<Timestamp>,
    // A gateway of an earlier version does not tell.
    #[serde(default)]
    pub(super) revoked_key_id: Option<KeyId>,
    pub(super) revision: u64,
}

/// A webhook secret that was changed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NewWebhookSecret {
    pub(super) id: KeyId,
    pub(super) lineage_id: String,
    pub(super) rotation_webhook_secret: Clear,
    pub(super) old_secret_valid_until: Timestamp,
    pub(super) revision: u64,
}

/// What a revocation ended, and what it left.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Revocation {
    pub(super) revoked: Vec<KeyId>,
    pub(super) related: Vec<KeyId>,
    pub(super) out_of_reach: usize,
    pub(super) revision: u64,
}

/// A user.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct User {
    pub(super) id: String,
    pub(super) project_id: Option<String>,
    pub(super) flags: Vec<String>,
    pub(super) active: bool,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Timestamp,
    pub(super) revision: u64,
}

/// A user that was deleted.
#[derive(Debug, Serialize)]
pub(super) struct DeletedUser {
    pub(super) id: String,
    /// Its keys that were revoked with it.
    pub(super) revoked: Vec<KeyId>,
    pub(super) revision: u64,
}

/// One change to a key or user.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) revision: u64,
    pub(super) ordinal: u32,
    pub(super) at: Timestamp,
    pub(super) kind: String,
    pub(super) actor: String,
    pub(super) from: Option<String>,
    pub(super) subject: Subject,
    pub(super) changes: BTreeMap<String, String>,
}

/// Whom an event is about.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Subject {
    Key(String),
    User(String),
}

/// A process of a gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Gateway {
    pub(super) id: String,
    pub(super) incarnation: String,
    pub(super) state: String,
    pub(super) applied_revision: u64,
    pub(super) streams_cut_revision: u64,
    pub(super) lag_revisions: Option<u64>,
    pub(super) lag_seconds: Option<f64>,
    pub(super) last_seen_at: Timestamp,
    pub(super) started_at: Timestamp,
    pub(super) on_stale: String,
    pub(super) max_staleness_seconds: u64,
    pub(super) version: String,
    pub(super) host: String,
    pub(super) pid: u32,
}

impl Gateway {
    /// Up to which revision it has confirmed; none where it follows another history.
    pub(super) fn confirmed(&self) -> Option<u64> {
        self.lag_revisions.map(|_| self.applied_revision.min(self.streams_cut_revision))
    }

    /// Whether it may not decide by the newest revisions because it was not heard for a while.
    pub(super) fn is_silent(&self) -> bool {
        self.state == "silent"
    }
}

/// Where a revision is in force.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Confirmation {
    pub(super) revision: u64,
    /// Whether it is in force everywhere.
    pub(super) confirmed: bool,
    pub(super) applied: Vec<Gateway>,
    pub(super) unconfirmed: Vec<Gateway>,
}

/// The document in `text`.
pub(super) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(text)
}

/// The key in `text`, and what is told with it. Read apart, so that no copy of a token is left behind.
pub(super) fn read_told<T: DeserializeOwned>(text: &[u8]) -> Result<Told<T>, serde_json::Error> {
    Ok(Told { key: read(text)?, told: read(text)? })
}

/// What the API would answer for `shape`, as text.
pub(super) fn text_of(shape: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    serde_json::to_vec(shape).map(Zeroizing::new).map_err(|error| Failure::because(&error))
}

/// What the API would answer for `shape`.
pub(super) fn of<T: DeserializeOwned>(shape: &impl Serialize) -> Result<T, Failure> {
    read(&text_of(shape)?).map_err(|error| Failure::because(&error))
}
