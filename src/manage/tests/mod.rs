//! Every rule of the manager, against a real store.

mod flood;
mod once;
mod own;
mod reach;
mod restored;
mod staged;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::key::{
    Actor, EventKind, FlagSet, Format, Grants, Key, KeyId, OperatorScope, ProjectId, Status, Token, TokenHash,
    TokenPrefix, UserId, WebhookSecrets,
};
use crate::secret::{MasterSecret, MasterSecrets};
use crate::store::{EventQuery, KeyQuery, SharedStore, SqliteStore, UsageUpdate, UserQuery};
use crate::wire::Reach;

/// Signs nothing: a text of the right shape.
#[derive(Debug)]
struct FakeJwt;

impl crate::key::MintJwt for FakeJwt {
    fn mint(&self, key: &Key) -> Result<Token, crate::secret::NoRandomness> {
        let random = data_encoding::HEXLOWER.encode(&crate::secret::random::<32>()?);
        Ok(Token::from_text(&format!("e30.{}.{random}", key.id)))
    }
}

/// What gateways know: nothing, or that everything is in use.
#[derive(Debug, Default)]
struct Gateways(std::sync::atomic::AtomicBool);

impl LiveUsage for Gateways {
    fn is_used(&self, _key: &Key) -> bool {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

struct House {
    manager: Manager,
    store: SharedStore,
    clock: Arc<ManualClock>,
    _folder: TempDir,
}

const MINUTE: Duration = Duration::from_secs(60);

fn house() -> House {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1_000_000)));
    let path = folder.path().join("keyward.db");
    let store = SqliteStore::create(&path, Arc::<ManualClock>::clone(&clock) as _).expect("a new store");
    let store: SharedStore = Arc::new(store);
    let master = MasterSecret::generate().expect("randomness");
    let secrets = WebhookSecrets::derive(&MasterSecrets::first(master), 7);
    let webhooks = Webhooks { secrets, reach: Reach::Public };
    let manager = Manager::new(Arc::clone(&store), TokenPrefix::default());
    let manager = manager.with_jwt(Arc::new(FakeJwt)).with_webhooks(webhooks);
    House { manager, store, clock, _folder: folder }
}

fn local() -> Caller {
    Caller::Local { login: "ann".to_owned() }
}

fn by_key(id: KeyId) -> Caller {
    Caller::Key { id, from: [192, 0, 2, 1].into() }
}

fn acme() -> Option<ProjectId> {
    "acme".parse().ok()
}

fn flags(texts: &[&str]) -> FlagSet {
    FlagSet::parse(texts).expect("flags of a test are well-formed")
}

fn user_id(text: &str) -> UserId {
    text.parse().expect("a user id of a test is well-formed")
}

fn plain(texts: &[&str]) -> NewKey {
    NewKey { grants: Grants::Only(flags(texts)), ..NewKey::named("a key", acme()) }
}

fn operator(held: &[&str], may_grant: &[&str]) -> NewKey {
    let scope = OperatorScope { project: acme(), environment: None };
    NewKey { may_grant: flags(may_grant), operates_on: Some(scope), ..plain(held) }
}

fn user(id: &str, texts: &[&str]) -> UserChange {
    UserChange { id: user_id(id), project: None, flags: flags(texts), active: Activity::Active }
}

fn code<T>(result: Result<T, ManageError>) -> &'static str {
    result.map_or_else(
        |error| {
            let text = error.to_string();
            assert!(!text.contains('\n') && !text.is_empty(), "{text:?} is one line");
            error.as_code()
        },
        |_| "done",
    )
}

impl House {
    async fn create(&self, new: NewKey) -> Created {
        self.manager.create_key(&local(), new).await.expect("a key is created")
    }

    async fn update(&self, id: KeyId, change: KeyChange) -> Result<Changed, ManageError> {
        self.manager.update_key(&local(), id, change).await
    }

    async fn rotate(&self, id: KeyId, grace: Duration) -> Result<Rotated, ManageError> {
        self.manager.rotate_key(&local(), id, grace).await
    }

    async fn revoke(&self, id: KeyId, scope: RevokeScope) -> Revoked {
        self.manager.revoke_key(&local(), id, scope).await.expect("a key is revoked")
    }

    async fn stored(&self, id: KeyId) -> KeyView {
        self.manager.key(&local(), id).await.expect("the key is there")
    }

    async fn status(&self, id: KeyId) -> Status {
        self.stored(id).await.status
    }

    async fn events(&self) -> Vec<crate::key::Event> {
        self.manager.events(&local(), EventQuery::default()).await.expect("events")
    }

    async fn used(&self, key: KeyId) {
        let update = UsageUpdate { key, last_used_at: self.clock.now(), count: 1 };
        self.store.record_usage("a".to_owned(), vec![update]).await.expect("usage is stored");
    }
}

#[tokio::test]
async fn a_created_key_is_found_by_its_token_and_nothing_tells_the_token() {
    let house = house();
    let mut new = plain(&["jobs:read"]);
    new.props = BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
    new.expires = Expiry::In(MINUTE);
    new.rotation_interval_days = Some(30);
    let created = house.create(new).await;
    let (found, _) = house.store.find(created.token.hash()).await.expect("a look-up");
    assert_eq!(found.expect("it is stored").0, created.key);
    assert_eq!(created.key.stamp.revision, created.committed.revision);
    assert_eq!(created.key.expires_at, Some(house.clock.now().plus(MINUTE)));
    assert!(created.token.expose().starts_with(created.key.shown_prefix.as_deref().expect("it was minted here")));
    assert!(created.token.expose().ends_with(created.key.last_four.as_deref().expect("it was minted here")));
    let [event] = &house.events().await[..] else { panic!("one event") };
    assert_eq!((event.kind, &event.actor), (EventKind::KeyCreated, &Actor::Local("ann".to_owned())));
    assert_eq!(event.changes.get("flags").map(String::as_str), Some("jobs:read"));
    assert_eq!(event.changes.get("props.team").map(String::as_str), Some("blue"));
    let told = format!("{event:?} {created:?}");
    assert!(!told.contains(created.token.expose()) && !told.contains(&created.token.hash().to_hex()));
}

#[tokio::test]
async fn a_key_that_breaks_a_rule_is_not_created() {
    let house = house();
    let now = house.clock.now();
    house.manager.set_user(&local(), UserChange { project: acme(), ..user("ann", &["a"]) }).await.expect("a user");
    house.manager.set_user(&local(), user("gone", &["a"])).await.expect("a user");
    house.manager.delete_user(&local(), user_id("gone")).await.expect("deleted");
    let good = || plain(&["a"]);
    let props = |entries: usize, bytes: usize| (0..entries).map(|n| (n.to_string(), "x".repeat(bytes))).collect();
    let many: Vec<String> = (0..257).map(|n| format!("f{n}")).collect();
    let scope = |project| Some(OperatorScope { project, environment: None });
    let cases: Vec<(&str, NewKey, &str)> = vec![
        ("good", good(), "done"),
        ("no name", NewKey { name: String::new(), ..good() }, "invalid_field"),
        ("a line in the name", NewKey { name: "a\nb".to_owned(), ..good() }, "invalid_field"),
        ("257 flags", NewKey { grants: Grants::Only(FlagSet::parse(many).expect("flags")), ..good() }, "invalid_field"),
        ("64 props", NewKey { props: props(64, 10), ..good() }, "done"),
        ("65 props", NewKey { props: props(65, 10), ..good() }, "invalid_field"),
        ("over 4 KiB of props", NewKey { props: props(5, 1000), ..good() }, "invalid_field"),
        ("a tab in a prop", NewKey { props: [("a".to_owned(), "\t".to_owned())].into(), ..good() }, "invalid_field"),
        ("expired", NewKey { expires: Expiry::At(now), ..good() }, "conflicting_field"),
        ("expires at once", NewKey { expires: Expiry::In(Duration::ZERO), ..good() }, "conflicting_field"),
        ("project all", NewKey { project: "all".parse().ok(), ..good() }, "invalid_field"),
        ("no project", NewKey { project: None, ..good() }, "invalid_field"),
        ("an unknown user", NewKey { user: Some(user_id("eve")), ..good() }, "user_not_found"),
        ("a deleted user", NewKey { user: Some(user_id("gone")), ..good() }, "user_deleted"),
        (
            "another project's user",
            NewKey { user: Some(user_id("ann")), project: "x".parse().ok(), ..good() },
            "invalid_field",
        ),
        ("inheriting of nobody", NewKey { grants: Grants::Inherit, ..good() }, "invalid_field"),
        ("inheriting", NewKey { grants: Grants::Inherit, user: Some(user_id("ann")), ..good() }, "done"),
        ("no days", NewKey { rotation_interval_days: Some(0), ..good() }, "invalid_field"),
        ("too many days", NewKey { rotation_interval_days: Some(3651), ..good() }, "invalid_field"),
        ("a JWT", NewKey { format: Format::Jwt, ..good() }, "done"),
        ("an imported key", NewKey { format: Format::Imported, ..good() }, "format_not_available"),
        ("a webhook", NewKey { rotation_webhook_url: Some("https://a.example/x".to_owned()), ..good() }, "done"),
        (
            "a clear webhook",
            NewKey { rotation_webhook_url: Some("http://a.example/".to_owned()), ..good() },
            "conflicting_field",
        ),
        ("no webhook", NewKey { rotation_webhook_url: Some("https://".to_owned()), ..good() }, "invalid_field"),
        (
            "a webhook with a password",
            NewKey { rotation_webhook_url: Some("https://a:b@c/".to_owned()), ..good() },
            "invalid_field",
        ),
        ("an operator without a scope", plain(&["keyward.keys.read"]), "invalid_field"),
        ("a scope without an operator", NewKey { operates_on: scope(acme()), ..good() }, "invalid_field"),
        ("may_grant without an operator", NewKey { may_grant: flags(&["a"]), ..good() }, "invalid_field"),
        ("an operator", operator(&["keyward.keys.read"], &["a"]), "done"),
        (
            "an operator of more than its project",
            NewKey { operates_on: scope(None), ..operator(&["keyward.**"], &[]) },
            "conflicting_field",
        ),
        (
            "an operator of all",
            NewKey { operates_on: scope(None), project: None, ..operator(&["keyward.**"], &[]) },
            "done",
        ),
    ];
    for (what, new, expected) in cases {
        assert_eq!(code(house.manager.create_key(&local(), new).await), expected, "{what}");
    }
}

#[tokio::test]
async fn the_first_operator_is_made_once() {
    let house = house();
    let first = house.manager.create_first_operator(&local()).await.expect("an answer").expect("there is no key");
    assert!(first.key.holds(None, "keyward.operators.write") && first.key.project.is_none());
    assert!(house.manager.create_first_operator(&local()).await.expect("an answer").is_none());
    let by = by_key(first.key.id);
    let made = house.manager.create_key(&by, operator(&["keyward.keys.read"], &["a.**"])).await.expect("it may");
    assert_eq!(made.key.minted_by, Some(first.key.id));
    assert_eq!(house.events().await.last().map(|event| event.actor.clone()), Some(Actor::Key(first.key.id)));
}

#[tokio::test]
async fn an_update_tells_what_differs_and_nothing_else() {
    let house = house();
    let id = house.create(plain(&["a", "b"])).await.key.id;
    let change =
        KeyChange { name: Some("new".to_owned()), grants: Some(Grants::Only(flags(&["a"]))), ..KeyChange::default() };
    let changed = house.update(id, change.clone()).await.expect("an update");
    assert_eq!(house.stored(id).await.key, changed.key);
    let event = house.events().await.pop().expect("an event");
    let told = BTreeMap::from([("flags", "a b -> a"), ("name", "a key -> new")]);
    let told: BTreeMap<_, _> = told.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
    assert_eq!((event.kind, event.changes), (EventKind::KeyUpdated, told));
    let same = house.update(id, change).await.expect("nothing to do");
    assert_eq!(same.committed.revision, changed.committed.revision);
    let off = KeyChange { active: Some(Activity::Disabled), ..KeyChange::default() };
    house.update(id, off).await.expect("an update");
    assert_eq!(house.status(id).await, Status::Disabled);
    let on = KeyChange { active: Some(Activity::Active), ..KeyChange::default() };
    house.update(id, on).await.expect("an update");
    assert_eq!(house.status(id).await, Status::Active);
    let kinds: Vec<_> = house.events().await.iter().map(|event| event.kind).skip(2).collect();
    assert_eq!(kinds, [EventKind::KeyDisabled, EventKind::KeyEnabled]);
    house.revoke(id, RevokeScope::Key).await;
    let again = KeyChange { name: Some("x".to_owned()), ..KeyChange::default() };
    assert_eq!(code(house.update(id, again.clone()).await), "key_revoked");
    assert_eq!(code(house.update(KeyId::from_bits(1), again).await), "not_found");
}

#[tokio::test]
async fn an_interval_sets_when_the_next_rotation_is_due() {
    let house = house();
    let id = house.create(plain(&[])).await.key.id;
    let interval = |days| KeyChange { rotation_interval_days: Some(days), ..KeyChange::default() };
    let key = house.update(id, interval(Some(1))).await.expect("an update").key;
    assert_eq!(key.rotation.next_at, Some(house.clock.now().plus(24 * 60 * MINUTE)));
    let key = house.update(id, interval(None)).await.expect("an update").key;
    assert_eq!(key.rotation, crate::key::Rotation::default());
}

#[tokio::test]
async fn a_rotated_key_works_until_its_grace_ends() {
    let house = house();
    let mut new = plain(&["a"]);
    new.props = BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
    new.expires = Expiry::In(100 * MINUTE);
    new.rotation_interval_days = Some(7);
    let first = house.create(new).await;
    house.clock.advance(MINUTE);
    let rotated = house.rotate(first.key.id, GRACE_DEFAULT).await.expect("a rotation");
    let (old, next) = (rotated.old, rotated.new);
    assert_eq!(house.stored(old.id).await.key, old);
    assert_eq!(house.stored(next.id).await.key, next);
    assert_eq!(rotated.token.hash(), next.hash);
    assert_eq!((next.lineage, old.replaced_by), (first.key.lineage, Some(next.id)));
    assert_eq!(
        (&next.grants, &next.props, next.expires_at),
        (&first.key.grants, &first.key.props, first.key.expires_at)
    );
    assert_eq!(next.rotation.next_at, Some(house.clock.now().plus(7 * 24 * 60 * MINUTE)));
    assert_eq!(old.rotation.next_at, None);
    assert_eq!(house.status(old.id).await, Status::Grace);
    house.clock.advance(60 * MINUTE);
    assert_eq!((house.status(old.id).await, house.status(next.id).await), (Status::Superseded, Status::Active));
    let later = house.rotate(next.id, GRACE_MAX).await.expect("a rotation");
    assert_eq!(later.old.grace_expires_at, first.key.expires_at, "grace never outlives the expiry");
}

#[tokio::test]
async fn a_rotation_without_grace_ends_the_key_at_once_for_good() {
    let house = house();
    let id = house.create(plain(&["a"])).await.key.id;
    let rotated = house.rotate(id, Duration::ZERO).await.expect("a rotation");
    assert!(rotated.old.states.superseded);
    assert_eq!(house.status(id).await, Status::Superseded);
}

#[tokio::test]
async fn only_a_key_that_works_can_be_rotated() {
    let house = house();
    let id = house.create(plain(&[])).await.key.id;
    assert_eq!(code(house.rotate(id, GRACE_MAX + MINUTE).await), "invalid_field");
    let off = KeyChange { active: Some(Activity::Disabled), ..KeyChange::default() };
    house.update(id, off).await.expect("an update");
    assert_eq!(code(house.rotate(id, MINUTE).await), "not_rotatable");
    house.revoke(id, RevokeScope::Key).await;
    assert_eq!(code(house.rotate(id, MINUTE).await), "not_rotatable");
    let short = house.create(NewKey { expires: Expiry::In(MINUTE), ..plain(&[]) }).await.key.id;
    house.clock.advance(MINUTE);
    assert_eq!(code(house.rotate(short, MINUTE).await), "not_rotatable");
    assert_eq!(code(house.rotate(KeyId::from_bits(1), MINUTE).await), "not_found");
}

#[tokio::test]
async fn a_lost_answer_to_a_rotation_locks_nobody_out() {
    let house = house();
    let id = house.create(plain(&["a"])).await.key.id;
    let lost = house.rotate(id, 10 * MINUTE).await.expect("a rotation");
    house.clock.advance(MINUTE);
    let again = house.rotate(id, 60 * MINUTE).await.expect("its successor was never used");
    assert_eq!(house.status(lost.new.id).await, Status::Revoked);
    assert_eq!(again.old.grace_expires_at, lost.old.grace_expires_at, "the grace is not lengthened");
    assert_eq!(again.old.replaced_by, Some(again.new.id));
    let by = by_key(house.manager.create_first_operator(&local()).await.map_or(id, |_| id));
    assert_eq!(code(house.manager.rotate_key(&by, id, MINUTE).await), "out_of_scope");
    house.used(again.new.id).await;
    assert_eq!(code(house.rotate(id, MINUTE).await), "already_rotated");
    let another = house.create(operator(&["keyward.keys.rotate"], &["**"])).await.key.id;
    let other = house.create(plain(&["a"])).await.key.id;
    house.rotate(other, MINUTE).await.expect("a rotation");
    let refused = house.manager.rotate_key(&by_key(another), other, MINUTE).await;
    assert_eq!(code(refused), "already_rotated", "another caller than the one who rotated it");
}

#[tokio::test]
async fn a_key_may_rotate_itself_where_it_is_so_made() {
    let house = house();
    let own = house.create(NewKey { self_rotate: true, ..plain(&["a"]) }).await.key.id;
    let by = by_key(own);
    assert_eq!(code(house.manager.rotate_key(&by, own, MINUTE).await), "invalid_field");
    let rotated = house.manager.rotate_key(&by, own, 5 * MINUTE).await.expect("it may");
    assert!(rotated.new.self_rotate && rotated.new.minted_by == Some(own));
    let other = house.create(plain(&["a"])).await.key.id;
    let refused = house.manager.rotate_key(&by_key(other), other, 5 * MINUTE).await;
    assert_eq!(code(refused), "out_of_scope");
    assert_eq!(code(house.manager.rotate_key(&by, other, 5 * MINUTE).await), "not_found");
}

#[tokio::test]
async fn a_revocation_is_for_good_and_may_be_repeated() {
    let house = house();
    let id = house.create(plain(&[])).await.key.id;
    let rotated = house.rotate(id, 60 * MINUTE).await.expect("a rotation");
    let revoked = house.revoke(id, RevokeScope::Key).await;
    assert_eq!(revoked.related, [rotated.new.id]);
    assert_eq!(revoked.keys[0].grace_expires_at, Some(house.clock.now()), "its grace ends at once");
    assert_eq!(house.stored(id).await.key, revoked.keys[0]);
    let again = house.revoke(id, RevokeScope::Key).await;
    assert_eq!((again.keys.len(), again.committed.revision), (0, revoked.committed.revision));
    let lineage = house.revoke(id, RevokeScope::Lineage).await;
    assert_eq!(lineage.keys.iter().map(|key| key.id).collect::<Vec<_>>(), [rotated.new.id]);
    let missing = house.manager.revoke_key(&local(), KeyId::from_bits(1), RevokeScope::Key).await;
    assert_eq!(code(missing), "not_found");
}

#[tokio::test]
async fn all_that_a_key_minted_can_be_revoked_with_it() {
    let house = house();
    let everything = ["keyward.keys.**", "keyward.operators.write"];
    let first = house.create(operator(&everything, &["**"])).await.key.id;
    let second = house.manager.create_key(&by_key(first), operator(&everything, &["**"])).await.expect("it may");
    let third = house.manager.create_key(&by_key(second.key.id), plain(&["a"])).await.expect("it may");
    let bystander = house.create(plain(&["a"])).await.key.id;
    let revoked = house.revoke(first, RevokeScope::Descendants).await;
    let mut ids: Vec<_> = revoked.keys.iter().map(|key| key.id).collect();
    ids.sort_unstable();
    let mut expected = vec![first, second.key.id, third.key.id];
    expected.sort_unstable();
    assert_eq!(ids, expected);
    assert!(revoked.keys.iter().all(|key| key.stamp.revision == revoked.committed.revision));
    assert_eq!(house.status(bystander).await, Status::Active);
    let refused = house.manager.create_key(&by_key(second.key.id), plain(&["a"])).await;
    assert_eq!(code(refused), "caller_not_live");
}

#[tokio::test]
async fn an_operator_keeps_to_its_permissions_grants_and_project() {
    let house = house();
    let by = by_key(house.create(operator(&["keyward.keys.**"], &["a.**"])).await.key.id);
    let manager = &house.manager;
    assert_eq!(code(manager.create_key(&by, plain(&["a.b"])).await), "done");
    assert_eq!(code(manager.create_key(&by, plain(&["b"])).await), "may_not_grant");
    assert_eq!(code(manager.create_key(&by, operator(&["keyward.keys.read"], &[])).await), "lacks_permission");
    let other = NewKey { project: "other".parse().ok(), ..plain(&["b"]) };
    assert_eq!(code(manager.create_key(&by, other.clone()).await), "out_of_scope");
    let other = house.create(other).await.key.id;
    assert_eq!(code(manager.key(&by, other).await), "not_found");
    assert_eq!(code(manager.revoke_key(&by, other, RevokeScope::Key).await), "not_found");
    assert_eq!(code(manager.rotate_key(&by, other, MINUTE).await), "not_found");
    assert_eq!(code(manager.update_key(&by, other, KeyChange::default()).await), "not_found");
    let listed = manager.keys(&by, KeyQuery::default()).await.expect("a list").keys;
    assert!(listed.len() == 2 && listed.iter().all(|view| view.key.project == acme()));
    let query = KeyQuery { project: "other".parse().ok(), ..KeyQuery::default() };
    assert_eq!(code(manager.keys(&by, query).await), "out_of_scope");
    let strong = house.create(NewKey { expires: Expiry::In(MINUTE), ..plain(&["b"]) }).await.key.id;
    let longer = KeyChange { expires: Some(Expiry::Never), ..KeyChange::default() };
    assert_eq!(code(manager.update_key(&by, strong, longer).await), "may_not_grant");
    assert_eq!(code(manager.rotate_key(&by, strong, MINUTE).await), "may_not_grant");
    assert_eq!(code(manager.revoke_key(&by, strong, RevokeScope::Key).await), "done");
    assert_eq!(code(manager.users(&by, UserQuery::default()).await), "lacks_permission");
    assert_eq!(code(manager.events(&by, EventQuery::default()).await), "lacks_permission");
    assert_eq!(code(manager.set_user(&by, user("ann", &[])).await), "lacks_permission");
    let stranger = by_key(KeyId::from_bits(1));
    assert_eq!(code(manager.keys(&stranger, KeyQuery::default()).await), "caller_not_live");
}

#[tokio::test]
async fn the_keys_of_a_user_follow_it() {
    let house = house();
    house.manager.set_user(&local(), user("ann", &["a"])).await.expect("a user");
    let new = NewKey { grants: Grants::Inherit, user: Some(user_id("ann")), ..plain(&[]) };
    let id = house.create(new.clone()).await.key.id;
    let view = house.stored(id).await;
    assert!(view.key.holds(view.user.as_ref(), "a"));
    let off = UserChange { active: Activity::Disabled, ..user("ann", &["a", "b"]) };
    let set = house.manager.set_user(&local(), off.clone()).await.expect("a change");
    assert!(!set.created && set.user.flags == flags(&["a", "b"]));
    assert_eq!(house.status(id).await, Status::UserDisabled);
    let same = house.manager.set_user(&local(), off).await.expect("nothing to do");
    assert_eq!(same.committed.revision, set.committed.revision);
    let moved = UserChange { project: "other".parse().ok(), ..user("ann", &[]) };
    assert_eq!(code(house.manager.set_user(&local(), moved).await), "conflicting_field");
    let deleted = house.manager.delete_user(&local(), user_id("ann")).await.expect("a deletion");
    assert_eq!(deleted.keys.iter().map(|key| key.id).collect::<Vec<_>>(), [id]);
    assert_eq!(house.stored(id).await.key, deleted.keys[0]);
    assert_eq!(house.status(id).await, Status::Revoked);
    assert_eq!(code(house.manager.set_user(&local(), user("ann", &[])).await), "user_deleted");
    assert_eq!(code(house.manager.create_key(&local(), new).await), "user_deleted");
    assert_eq!(code(house.manager.user(&local(), user_id("ann")).await), "user_not_found");
    assert_eq!(code(house.manager.delete_user(&local(), user_id("eve")).await), "user_not_found");
    assert!(house.manager.users(&local(), UserQuery::default()).await.expect("users").is_empty());
    let again = house.manager.delete_user(&local(), user_id("ann")).await.expect("it is deleted already");
    assert_eq!((again.keys.len(), again.committed.revision), (0, deleted.committed.revision));
    let kinds: Vec<_> = house.events().await.iter().map(|event| event.kind).collect();
    let expected = [
        EventKind::UserCreated,
        EventKind::KeyCreated,
        EventKind::UserUpdated,
        EventKind::UserDeleted,
        EventKind::KeyRevoked,
    ];
    assert_eq!(kinds, expected);
}

const STRONG: &str = "x7Kq9ZpW3mTf8LrB2vNc5Jx7Kq9ZpW3";

fn row(line: usize, secret: ImportedSecret) -> ImportedKey {
    ImportedKey {
        line,
        secret,
        name: format!("imported {line}"),
        project: "acme".parse().expect("a project"),
        environment: crate::key::EnvironmentId::live(),
        user: None,
        grants: Grants::Only(flags(&["a"])),
        props: BTreeMap::new(),
        expires: Expiry::Never,
    }
}

fn token(text: &str) -> ImportedSecret {
    ImportedSecret::Token(Token::from_text(text))
}

#[tokio::test]
async fn an_import_is_one_revision_and_its_tokens_work() {
    let house = house();
    let hash = TokenHash::of(b"known to somebody else");
    let rows = vec![row(1, token(STRONG)), row(2, ImportedSecret::Hash(hash))];
    let dry = ImportOptions { dry_run: true, ..ImportOptions::default() };
    let tried = house.manager.import_keys(&local(), rows.clone(), dry).await.expect("it would do");
    assert!(tried.keys.len() == 2 && tried.committed.is_none());
    assert_eq!(house.events().await, []);
    let imported =
        house.manager.import_keys(&local(), rows.clone(), ImportOptions::default()).await.expect("an import");
    assert_eq!(imported.committed.map(|committed| committed.revision), Some(1));
    for (key, hash) in imported.keys.iter().zip([TokenHash::of(STRONG.as_bytes()), hash]) {
        let (found, _) = house.store.find(hash).await.expect("a look-up");
        assert_eq!(found.expect("it is stored").0, *key);
    }
    let ends = |key: &Key| (key.shown_prefix.clone(), key.last_four.clone());
    assert_eq!(ends(&imported.keys[0]), (Some("x7Kq9Z".to_owned()), Some("ZpW3".to_owned())));
    assert_eq!(ends(&imported.keys[1]), (None, None));
    let events = house.events().await;
    assert!(events.len() == 2 && events.iter().all(|event| event.kind == EventKind::KeyImported));
    let again = house.manager.import_keys(&local(), rows, ImportOptions::default()).await;
    let Err(ManageError::Import(faults)) = again else { panic!("they are stored already") };
    let known = |fault: &RowFault| matches!(fault.cause, RowCause::Stored { existing: Some(_) });
    assert!(faults.len() == 2 && faults.iter().all(known));
}

#[tokio::test]
async fn an_import_with_a_bad_row_names_it_and_imports_nothing() {
    let house = house();
    let mut forged =
        Token::mint(&TokenPrefix::default(), &crate::key::EnvironmentId::live(), [7; 32]).expose().to_owned();
    forged.replace_range(8..9, if forged.starts_with("kw_live_0") { "1" } else { "0" });
    let cases: Vec<(ImportedSecret, &str)> = vec![
        (token("hunter2"), "about 36 bits of entropy, under 112"),
        (token(""), "printable ASCII"),
        (token("a b"), "printable ASCII"),
        (token(&"x7".repeat(2049)), "printable ASCII"),
        (token(&forged), "checksum is wrong"),
        (token(STRONG), "the same token as on line 1"),
        (ImportedSecret::Hash(TokenHash::of(STRONG.as_bytes())), "the same token as on line 1"),
    ];
    for (secret, expected) in cases {
        let rows = vec![row(1, token(STRONG)), row(7, secret)];
        let error = house.manager.import_keys(&local(), rows, ImportOptions::default()).await.expect_err("a bad row");
        let text = error.to_string();
        assert!(text.contains("line 7") && text.contains(expected), "{text}");
        assert!(!text.contains(STRONG) && !text.contains("hunter2"), "{text}");
        assert_eq!(code::<()>(Err(error)), "import_refused");
    }
    let unnamed = ImportedKey { name: String::new(), ..row(3, token(STRONG)) };
    let unknown = ImportedKey { user: Some(user_id("eve")), ..row(4, token(&STRONG.to_lowercase())) };
    let both = vec![unnamed, unknown];
    let error = house.manager.import_keys(&local(), both, ImportOptions::default()).await.expect_err("two bad rows");
    assert!(error.to_string().contains("line 3") && error.to_string().contains("1 more row"), "{error}");
    assert_eq!(house.events().await, []);
    let weak = ImportOptions { allow_weak: true, ..ImportOptions::default() };
    let taken = house.manager.import_keys(&local(), vec![row(1, token("hunter2"))], weak).await.expect("as asked");
    assert_eq!((&taken.keys[0].shown_prefix, &taken.keys[0].last_four), (&None, &None), "too short to show any of it");
}
