//! Requests that are done once, what is refused, and rotations that are asked for again.

use std::sync::atomic::Ordering;

use super::*;
use crate::store::{RefusalQuery, RefusalTally};

const KEY: &[u8] = b"an idempotency key";

fn once(caller: &Caller, key: &[u8], body: &[u8]) -> Once {
    Once::new(caller, "POST", "/v1/api-keys", key, body).expect("a good key")
}

fn told(created: &Created) -> Vec<u8> {
    format!("{} {} {}", created.key.id, created.token.expose(), created.key.stamp.revision).into_bytes()
}

/// The answer, and whether it was done now.
fn answer<T>(answered: Answered<T>) -> (Vec<u8>, bool) {
    match answered {
        Answered::First { answer, .. } => (answer, true),
        Answered::Again { answer, .. } => (answer, false),
    }
}

impl House {
    async fn operator(&self) -> Caller {
        let all = OperatorScope { project: None, environment: None };
        let new = NewKey { operates_on: Some(all), project: None, ..operator(&["keyward.**"], &["**"]) };
        by_key(self.create(new).await.key.id)
    }

    async fn create_once(&self, caller: &Caller, key: &[u8], body: &[u8]) -> Result<(Vec<u8>, bool), ManageError> {
        let once = once(caller, key, body);
        self.manager.create_key_once(caller, plain(&["a"]), once, told).await.map(answer)
    }

    async fn count(&self) -> usize {
        self.manager.keys(&local(), KeyQuery::default()).await.expect("a list").keys.len()
    }
}

#[tokio::test]
async fn the_same_request_mints_one_key_and_gets_the_same_answer() {
    let house = house();
    let by = house.operator().await;
    let (first, is_first) = house.create_once(&by, KEY, b"{}").await.expect("it may");
    assert!(is_first);
    let text = String::from_utf8(first.clone()).expect("text");
    let mut words = text.split(' ');
    let id: KeyId = words.next().and_then(|id| id.parse().ok()).expect("an id");
    let token = words.next().expect("a token");
    let (found, _) = house.store.find(TokenHash::of(token.as_bytes())).await.expect("a look-up");
    let found = found.expect("the token that was answered works").0;
    assert_eq!(found.id, id);
    assert_eq!(words.next(), Some(found.stamp.revision.to_string().as_str()), "the answer knew its revision");

    house.clock.advance(TOKEN_KEPT - Duration::from_nanos(1));
    assert_eq!(house.create_once(&by, KEY, b"{}").await.expect("the same"), (first, false));
    assert_eq!(code(house.create_once(&by, KEY, b"{ }").await), "idempotency_conflict");
    let other = house.operator().await;
    assert!(house.create_once(&other, KEY, b"{}").await.expect("another caller's own").1);
    house.clock.advance(Duration::from_nanos(1));
    let gone = house.create_once(&by, KEY, b"{}").await.expect_err("the token is not kept that long");
    assert!(matches!(gone, ManageError::TokenAlreadyIssued { id: Some(made) } if made == id), "{gone}");
    assert_eq!(house.count().await, 4);
    house.clock.advance(24 * 60 * MINUTE);
    assert!(house.create_once(&by, KEY, b"{}").await.expect("it is long ago").1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_with_one_key_mint_one_key() {
    let house = Arc::new(house());
    let by = house.operator().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let (house, by) = (Arc::clone(&house), by.clone());
        tasks.spawn(async move { house.create_once(&by, KEY, b"{}").await.expect("an answer") });
    }
    let answers = tasks.join_all().await;
    assert_eq!(answers.iter().filter(|(_, first)| *first).count(), 1);
    assert!(answers.windows(2).all(|two| two[0].0 == two[1].0));
    assert_eq!(house.count().await, 2);
}

#[tokio::test]
async fn a_refused_request_keeps_no_answer_and_a_revoked_caller_gets_none() {
    let house = house();
    let by = by_key(house.create(operator(&["keyward.keys.create"], &["b"])).await.key.id);
    assert_eq!(code(house.create_once(&by, KEY, b"{}").await), "may_not_grant");
    assert_eq!(code(house.create_once(&by, KEY, b"{}").await), "may_not_grant");
    let by = house.operator().await;
    house.create_once(&by, KEY, b"{}").await.expect("it may");
    house.revoke(by.key().expect("a key"), RevokeScope::Key).await;
    assert_eq!(code(house.create_once(&by, KEY, b"{}").await), "caller_not_live");
}

#[tokio::test]
async fn a_rotation_a_revocation_and_an_import_are_done_once() {
    let house = house();
    let by = house.operator().await;
    let id = house.create(plain(&["a"])).await.key.id;
    let asked = |path: &str| Once::new(&by, "POST", path, KEY, b"{}").expect("a good key");
    let mut answers = Vec::new();
    for _ in 0..2 {
        let told = |rotated: &Rotated| rotated.token.expose().as_bytes().to_vec();
        let rotated = house.manager.rotate_key_once(&by, id, 60 * MINUTE, asked("/rotate"), told).await;
        answers.push(answer(rotated.expect("it may")));
        let told = |imported: &Imported| imported.keys[0].id.to_string().into_bytes();
        let rows = vec![row(1, token(STRONG))];
        let options = ImportOptions::default();
        let imported = house.manager.import_keys_once(&by, rows, options, asked("/import"), told).await;
        answers.push(answer(imported.expect("it may")));
        let told = |revoked: &Revoked| format!("{:?} {:?}", revoked.keys.len(), revoked.related).into_bytes();
        let scope = RevokeScope::Key;
        let revoked = house.manager.revoke_key_once(&by, id, scope, asked("/revoke"), told).await;
        answers.push(answer(revoked.expect("it may")));
        house.clock.advance(MINUTE);
    }
    assert_eq!(answers.iter().map(|(_, first)| *first).collect::<Vec<_>>(), [true, true, true, false, false, false]);
    assert_eq!(
        answers[..3].iter().map(|(text, _)| text).collect::<Vec<_>>(),
        answers[3..].iter().map(|(text, _)| text).collect::<Vec<_>>()
    );
    house.clock.advance(TOKEN_KEPT);
    let told = |_: &Imported| Vec::new();
    let rows = vec![row(1, token(STRONG))];
    let imported = house.manager.import_keys_once(&by, rows, ImportOptions::default(), asked("/import"), told).await;
    assert_eq!(answer(imported.expect("it tells no token, and so is kept")), (answers[1].0.clone(), false));
}

#[tokio::test]
async fn what_was_done_is_answered_again_to_whoever_may_do_it_no_more() {
    let house = house();
    let by = by_key(house.create(operator(&["keyward.keys.revoke"], &[])).await.key.id);
    let (id, other) = (house.create(plain(&["a"])).await.key.id, house.create(plain(&["a"])).await.key.id);
    let revoke = async |id: KeyId, path: &str| {
        let once = Once::new(&by, "POST", path, KEY, b"{}").expect("a good key");
        let told = |revoked: &Revoked| revoked.keys.len().to_string().into_bytes();
        house.manager.revoke_key_once(&by, id, RevokeScope::Descendants, once, told).await.map(answer)
    };
    assert_eq!(revoke(id, "/one").await.expect("it may"), (b"1".to_vec(), true));
    let narrowed = KeyChange { grants: Some(Grants::Only(flags(&["keyward.keys.read"]))), ..KeyChange::default() };
    house.update(by.key().expect("a key"), narrowed).await.expect("it may");
    assert_eq!(revoke(id, "/one").await.expect("it was done"), (b"1".to_vec(), false));
    assert_eq!(code(revoke(other, "/two").await), "lacks_permission");
    assert_eq!(house.status(other).await, Status::Active);
}

#[tokio::test]
async fn events_and_refusals_name_actor_and_address_and_no_secret() {
    let house = house();
    let by = house.operator().await;
    let weak = by_key(house.create(operator(&["keyward.keys.create"], &["b"])).await.key.id);
    house.manager.create_key(&by, plain(&["a"])).await.expect("it may");
    let last = house.events().await.pop().expect("an event");
    assert_eq!((last.actor, last.from), (by.actor(), by.address()));
    let before = house.events().await.len();
    for _ in 0..5 {
        assert_eq!(code(house.manager.create_key(&weak, plain(&["a"])).await), "may_not_grant");
    }
    let id = KeyId::from_bits(7);
    assert_eq!(code(house.manager.revoke_key(&weak, id, RevokeScope::Key).await), "not_found");
    house.clock.advance(MINUTE);
    assert_eq!(code(house.manager.create_key(&weak, plain(&["a"])).await), "may_not_grant");
    let refusals = house.manager.refusals(&by, RefusalQuery::default()).await.expect("it may");
    let short =
        |tally: &RefusalTally| (tally.operation.clone(), tally.code.clone(), tally.count, tally.subject.clone());
    let owned = |operation: &str, code: &str, count, subject| (operation.to_owned(), code.to_owned(), count, subject);
    let expected = [
        owned("create", "may_not_grant", 1, None),
        owned("create", "may_not_grant", 5, None),
        owned("revoke", "not_found", 1, Some(crate::key::Subject::Key(id))),
    ];
    assert_eq!(refusals.iter().map(short).collect::<Vec<_>>(), expected);
    assert!(refusals.iter().all(|tally| tally.actor == weak.actor() && tally.from == weak.address()));
    assert_eq!(house.events().await.len(), before, "a refusal is no event");
    assert_eq!(code(house.manager.refusals(&weak, RefusalQuery::default()).await), "lacks_permission");
}

#[tokio::test]
async fn a_rotation_is_not_repeated_while_its_successor_may_be_in_use() {
    let house = house();
    let id = house.create(plain(&["a"])).await.key.id;
    let rotated = house.rotate(id, 60 * MINUTE).await.expect("a rotation");
    assert_eq!(code(house.rotate(id, 60 * MINUTE).await), "rotation_unsettled");
    house.clock.advance(USAGE_SETTLED);
    let again = house.rotate(id, 60 * MINUTE).await.expect("nobody has used it");
    assert_eq!(house.status(rotated.new.id).await, Status::Revoked);
    // Whoever sees every gateway's counters need not wait.
    let gateways = Arc::new(Gateways::default());
    let manager = house.manager.clone().with_live_usage(Arc::clone(&gateways) as Arc<dyn LiveUsage>);
    let third = manager.rotate_key(&local(), id, MINUTE).await.expect("no gateway has seen it");
    assert_eq!(house.status(again.new.id).await, Status::Revoked);
    gateways.0.store(true, Ordering::SeqCst);
    assert_eq!(code(manager.rotate_key(&local(), id, MINUTE).await), "already_rotated");
    gateways.0.store(false, Ordering::SeqCst);
    // The management API is a place of use too.
    assert!(matches!(manager.authenticate(&third.token).await, Ok(Authenticated::Live(_))));
    assert_eq!(code(manager.rotate_key(&local(), id, MINUTE).await), "already_rotated");
    manager.write_back().await.expect("the store is well");
    assert_eq!(house.stored(third.new.id).await.usage.map(|usage| usage.count), Some(1));
}

#[tokio::test]
async fn a_token_is_known_by_its_holder_and_by_verifiers_of_its_project() {
    let house = house();
    let created = house.create(plain(&["a"])).await;
    let manager = &house.manager;
    assert!(matches!(manager.authenticate(&Token::from_text("nobody's")).await, Ok(Authenticated::Unknown)));
    let live = manager.authenticate(&created.token).await.expect("an answer");
    assert!(matches!(live, Authenticated::Live(view) if view.key.id == created.key.id));
    let verifier = by_key(house.create(operator(&["keyward.verify"], &[])).await.key.id);
    let found = manager.find_token(&verifier, &created.token).await.expect("it may").expect("it is there");
    assert_eq!(found.key.id, created.key.id);
    let other = house.create(NewKey { project: "other".parse().ok(), ..plain(&["a"]) }).await;
    assert!(manager.find_token(&verifier, &other.token).await.expect("it may").is_none());
    let reader = by_key(house.create(operator(&["keyward.keys.read"], &[])).await.key.id);
    assert_eq!(code(manager.find_token(&reader, &created.token).await), "lacks_permission");
    house.revoke(created.key.id, RevokeScope::Key).await;
    let ended = manager.authenticate(&created.token).await.expect("an answer");
    assert!(matches!(ended, Authenticated::NotLive { status: Status::Revoked, .. }));
}

#[tokio::test]
async fn a_key_imported_by_its_sha_256_is_known_by_its_token() {
    let house = house();
    let digest = TokenHash::sha256_of(STRONG.as_bytes());
    let rows = vec![row(1, ImportedSecret::Hash(digest))];
    let imported = house.manager.import_keys(&local(), rows, ImportOptions::default()).await.expect("an import");
    let known = house.manager.authenticate(&Token::from_text(STRONG)).await.expect("an answer");
    assert!(matches!(known, Authenticated::Live(view) if view.key.id == imported.keys[0].id));
    // In its other form it is the same token, and once it is revoked it stays so.
    house.revoke(imported.keys[0].id, RevokeScope::Key).await;
    let again = house.manager.import_keys(&local(), vec![row(1, token(STRONG))], ImportOptions::default()).await;
    assert!(matches!(again, Err(ManageError::Import(faults)) if faults[0].line == 1));
    let other = "another-token-with-many-bits-of-entropy-0123456789";
    let both = vec![row(1, ImportedSecret::Hash(TokenHash::sha256_of(other.as_bytes()))), row(2, token(other))];
    let twice = house.manager.import_keys(&local(), both, ImportOptions::default()).await;
    assert!(matches!(twice, Err(ManageError::Import(faults)) if faults[0].line == 2));
}

#[tokio::test]
async fn a_lineage_is_told_oldest_first_with_its_usage() {
    let house = house();
    let first = house.create(plain(&["a"])).await.key.id;
    house.clock.advance(MINUTE);
    let second = house.rotate(first, 60 * MINUTE).await.expect("a rotation").new.id;
    house.clock.advance(MINUTE);
    let third = house.rotate(second, 60 * MINUTE).await.expect("a rotation").new.id;
    house.used(first).await;
    for asked in [first, second, third] {
        let lineage = house.manager.lineage(&local(), asked).await.expect("a lineage");
        assert_eq!(lineage.iter().map(|view| view.key.id).collect::<Vec<_>>(), [first, second, third]);
        assert_eq!(lineage.iter().map(|view| view.usage.is_some()).collect::<Vec<_>>(), [true, false, false]);
    }
    let other = by_key(
        house
            .create(NewKey {
                project: "x".parse().ok(),
                operates_on: Some(OperatorScope { project: "x".parse().ok(), environment: None }),
                ..plain(&["keyward.**"])
            })
            .await
            .key
            .id,
    );
    assert_eq!(code(house.manager.lineage(&other, second).await), "not_found");
}

#[tokio::test]
async fn a_key_in_jwt_form_stays_in_it_and_lives_no_longer_than_its_token_says() {
    let house = house();
    let new = NewKey { format: Format::Jwt, expires: Expiry::In(60 * MINUTE), ..plain(&["a"]) };
    let created = house.create(new).await;
    assert_eq!(created.key.shown_prefix.as_deref(), Some("jwt"));
    assert_eq!(created.key.hash, created.token.hash());
    let until = |minutes| KeyChange { expires: Some(Expiry::In(minutes * MINUTE)), ..KeyChange::default() };
    let id = created.key.id;
    assert_eq!(code(house.update(id, until(61)).await), "conflicting_field");
    let never = KeyChange { expires: Some(Expiry::Never), ..KeyChange::default() };
    assert_eq!(code(house.update(id, never).await), "conflicting_field");
    assert_eq!(code(house.update(id, until(30)).await), "done");
    let rotated = house.rotate(id, 5 * MINUTE).await.expect("a rotation");
    assert_eq!((rotated.new.format, rotated.new.hash), (Format::Jwt, rotated.token.hash()));
    let bare = Manager::new(Arc::clone(&house.store), TokenPrefix::default());
    let new = NewKey { format: Format::Jwt, ..plain(&["a"]) };
    assert_eq!(code(bare.create_key(&local(), new).await), "format_not_available");
}

#[tokio::test]
async fn a_webhook_lets_a_key_rotate_itself_and_is_told_without_its_path() {
    let house = house();
    let id = house.create(plain(&["a"])).await.key.id;
    let by = by_key(id);
    assert_eq!(code(house.manager.rotate_key(&by, id, 5 * MINUTE).await), "out_of_scope");
    let url = Some("https://hooks.example/very/secret?token=1".to_owned());
    let change = KeyChange { rotation_webhook_url: Some(url.clone()), ..KeyChange::default() };
    assert_eq!(house.update(id, change).await.expect("an update").key.rotation.webhook_url, url);
    let event = house.events().await.pop().expect("an event");
    assert_eq!(event.changes.get("rotation_webhook").map(String::as_str), Some("none -> hooks.example"));
    assert_eq!(code(house.manager.rotate_key(&by, id, 5 * MINUTE).await), "done");
}

#[tokio::test]
async fn a_user_is_changed_in_what_is_named_alone() {
    let house = house();
    let patch = |flags: Option<FlagSet>, active| UserPatch { id: user_id("ann"), project: None, flags, active };
    let made = house.manager.set_user(&local(), patch(Some(flags(&["a"])), None)).await.expect("a user");
    assert!(made.created && made.user.active && made.user.project.is_none());
    let off = house.manager.set_user(&local(), patch(None, Some(Activity::Disabled))).await.expect("a change");
    assert_eq!((off.user.flags, off.user.active), (flags(&["a"]), false));
    let more = house.manager.set_user(&local(), patch(Some(flags(&["b"])), None)).await.expect("a change");
    assert_eq!((more.user.flags, more.user.active), (flags(&["b"]), false));
}

#[tokio::test]
async fn a_key_rotates_itself_only_so_often_within_a_day() {
    let house = house();
    let mut id = house.create(NewKey { self_rotate: true, ..plain(&["a"]) }).await.key.id;
    let mut refused = "done";
    let mut rotations = 0;
    while refused == "done" && rotations < 100 {
        house.clock.advance(MINUTE);
        let rotated = house.manager.rotate_key(&by_key(id), id, 5 * MINUTE).await;
        match rotated {
            Ok(rotated) => (id, rotations) = (rotated.new.id, rotations + 1),
            Err(error) => refused = error.as_code(),
        }
    }
    assert_eq!((rotations, refused), (47, "rotated_too_often"));
    assert_eq!(code(house.rotate(id, 5 * MINUTE).await), "done", "an operator may");
}

#[tokio::test]
async fn where_usage_is_written_down_seldom_a_rotation_is_repeated_later() {
    let house = house();
    let id = house.create(plain(&["a"])).await.key.id;
    let manager = house.manager.clone().with_usage_flush(60 * MINUTE);
    manager.rotate_key(&local(), id, 90 * MINUTE).await.expect("a rotation");
    house.clock.advance(60 * MINUTE);
    assert_eq!(code(manager.rotate_key(&local(), id, MINUTE).await), "rotation_unsettled");
    house.clock.advance(Duration::from_secs(20));
    assert_eq!(code(manager.rotate_key(&local(), id, MINUTE).await), "done");
    let often = house.manager.clone().with_usage_flush(Duration::from_secs(1));
    let id = house.create(plain(&["a"])).await.key.id;
    often.rotate_key(&local(), id, 60 * MINUTE).await.expect("a rotation");
    house.clock.advance(USAGE_SETTLED - Duration::from_nanos(1));
    assert_eq!(code(often.rotate_key(&local(), id, MINUTE).await), "rotation_unsettled");
}
