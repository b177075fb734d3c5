//! How long after its commit by the command line a revocation is enforced.
//!
//! `KEYWARD_SOAK_REVOCATIONS` says how many are measured; the suite measures a few.

use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::Duration;

use keyward::clock::{Clock, SystemClock};
use rusqlite::Connection;

use crate::harness::{Config, Http, Site, Upstream, get, until};

const REVOCATIONS: usize = 10;
const ENFORCED_WITHIN: Duration = Duration::from_millis(200);

#[test]
#[expect(clippy::disallowed_methods, reason = "longer where it is asked for")]
fn a_revocation_is_enforced_within_200_ms_of_its_commit() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let count = std::env::var("KEYWARD_SOAK_REVOCATIONS")
        .map_or(REVOCATIONS, |count| count.parse().expect("a number of revocations"));
    let tokens: Vec<String> = (0..count).map(|number| format!("a-token-of-another-house-{number:016}")).collect();
    let mut lines = String::new();
    tokens.iter().for_each(|token| writeln!(lines, "{token}").expect("text grows"));
    fs::write(site.path("tokens"), lines).expect("a file");
    site.keys(&["import", "--tokens", "tokens", "--project", "acme", "--allow-weak"]);
    let file = Connection::open(site.path("data/keyward.db")).expect("the store opens");
    let mut statement =
        file.prepare("SELECT lower(hex(id)) FROM keys WHERE format = 'imported' ORDER BY number").expect("SQL");
    let ids: Vec<String> =
        statement.query_map([], |row| row.get(0)).and_then(Iterator::collect).expect("the ids of the keys");
    let gateway = site.start();
    let clock = SystemClock::default();
    let mut delays: Vec<Duration> = tokens
        .iter()
        .zip(&ids)
        .map(|(token, id)| {
            let mut connection = gateway.connect(Http::One);
            assert_eq!(connection.send(get("/any/x").bearer(token)).status, 200);
            let enforced_at = thread::scope(|scope| {
                let revoking = scope.spawn(|| site.keys(&["revoke", &format!("key_{id}")]));
                until("the revocation", || connection.send(get("/any/x").bearer(token)).status == 401);
                let enforced_at = clock.now();
                revoking.join().expect("the command");
                enforced_at
            });
            // Read just before the commit, and so a little more than what is asked for.
            let revoked_at: i64 = file
                .query_row("SELECT revoked_at FROM keys WHERE lower(hex(id)) = ?1", [id], |row| row.get(0))
                .expect("the moment");
            Duration::from_nanos(u64::try_from(enforced_at.nanos() - revoked_at).unwrap_or(0))
        })
        .collect();
    delays.sort_unstable();
    let (half, nearly_all) = (delays[count / 2], delays[(count * 99 / 100).min(count - 1)]);
    println!("{count} revocations: enforced after {half:?} (p50), {nearly_all:?} (p99)");
    assert!(half < ENFORCED_WITHIN, "half of them took {half:?} or more");
    if count >= 100 {
        assert!(nearly_all < ENFORCED_WITHIN, "p99 is {nearly_all:?}");
    }
}
