//! A restored backup, which gateways tell again what ended, and which somebody accepts.

use super::*;
use crate::key::Subject;
use crate::store::GATEWAY_LOGIN;

fn gateway() -> Caller {
    Caller::Local { login: GATEWAY_LOGIN.to_owned() }
}

impl House {
    /// Takes the store for right. What was taken back.
    async fn accept(&self) -> Vec<Subject> {
        let history = self.store.history().expect("this store knows of restored backups");
        let (_, retold) = history.accept(Actor::Local("ann".to_owned()), 0).await.expect("it is accepted");
        retold.into_iter().map(|one| one.subject).collect()
    }

    async fn ended_by_a_gateway(&self, id: KeyId) {
        self.manager.revoke_key(&gateway(), id, RevokeScope::Key).await.expect("it may");
    }

    async fn newest(&self) -> u64 {
        self.events().await.last().map_or(0, |event| event.stamp.revision)
    }
}

#[tokio::test]
async fn what_an_operator_revoked_stays_so_in_an_accepted_backup_though_a_gateway_came_first() {
    let house = house();
    let by = by_key(house.create(operator(&["keyward.keys.revoke"], &[])).await.key.id);
    let [named, left] = [house.create(plain(&["a"])).await.key.id, house.create(plain(&["a"])).await.key.id];
    let old = house.create(plain(&["a"])).await.key.id;
    let new = house.rotate(old, 60 * MINUTE).await.expect("a rotation").new.id;
    let minter = house.create(operator(&["keyward.keys.create"], &["a"])).await.key.id;
    let minted = house.manager.create_key(&by_key(minter), plain(&["a"])).await.expect("it may").key.id;
    for id in [named, left, old, minted] {
        house.ended_by_a_gateway(id).await;
    }
    let before = house.newest().await;
    house.ended_by_a_gateway(named).await;
    assert_eq!(house.newest().await, before, "a gateway says nothing twice");

    let done = house.manager.revoke_key(&by, named, RevokeScope::Key).await.expect("it may");
    assert_eq!((done.keys.len(), done.committed.revision), (0, before + 1), "what is confirmed is its own");
    let event = house.events().await.pop().expect("an event");
    assert_eq!((event.kind, event.actor, event.subject), (EventKind::KeyRevoked, by.actor(), Subject::Key(named)));
    let again = house.manager.revoke_key(&by, named, RevokeScope::Key).await.expect("it may");
    assert_eq!(again.committed.revision, done.committed.revision, "once is enough");
    let done = house.manager.revoke_key(&by, new, RevokeScope::Lineage).await.expect("it may");
    assert_eq!(done.keys.iter().map(|key| key.id).collect::<Vec<_>>(), [new]);
    assert_eq!(house.stored(new).await.key, done.keys[0]);
    house.manager.revoke_key(&by, minter, RevokeScope::Descendants).await.expect("it may");

    assert_eq!(house.accept().await, [Subject::Key(left)]);
    for id in [named, old, new, minter, minted] {
        assert_eq!(house.status(id).await, Status::Revoked);
    }
    assert_eq!(house.status(left).await, Status::Active);
}

#[tokio::test]
async fn a_user_whom_an_operator_deleted_stays_so_in_an_accepted_backup_though_a_gateway_came_first() {
    let house = house();
    for id in ["ann", "bob"] {
        house.manager.set_user(&local(), UserChange { project: acme(), ..user(id, &["a"]) }).await.expect("a user");
        house.manager.delete_user(&gateway(), user_id(id)).await.expect("it may");
    }
    let before = house.newest().await;
    let done = house.manager.delete_user(&local(), user_id("ann")).await.expect("it may");
    assert_eq!(done.committed.revision, before + 1);
    assert_eq!(done.user.stamp.revision, done.committed.revision);
    let again = house.manager.delete_user(&local(), user_id("ann")).await.expect("it may");
    assert_eq!(again.committed.revision, done.committed.revision, "once is enough");
    assert_eq!(house.accept().await, [Subject::User(user_id("bob"))]);
    assert_eq!(code(house.manager.user(&local(), user_id("ann")).await), "user_not_found");
    assert_eq!(code(house.manager.user(&local(), user_id("bob")).await), "done");
}
