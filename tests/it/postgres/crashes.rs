//! The server dies in every way while keys are made and revoked, and gateways are killed meanwhile: what was acknowledged
//! is there afterwards, and nothing is there twice.
//!
//! `KEYWARD_SOAK_CRASHES` says how often the server dies, `KEYWARD_SOAK_CRASH_KEYS` how many keys are made in all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::nodes::{Nodes, key_named, minted, status};
use crate::harness::{Answer, Call, Care, Cluster, Connection, Http, Key, Upstream, delete, get, post, times, until};

const WRITERS: usize = 3;

/// Who makes keys and revokes every other one, and asks for each until it is acknowledged.
#[derive(Default)]
struct Writer {
    number: usize,
    made: usize,
    keys: BTreeMap<String, Key>,
    revoked: Vec<Key>,
    /// How often there was no answer, or one that says that it cannot be done now.
    unsure: usize,
}

/// Where the gateways are, of which any may be gone.
struct Place<'p> {
    admin: &'p [SocketAddr],
    operator: &'p str,
}

impl Place<'_> {
    /// Asks one gateway after the other until one of them does it.
    fn until_done<T>(&self, writer: usize, unsure: &mut usize, call: &Call, done: impl Fn(&Answer) -> Option<T>) -> T {
        let call = call.clone().bearer(self.operator);
        for attempt in 0.. {
            let address = self.admin[(writer + attempt) % self.admin.len()];
            let connection = Connection::try_open(address, None, Http::One);
            let answer = connection.and_then(|mut connection| connection.try_send(call.clone()).ok());
            if let Some(found) = answer.as_ref().and_then(&done) {
                return found;
            }
            if let Some(answer) = answer {
                assert_eq!(answer.status, 503, "{}", answer.text());
            }
            *unsure += 1;
            assert!(attempt < 6000, "it is never done");
            thread::sleep(Duration::from_millis(10));
        }
        unreachable!("attempts do not end")
    }
}

impl Writer {
    fn run(&mut self, place: &Place<'_>, count: &AtomicU64, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            self.made += 1;
            let name = format!("key-{}-{}", self.number, self.made);
            let once = format!("the one request for {name}");
            let create = post("/v1/api-keys").json(&key_named(&name)).header("idempotency-key", &once);
            let key = place.until_done(self.number, &mut self.unsure, &create, minted);
            if self.made.is_multiple_of(2) {
                let revoke = delete(&format!("/v1/api-keys/{}", key.id));
                place.until_done(self.number, &mut self.unsure, &revoke, |answer| (answer.status == 204).then_some(()));
                self.revoked.push(key.clone());
            }
            self.keys.insert(name, key);
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn nothing_that_was_acknowledged_is_lost_where_the_server_is_killed() {
    let (upstream, mut cluster) = (Upstream::start(), Cluster::start(Care::Durable));
    let mut nodes = Nodes::start(2, &upstream, &cluster, |config| config);
    let crashes = times("KEYWARD_SOAK_CRASHES", 3_u64);
    let keys = times("KEYWARD_SOAK_CRASH_KEYS", 60_u64);
    let operator = nodes.desk.operator().to_owned();
    let mut writers: Vec<Writer> = (0..WRITERS).map(|number| Writer { number, ..Writer::default() }).collect();
    let count = AtomicU64::new(0);
    for crash in 1..=crashes {
        let admin: Vec<SocketAddr> = nodes.gateways().map(|gateway| gateway.listener("admin")).collect();
        let place = Place { admin: &admin, operator: &operator };
        let is_over = AtomicBool::new(false);
        let enough = |count: &AtomicU64, part: u64| {
            until("enough keys", || count.load(Ordering::Relaxed) * crashes * 2 >= keys * part);
        };
        thread::scope(|scope| {
            for writer in &mut writers {
                scope.spawn(|| writer.run(&place, &count, &is_over));
            }
            // Somewhere in the middle of what the others are at.
            enough(&count, crash * 2 - 1);
            match crash % 3 {
                0 => cluster.end_at_once(),
                1 => cluster.kill(),
                _ => cluster.kill_main(),
            }
            if crash.is_multiple_of(2) {
                nodes.nodes[1].gateway.kill();
            }
            cluster.restart();
            enough(&count, crash * 2);
            is_over.store(true, Ordering::Relaxed);
        });
        if crash.is_multiple_of(2) {
            nodes.nodes[1].gateway = nodes.nodes[1].site.start();
        }
    }
    let unsure: usize = writers.iter().map(|writer| writer.unsure).sum();
    let made: BTreeMap<String, Key> = writers.iter().flat_map(|writer| writer.keys.clone()).collect();
    let revoked: Vec<&Key> = writers.iter().flat_map(|writer| &writer.revoked).collect();
    eprintln!(
        "{} keys made, {} revoked, {crashes} crashes, {unsure} attempts without success",
        made.len(),
        revoked.len()
    );
    let names = cluster.sql("SELECT name FROM keyward.keys WHERE project = 'acme' ORDER BY name COLLATE \"C\"");
    let expected = made.keys().cloned().collect::<Vec<_>>().join("\n");
    assert_eq!(names, expected, "each of them once, and no other");
    for gateway in nodes.gateways() {
        until("the newest revocation", || revoked.iter().all(|key| status(gateway, &key.token) == 401));
        let mut connection = gateway.connect(Http::One);
        for (name, key) in &made {
            let expected = if revoked.iter().any(|revoked| revoked.id == key.id) { 401 } else { 200 };
            assert_eq!(connection.send(get("/any/x").bearer(&key.token)).status, expected, "{name}");
        }
    }
}
