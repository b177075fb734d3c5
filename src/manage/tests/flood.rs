//! Changes that come all at once: what is refused takes nothing from what is not, and whoever is
//! revoked changes nothing more.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::store::slow::{SLOW, SlowStore};

/// A clock that goes on, for a store that is asked from many sides at once.
fn real_house() -> House {
    house()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn refused_changes_never_take_the_writers_turn() {
    let house = Arc::new(real_house());
    let weak = by_key(house.create(operator(&["keyward.keys.create"], &["b"])).await.key.id);
    let (path, flooding) = (house._folder.path().join("keyward.db"), Arc::new(AtomicBool::new(true)));
    // Somebody else holds the write lock for all of it: whatever needs it would wait.
    let other = rusqlite::Connection::open(&path).expect("the file is there");
    assert_eq!(code(house.manager.create_key(&weak, plain(&["a"])).await), "may_not_grant");
    house.manager.set_user(&local(), UserChange { project: acme(), ..user("ann", &["a"]) }).await.expect("a user");
    let of_ann = house.create(NewKey { user: Some(user_id("ann")), ..plain(&["a"]) }).await.key.id;
    // Nor is anything read for them that could be very much.
    let mut slow = house.manager.clone();
    slow.store = Arc::new(SlowStore(Arc::clone(&house.store)));
    other.execute_batch("BEGIN IMMEDIATE").expect("nobody else writes");
    let refusals_of_much = async {
        for (caller, expected) in
            [(weak.clone(), ["lacks_permission"; 2]), (by_key(of_ann), ["not_found", "out_of_scope"])]
        {
            for scope in [RevokeScope::Key, RevokeScope::Lineage, RevokeScope::Descendants] {
                assert_eq!(code(slow.revoke_key(&caller, of_ann, scope).await), expected[0]);
                let once = Once::new(&caller, "POST", "/revoke", b"an idempotency key", b"{}").expect("a good key");
                let told = |_: &Revoked| Vec::new();
                assert_eq!(code(slow.revoke_key_once(&caller, of_ann, scope, once, told).await), expected[0]);
            }
            assert_eq!(code(slow.delete_user(&caller, user_id("ann")).await), expected[1]);
            assert_eq!(code(slow.set_user(&caller, user("ann", &[])).await), expected[1]);
            assert_eq!(code(slow.delete_user(&caller, user_id("eve")).await), "user_not_found");
        }
    };
    tokio::time::timeout(SLOW / 2, refusals_of_much).await.expect("nothing is waited for");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (house, weak, flooding) = (Arc::clone(&house), weak.clone(), Arc::clone(&flooding));
        tasks.spawn(async move {
            let mut refused = 0;
            while flooding.load(Ordering::SeqCst) && refused < 50 {
                assert_eq!(code(house.manager.create_key(&weak, plain(&["a"])).await), "may_not_grant");
                refused += 1;
            }
            refused
        });
    }
    let refused: u64 = tasks.join_all().await.into_iter().sum();
    assert_eq!(refused, 400);
    other.execute_batch("ROLLBACK").expect("the lock is ours");
    let tallies = house.manager.refusals(&local(), crate::store::RefusalQuery::default()).await.expect("it may");
    assert_eq!(tallies.iter().map(|tally| tally.count).sum::<u64>(), refused + 1 + 2 * 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn operators_that_work_at_once_keep_to_their_own_and_end_with_their_revocation() {
    let house = Arc::new(real_house());
    let permissions = &["keyward.keys.**", "keyward.users.write"][..];
    let a = by_key(house.create(operator(permissions, &["a.**"])).await.key.id);
    let b = by_key(house.create(operator(permissions, &["b.**"])).await.key.id);
    let seeds = ["a.x", "b.x"].map(|flag| plain(&[flag]));
    let mut ids = Vec::new();
    for seed in seeds {
        ids.push(house.create(seed).await.key.id);
    }
    let ids = Arc::new(parking_lot::Mutex::new(ids));
    let mut tasks = tokio::task::JoinSet::new();
    for (worker, by) in [&a, &b, &a, &b].into_iter().enumerate() {
        let (house, by, ids) = (Arc::clone(&house), by.clone(), Arc::clone(&ids));
        tasks.spawn(async move {
            for step in 0..40_usize {
                let id = {
                    let ids = ids.lock();
                    ids[(step * 7 + worker) % ids.len()]
                };
                let wide = Grants::Only(flags(&[["a.y", "b.y", "a.x"][step % 3]]));
                let manager = &house.manager;
                match (step + worker) % 4 {
                    0 => {
                        if let Ok(made) = manager.create_key(&by, NewKey { grants: wide, ..plain(&[]) }).await {
                            ids.lock().push(made.key.id);
                        }
                    }
                    1 => drop(
                        manager.update_key(&by, id, KeyChange { grants: Some(wide), ..KeyChange::default() }).await,
                    ),
                    2 => {
                        if let Ok(rotated) = manager.rotate_key(&by, id, MINUTE).await {
                            ids.lock().push(rotated.new.id);
                        }
                    }
                    _ => {
                        let active = if step % 2 == 0 { Activity::Active } else { Activity::Disabled };
                        drop(
                            manager
                                .update_key(&by, id, KeyChange { active: Some(active), ..KeyChange::default() })
                                .await,
                        );
                    }
                }
            }
        });
    }
    let revoker = Arc::clone(&house);
    let id = a.key().expect("a key");
    tasks.spawn(async move {
        while revoker.events().await.len() < 30 {
            tokio::task::yield_now().await;
        }
        revoker.revoke(id, RevokeScope::Key).await;
    });
    tasks.join_all().await;
    let events = house.events().await;
    let revoked = events
        .iter()
        .find(|event| event.kind == EventKind::KeyRevoked && event.subject == crate::key::Subject::Key(id));
    let revoked = revoked.expect("it was revoked").stamp.revision;
    let late = events.iter().find(|event| event.actor == a.actor() && event.stamp.revision > revoked);
    assert!(late.is_none(), "{late:?}");
    let keys = house.manager.keys(&local(), KeyQuery::default()).await.expect("a list").keys;
    for view in keys.iter().filter(|view| !view.key.is_operator(None)) {
        let touched = |lineage| keys.iter().filter(move |other| other.key.lineage == lineage).map(|other| other.key.id);
        let kin: BTreeSet<KeyId> = touched(view.key.lineage).collect();
        let is_kin =
            |subject: &crate::key::Subject| matches!(subject, crate::key::Subject::Key(id) if kin.contains(id));
        let by: Vec<&Actor> = events.iter().filter(|event| is_kin(&event.subject)).map(|event| &event.actor).collect();
        for (operator, flag) in [(&a, "a.y"), (&b, "b.y")] {
            let gave = by.contains(&&operator.actor());
            assert!(gave || !view.key.holds(None, flag), "{} holds {flag}, which nobody gave it who may", view.key.id);
        }
    }
}
