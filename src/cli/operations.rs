//! What the commands that manage keys can ask for, whoever answers: the store that a configuration
//! names, by whoever holds the master secret, or a running gateway, by an operator.

use std::time::Duration;

use super::documents::{
    Confirmation, DeletedUser, Event, Gateway, Key, NewWebhookSecret, Replacement, Revocation, Token, Told, User,
    WebhookSecret, WholeKey,
};
use super::failure::Failure;
use crate::key::{KeyId, ProjectId, Stamp, UserId};
use crate::manage::{KeyChange, NewKey, RevokeScope, UserPatch};
use crate::store::{Damaged, EventQuery, GatewayId, KeyQuery};

/// What is done with one thing of many, as it comes.
pub(super) type Take<'a, T> = &'a mut dyn FnMut(T) -> Result<(), Failure>;

/// A row that cannot be read, with why.
pub(super) type DamagedRow = (Damaged, String);

/// Whether hashes of tokens are told too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hashes {
    Told,
    Kept,
}

/// Whether the names of keys are told beside their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Told,
    Kept,
}

/// Keys that were revoked.
#[derive(Debug)]
pub(super) struct Revoked {
    pub(super) document: Revocation,
    /// What each of them is called, as far as that was asked for and is known.
    pub(super) names: Vec<Option<String>>,
}

/// A user that was made or changed.
#[derive(Debug)]
pub(super) struct UserSet {
    pub(super) user: User,
    pub(super) is_new: bool,
    pub(super) revision: u64,
}

/// Whoever answers. Every call waits for the answer.
pub(super) trait Operations {
    /// Makes a key.
    fn create_key(&self, new: NewKey) -> Result<Told<Token>, Failure>;

    /// Hands over keys, newest first, and then what cannot be read.
    fn each_key(&self, query: KeyQuery, hashes: Hashes, take: Take<'_, Key>) -> Result<Vec<DamagedRow>, Failure>;

    /// Everything about a key.
    fn key(&self, id: KeyId) -> Result<WholeKey, Failure>;

    /// Changes a key.
    fn update_key(&self, id: KeyId, change: KeyChange) -> Result<Told<WebhookSecret>, Failure>;

    /// Replaces a key.
    fn rotate_key(&self, id: KeyId, grace: Duration) -> Result<Replacement, Failure>;

    /// Changes a webhook's secret.
    fn rotate_webhook_secret(&self, id: KeyId) -> Result<NewWebhookSecret, Failure>;

    /// Revokes a key and what `scope` says.
    fn revoke_key(&self, id: KeyId, scope: RevokeScope, names: Names) -> Result<Revoked, Failure>;

    /// Users by id.
    fn users(&self, project: Option<ProjectId>) -> Result<Vec<User>, Failure>;

    /// A user.
    fn user(&self, id: UserId) -> Result<User, Failure>;

    /// Makes a user, or changes one.
    fn set_user(&self, patch: UserPatch) -> Result<UserSet, Failure>;

    /// Deletes a user, and revokes its keys.
    fn delete_user(&self, id: UserId) -> Result<DeletedUser, Failure>;

    /// Hands over every event there is after a place, oldest first; the place of the last.
    fn each_event(&self, query: EventQuery, take: Take<'_, Event>) -> Result<Stamp, Failure>;

    /// Every process of every gateway.
    fn gateways(&self) -> Result<Vec<Gateway>, Failure>;

    /// Forgets a gateway; how many processes of it were known.
    fn forget_gateway(&self, id: GatewayId) -> Result<usize, Failure>;

    /// Where a revision is in force, once it is so everywhere or `at_most` has passed.
    fn confirmation(&self, revision: u64, at_most: Duration) -> Result<Confirmation, Failure>;

    /// Waits until there may be more events, or `at_most` has passed.
    fn wait_for_news(&self, at_most: Duration);
}
