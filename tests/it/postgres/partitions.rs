//! The network between gateways and the server fails in every way it can: keys that are known are answered all the while
//! as they must be, nothing of ours is a 5xx but on a route that denies what is stale, beyond its bound, and once it is
//! over every gateway is where the others are.
//!
//! `KEYWARD_SOAK_FAULTS` says how many faults follow one another, chosen by chance and each for some seconds.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::nodes::{Node, Nodes, Oracle, is_cut_off, status};
use crate::harness::{Care, Client, Cluster, Fault, Gateway, Http, Key, Stopwatch, Upstream, get, times, until};

/// Some number below `end`.
fn any(end: u64) -> u64 {
    RandomState::new().hash_one(()) % end
}

/// Revokes a key and makes another while the ways to these gateways suffer from something, until `enough`; then all is
/// well again, and every gateway knows of both.
fn suffer(nodes: &Nodes, oracle: &Oracle, fault: Fault, at: &[usize], enough: impl FnOnce()) {
    let doomed = nodes.known_key();
    oracle.lives(&doomed);
    for number in at {
        nodes.nodes[*number].link.suffer(fault);
    }
    oracle.unsure(&doomed);
    nodes.desk.revoke(&doomed);
    for (number, gateway) in nodes.gateways().enumerate().filter(|(number, _)| !at.contains(number)) {
        until(&format!("the revocation at gateway {number}"), || status(gateway, &doomed.token) == 401);
    }
    let made = nodes.desk.key(&[]);
    enough();
    nodes.nodes.iter().for_each(|node| node.link.heal());
    nodes.until_all_answer(&doomed, 401);
    nodes.until_all_answer(&made, 200);
    oracle.ended(&doomed);
    oracle.lives(&made);
}

/// A route that denies once its gateway has been out of contact for [`BOUND`].
const STRICT: &str = "name = 'strict'\npath = '/strict'\nany_key = true\non_stale = 'deny'";
const BOUND: Duration = Duration::from_secs(1);
/// So long after the server's last word has come through a busy gateway may take note of it.
const SLACK: Duration = Duration::from_secs(2);

/// Asks the strict routes of all gateways while `work` is done. What lives is let through or denied as stale, what has
/// ended is refused or denied as stale, and beyond the bound there is nothing but the latter. How often that was.
fn watch_strict(nodes: &Nodes, live: &Key, ended: &Key, work: impl FnOnce()) -> usize {
    struct Over<'o>(&'o AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (is_over, beyond) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ask = |node: &Node| {
        let mut client = Client::new(&node.gateway, Http::One);
        while !is_over.load(Ordering::Relaxed) {
            for (key, fresh) in [(live, 200), (ended, 401)] {
                let watch = Stopwatch::start();
                let answer = client.send(&get("/strict").bearer(&key.token));
                // Of what came through while it was asked for nobody knows what it came before.
                let silent = node.link.silent_for().saturating_sub(watch.elapsed());
                let is_denied = answer.status == 503 && answer.code() == "stale_keys";
                assert!(is_denied || answer.status == fresh, "{} to {fresh}: {}", answer.status, answer.text());
                assert!(is_denied || silent <= BOUND + SLACK, "{} after {silent:?}", answer.status);
                beyond.fetch_add(usize::from(silent > BOUND + SLACK), Ordering::Relaxed);
            }
            thread::sleep(Duration::from_millis(5));
        }
    };
    thread::scope(|scope| {
        let over = Over(&is_over);
        for node in &nodes.nodes {
            scope.spawn(|| ask(node));
        }
        work();
        drop(over);
    });
    beyond.load(Ordering::Relaxed)
}

#[test]
fn known_keys_are_answered_whatever_the_network_does() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Fast));
    let nodes = Nodes::start(2, &upstream, &cluster, |config| {
        config.sync("poll = '200ms'").sync(&format!("max_staleness = '{}s'", BOUND.as_secs())).route(STRICT)
    });
    let oracle = Oracle::default();
    let (live, ended) = (nodes.known_key(), nodes.known_key());
    nodes.revoke(1, &ended);
    nodes.until_all_answer(&ended, 401);
    oracle.lives(&live);
    oracle.ended(&ended);
    let link = |number: usize| &nodes.nodes[number].link;
    let gateway = |number: usize| &nodes.nodes[number].gateway;
    let faults = times("KEYWARD_SOAK_FAULTS", 0);
    let work = || {
        // For a moment, in which nobody gives up.
        suffer(&nodes, &oracle, Fault::Held, &[1], || until("a held message", || link(1).met() > 0));
        // For so long that one has to see it.
        suffer(&nodes, &oracle, Fault::Refused, &[0, 1], || {
            until("that contact is lost", || is_cut_off(gateway(0)) && is_cut_off(gateway(1)));
            assert_eq!(gateway(0).ops("/readyz").status, 200, "requests can be answered");
            let is_stale = |gateway: &Gateway| gateway.send(get("/strict").bearer(&live.token)).status == 503;
            until("staleness", || nodes.gateways().all(is_stale));
        });
        until("contact", || !is_cut_off(gateway(0)) && !is_cut_off(gateway(1)));
        // All at once, and no more.
        suffer(&nodes, &oracle, Fault::Deaf, &[0], || link(0).reset());
        for _ in 0..faults {
            by_chance(&nodes, &oracle);
        }
        for gateway in nodes.gateways() {
            until("an end of staleness", || gateway.send(get("/strict").bearer(&live.token)).status == 200);
        }
    };
    let mut beyond = 0;
    let answers = oracle.watch(nodes.gateways(), || beyond = watch_strict(&nodes, &live, &ended, work));
    // What lasts so long is of the long runs.
    assert!(beyond > 0 || faults < 10, "no fault was long enough");
    eprintln!("{answers} answers while the network failed, {beyond} of them beyond the bound, all as they must be");
}

/// Some fault, at some gateways, for some time.
fn by_chance(nodes: &Nodes, oracle: &Oracle) {
    let fault = match any(5) {
        0 => Fault::Held,
        1 => Fault::Refused,
        2 => Fault::Deaf,
        3 => Fault::RowHeld,
        _ => Fault::CutAfter(usize::try_from(any(40)).expect("a small number")),
    };
    let at: &[usize] = match any(3) {
        0 => &[0],
        1 => &[1],
        _ => &[0, 1],
    };
    let long = Duration::from_millis(any(6000));
    eprintln!("{fault:?} at {at:?} for {long:?}");
    suffer(nodes, oracle, fault, at, || thread::sleep(long));
}

#[test]
fn an_answer_that_stops_half_way_through_a_row_is_given_up() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Fast));
    let nodes = Nodes::start(1, &upstream, &cluster, |config| config.sync("poll = '200ms'"));
    let (oracle, gateway, link) = (Oracle::default(), &nodes.nodes[0].gateway, &nodes.nodes[0].link);
    let (live, doomed) = (nodes.known_key(), nodes.known_key());
    oracle.lives(&live);
    oracle.watch(nodes.gateways(), || {
        for _ in 0..times("KEYWARD_SOAK_ROWS", 1) {
            let watch = Stopwatch::start();
            link.suffer(Fault::RowHeld);
            until("half a row", || link.met() > 0);
            nodes.desk.revoke(&doomed);
            // That connection stays as it is. Others are made.
            until("the revocation", || status(gateway, &doomed.token) == 401);
            eprintln!("half a row was given up after {:?}", watch.elapsed());
        }
        link.heal();
        until("contact", || !is_cut_off(gateway));
        let made = nodes.desk.key(&[]);
        until("a new key", || status(gateway, &made.token) == 200);
    });
}
