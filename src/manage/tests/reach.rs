//! How far lists, revocations and webhook secrets reach: no further than the caller sees, and no longer
//! than others can wait.

use super::*;
use crate::manage::revoke::REVOKED_AT_ONCE_MAX;
use crate::store::slow::{SLOW, SlowStore};
use crate::store::{Change, Changes, NewEvent, ReadRequest, Reading, Row};

impl House {
    /// Keys as `like` says, stored without asking anybody.
    async fn stored_like(&self, like: &Key, numbers: std::ops::Range<u128>) -> Vec<KeyId> {
        let key = |number: u128| {
            let id = KeyId::from_bits((1 << 100) + number);
            let hash = TokenHash::of(&number.to_be_bytes());
            Key { id, lineage: id.lineage(), hash, ..like.clone() }
        };
        let keys: Vec<Key> = numbers.map(key).collect();
        let ids = keys.iter().map(|key| key.id).collect();
        let plan = move |_: &Reading| {
            let event = || NewEvent { kind: EventKind::KeyCreated, changes: BTreeMap::new() };
            let changes = keys.iter().map(|key| Change { row: Row::Key(Box::new(key.clone())), event: event() });
            Ok(Changes::by(Actor::System, changes.collect()))
        };
        let outcome = self.store.mutate(ReadRequest::default(), Box::new(plan)).await.expect("a commit");
        outcome.expect("the plan refuses nothing");
        ids
    }

    async fn unrevoked(&self, ids: &[KeyId]) -> usize {
        let read = ReadRequest { keys: ids.to_vec(), ..ReadRequest::default() };
        let reading = self.store.read(read).await.expect("a reading");
        reading.keys.iter().filter(|key| !key.states.revoked).count()
    }

    async fn whole_operator(&self) -> Key {
        let all = OperatorScope { project: None, environment: None };
        let new = NewKey { operates_on: Some(all), project: None, ..operator(&["keyward.**"], &["**"]) };
        self.create(new).await.key
    }

    /// An operator who minted more than is revoked at once, among it one who minted another.
    async fn prolific(&self) -> (Key, Vec<KeyId>) {
        let minter = self.whole_operator().await;
        let like = self.create(plain(&["a"])).await.key;
        let many = u128::try_from(REVOKED_AT_ONCE_MAX).expect("a small number");
        let mut ids = self.stored_like(&Key { minted_by: Some(minter.id), ..like.clone() }, 0..many).await;
        ids.extend(self.stored_like(&Key { minted_by: ids.last().copied(), ..like }, many..many + 5).await);
        (minter, ids)
    }
}

#[tokio::test]
async fn all_that_a_prolific_operator_minted_is_revoked_some_at_a_time() {
    let house = house();
    let (minter, ids) = house.prolific().await;
    let before = house.events().await.len();
    let done = house.manager.revoke_key(&local(), minter.id, RevokeScope::Descendants).await.expect("it may");
    assert_eq!((done.keys.len(), done.out_of_reach, done.related.len()), (ids.len() + 1, 0, 0));
    assert_eq!(done.keys[0].id, minter.id, "it is first who could go on minting");
    assert_eq!(house.unrevoked(&ids).await, 0);
    let events = house.events().await.split_off(before);
    assert_eq!(events.len(), ids.len() + 1);
    let revisions: std::collections::BTreeSet<u64> = events.iter().map(|event| event.stamp.revision).collect();
    assert_eq!(revisions.len(), 3);
    assert_eq!(revisions.last(), Some(&done.committed.revision));
    let again = house.manager.revoke_key(&local(), minter.id, RevokeScope::Descendants).await.expect("it may");
    assert_eq!(again.keys.len(), 0);
}

#[tokio::test]
async fn what_else_a_prolific_key_minted_is_told_in_part_and_a_revocation_alone_reads_none_of_it() {
    let house = house();
    let (minter, ids) = house.prolific().await;
    let mut slow = house.manager.clone();
    slow.store = Arc::new(SlowStore(Arc::clone(&house.store)));
    let ended = tokio::time::timeout(SLOW / 2, slow.end_key(&local(), minter.id, RevokeScope::Key)).await;
    let ended = ended.expect("nothing is waited for").expect("it may");
    assert_eq!((ended.keys.len(), ended.related.len()), (1, 0));
    let told = house.manager.revoke_key(&local(), minter.id, RevokeScope::Key).await.expect("it may");
    assert_eq!((told.keys.len(), told.related.len()), (0, 1000));
    assert!(told.related.iter().all(|id| ids.contains(id)));
}

#[tokio::test]
async fn whoever_revokes_itself_with_all_that_it_minted_goes_last() {
    let house = house();
    let (minter, ids) = house.prolific().await;
    let by = by_key(minter.id);
    let done = house.manager.revoke_key(&by, minter.id, RevokeScope::Descendants).await.expect("it may");
    assert_eq!(done.keys.len(), ids.len() + 1);
    assert_eq!(done.keys.last().map(|key| key.id), Some(minter.id));
    assert_eq!(house.unrevoked(&ids).await + house.unrevoked(&[minter.id]).await, 0);

    let house = self::house();
    let (minter, ids) = house.prolific().await;
    let helper = Key { minted_by: Some(minter.id), ..house.whole_operator().await };
    let helper = house.stored_like(&helper, 9000..9001).await[0];
    let once = || Once::new(&by_key(helper), "POST", "/revoke", b"an idempotency key", b"{}").expect("a good key");
    let told = |revoked: &Revoked| format!("{} {}", revoked.keys.len(), revoked.related.len()).into_bytes();
    let scope = RevokeScope::Descendants;
    let done = house.manager.revoke_key_once(&by_key(helper), minter.id, scope, once(), told).await.expect("it may");
    let Answered::First { outcome, answer } = done else { panic!("it was asked for once") };
    assert_eq!(outcome.keys.len(), ids.len() + 2);
    assert_eq!(answer, format!("{} 0", ids.len() + 2).into_bytes());
    assert_eq!(outcome.keys.last().map(|key| key.id), Some(helper));
    assert_eq!(house.unrevoked(&ids).await + house.unrevoked(&[minter.id, helper]).await, 0);
}

#[tokio::test]
async fn what_was_revoked_once_with_very_many_is_answered_again() {
    let house = house();
    let (minter, ids) = house.prolific().await;
    let by = by_key(house.whole_operator().await.id);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let once = Once::new(&by, "POST", "/revoke", b"an idempotency key", b"{}").expect("a good key");
        let told = |revoked: &Revoked| revoked.keys.len().to_string().into_bytes();
        let scope = RevokeScope::Descendants;
        answers.push(match house.manager.revoke_key_once(&by, minter.id, scope, once, told).await.expect("it may") {
            Answered::First { answer, .. } | Answered::Again { answer, .. } => answer,
        });
    }
    assert_eq!(answers[0], (ids.len() + 1).to_string().into_bytes());
    assert_eq!(answers[0], answers[1]);
    let other = Once::new(&by, "POST", "/revoke", b"an idempotency key", b"{ }").expect("a good key");
    let told = |_: &Revoked| Vec::new();
    let conflict = house.manager.revoke_key_once(&by, minter.id, RevokeScope::Descendants, other, told).await;
    assert_eq!(code(conflict), "idempotency_conflict");
}

#[tokio::test]
async fn whoever_may_not_revoke_the_first_revokes_none_of_the_rest() {
    let house = house();
    let (minter, ids) = house.prolific().await;
    let elsewhere = by_key(house.create(operator(&["keyward.keys.revoke"], &["a"])).await.key.id);
    assert_eq!(code(house.manager.revoke_key(&elsewhere, minter.id, RevokeScope::Descendants).await), "not_found");
    let weak = NewKey {
        operates_on: Some(OperatorScope { project: None, environment: None }),
        project: None,
        ..operator(&["keyward.keys.read"], &["a"])
    };
    let weak = by_key(house.create(weak).await.key.id);
    let once = Once::new(&weak, "POST", "/revoke", b"an idempotency key", b"{}").expect("a good key");
    let told = |_: &Revoked| Vec::new();
    let refused = house.manager.revoke_key_once(&weak, minter.id, RevokeScope::Descendants, once, told).await;
    assert_eq!(code(refused), "lacks_permission");
    assert_eq!(house.unrevoked(&ids).await, ids.len());
}

#[tokio::test]
async fn a_list_goes_on_only_from_what_its_caller_sees() {
    let house = house();
    let other = house.create(NewKey { project: "other".parse().ok(), ..plain(&["a"]) }).await.key;
    let own = house.create(plain(&["a"])).await.key;
    let by = by_key(house.create(operator(&["keyward.keys.read", "keyward.users.read"], &["a"])).await.key.id);
    let from = |id| KeyQuery { before: Some(id), ..KeyQuery::default() };
    assert_eq!(code(house.manager.keys(&by, from(own.id)).await), "done");
    assert_eq!(code(house.manager.keys(&by, from(other.id)).await), "invalid_cursor");
    assert_eq!(code(house.manager.keys(&by, from(KeyId::from_bits(7))).await), "invalid_cursor");
    assert_eq!(code(house.manager.keys(&local(), from(other.id)).await), "done");

    for (id, project) in [("ann", "acme"), ("bob", "other"), ("cid", "acme"), ("dan", "acme")] {
        let change = UserChange { project: project.parse().ok(), ..user(id, &["a"]) };
        house.manager.set_user(&local(), change).await.expect("a user");
    }
    house.manager.delete_user(&local(), user_id("cid")).await.expect("a user that is gone");
    let from = |id: &str, limit| UserQuery { after: Some(user_id(id)), limit, ..UserQuery::default() };
    let ids = |users: Vec<crate::key::User>| users.iter().map(|user| user.id.to_string()).collect::<Vec<_>>();
    let first = house.manager.users(&by, UserQuery { limit: 1, ..UserQuery::default() }).await.expect("a page");
    assert_eq!(ids(first), ["ann"]);
    assert_eq!(ids(house.manager.users(&by, from("ann", 5)).await.expect("a page")), ["dan"]);
    assert_eq!(ids(house.manager.users(&by, from("cid", 5)).await.expect("it was there")), ["dan"]);
    assert_eq!(code(house.manager.users(&by, from("bob", 5)).await), "invalid_cursor");
    assert_eq!(code(house.manager.users(&by, from("eve", 5)).await), "invalid_cursor");
}

#[tokio::test]
async fn no_page_goes_on_from_a_key_of_another_project() {
    let house = house();
    let like = house.create(plain(&["a"])).await.key;
    let revoked = |project: &str| {
        let mut key = Key { project: project.parse().ok(), ..like.clone() };
        key.states.revoked = true;
        key
    };
    // Far more revoked keys than one page looks at, of which the caller's project has few.
    house.stored_like(&revoked("acme"), 0..3).await;
    house.stored_like(&revoked("other"), 10..9_010).await;
    house.stored_like(&revoked("acme"), 10_000..10_002).await;
    let by = by_key(house.create(operator(&["keyward.keys.read"], &["a"])).await.key.id);
    for query in [
        KeyQuery { status: Some(Status::Revoked), ..KeyQuery::default() },
        KeyQuery { status: Some(Status::Revoked), unused_for_days: Some(0), ..KeyQuery::default() },
    ] {
        let (mut seen, mut query) = (0, KeyQuery { limit: 2, ..query });
        for _ in 0..20 {
            let page = house.manager.keys(&by, query.clone()).await.expect("every page leads to another");
            seen += page.keys.len();
            let Some(next) = page.next else { break };
            query.before = Some(next);
        }
        assert_eq!(seen, 5);
    }
}

#[tokio::test]
async fn a_webhook_secret_is_changed_within_what_the_caller_sees() {
    let house = house();
    let hooked = NewKey { rotation_webhook_url: Some("https://hooks.example.com/x".to_owned()), ..plain(&["a"]) };
    let first = house.create(hooked).await.key;
    let second = house.rotate(first.id, 60 * MINUTE).await.expect("a rotation").new;
    let moved = KeyChange { environment: "test".parse().ok(), ..KeyChange::default() };
    house.update(second.id, moved).await.expect("it is moved");
    let of = |environment: &str| NewKey {
        operates_on: Some(OperatorScope { project: acme(), environment: environment.parse().ok() }),
        ..operator(&["keyward.keys.update", "keyward.keys.read"], &["a"])
    };
    let (live, test) = (by_key(house.create(of("live")).await.key.id), by_key(house.create(of("test")).await.key.id));
    let changed = house.manager.rotate_webhook_secret(&live, first.id).await.expect("it may");
    assert_eq!(changed.key.rotation.secret_version, 2);
    let version = async |id| {
        let read = ReadRequest { keys: vec![id], ..ReadRequest::default() };
        house.store.read(read).await.expect("a reading").keys[0].rotation.secret_version
    };
    assert_eq!((version(first.id).await, version(second.id).await), (2, 1), "the other is out of its sight");
    // Whoever sets a URL is told what announcements are signed with.
    let url = Some(Some("https://hooks.example.com/y".to_owned()));
    let change = KeyChange { rotation_webhook_url: url, ..KeyChange::default() };
    let told = house.manager.update_key(&test, second.id, change).await.expect("it may");
    assert_eq!(told.key.rotation.secret_version, 2);
    let text = |secret: &crate::secret::Secret| secret.expose().to_vec();
    assert_eq!(told.webhook_secret.as_ref().map(text), Some(text(&changed.secret)));

    let once = || Once::new(&test, "POST", "/secret", b"an idempotency key", b"").expect("a good key");
    let answer = |rotated: &WebhookSecretRotated| rotated.secret.expose().to_vec();
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.push(match house.manager.rotate_webhook_secret_once(&test, second.id, once(), answer).await {
            Ok(Answered::First { answer, .. } | Answered::Again { answer, .. }) => answer,
            Err(error) => panic!("{error}"),
        });
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!((version(first.id).await, version(second.id).await), (2, 3));
}

#[tokio::test]
async fn a_webhook_secret_is_told_to_nobody_who_may_not_grant_the_key() {
    let house = house();
    let url = |path: &str| Some(format!("https://hooks.example.com/{path}"));
    let strong = house.create(NewKey { rotation_webhook_url: url("x"), ..plain(&["a", "b"]) }).await.key.id;
    let permissions = &["keyward.keys.update", "keyward.keys.read"][..];
    let none = by_key(house.create(operator(permissions, &[])).await.key.id);
    let some = by_key(house.create(operator(permissions, &["a"])).await.key.id);
    let enough = by_key(house.create(operator(permissions, &["a", "b"])).await.key.id);
    let to = |url| KeyChange { rotation_webhook_url: Some(url), ..KeyChange::default() };
    for by in [&none, &some] {
        for path in ["x", "y"] {
            assert_eq!(code(house.manager.update_key(by, strong, to(url(path))).await), "may_not_grant");
        }
        assert_eq!(code(house.manager.rotate_webhook_secret(by, strong).await), "may_not_grant");
        let once = Once::new(by, "POST", "/secret", b"an idempotency key", b"").expect("a good key");
        let answer = |_: &WebhookSecretRotated| Vec::new();
        let refused = house.manager.rotate_webhook_secret_once(by, strong, once, answer).await;
        assert_eq!(code(refused), "may_not_grant");
        let named = KeyChange { name: Some("renamed".to_owned()), ..KeyChange::default() };
        let changed = house.manager.update_key(by, strong, named).await.expect("it may");
        assert!(changed.webhook_secret.is_none());
    }
    let changed = house.manager.update_key(&enough, strong, to(url("y"))).await.expect("it may");
    assert!(changed.webhook_secret.is_some());
    assert_eq!(code(house.manager.rotate_webhook_secret(&enough, strong).await), "done");
    // Whoever may change it may take its webhook off, and is told nothing by it.
    let off = house.manager.update_key(&none, strong, to(None)).await.expect("it may");
    assert!(off.webhook_secret.is_none() && off.key.rotation.webhook_url.is_none());
    assert_eq!(code(house.manager.update_key(&none, strong, to(url("z"))).await), "may_not_grant");
}
