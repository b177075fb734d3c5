//! Operations on the store itself, by whoever holds the master secret.

use std::time::Duration;

use tokio::time::Instant;

use super::documents::{
    self, Confirmation, DeletedUser, Event, Gateway, Key, NewWebhookSecret, Replacement, Token, Told, User,
    WebhookSecret, WholeKey,
};
use super::failure::Failure;
use super::operations::{DamagedRow, Hashes, Names, Operations, Revoked, Take, UserSet};
use super::place::Place;
use crate::admin::{self, ChangedKey, ConfirmationShape, GatewayShape, KeyShape, KeyWhole, Minted, UserShape};
use crate::key::{self, KeyId, ProjectId, Stamp, UserId};
use crate::manage::{KeyChange, KeyView, ManageError, NewKey, RevokeScope, UserPatch};
use crate::store::{EventQuery, GatewayId, KeyQuery, UserQuery};

/// How many rows are read at a time.
const PAGE: usize = 1000;

impl Operations for Place {
    fn create_key(&self, new: NewKey) -> Result<Told<Token>, Failure> {
        let created = self.wait(self.manager.create_key(&self.caller, new))?;
        told(&Minted::of(&created))
    }

    fn each_key(&self, mut query: KeyQuery, hashes: Hashes, take: Take<'_, Key>) -> Result<Vec<DamagedRow>, Failure> {
        let mut left = if query.limit == 0 { usize::MAX } else { query.limit };
        let mut damaged = Vec::new();
        loop {
            query.limit = left.min(PAGE);
            let page = self.wait(self.manager.keys(&self.caller, query.clone()))?;
            left -= page.keys.len().min(left);
            for view in &page.keys {
                take(key(view, hashes)?)?;
            }
            damaged.extend(page.damaged);
            query.before = page.next;
            if query.before.is_none() || left == 0 {
                return Ok(damaged);
            }
        }
    }

    fn key(&self, id: KeyId) -> Result<WholeKey, Failure> {
        let view = self.wait(self.manager.key(&self.caller, id))?;
        let lineage = self.wait(self.manager.lineage(&self.caller, id))?;
        let announcements = self.wait(self.manager.announcements(&self.caller, id))?;
        let mut whole: WholeKey = documents::of(&KeyWhole::of(&view, &lineage, &announcements))?;
        let flags = view.user.as_ref().map(|user| user.flags.to_string());
        whole.flags_of_user = view.key.user.is_some().then(|| flags.unwrap_or_else(|| "(no such user)".to_owned()));
        Ok(whole)
    }

    fn update_key(&self, id: KeyId, change: KeyChange) -> Result<Told<WebhookSecret>, Failure> {
        let changed = self.wait(self.manager.update_key(&self.caller, id, change))?;
        told(&ChangedKey::unused(&changed))
    }

    fn rotate_key(&self, id: KeyId, grace: Duration) -> Result<Replacement, Failure> {
        let rotated = self.wait(self.manager.rotate_key(&self.caller, id, grace))?;
        documents::of(&admin::Replacement::of(&rotated))
    }

    fn rotate_webhook_secret(&self, id: KeyId) -> Result<NewWebhookSecret, Failure> {
        let changed = self.wait(self.manager.rotate_webhook_secret(&self.caller, id))?;
        documents::of(&admin::NewWebhookSecret::of(&changed))
    }

    fn revoke_key(&self, id: KeyId, scope: RevokeScope, _names: Names) -> Result<Revoked, Failure> {
        let revoked = self.wait(self.manager.revoke_key(&self.caller, id, scope))?;
        let names = revoked.keys.iter().map(|key| Some(key.name.clone())).collect();
        Ok(Revoked { document: documents::of(&admin::Revocation::of(&revoked))?, names })
    }

    fn users(&self, project: Option<ProjectId>) -> Result<Vec<User>, Failure> {
        let query = UserQuery { project, ..UserQuery::default() };
        let users = self.wait(self.manager.users(&self.caller, query))?;
        users.iter().map(user).collect()
    }

    fn user(&self, id: UserId) -> Result<User, Failure> {
        user(&existing(self, self.manager.user(&self.caller, id))?)
    }

    fn set_user(&self, patch: UserPatch) -> Result<UserSet, Failure> {
        let set = self.wait(self.manager.set_user(&self.caller, patch))?;
        Ok(UserSet { user: user(&set.user)?, is_new: set.created, revision: set.committed.revision })
    }

    fn delete_user(&self, id: UserId) -> Result<DeletedUser, Failure> {
        let deleted = existing(self, self.manager.delete_user(&self.caller, id))?;
        Ok(DeletedUser {
            id: deleted.user.id.to_string(),
            revoked: deleted.keys.iter().map(|key| key.id).collect(),
            revision: deleted.committed.revision,
        })
    }

    fn each_event(&self, mut query: EventQuery, take: Take<'_, Event>) -> Result<Stamp, Failure> {
        query.limit = PAGE;
        loop {
            let page = self.wait(self.manager.events(&self.caller, query.clone()))?;
            for event in &page {
                take(documents::of(event)?)?;
                query.after = event.stamp;
            }
            if page.len() < PAGE {
                return Ok(query.after);
            }
        }
    }

    fn gateways(&self) -> Result<Vec<Gateway>, Failure> {
        let fleet = self.wait(self.manager.gateways(&self.caller))?;
        fleet.gateways.iter().map(|view| documents::of(&GatewayShape::of(view))).collect()
    }

    fn forget_gateway(&self, id: GatewayId) -> Result<usize, Failure> {
        self.wait(self.manager.forget_gateway(&self.caller, id))
    }

    fn confirmation(&self, revision: u64, at_most: Duration) -> Result<Confirmation, Failure> {
        let until = Instant::now() + at_most;
        let confirmation = self.wait(self.manager.wait_confirmed(revision, until))?;
        documents::of(&ConfirmationShape::of(&confirmation))
    }

    fn wait_for_news(&self, at_most: Duration) {
        self.wait_for(self.store.wait_for_news(at_most));
    }
}

fn key(view: &KeyView, hashes: Hashes) -> Result<Key, Failure> {
    let hash = (hashes == Hashes::Told).then(|| view.key.hash.to_hex());
    Ok(Key { hash, ..documents::of(&KeyShape::of(view))? })
}

fn user(user: &key::User) -> Result<User, Failure> {
    documents::of(&UserShape::of(user))
}

fn told<T: serde::de::DeserializeOwned>(shape: &impl serde::Serialize) -> Result<Told<T>, Failure> {
    documents::read_told(&documents::text_of(shape)?).map_err(|error| Failure::because(&error))
}

/// What `asked`, which is about a user that exists, comes to.
fn existing<T>(place: &Place, asked: impl Future<Output = Result<T, ManageError>>) -> Result<T, Failure> {
    place.wait(async {
        asked.await.map_err(|error| match error {
            ManageError::UserNotFound { id } => {
                Failure::failed(format_args!("no user {:?}; `keyward users list` shows those that exist", id.as_str()))
            }
            error => error.into(),
        })
    })
}
