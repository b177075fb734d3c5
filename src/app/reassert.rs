//! Tells a restored store again what the gateway goes on refusing: the management operations, for
//! `sync`, which may not change keys itself.

use crate::key::Subject;
use crate::manage::{Caller, ManageError, Manager};
use crate::store::{BoxFuture, Cursor, GATEWAY_LOGIN};
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
}

impl Reassert for Reasserting {
    fn end<'a>(&'a self, subject: &'a Subject, at: Cursor) -> BoxFuture<'a, Reasserted> {
        Box::pin(async move {
            match self.manager.end_again(&self.caller, subject.clone(), at).await {
                Ok(Some(revision)) => Reasserted::Told(revision),
                Ok(None) => Reasserted::OtherHistory,
                Err(ManageError::KeyNotFound { .. } | ManageError::UserNotFound { .. }) => Reasserted::Absent,
                Err(error) => Reasserted::Failed(error.to_string()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::clock::{ManualClock, Timestamp};
    use crate::key::{Actor, KeyId, TokenPrefix};
    use crate::manage::NewKey;
    use crate::store::slow::{SLOW, SlowStore};
    use crate::store::{ReadRequest, SharedStore, SqliteStore};

    #[tokio::test]
    async fn a_key_is_revoked_again_however_much_it_minted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1_000_000)));
        let store = SqliteStore::create(&folder.path().join("keyward.db"), clock).expect("a new store");
        let store: SharedStore = Arc::new(SlowStore(Arc::new(store)));
        let manager = Manager::new(Arc::clone(&store), TokenPrefix::default());
        let caller = Caller::Local { login: "ann".to_owned() };
        let mut keys = Vec::new();
        for _ in 0..2 {
            let new = NewKey::named("a key", "acme".parse().ok());
            keys.push(manager.create_key(&caller, new).await.expect("it may").key.id);
        }
        let reasserting = Reasserting::by(manager);
        let tell = async |id: KeyId| {
            let subject = Subject::Key(id);
            let told =
                tokio::time::timeout(SLOW - Duration::from_secs(5), reasserting.end(&subject, Cursor::default()));
            told.await.expect("nothing that it minted is read")
        };
        for id in &keys {
            assert!(matches!(tell(*id).await, Reasserted::Told(_)));
        }
        assert_eq!(tell(KeyId::from_bits(7)).await, Reasserted::Absent);
        let reading = store.read(ReadRequest { keys, ..ReadRequest::default() }).await.expect("a reading");
        assert!(reading.keys.len() == 2 && reading.keys.iter().all(|key| key.states.revoked));
    }

    #[tokio::test]
    async fn once_somebody_has_accepted_a_restored_store_it_is_told_nothing_of_the_history_before() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1_000_000)));
        let store = SqliteStore::create(&folder.path().join("keyward.db"), clock).expect("a new store");
        let store: SharedStore = Arc::new(store);
        let manager = Manager::new(Arc::clone(&store), TokenPrefix::default());
        let caller = Caller::Local { login: "ann".to_owned() };
        let new = NewKey::named("a key", "acme".parse().ok());
        let key = manager.create_key(&caller, new).await.expect("it may").key.id;
        let at = async || store.poll(Cursor::default()).await.expect("an answer").newest;
        let (subject, before) = (Subject::Key(key), at().await);
        let history = store.history().expect("this store knows of restored backups");
        history.accept(Actor::System, 0).await.expect("it is accepted");
        let reasserting = Reasserting::by(manager);
        assert_eq!(reasserting.end(&subject, before).await, Reasserted::OtherHistory);
        let request = ReadRequest { keys: vec![key], ..ReadRequest::default() };
        let is_revoked = async || {
            let reading = store.read(request.clone()).await.expect("a reading");
            reading.key(key).is_some_and(|key| key.states.revoked)
        };
        assert!(!is_revoked().await);
        assert_eq!(reasserting.end(&subject, at().await).await, Reasserted::Told(at().await.revision));
        assert!(is_revoked().await);
    }
}
