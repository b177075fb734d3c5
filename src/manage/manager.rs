//! The manager: what can be done to keys and users.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::may::{Acting, Operation, Target};
use super::plan::{self, Plan};
use super::{
    Caller, Changed, Created, ImportOptions, Imported, ImportedKey, KeyChange, KeyView, ManageError, NewKey,
    RevokeScope, Revoked, Rotated, UserChange, UserDeleted, UserSet, Webhooks, import,
};
use crate::key::{Event, Key, KeyId, ProjectId, Stamp, TokenPrefix, User, UserId};
use crate::store::{
    Changes, Committed, EventQuery, KeyQuery, KeyUsage, Planned, ReadRequest, Reading, SharedStore, StoreError,
};

/// Changes and reads keys and users of one store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Manager {
    pub(super) store: SharedStore,
    prefix: TokenPrefix,
    pub(super) webhooks: Option<Webhooks>,
}

/// A change that was committed, or found nothing to change.
pub(super) struct Done<T> {
    pub(super) outcome: T,
    pub(super) committed: Committed,
    /// Whether rows were written, and so carry the commit's stamp.
    wrote: bool,
}

impl<T> Done<T> {
    /// Gives `key`, the `ordinal`th row of the change, the stamp that the store gave it.
    pub(super) fn settle_key(&self, key: &mut Key, ordinal: usize) {
        if self.wrote {
            key.updated_at = self.committed.at;
            key.stamp = self.stamp(ordinal);
        }
    }

    fn settle_user(&self, user: &mut User) {
        if self.wrote {
            user.updated_at = self.committed.at;
            user.stamp = self.stamp(0);
        }
    }

    fn stamp(&self, ordinal: usize) -> Stamp {
        Stamp { revision: self.committed.revision, ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX) }
    }
}

impl Manager {
    /// A manager of `store` whose tokens begin with `prefix`.
    #[must_use]
    pub const fn new(store: SharedStore, prefix: TokenPrefix) -> Self {
        Self { store, prefix, webhooks: None }
    }

    /// Where the store holds no key at all: mints the first operator key, `keyward.**` with
    /// `may_grant = ["**"]` over all projects and environments. Else nothing.
    ///
    /// # Errors
    /// When the caller does not hold the master secret, or the store fails.
    pub async fn create_first_operator(&self, caller: &Caller) -> Result<Option<Created>, ManageError> {
        let (by, prefix) = (caller.clone(), self.prefix.clone());
        let done = self
            .change(caller, ReadRequest::default(), move |reading| {
                if reading.any_key {
                    return Ok(Plan { changes: vec![], outcome: None });
                }
                let Plan { changes, outcome } = plan::create(&by, &plan::first_operator(), &prefix, reading)?;
                Ok(Plan { changes, outcome: Some(outcome) })
            })
            .await?;
        let Done { outcome, committed, wrote } = done;
        Ok(outcome.map(|outcome| created(Done { outcome, committed, wrote })))
    }

    /// Mints a key.
    ///
    /// # Errors
    /// When a value breaks a rule, the caller may not, or the store fails.
    pub async fn create_key(&self, caller: &Caller, new: NewKey) -> Result<Created, ManageError> {
        self.check_webhook(new.rotation_webhook_url.as_deref())?;
        let (by, prefix) = (caller.clone(), self.prefix.clone());
        let read = ReadRequest { users: new.user.iter().cloned().collect(), ..ReadRequest::default() };
        let done = self.change(caller, read, move |reading| plan::create(&by, &new, &prefix, reading)).await?;
        Ok(created(done))
    }

    /// Changes a key. Where nothing differs, nothing is written.
    ///
    /// # Errors
    /// When a value breaks a rule, the key is revoked or not there, the caller may not, or the
    /// store fails.
    pub async fn update_key(&self, caller: &Caller, id: KeyId, change: KeyChange) -> Result<Changed, ManageError> {
        self.check_webhook(change.rotation_webhook_url.as_ref().and_then(Option::as_deref))?;
        let by = caller.clone();
        let read = ReadRequest { keys: vec![id], ..ReadRequest::default() };
        let done = self.change(caller, read, move |reading| plan::update(&by, id, &change, reading)).await?;
        let (mut key, user) = done.outcome.clone();
        done.settle_key(&mut key, 0);
        Ok(Changed { key, user, committed: done.committed })
    }

    /// Replaces a key: mints its successor, and leaves the old key `grace` more, which may be zero,
    /// at most [`GRACE_MAX`](super::GRACE_MAX), and never more than its own expiry.
    ///
    /// A key that was rotated is refused, unless its successor was never used and the caller is the
    /// one who rotated it: then the successor is revoked and another minted.
    ///
    /// # Errors
    /// When the key does not work, was rotated, or is not there, the caller may not, or the store
    /// fails.
    pub async fn rotate_key(&self, caller: &Caller, id: KeyId, grace: Duration) -> Result<Rotated, ManageError> {
        let (by, prefix) = (caller.clone(), self.prefix.clone());
        let read = ReadRequest { keys: vec![id], lineage_of: Some(id), ..ReadRequest::default() };
        let done = self.change(caller, read, move |reading| plan::rotate(&by, id, grace, &prefix, reading)).await?;
        let (mut new, mut old) = (done.outcome.new.clone(), done.outcome.old.clone());
        done.settle_key(&mut new, 0);
        done.settle_key(&mut old, 1);
        Ok(Rotated { old, new, token: done.outcome.token, committed: done.committed })
    }

    /// Revokes keys for good, in one revision. Those that are revoked already stay as they are.
    ///
    /// # Errors
    /// When the key is not there, the caller may not, or the store fails.
    pub async fn revoke_key(&self, caller: &Caller, id: KeyId, scope: RevokeScope) -> Result<Revoked, ManageError> {
        let by = caller.clone();
        let read = ReadRequest {
            keys: vec![id],
            lineage_of: (scope == RevokeScope::Lineage).then_some(id),
            descendants_of: (scope == RevokeScope::Descendants).then_some(id),
            ..ReadRequest::default()
        };
        let done = self.change(caller, read, move |reading| plan::revoke(&by, id, scope, reading)).await?;
        let mut keys = done.outcome.keys.clone();
        for (ordinal, key) in keys.iter_mut().enumerate() {
            done.settle_key(key, ordinal);
        }
        // An operator may have minted a great many keys: they are looked for when the revocation is
        // in force, not before.
        let related = self.related(caller, id).await.unwrap_or_default();
        Ok(Revoked { keys, related, out_of_reach: done.outcome.out_of_reach, committed: done.committed })
    }

    async fn related(&self, caller: &Caller, id: KeyId) -> Result<Vec<KeyId>, ManageError> {
        let keys = caller.key().into_iter().chain([id]).collect();
        let (lineage_of, descendants_of) = (Some(id), Some(id));
        let read = ReadRequest { keys, lineage_of, descendants_of, ..ReadRequest::default() };
        plan::related(caller, id, &self.store.read(read).await?)
    }

    /// Imports keys: all rows in one revision, or none. A dry run checks the same and writes
    /// nothing.
    ///
    /// # Errors
    /// [`ManageError::Import`] with every row that is refused; when the caller may not, or the
    /// store fails.
    pub async fn import_keys(
        &self,
        caller: &Caller,
        rows: Vec<ImportedKey>,
        options: ImportOptions,
    ) -> Result<Imported, ManageError> {
        let mut users: Vec<UserId> = rows.iter().filter_map(|row| row.user.clone()).collect();
        users.sort_unstable();
        users.dedup();
        let read = ReadRequest { users, hashes: import::hashes(&rows), ..ReadRequest::default() };
        if options.dry_run {
            let reading = self.store.read(ReadRequest { keys: caller.key().into_iter().collect(), ..read }).await?;
            let keys = import::import(caller, &rows, options, &self.prefix, &reading)?.outcome;
            return Ok(Imported { keys, committed: None });
        }
        let (by, prefix) = (caller.clone(), self.prefix.clone());
        let plan = move |reading: &Reading| import::import(&by, &rows, options, &prefix, reading);
        let mut done = self.change(caller, read, plan).await?;
        let mut keys = std::mem::take(&mut done.outcome);
        for (ordinal, key) in keys.iter_mut().enumerate() {
            done.settle_key(key, ordinal);
        }
        Ok(Imported { keys, committed: Some(done.committed) })
    }

    /// Makes a user, or replaces what is known of it. Its keys follow in the same revision.
    ///
    /// # Errors
    /// When a value breaks a rule, the user was deleted, the caller may not, or the store fails.
    pub async fn set_user(&self, caller: &Caller, change: UserChange) -> Result<UserSet, ManageError> {
        let (by, id) = (caller.clone(), change.id.clone());
        let read = ReadRequest { users: vec![id.clone()], keys_of_user: Some(id), ..ReadRequest::default() };
        let done = self.change(caller, read, move |reading| plan::set_user(&by, &change, reading)).await?;
        let (mut user, created) = done.outcome.clone();
        done.settle_user(&mut user);
        Ok(UserSet { user, created, committed: done.committed })
    }

    /// Deletes a user and revokes its keys, in one revision. Its id is never used again.
    ///
    /// # Errors
    /// When the user is not there, the caller may not, or the store fails.
    pub async fn delete_user(&self, caller: &Caller, id: UserId) -> Result<UserDeleted, ManageError> {
        let by = caller.clone();
        let read = ReadRequest { users: vec![id.clone()], keys_of_user: Some(id.clone()), ..ReadRequest::default() };
        let done = self.change(caller, read, move |reading| plan::delete_user(&by, &id, reading)).await?;
        let (mut user, mut keys) = done.outcome.clone();
        done.settle_user(&mut user);
        for (at, key) in keys.iter_mut().enumerate() {
            done.settle_key(key, at + 1);
        }
        Ok(UserDeleted { user, keys, committed: done.committed })
    }

    /// One key.
    ///
    /// # Errors
    /// When it is not there, the caller may not, or the store fails.
    pub async fn key(&self, caller: &Caller, id: KeyId) -> Result<KeyView, ManageError> {
        let reading = self.asked(caller, ReadRequest { keys: vec![id], ..ReadRequest::default() }).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::ReadKeys)?;
        let (key, user) = plan::seen(id, &reading, acting)?;
        let usage = reading.usage.iter().find(|usage| usage.key == id).copied();
        Ok(view((key.clone(), user.cloned(), usage), &reading))
    }

    /// Keys, newest first: of those that the caller may see.
    ///
    /// # Errors
    /// When the query names a project or environment that the caller does not manage, the caller
    /// may not read keys, or the store fails.
    pub async fn keys(&self, caller: &Caller, mut query: KeyQuery) -> Result<Vec<KeyView>, ManageError> {
        let reading = self.asked(caller, ReadRequest::default()).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::ReadKeys)?;
        if let Some(scope) = acting.scope()? {
            query.project = narrowed("project_id", query.project, scope.project.as_ref())?;
            query.environment = narrowed("environment_id", query.environment, scope.environment.as_ref())?;
        }
        let listed = self.store.list_keys(query).await?;
        Ok(listed.into_iter().map(|listed| view(listed, &reading)).collect())
    }

    /// One user.
    ///
    /// # Errors
    /// When it is not there or deleted, the caller may not, or the store fails.
    pub async fn user(&self, caller: &Caller, id: UserId) -> Result<User, ManageError> {
        let reading = self.asked(caller, ReadRequest { users: vec![id.clone()], ..ReadRequest::default() }).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::ReadUsers)?;
        let user = reading.user(&id).filter(|user| !user.deleted && acting.sees(Target::User(user)));
        user.cloned().ok_or(ManageError::UserNotFound { id })
    }

    /// Users by id: those of `project`, or all that the caller may see. Deleted ones are left out.
    ///
    /// # Errors
    /// When the caller does not manage `project` or may not read users, or the store fails.
    pub async fn users(&self, caller: &Caller, project: Option<ProjectId>) -> Result<Vec<User>, ManageError> {
        let reading = self.asked(caller, ReadRequest::default()).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::ReadUsers)?;
        let project = match acting.scope()? {
            Some(scope) => narrowed("project_id", project, scope.project.as_ref())?,
            None => project,
        };
        let mut users = self.store.list_users(project).await?;
        users.retain(|user| !user.deleted);
        Ok(users)
    }

    /// Events, oldest first. An event may be of any project, so only whoever manages all of them
    /// reads events.
    ///
    /// # Errors
    /// When the caller may not read events, or the store fails.
    pub async fn events(&self, caller: &Caller, query: EventQuery) -> Result<Vec<Event>, ManageError> {
        let reading = self.asked(caller, ReadRequest::default()).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::ReadEvents)?;
        match acting.scope()? {
            Some(scope) if scope.project.is_some() || scope.environment.is_some() => {
                Err(ManageError::OutOfScope { field: "project_id", found: "the events of all projects".to_owned() })
            }
            Some(_) | None => Ok(self.store.list_events(query).await?),
        }
    }

    /// What `request` asks for, and the caller's own key.
    async fn asked(&self, caller: &Caller, mut request: ReadRequest) -> Result<Reading, StoreError> {
        request.keys.extend(caller.key());
        self.store.read(request).await
    }

    /// Runs `plan` in one mutation, on what `request` asks for and the caller's own key.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        caller: &Caller,
        mut request: ReadRequest,
        mut plan: impl FnMut(&Reading) -> Result<Plan<T>, ManageError> + Send + 'static,
    ) -> Result<Done<T>, ManageError> {
        request.keys.extend(caller.key());
        let actor = caller.actor();
        let planned: Arc<Mutex<Option<(T, bool)>>> = Arc::default();
        let kept = Arc::clone(&planned);
        let decide = move |reading: &Reading| -> Planned {
            match plan(reading) {
                Ok(Plan { changes, outcome }) => {
                    *kept.lock() = Some((outcome, !changes.is_empty()));
                    Ok(Changes { actor: actor.clone(), changes })
                }
                Err(error) => Err(Box::new(error) as Box<dyn Any + Send>),
            }
        };
        match self.store.mutate(request, Box::new(decide)).await {
            Ok(Ok(committed)) => {
                let (outcome, wrote) = planned.lock().take().expect("what was committed was planned");
                Ok(Done { outcome, committed, wrote })
            }
            Ok(Err(refusal)) => {
                Err(*refusal.downcast::<ManageError>().expect("the plan refuses with nothing but this error"))
            }
            Err(StoreError::DuplicateToken { existing, .. }) => Err(ManageError::DuplicateToken { existing }),
            Err(error) => Err(error.into()),
        }
    }
}

fn created(done: Done<plan::Minted>) -> Created {
    let mut key = done.outcome.key.clone();
    done.settle_key(&mut key, 0);
    Created { key, user: done.outcome.user, token: done.outcome.token, committed: done.committed }
}

fn view((key, user, usage): (Key, Option<User>, Option<KeyUsage>), reading: &Reading) -> KeyView {
    let status = key.status(user.as_ref(), reading.now);
    KeyView { key, user, usage, status }
}

/// What a query may ask for where the caller manages only `managed`.
fn narrowed<T: PartialEq + Clone + ToString>(
    field: &'static str,
    asked: Option<T>,
    managed: Option<&T>,
) -> Result<Option<T>, ManageError> {
    match (asked, managed) {
        (Some(asked), Some(managed)) if asked != *managed => {
            Err(ManageError::OutOfScope { field, found: asked.to_string() })
        }
        (None, Some(managed)) => Ok(Some(managed.clone())),
        (asked, _) => Ok(asked),
    }
}
