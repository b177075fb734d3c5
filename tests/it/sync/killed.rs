//! Processes that write are killed at any moment: what was acknowledged is there, and works.
//!
//! `KEYWARD_SOAK_KILLS` says how often; the suite does it a few times.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use crate::harness::{Config, Key, Site, Stopwatch, Upstream, get, until};

const KILLS: u64 = 10;
const WRITERS: u64 = 3;
const IMPORTED: u64 = 20;

/// Some number below `end`.
fn any(end: u64) -> u64 {
    RandomState::new().hash_one(()) % end
}

/// A command that writes keys, and the tokens it brings along.
struct Writer {
    child: Child,
    imports: Vec<String>,
}

impl Writer {
    fn start(site: &Site, number: u64) -> Self {
        let mut arguments = vec!["keys".to_owned()];
        let mut imports = Vec::new();
        if number.is_multiple_of(2) {
            arguments.extend(["create", "--name", "a key"].map(str::to_owned));
        } else {
            imports =
                (0..IMPORTED).map(|_| format!("{:016x}{:016x}{number:08x}", any(u64::MAX), any(u64::MAX))).collect();
            let file = site.path(&format!("tokens-{number}"));
            fs::write(&file, imports.join("\n")).expect("a file");
            arguments.extend(["import", "--tokens", &file.to_string_lossy()].map(str::to_owned));
        }
        arguments.extend(["-c", "keyward.toml", "--project", "acme", "--json"].map(str::to_owned));
        let mut command = site.command(arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
        Self { child, imports }
    }

    /// Kills it, and hands over the tokens that it had acknowledged.
    fn kill(mut self) -> Vec<String> {
        let _ended = self.child.kill();
        let output = self.child.wait_with_output().expect("its output");
        match serde_json::from_slice::<Value>(&output.stdout) {
            // Half an answer is none.
            Err(_) => Vec::new(),
            Ok(_) if !self.imports.is_empty() => self.imports,
            Ok(made) => vec![made["key"].as_str().expect("a token").to_owned()],
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "longer where it is asked for")]
fn no_acknowledged_key_is_lost_to_a_kill() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).sync("usage_flush = '1s'"));
    let longest = {
        let watch = Stopwatch::start();
        let _warm = site.key(&[]);
        u64::try_from(watch.elapsed().as_micros()).expect("a moment")
    };
    let kills = std::env::var("KEYWARD_SOAK_KILLS").map_or(KILLS, |kills| kills.parse().expect("a number of kills"));
    let mut gateway = site.start();
    let (mut tokens, mut number) = (Vec::new(), 0);
    for _ in 0..kills {
        let writers: Vec<Writer> = (0..WRITERS)
            .map(|_| {
                number += 1;
                Writer::start(&site, number)
            })
            .collect();
        // Anywhere in the life of the slowest.
        thread::sleep(Duration::from_micros(any(longest * WRITERS * 3 / 2)));
        let with_the_gateway = any(2) == 0;
        if with_the_gateway {
            gateway.kill();
        }
        tokens.extend(writers.into_iter().flat_map(Writer::kill));
        if with_the_gateway {
            gateway = site.start();
        }
    }
    gateway.kill();
    let file = Connection::open(site.path("data/keyward.db")).expect("the store opens");
    let whole: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a check");
    assert_eq!(whole, "ok");
    let half: i64 = file
        .query_row(
            "SELECT count(*) FROM keys k LEFT JOIN events e ON e.key_id = k.id WHERE e.revision IS NULL",
            [],
            |row| row.get(0),
        )
        .expect("a count");
    assert_eq!(half, 0, "a key without its event");
    drop(file);
    let gateway = site.start();
    let mut connection = gateway.connect(crate::harness::Http::One);
    for token in &tokens {
        assert_eq!(connection.send(get("/any/x").bearer(token)).status, 200, "an acknowledged key is lost");
    }
    assert!(!tokens.is_empty(), "every one of {number} commands was killed too early");
}

#[test]
fn no_acknowledged_revocation_is_lost_to_a_kill() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let keys: Vec<Key> = (0..3).map(|_| site.key(&[])).collect();
    for key in &keys {
        let mut gateway = site.start();
        let status = |gateway: &crate::harness::Gateway| gateway.send(get("/any/x").bearer(&key.token)).status;
        assert_eq!(status(&gateway), 200);
        site.revoke(key);
        until("the revocation", || status(&gateway) == 401);
        gateway.kill();
        let gateway = site.start();
        assert_eq!(status(&gateway), 401);
    }
}
