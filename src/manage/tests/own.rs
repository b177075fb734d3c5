//! What a user may do with its own keys.

use super::*;

impl House {
    async fn ann(&self, texts: &[&str]) {
        self.manager.set_user(&local(), UserChange { project: acme(), ..user("ann", texts) }).await.expect("a user");
    }

    async fn of_ann(&self, grants: Grants) -> Caller {
        let new = NewKey { user: Some(user_id("ann")), grants, ..NewKey::named("first", acme()) };
        by_key(self.create(new).await.key.id)
    }
}

fn active(active: Activity) -> OwnChange {
    OwnChange { active: Some(active), ..OwnChange::default() }
}

#[tokio::test]
async fn a_user_mints_lists_changes_and_deletes_keys_of_its_own() {
    let house = house();
    house.ann(&["a", "b"]).await;
    let by = house.of_ann(Grants::Inherit).await;
    let manager = &house.manager;
    let made = manager.own_create(&by, None).await.expect("it may");
    assert_eq!((made.key.name.as_str(), made.key.format), (OWN_NAME_DEFAULT, Format::Jwt));
    assert_eq!((&made.key.grants, made.key.minted_by), (&Grants::Inherit, by.key()));
    assert!(made.key.holds(made.user.as_ref(), "b"));
    let named = manager.own_create(&by, Some("second".to_owned())).await.expect("it may");
    assert_eq!(code(manager.own_create(&by, Some("a\nb".to_owned())).await), "invalid_field");
    let id = named.key.id;
    let changed = manager.own_update(&by, id, OwnChange { name: Some("third".to_owned()), active: None }).await;
    assert_eq!(changed.expect("it may").key.name, "third");
    assert_eq!(code(manager.own_update(&by, id, active(Activity::Disabled)).await), "done");
    assert_eq!(house.status(id).await, Status::Disabled);
    assert_eq!(code(manager.own_update(&by, id, active(Activity::Active)).await), "done");
    let listed = |list: KeyList| list.keys.into_iter().map(|view| view.key.id).collect::<Vec<_>>();
    let first = by.key().expect("a key");
    assert_eq!(listed(manager.own_keys(&by).await.expect("it may")), [id, made.key.id, first]);
    assert_eq!(code(manager.own_revoke(&by, id).await), "done");
    assert_eq!(listed(manager.own_keys(&by).await.expect("it may")), [made.key.id, first]);
    assert_eq!(code(manager.own_revoke(&by, id).await), "not_found");
    assert_eq!(code(manager.own_update(&by, id, active(Activity::Active)).await), "not_found");
    let last = house.events().await.pop().expect("an event");
    assert_eq!((last.actor, last.from), (by.actor(), by.address()));
    assert_eq!(code(manager.own_revoke(&by, first).await), "done");
    assert_eq!(code(manager.own_keys(&by).await), "caller_not_live");
}

#[tokio::test]
async fn no_key_of_a_user_makes_or_touches_more_than_it_has() {
    let house = house();
    house.ann(&["a", "b"]).await;
    let whole = house.of_ann(Grants::Inherit).await;
    let part = house.of_ann(Grants::Only(flags(&["a"]))).await;
    let manager = &house.manager;
    let made = manager.own_create(&part, None).await.expect("it may");
    assert_eq!(made.key.grants, Grants::Only(flags(&["a"])));
    let id = whole.key().expect("a key");
    assert_eq!(code(manager.own_update(&part, id, active(Activity::Disabled)).await), "not_oneself");
    assert_eq!(code(manager.own_revoke(&part, id).await), "not_oneself");
    assert_eq!(code(manager.own_revoke(&whole, made.key.id).await), "done");
    let places = [
        NewKey { environment: "test".parse().expect("an environment"), ..plain(&["a"]) },
        NewKey { user: None, ..plain(&["a"]) },
    ];
    for place in places {
        let owner = (place.environment != crate::key::EnvironmentId::live()).then(|| user_id("ann"));
        let elsewhere = house.create(NewKey { user: owner, ..place }).await.key.id;
        assert_eq!(code(manager.own_revoke(&whole, elsewhere).await), "not_found");
    }
    let nobody = by_key(house.create(plain(&["a"])).await.key.id);
    assert_eq!(code(manager.own_create(&nobody, None).await), "not_oneself");
    assert_eq!(code(manager.own_create(&local(), None).await), "not_oneself");
    let rotated = house.rotate(id, 60 * MINUTE).await.expect("a rotation");
    assert_eq!(code(manager.own_create(&whole, None).await), "not_oneself", "a key in grace mints nothing");
    assert_eq!(code(manager.own_create(&by_key(rotated.new.id), None).await), "done");
    house.ann(&["a", "keyward.keys.read"]).await;
    assert_eq!(code(manager.own_create(&by_key(rotated.new.id), None).await), "not_oneself", "it is an operator now");
}

#[tokio::test]
async fn nothing_that_a_key_mints_or_revives_outlives_it() {
    let house = house();
    house.ann(&["a"]).await;
    let lasting = house.of_ann(Grants::Inherit).await;
    let new =
        NewKey { expires: Expiry::In(60 * MINUTE), user: Some(user_id("ann")), grants: Grants::Inherit, ..plain(&[]) };
    let short = house.create(new).await.key;
    let by = by_key(short.id);
    let manager = &house.manager;
    let made = manager.own_create(&by, None).await.expect("it may");
    assert_eq!(made.key.expires_at, short.expires_at);
    let id = lasting.key().expect("a key");
    assert_eq!(code(manager.own_update(&by, id, active(Activity::Disabled)).await), "done");
    assert_eq!(code(manager.own_update(&by, id, active(Activity::Active)).await), "not_oneself");
    let other = house.of_ann(Grants::Inherit).await;
    assert_eq!(code(manager.own_update(&other, id, active(Activity::Active)).await), "done");
}

#[tokio::test]
async fn what_an_operator_switched_off_stays_off() {
    let house = house();
    house.ann(&["a"]).await;
    let by = house.of_ann(Grants::Inherit).await;
    let id = house.of_ann(Grants::Inherit).await.key().expect("a key");
    let off = KeyChange { active: Some(Activity::Disabled), ..KeyChange::default() };
    let on = || active(Activity::Active);
    house.update(id, off.clone()).await.expect("an update");
    assert_eq!(code(house.manager.own_update(&by, id, on()).await), "not_oneself");
    house.update(id, KeyChange { active: Some(Activity::Active), ..KeyChange::default() }).await.expect("an update");
    house.manager.own_update(&by, id, active(Activity::Disabled)).await.expect("it may");
    // Off already, and from here on by the operator.
    let again = house.update(id, off.clone()).await.expect("an update");
    let same = house.update(id, off).await.expect("nothing to do");
    assert_eq!(again.committed.revision, same.committed.revision);
    assert_eq!(code(house.manager.own_update(&by, id, on()).await), "not_oneself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_user_has_no_more_keys_than_it_may() {
    let house = house();
    house.ann(&["a"]).await;
    let by = house.of_ann(Grants::Inherit).await;
    let manager = house.manager.clone().with_keys_per_user_max(5);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (manager, by) = (manager.clone(), by.clone());
        tasks.spawn(async move { manager.own_create(&by, None).await });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 4);
    let mut refused = results.into_iter().filter_map(Result::err);
    assert!(refused.all(|error| error.as_code() == "too_many_keys"));
    let spare = manager.own_keys(&by).await.expect("it may").keys[0].key.id;
    manager.own_revoke(&by, spare).await.expect("it may");
    assert_eq!(code(manager.own_create(&by, None).await), "done", "one that ended does not count");
}

#[tokio::test]
async fn a_key_is_minted_once_for_one_request_of_a_user() {
    let house = house();
    house.ann(&["a"]).await;
    let by = house.of_ann(Grants::Inherit).await;
    let asked = || Once::new(&by, "POST", "/api/data/api-keys", b"an idempotency key", b"{}").expect("a good key");
    let mut ids = Vec::new();
    for _ in 0..2 {
        let told = |created: &Created| created.key.id.to_string().into_bytes();
        ids.push(match house.manager.own_create_once(&by, None, asked(), told).await.expect("it may") {
            Answered::First { answer, .. } | Answered::Again { answer, .. } => answer,
        });
    }
    assert_eq!(ids[0], ids[1]);
    assert_eq!(house.manager.own_keys(&by).await.expect("it may").keys.len(), 2);
}

#[tokio::test]
async fn whoever_makes_and_deletes_keys_all_day_comes_to_an_end() {
    let house = house();
    house.ann(&["a"]).await;
    let by = house.of_ann(Grants::Inherit).await;
    let manager = house.manager.clone().with_keys_per_user_max(2);
    for _ in 0..100 {
        let made = manager.own_create(&by, None).await.expect("it may");
        manager.own_revoke(&by, made.key.id).await.expect("it may");
    }
    assert_eq!(code(manager.own_create(&by, None).await), "made_too_often");
    house.create(NewKey { user: Some(user_id("ann")), ..plain(&["a"]) }).await;
    house.clock.advance(24 * 60 * MINUTE - Duration::from_nanos(1));
    let roomier = house.manager.clone().with_keys_per_user_max(3);
    assert_eq!(code(roomier.own_create(&by, None).await), "made_too_often");
    house.clock.advance(Duration::from_nanos(1));
    let manager = house.manager.clone();
    assert_eq!(code(manager.own_create(&by, None).await), "done");
}

#[tokio::test]
async fn whoever_changes_a_key_all_day_comes_to_an_end_and_can_still_switch_it_off() {
    let house = house();
    house.ann(&["a"]).await;
    let by = house.of_ann(Grants::Inherit).await;
    let id = house.of_ann(Grants::Inherit).await.key().expect("a key");
    let manager = &house.manager;
    let renamed = |name: &str| OwnChange { name: Some(name.to_owned()), active: None };
    for step in 0..100 {
        let change = match step % 4 {
            0 => active(Activity::Disabled),
            1 => active(Activity::Active),
            2 => renamed("one"),
            _ => renamed("two"),
        };
        assert_eq!(code(manager.own_update(&by, id, change).await), "done");
    }
    let before = house.events().await.len();
    assert_eq!(code(manager.own_update(&by, id, renamed("one")).await), "changed_too_often");
    assert_eq!(code(manager.own_update(&by, id, renamed("two")).await), "done", "nothing is changed by it");
    assert_eq!(code(manager.own_update(&by, id, active(Activity::Disabled)).await), "done");
    for change in [active(Activity::Active), renamed("one")] {
        assert_eq!(code(manager.own_update(&by, id, change).await), "changed_too_often");
    }
    assert_eq!(house.events().await.len(), before + 1);
    // Neither other keys nor operators are held up by it.
    let other = house.of_ann(Grants::Inherit).await.key().expect("a key");
    assert_eq!(code(manager.own_update(&by, other, renamed("one")).await), "done");
    let change = KeyChange { name: Some("by an operator".to_owned()), ..KeyChange::default() };
    house.update(id, change).await.expect("an update");
    house.clock.advance(24 * 60 * MINUTE);
    assert_eq!(code(manager.own_update(&by, id, active(Activity::Active)).await), "done");
    assert_eq!(code(manager.own_revoke(&by, id).await), "done");
}
