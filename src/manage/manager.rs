//! The manager: what can be done to keys and users.

use std::time::Duration;

use super::{
    Caller, Changed, Created, ImportOptions, Imported, ImportedKey, KeyChange, KeyView, ManageError, NewKey,
    RevokeScope, Revoked, Rotated, UserChange, UserDeleted, UserSet,
};
use crate::key::{Event, KeyId, ProjectId, TokenPrefix, User, UserId};
use crate::store::{EventQuery, KeyQuery, SharedStore};

/// Changes and reads keys and users of one store.
#[derive(Debug, Clone)]
pub struct Manager {
    store: SharedStore,
    prefix: TokenPrefix,
}

impl Manager {
    /// A manager of `store` whose tokens begin with `prefix`.
    #[must_use]
    pub const fn new(store: SharedStore, prefix: TokenPrefix) -> Self {
        Self { store, prefix }
    }

    /// Where the store holds no key at all: mints the first operator key, `keyward.**` with
    /// `may_grant = ["**"]` over all projects and environments. Else nothing.
    pub async fn create_first_operator(&self, caller: &Caller) -> Result<Option<Created>, ManageError> {
        todo!()
    }

    /// Mints a key.
    pub async fn create_key(&self, caller: &Caller, new: NewKey) -> Result<Created, ManageError> {
        todo!()
    }

    /// Changes a key.
    pub async fn update_key(&self, caller: &Caller, id: KeyId, change: KeyChange) -> Result<Changed, ManageError> {
        todo!()
    }

    /// Replaces a key.
    pub async fn rotate_key(&self, caller: &Caller, id: KeyId, grace: Duration) -> Result<Rotated, ManageError> {
        todo!()
    }

    /// Revokes keys for good.
    pub async fn revoke_key(&self, caller: &Caller, id: KeyId, scope: RevokeScope) -> Result<Revoked, ManageError> {
        todo!()
    }

    /// Imports keys: all rows in one revision, or none.
    pub async fn import_keys(
        &self,
        caller: &Caller,
        rows: Vec<ImportedKey>,
        options: ImportOptions,
    ) -> Result<Imported, ManageError> {
        todo!()
    }

    /// Makes a user, or replaces what is known of it.
    pub async fn set_user(&self, caller: &Caller, change: UserChange) -> Result<UserSet, ManageError> {
        todo!()
    }

    /// Deletes a user and revokes its keys, in one revision.
    pub async fn delete_user(&self, caller: &Caller, id: UserId) -> Result<UserDeleted, ManageError> {
        todo!()
    }

    /// One key.
    pub async fn key(&self, caller: &Caller, id: KeyId) -> Result<KeyView, ManageError> {
        todo!()
    }

    /// Keys, newest first.
    pub async fn keys(&self, caller: &Caller, query: KeyQuery) -> Result<Vec<KeyView>, ManageError> {
        todo!()
    }

    /// One user.
    pub async fn user(&self, caller: &Caller, id: UserId) -> Result<User, ManageError> {
        todo!()
    }

    /// Users by id: those of `project`, or all that the caller may see.
    pub async fn users(&self, caller: &Caller, project: Option<ProjectId>) -> Result<Vec<User>, ManageError> {
        todo!()
    }

    /// Events, oldest first.
    pub async fn events(&self, caller: &Caller, query: EventQuery) -> Result<Vec<Event>, ManageError> {
        todo!()
    }
}
