//! How soon a revocation is in force on every gateway, counted from the moment at which it is acknowledged.
//!
//! `KEYWARD_SOAK_FLEET_REVOCATIONS` says how many are measured. Only a long run is held to the figures, for only that has
//! the machine to itself.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use super::nodes::{Nodes, status};
use crate::harness::{
    Care, Client, Cluster, Config, Fault, Gateway, Http, Key, Stopwatch, Upstream, delete, get, times, until,
};

const USUAL: usize = 60;
const USUAL_DEAF: usize = 3;
/// The slowest machine is no slower.
const LOOSE: Duration = Duration::from_secs(20);
/// Every so many are waited for until all gateways have confirmed them.
const WAITED: usize = 4;

/// What one gateway is asked of one key.
struct Probe {
    key: Key,
    /// Told once it was let through.
    seen: Sender<()>,
    /// When it was acknowledged as revoked, and whether by all.
    revoked: Receiver<(Stopwatch, bool)>,
    /// How long it took from there.
    refused: Sender<Duration>,
}

/// Asks one gateway of each key, until it is refused.
fn probe(gateway: &Gateway, live: &Key, probes: &Receiver<Probe>) {
    let mut client = Client::new(gateway, Http::One);
    let mut ask = |key: &Key| client.send(&get("/any/x").bearer(&key.token)).status;
    for Probe { key, seen, revoked, refused } in probes {
        assert_eq!(ask(&key), 200, "a live key is refused");
        seen.send(()).expect("it is waited for");
        // The last to have seen it lets the others go on.
        drop(seen);
        let (since, by_all) = revoked.recv().expect("it is revoked");
        loop {
            match ask(&key) {
                401 => break,
                200 => assert!(!by_all, "a key is let through after all gateways confirmed that it is not"),
                other => panic!("{other} for a key that was revoked"),
            }
            assert!(since.elapsed() < LOOSE, "it is let through for ever");
        }
        refused.send(since.elapsed()).expect("it is waited for");
        assert_eq!(ask(live), 200, "a live key is refused");
    }
}

/// Revokes keys at one gateway after the other; how long each gateway took for each, the shortest first.
fn measure(nodes: &Nodes, keys: &[Key], live: &Key) -> Vec<Duration> {
    let mut took = Vec::new();
    thread::scope(|scope| {
        let start = |gateway| {
            let (sender, probes) = channel();
            scope.spawn(move || probe(gateway, live, &probes));
            sender
        };
        let probers: Vec<Sender<Probe>> = nodes.gateways().map(start).collect();
        for (number, key) in keys.iter().enumerate() {
            let (refused, all_refused) = channel();
            let (seen, all_seen) = channel();
            let tell = |prober: &Sender<Probe>| {
                let (tell, revoked) = channel();
                let probe = Probe { key: key.clone(), seen: seen.clone(), revoked, refused: refused.clone() };
                prober.send(probe).expect("it runs");
                tell
            };
            let probing: Vec<_> = probers.iter().map(tell).collect();
            drop((seen, refused));
            assert_eq!(all_seen.iter().count(), probers.len(), "every gateway lets it through");
            let wait = if number % WAITED == 0 { "?wait=10s" } else { "" };
            let answer = nodes.asks(number % probers.len(), delete(&format!("/v1/api-keys/{}{wait}", key.id)));
            let acknowledged = Stopwatch::start();
            assert_eq!(answer.status, 204, "{}", answer.text());
            let by_all = answer.header("keyward-confirmed") == Some("all");
            assert!(by_all || wait.is_empty(), "it is not confirmed: {:?}", answer.headers);
            for prober in probing {
                prober.send((acknowledged, by_all)).expect("it runs");
            }
            took.extend(all_refused.iter());
        }
    });
    took.sort_unstable();
    assert_eq!(took.len(), keys.len() * nodes.nodes.len());
    took
}

fn figures(what: &str, took: &[Duration]) -> (Duration, Duration) {
    let part = |thousandths: usize| took[(took.len() - 1) * thousandths / 1000];
    let (middle, most, max) = (part(500), part(990), part(1000));
    eprintln!("{what}: {} times, p50 {middle:?}, p99 {most:?}, max {max:?}", took.len());
    (most, max)
}

#[test]
fn a_revocation_is_in_force_on_every_gateway_soon_after_it_is_acknowledged() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Durable));
    let nodes = Nodes::start(3, &upstream, &cluster, |config| config);
    let count = times("KEYWARD_SOAK_FLEET_REVOCATIONS", USUAL);
    let live = nodes.known_key();
    let keys: Vec<Key> = (0..count).map(|number| nodes.key(number % 3)).collect();
    for (number, gateway) in nodes.gateways().enumerate() {
        until(&format!("all keys at gateway {number}"), || keys.iter().all(|key| status(gateway, &key.token) == 200));
    }
    let took = measure(&nodes, &keys, &live);
    let (most, max) = figures("from acknowledgement to refusal", &took);
    assert!(max < LOOSE);
    if count > USUAL {
        assert!(most < Duration::from_millis(250) && max < Duration::from_secs(1), "{most:?}, {max:?}");
    }
    for gateway in nodes.gateways() {
        let mut client = Client::new(gateway, Http::One);
        for key in &keys {
            assert_eq!(client.send(&get("/any/x").bearer(&key.token)).status, 401, "a revoked key works again");
        }
        assert_eq!(client.send(&get("/any/x").bearer(&live.token)).status, 200);
    }
}

#[test]
fn a_revocation_that_nobody_is_told_of_is_found_by_the_next_poll() {
    const POLL: Duration = Duration::from_secs(1);
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Durable));
    let poll = |config: Config| config.sync(&format!("poll = '{}ms'", POLL.as_millis()));
    let nodes = Nodes::start(2, &upstream, &cluster, poll);
    let count = times("KEYWARD_SOAK_DEAF_REVOCATIONS", USUAL_DEAF);
    let live = nodes.known_key();
    let keys: Vec<Key> = (0..count).map(|_| nodes.known_key()).collect();
    // All looks well: only what the server tells on its own is lost.
    nodes.nodes.iter().for_each(|node| node.link.suffer(Fault::Deaf));
    let took = measure(&nodes, &keys, &live);
    let (_, max) = figures("with NOTIFY cut, from acknowledgement to refusal", &took);
    assert!(nodes.nodes.iter().any(|node| node.link.met() > 0), "nothing was told");
    assert!(max < LOOSE);
    if count > USUAL_DEAF {
        assert!(max <= POLL + Duration::from_secs(1), "{max:?}");
    }
    // It does not take a fault of the connection to find out.
    for gateway in nodes.gateways() {
        gateway.until_logged(0, "are found by polling");
    }
}
