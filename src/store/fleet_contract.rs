//! What every store keeps to that knows its gateways. A store joins with one line, as for the rest of the
//! contract: `fleet_contract!(fixture)`.

use std::time::Duration;

use super::contract::{Fixture, at, key, newest, write, write_key};
use super::*;

/// Runs the contract of gateways against the stores that `$fixture` makes.
macro_rules! fleet_contract {
    ($fixture:ident) => {
        $crate::store::fleet_contract::fleet_contract!($fixture:
            what_a_gateway_says_is_known_everywhere_and_uses_no_revision,
            a_report_that_comes_late_takes_nothing_back,
            the_next_process_of_a_gateway_takes_the_place_of_those_that_ended,
            who_left_or_was_forgotten_is_known_again_once_it_is_heard,
            a_gateway_of_another_history_confirms_nothing,
            how_long_a_gateway_is_behind_is_known,
            silence_counts_only_where_a_gateway_then_refuses,
            many_report_at_once_beside_mutations,
        );
    };
    ($fixture:ident: $($name:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $crate::store::fleet_contract::$name($fixture()).await;
        })*
    };
}
pub(super) use fleet_contract;

fn of(store: &SharedStore) -> &dyn FleetStore {
    store.fleet().expect("this store knows its gateways")
}

fn id(gateway: u8) -> GatewayId {
    format!("{gateway:032x}").parse().expect("an id")
}

fn report(gateway: u8, incarnation: u128, sequence: u64, applied: Cursor) -> GatewayReport {
    GatewayReport {
        gateway: id(gateway),
        incarnation: Incarnation(incarnation),
        sequence,
        applied,
        streams_cut: applied.revision,
        when_stale: WhenStale::Serves,
        max_staleness: Duration::from_secs(100),
        version: "1.2.3".to_owned(),
        host: "host".to_owned(),
        pid: 77,
        started_at: at(900 + i64::try_from(incarnation).expect("a small number")),
    }
}

async fn known(store: &SharedStore) -> Vec<Gateway> {
    of(store).gateways().await.expect("an answer").gateways
}

async fn incarnations(store: &SharedStore) -> Vec<u128> {
    known(store).await.iter().map(|gateway| gateway.report.incarnation.0).collect()
}

async fn tell(store: &SharedStore, report: GatewayReport) -> Reported {
    of(store).report(report).await.expect("it is noted")
}

async fn commit(store: &SharedStore, number: u8) -> Cursor {
    let committed = write(store, vec![write_key(key(number))]).await.expect("a commit");
    Cursor { revision: committed.revision, commit: committed.commit }
}

pub(super) async fn what_a_gateway_says_is_known_everywhere_and_uses_no_revision(f: Fixture) {
    let cursor = commit(&f.store, 1).await;
    let said = report(1, 1, 1, cursor);
    of(&f.store).register(said.clone(), vec![]).await.expect("it is taken up");
    f.clock.set(at(5000));
    let later = GatewayReport { sequence: 2, when_stale: WhenStale::Denies, ..said };
    assert_eq!(tell(&f.store, later.clone()).await, Reported::Known);
    let again = (f.again)();
    let fleet = of(&again).gateways().await.expect("an answer");
    assert_eq!((fleet.newest, fleet.now), (cursor, at(5000)));
    let expected = Gateway { report: later, last_seen: at(5000), is_of_this_history: true, behind_since: None };
    assert_eq!(fleet.gateways, [expected]);
    assert_eq!(fleet.gateways[0].confirmed(), Some(cursor.revision));
    assert_eq!(newest(&f.store).await, cursor);
}

pub(super) async fn a_report_that_comes_late_takes_nothing_back(f: Fixture) {
    let (old, new) = (commit(&f.store, 1).await, commit(&f.store, 2).await);
    assert_eq!(tell(&f.store, report(1, 1, 2, new)).await, Reported::New);
    f.clock.set(at(6000));
    assert_eq!(tell(&f.store, report(1, 1, 1, old)).await, Reported::Known);
    let gateway = known(&f.store).await.remove(0);
    assert_eq!((gateway.report.applied, gateway.last_seen), (new, at(6000)), "but it was heard");
    let back = GatewayReport { streams_cut: 0, ..report(1, 1, 3, old) };
    tell(&f.store, back).await;
    let gateway = known(&f.store).await.remove(0);
    assert_eq!((gateway.report.applied, gateway.confirmed()), (old, Some(0)), "what is told later holds");
}

pub(super) async fn the_next_process_of_a_gateway_takes_the_place_of_those_that_ended(f: Fixture) {
    let nothing = Cursor::default();
    for incarnation in 1..=3 {
        tell(&f.store, report(1, incarnation, 1, nothing)).await;
    }
    tell(&f.store, report(2, 9, 1, nothing)).await;
    of(&f.store).register(report(1, 4, 1, nothing), vec![Incarnation(2), Incarnation(7)]).await.expect("an answer");
    assert_eq!(incarnations(&(f.again)()).await, [2, 4, 9], "those beside it and other gateways stay");
    of(&f.store).register(report(1, 4, 2, nothing), vec![]).await.expect("an answer");
    assert_eq!(incarnations(&f.store).await, [4, 9]);
}

pub(super) async fn who_left_or_was_forgotten_is_known_again_once_it_is_heard(f: Fixture) {
    let nothing = Cursor::default();
    for (gateway, incarnation) in [(1, 1), (1, 2), (2, 3)] {
        tell(&f.store, report(gateway, incarnation, 1, nothing)).await;
    }
    of(&f.store).leave(vec![Incarnation(3), Incarnation(8)]).await.expect("an answer");
    assert_eq!(incarnations(&f.store).await, [1, 2]);
    assert_eq!(of(&f.store).forget(id(2)).await.expect("an answer"), 0);
    assert_eq!(of(&f.store).forget(id(1)).await.expect("an answer"), 2);
    assert_eq!(incarnations(&f.store).await, [0; 0]);
    assert_eq!(tell(&f.store, report(1, 2, 5, nothing)).await, Reported::New);
    assert_eq!(incarnations(&(f.again)()).await, [2]);
}

pub(super) async fn a_gateway_of_another_history_confirms_nothing(f: Fixture) {
    let cursor = commit(&f.store, 1).await;
    let elsewhere = Cursor { commit: CommitId(7), ..cursor };
    let ahead = Cursor { revision: 9, commit: CommitId(8) };
    for (incarnation, applied) in [(1, elsewhere), (2, ahead), (3, cursor), (4, Cursor::default())] {
        tell(&f.store, report(1, incarnation, 1, applied)).await;
    }
    let confirmed: Vec<_> = known(&f.store).await.iter().map(Gateway::confirmed).collect();
    assert_eq!(confirmed, [None, None, Some(1), Some(0)]);
}

pub(super) async fn how_long_a_gateway_is_behind_is_known(f: Fixture) {
    f.clock.set(at(2000));
    let first = commit(&f.store, 1).await;
    f.clock.set(at(3000));
    let second = commit(&f.store, 2).await;
    f.clock.set(at(4000));
    commit(&f.store, 3).await;
    tell(&f.store, report(1, 1, 1, first)).await;
    // Its streams count too.
    tell(&f.store, GatewayReport { streams_cut: 0, ..report(1, 2, 1, second) }).await;
    let since: Vec<_> = known(&f.store).await.iter().map(|gateway| gateway.behind_since).collect();
    assert_eq!(since, [Some(at(3000)), Some(at(2000))]);
}

pub(super) async fn silence_counts_only_where_a_gateway_then_refuses(f: Fixture) {
    f.clock.set(at(1000));
    let denies = |incarnation, seconds| GatewayReport {
        when_stale: WhenStale::Denies,
        max_staleness: Duration::from_secs(seconds),
        ..report(1, incarnation, 1, Cursor::default())
    };
    for said in [report(1, 1, 1, Cursor::default()), denies(2, 100), denies(3, 2)] {
        tell(&f.store, said).await;
    }
    for (now, expected) in [(1004, [false; 3]), (1005, [false, false, true]), (1105, [false, false, true])] {
        f.clock.set(at(now));
        let fleet = of(&f.store).gateways().await.expect("an answer");
        let found: Vec<_> = fleet.gateways.iter().map(|gateway| gateway.denies_all(fleet.now)).collect();
        assert_eq!(found, expected, "{now}");
    }
    f.clock.set(at(1106));
    let fleet = of(&f.store).gateways().await.expect("an answer");
    let found: Vec<_> = fleet.gateways.iter().map(|gateway| gateway.denies_all(fleet.now)).collect();
    assert_eq!(found, [false, true, true], "they stay listed");
}

pub(super) async fn many_report_at_once_beside_mutations(f: Fixture) {
    let other = (f.again)();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, store) in (1u8..).zip([&f.store, &other, &f.store, &other]) {
        let store = std::sync::Arc::clone(store);
        tasks.spawn(async move {
            for sequence in 1..=10 {
                let cursor = commit(&store, number * 10 + u8::try_from(sequence).expect("a small number")).await;
                tell(&store, report(number, u128::from(number), sequence, cursor)).await;
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(newest(&f.store).await.revision, 40);
    let gateways = known(&f.store).await;
    assert_eq!(gateways.len(), 4);
    assert!(gateways.iter().all(|gateway| gateway.report.sequence == 10 && gateway.is_of_this_history));
}
