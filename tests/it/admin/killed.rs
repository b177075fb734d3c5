//! The gateway is killed at any moment of many creations: what was acknowledged is there and works,
//! and what is asked for again with its Idempotency-Key is made no second time.
//!
//! `KEYWARD_SOAK_KILLS` says how often, `KEYWARD_SOAK_CREATIONS` how many keys are made in all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rusqlite::Connection as File;
use serde_json::Value;

use super::{Place, acme};
use crate::harness::{Call, Connection, Http, get, post, times, until};

const WRITERS: u64 = 4;

/// Who makes keys, one after the other, and what is known of them.
#[derive(Default)]
struct Writer {
    number: u64,
    made: u64,
    /// Token by name.
    acknowledged: BTreeMap<String, String>,
    /// Asked for, and not answered.
    unsure: Vec<String>,
}

/// To make the key of this name, once.
fn create(operator: &str, name: &str) -> Call {
    let key = format!("the one request for {name}");
    post("/v1/api-keys").json(&acme(name, &["keyring.read"])).header("idempotency-key", &key).bearer(operator)
}

/// The token in a whole answer.
fn token(status: u16, text: &str) -> Option<String> {
    let made: Value = serde_json::from_str(text).ok().filter(|_| status == 201)?;
    made["key"].as_str().map(str::to_owned)
}

impl Writer {
    /// Makes keys until the gateway is gone.
    fn run(&mut self, address: SocketAddr, operator: &str, count: &AtomicU64) {
        let mut connection = Connection::open(address, None, Http::One);
        loop {
            self.made += 1;
            let name = format!("key-{}-{}", self.number, self.made);
            let answer = connection.try_send(create(operator, &name)).ok();
            match answer.and_then(|answer| token(answer.status, &answer.text())) {
                Some(token) => {
                    self.acknowledged.insert(name, token);
                    count.fetch_add(1, Ordering::Relaxed);
                }
                None => {
                    self.unsure.push(name);
                    return;
                }
            }
        }
    }
}

#[test]
fn no_key_is_lost_or_made_twice_where_the_gateway_is_killed() {
    let mut place = Place::new();
    let operator = place.site.operator().to_owned();
    let kills = times("KEYWARD_SOAK_KILLS", 3_u64);
    let keys = times("KEYWARD_SOAK_CREATIONS", 90_u64);
    let mut writers: Vec<Writer> = (0..WRITERS).map(|number| Writer { number, ..Writer::default() }).collect();
    let count = AtomicU64::new(0);
    for kill in 1..=kills {
        let address = place.gateway.listener("admin");
        thread::scope(|scope| {
            for writer in &mut writers {
                scope.spawn(|| writer.run(address, &operator, &count));
            }
            // Somewhere in the middle of what the others are at.
            until("enough keys", || count.load(Ordering::Relaxed) * kills >= keys * kill);
            place.gateway.kill();
        });
        place.gateway = place.site.start();
        for writer in &mut writers {
            for name in std::mem::take(&mut writer.unsure) {
                let answer = place.gateway.api(create(&operator, &name));
                let token = token(answer.status, &answer.text());
                writer.acknowledged.insert(name, token.unwrap_or_else(|| panic!("{}", answer.text())));
            }
        }
    }
    let acknowledged: BTreeMap<String, String> = writers.into_iter().flat_map(|writer| writer.acknowledged).collect();
    let file = File::open(place.site.path("data/keyward.db")).expect("the store opens");
    let mut names = file.prepare("SELECT name FROM keys WHERE name LIKE 'key-%' ORDER BY name").expect("a query");
    let names = names.query_map([], |row| row.get::<_, String>(0)).expect("rows");
    let names: Vec<String> = names.collect::<Result<_, _>>().expect("names");
    assert_eq!(names, acknowledged.keys().cloned().collect::<Vec<_>>(), "each of them once, and no other");
    let mut connection = place.gateway.connect(Http::One);
    for (name, token) in &acknowledged {
        assert_eq!(connection.send(get("/any/x").bearer(token)).status, 200, "{name}");
    }
}
