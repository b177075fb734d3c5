//! Tells a restored store again what the gateway goes on refusing: the management operations, for
//! `sync`, which may not change keys itself.

use crate::key::Subject;
use crate::manage::{Caller, ManageError, Manager, RevokeScope};
use crate::store::{BoxFuture, GATEWAY_LOGIN};
use crate::sync::{Reassert, Reasserted};

/// Tells it as a caller that the audit log shows as the gateway itself.
#[derive(Debug)]
pub(super) struct Reasserting {
    manager: Manager,
    caller: Caller,
}

impl Reasserting {
    pub(super) fn by(manager: Manager) -> Self {
        Self { manager, caller: Caller::Local { login: GATEWAY_LOGIN.to_owned() } }
    }

    async fn end_now(&self, subject: &Subject) -> Result<(), ManageError> {
        match subject {
            Subject::Key(key) => drop(self.manager.revoke_key(&self.caller, *key, RevokeScope::Key).await?),
            Subject::User(user) => drop(self.manager.delete_user(&self.caller, user.clone()).await?),
        }
        Ok(())
    }
}

impl Reassert for Reasserting {
    fn end<'a>(&'a self, subject: &'a Subject) -> BoxFuture<'a, Reasserted> {
        Box::pin(async move {
            match self.end_now(subject).await {
                Ok(()) => Reasserted::Told,
                Err(ManageError::KeyNotFound { .. } | ManageError::UserNotFound { .. }) => Reasserted::Absent,
                Err(error) => Reasserted::Failed(error.to_string()),
            }
        })
    }
}
