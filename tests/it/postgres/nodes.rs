//! Several gateways on one server, each by a way of its own that faults can be put on, and who watches them all the
//! while.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Answer, Call, Client, Cluster, Config, Gateway, Http, Key, Link, Site, Upstream, get, post, until,
};

/// A gateway, and its way to the server.
pub(super) struct Node {
    pub(super) gateway: Gateway,
    pub(super) link: Link,
    pub(super) site: Site,
}

/// The gateways, and a desk that changes keys past all faults.
pub(super) struct Nodes {
    pub(super) nodes: Vec<Node>,
    pub(super) desk: Site,
}

impl Nodes {
    /// So many gateways on the server at this port, each with the lines that `with` adds.
    pub(super) fn start(count: usize, upstream: &Upstream, cluster: &Cluster, with: impl Fn(Config) -> Config) -> Self {
        let desk = Site::new(&Config::in_front_of(upstream).postgres(&cluster.url(), ""));
        let ready = |_| {
            let link = Link::to(cluster.port());
            let config = with(Config::in_front_of(upstream).postgres(&link.url(), "statement_timeout = '2s'").admin());
            (desk.beside(&config), link)
        };
        let ready: Vec<_> = (0..count).map(ready).collect();
        // At once, for each takes a while.
        let nodes = thread::scope(|scope| {
            let start = |(site, link): (Site, Link)| scope.spawn(|| Node { gateway: site.start(), link, site });
            let starting: Vec<_> = ready.into_iter().map(start).collect();
            starting.into_iter().map(|node| node.join().expect("it starts")).collect()
        });
        Self { nodes, desk }
    }

    pub(super) fn gateways(&self) -> impl Iterator<Item = &Gateway> {
        self.nodes.iter().map(|node| &node.gateway)
    }

    /// What the management API of a gateway answers to the first operator.
    pub(super) fn asks(&self, number: usize, call: Call) -> Answer {
        self.nodes[number].gateway.api(call.bearer(self.desk.operator()))
    }

    /// A key made at a gateway.
    pub(super) fn key(&self, number: usize) -> Key {
        let made = self.asks(number, post("/v1/api-keys").json(&key_named("a key")));
        minted(&made).unwrap_or_else(|| panic!("{}", made.text()))
    }

    /// A key that every gateway lets through.
    pub(super) fn known_key(&self) -> Key {
        let key = self.key(0);
        self.until_all_answer(&key, 200);
        key
    }

    /// Revokes a key at a gateway.
    pub(super) fn revoke(&self, number: usize, key: &Key) {
        let answer = self.asks(number, crate::harness::delete(&format!("/v1/api-keys/{}", key.id)));
        assert_eq!(answer.status, 204, "{}", answer.text());
    }

    pub(super) fn until_all_answer(&self, key: &Key, expected: u16) {
        for (number, gateway) in self.gateways().enumerate() {
            until(&format!("{expected} from gateway {number}"), || status(gateway, &key.token) == expected);
        }
    }
}

/// What a gateway answers to the holder of a token.
pub(super) fn status(gateway: &Gateway, token: &str) -> u16 {
    gateway.send(get("/any/x").bearer(token)).status
}

/// Whether a gateway has lost contact with the store: it cannot tell of an unknown token.
pub(super) fn is_cut_off(gateway: &Gateway) -> bool {
    status(gateway, "a-token-of-some-other-shape-that-nobody-has-imported") == 503
}

/// The fields of a key of project `acme`.
pub(super) fn key_named(name: &str) -> Value {
    json!({ "project_id": "acme", "name": name })
}

/// The key in the answer that minted it.
pub(super) fn minted(answer: &Answer) -> Option<Key> {
    let made = (answer.status == 201).then(|| answer.json())?;
    let text = |name: &str| made[name].as_str().map(str::to_owned);
    Some(Key { id: text("id")?, token: text("key")? })
}

/// What every gateway must answer to a token, at every moment from when it was said.
#[derive(Default)]
pub(super) struct Oracle {
    expected: Mutex<BTreeMap<String, u16>>,
    asked: AtomicUsize,
    is_over: AtomicBool,
}

impl Oracle {
    pub(super) fn lives(&self, key: &Key) {
        self.say(key, 200);
    }

    pub(super) fn ended(&self, key: &Key) {
        self.say(key, 401);
    }

    fn say(&self, key: &Key, status: u16) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).insert(key.token.clone(), status);
    }

    /// Nothing is said of it any more.
    pub(super) fn unsure(&self, key: &Key) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.token);
    }

    /// Asks all of these gateways without end while `work` is done. How many answers were as they must be.
    pub(super) fn watch<'g>(&self, gateways: impl Iterator<Item = &'g Gateway>, work: impl FnOnce()) -> usize {
        struct Over<'o>(&'o Oracle);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.is_over.store(true, Ordering::Relaxed);
            }
        }
        thread::scope(|scope| {
            let over = Over(self);
            for (number, gateway) in gateways.enumerate() {
                scope.spawn(move || self.ask(number, gateway));
            }
            work();
            // What is so at the end is looked at once more.
            let enough = self.asked.load(Ordering::Relaxed) + 100;
            until("a last look", || self.asked.load(Ordering::Relaxed) > enough);
            drop(over);
        });
        self.asked.load(Ordering::Relaxed)
    }

    fn ask(&self, number: usize, gateway: &Gateway) {
        let mut client = Client::new(gateway, Http::One);
        let mut last = String::new();
        while !self.is_over.load(Ordering::Relaxed) {
            let next = {
                let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
                let after = (std::ops::Bound::Excluded(last.clone()), std::ops::Bound::Unbounded);
                let next = expected.range(after).next().or_else(|| expected.iter().next());
                next.map(|(token, status)| (token.clone(), *status))
            };
            if let Some((token, expected)) = next {
                let answer = client.send(&get("/any/x").bearer(&token));
                // It may have been taken back while it was asked for.
                let is_meant =
                    || self.expected.lock().unwrap_or_else(PoisonError::into_inner).get(&token) == Some(&expected);
                assert!(
                    answer.status == expected || !is_meant(),
                    "gateway {number} answers {} to {}…, which must get {expected}: {}",
                    answer.status,
                    token.chars().take(14).collect::<String>(),
                    answer.text()
                );
                self.asked.fetch_add(1, Ordering::Relaxed);
                last = token;
            }
            // The others of this machine want to get on too.
            thread::sleep(Duration::from_millis(1));
        }
    }
}
