//! The store as a whole: copied, backed up and restored, under running gateways.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rusqlite::Connection;
use serde_json::Value;

use crate::harness::{Config, Gateway, Key, Ran, Site, Upstream, get, until};

fn site(upstream: &Upstream) -> Site {
    Site::new(&Config::in_front_of(upstream).sync("poll = '200ms'"))
}

fn store(site: &Site, arguments: &[&str]) -> Ran {
    site.run(["store"].iter().chain(arguments))
}

fn status(gateway: &Gateway, key: &Key) -> u16 {
    gateway.send(get("/any/x").bearer(&key.token)).status
}

fn assert_refused(ran: &Ran, code: i32, told: &str) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert!(ran.stderr.lines().count() == 1 && ran.stderr.contains(told), "no {told:?} in {ran:?}");
}

/// Everything of a store, as its own commands tell it.
fn told(site: &Site, config: &str) -> [String; 3] {
    let run = |arguments: &[&str]| site.run(arguments.iter().chain(&["-c", config])).stdout;
    [run(&["keys", "export", "--hashes", "--json"]), run(&["users", "list", "--json"]), run(&["events", "--json"])]
}

#[test]
fn a_copied_store_is_the_same_and_gateways_go_on_with_it() {
    let upstream = Upstream::start();
    let site = site(&upstream);
    site.run(["users", "set", "ann", "--project", "acme", "-c", "keyward.toml"]);
    let (works, ended) = (site.key_with(&["--user", "ann", "--prop", "a=ü"]), site.key(&[]));
    let rotated = site.rotate(&works, "60m");
    site.revoke(&ended);
    let tokens: String = (0..600).map(|number| format!("a-token-of-another-house-{number:020}\n")).collect();
    fs::write(site.path("tokens"), tokens).expect("a file");
    site.keys(&["import", "--tokens", "tokens", "--project", "acme", "--allow-weak"]);
    let mut gateway = site.start();
    assert_eq!(status(&gateway, &works), 200);
    gateway.terminate();
    assert!(gateway.ended().success());

    let text = fs::read_to_string(site.path("keyward.toml")).expect("a file");
    fs::write(site.path("moved.toml"), text.replace("data/keyward.db", "moved/keyward.db")).expect("a file");
    let copied =
        store(&site, &["copy", "--from", "keyward.toml", "--to", "sqlite://moved/keyward.db", "--json"]).json();
    assert!(copied["rows"].as_u64().is_some_and(|rows| rows > 1200), "{copied}");
    assert_eq!(told(&site, "keyward.toml"), told(&site, "moved.toml"));
    let mode = fs::metadata(site.path("moved/keyward.db")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // The state folder remembers the store and where it stood: nothing is another history.
    fs::rename(site.path("moved.toml"), site.path("keyward.toml")).expect("a file");
    let gateway = site.start();
    assert_eq!((status(&gateway, &rotated), status(&gateway, &ended)), (200, 401));
    assert!(gateway.metrics().contains("keyward_divergence_alarms_total{kind=\"history\"} 0"));
    let new = site.key(&[]);
    until("a key of the copy", || status(&gateway, &new) == 200);
    assert!(!told(&site, "keyward.toml")[0].is_empty());

    let again = ["copy", "--from", "sqlite://data/keyward.db", "--to", "sqlite://moved/keyward.db"];
    assert_refused(&site.try_run(["store"].iter().chain(&again)), 1, "is this store already");
    let another = Site::new(&Config::in_front_of(&upstream));
    let other = format!("sqlite://{}", another.path("data/keyward.db").display());
    let onto = ["store", "copy", "--from", "sqlite://data/keyward.db", "--to", &other];
    assert_refused(&site.try_run(onto), 1, "holds another store");
    let itself = ["store", "copy", "--from", "keyward.toml", "--to", "sqlite://moved/keyward.db"];
    assert!(matches!(site.try_run(itself).code, Some(1 | 2)));
}

#[test]
fn a_copy_that_was_broken_off_is_no_store_and_goes_on_where_it_stopped() {
    let upstream = Upstream::start();
    let site = site(&upstream);
    let keys: Vec<Key> = (0..3).map(|_| site.key(&[])).collect();
    let text = fs::read_to_string(site.path("keyward.toml")).expect("a file");
    fs::write(site.path("moved.toml"), text.replace("data/keyward.db", "moved.db")).expect("a file");
    let copy = ["store", "copy", "--from", "sqlite://data/keyward.db", "--to", "sqlite://moved.db", "--json"];
    site.run(copy);
    // As it was before its last step, with a row that is wrong and two that are lacking.
    let half = Connection::open(site.path("moved.db")).expect("a store");
    let source: Vec<u8> = half.query_row("SELECT store_id FROM meta", [], |row| row.get(0)).expect("an id");
    half.execute("INSERT INTO copying (one, source) VALUES (1, ?1)", [&source]).expect("a row");
    half.execute_batch(
        "UPDATE meta SET store_id = randomblob(16); UPDATE counter SET revision = 0; DELETE FROM secrets;
         UPDATE keys SET name = 'wrong' WHERE number = 3; DELETE FROM events WHERE revision = 3;
         DELETE FROM keys WHERE number = 4; INSERT INTO users VALUES ('eve', NULL, '', 1, 0, 0, 0, 1, 0);",
    )
    .expect("rows");
    drop(half);
    let refused = site.try_run(["keys", "list", "-c", "moved.toml"]);
    assert_refused(&refused, 64, "is a copy that was not finished");
    let serve = site.try_run(["serve", "-c", "moved.toml"]);
    assert!(serve.code != Some(0) && serve.stderr.contains("not finished"), "{serve:?}");

    // Meanwhile the source moves on.
    site.revoke(&keys[0]);
    let copied = site.run(copy).json();
    assert_eq!(
        copied["written"],
        Value::from(7),
        "two lacking, one wrong, one too many, a revocation's three: {copied}"
    );
    assert_eq!(told(&site, "keyward.toml"), told(&site, "moved.toml"));
}

#[test]
fn a_backup_is_whole_private_and_made_beside_a_gateway() {
    let upstream = Upstream::start();
    let site = site(&upstream);
    let key = site.key(&[]);
    let gateway = site.start();
    assert_eq!(status(&gateway, &key), 200);
    let told = store(&site, &["backup", "-c", "keyward.toml", "backup.db"]).stdout;
    assert!(told.contains("at revision 2"), "{told}");
    let told = store(&site, &["backup", "-c", "keyward.toml", "second.db", "--json"]).json();
    assert_eq!(told, serde_json::json!({ "file": "second.db", "revision": 2 }));
    let told = store(&site, &["restore", "-c", "keyward.toml", "second.db", "--json"]).json();
    assert_eq!((&told["file"], told["revision"].is_u64()), (&"second.db".into(), true), "{told}");
    let asked = format!("http://{}/readyz", gateway.listener("ops"));
    let told = site.run(["health", "--url", &asked, "--json"]).json();
    assert_eq!(told, serde_json::json!({ "url": asked, "status": 200 }));
    let mode = fs::metadata(site.path("backup.db")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!site.path("backup.db.unfinished").exists());
    let again = site.try_run(["store", "backup", "-c", "keyward.toml", "backup.db"]);
    assert_refused(&again, 1, "is there already");
    assert_refused(&site.try_run(["store", "restore", "-c", "keyward.toml", "keyward.toml"]), 1, "keyward.toml");
    let itself = site.try_run(["store", "restore", "-c", "keyward.toml", "data/keyward.db"]);
    assert_refused(&itself, 1, "is the store itself");
    let other = Site::new(&Config::in_front_of(&upstream));
    other.run(["store", "backup", "-c", "keyward.toml", "backup.db"]);
    let other = other.path("backup.db");
    let other = other.to_str().expect("a plain path");
    assert_refused(&site.try_run(["store", "restore", "-c", "keyward.toml", other]), 1, "is of another store");

    // The whole store is lost, and made anew from the backup.
    drop(gateway);
    for file in ["keyward.db", "keyward.db-wal", "keyward.db-shm"] {
        let _absent = fs::remove_file(site.path("data").join(file));
    }
    store(&site, &["restore", "-c", "keyward.toml", "backup.db"]);
    assert_eq!(site.keys(&["show", &key.id, "--json"]).json()["status"], "active");
    assert_eq!(status(&site.start(), &key), 200);
}

/// SQLite knows a log by its name alone, so one that is left would be replayed into the next file of that name.
#[test]
fn a_log_that_was_left_is_not_replayed_into_a_restored_store() {
    let upstream = Upstream::start();
    let site = site(&upstream);
    let key = site.key(&[]);
    store(&site, &["backup", "-c", "keyward.toml", "backup.db"]);
    // As long as somebody has the store open, its log is not written back.
    let open = Connection::open(site.path("data/keyward.db")).expect("the store");
    let _one: i64 = open.query_row("SELECT revision FROM counter", [], |row| row.get(0)).expect("a revision");
    site.revoke(&key);
    let log = ["-wal", "-shm"].map(|suffix| (suffix, fs::read(site.path(&format!("data/keyward.db{suffix}")))));
    drop(open);
    fs::remove_file(site.path("data/keyward.db")).expect("the store");
    for (suffix, bytes) in log {
        let bytes = bytes.expect("a file beside the store");
        assert!(!bytes.is_empty());
        // Of the lost store, and of an attempt to restore that was killed.
        for name in ["data/keyward.db", "data/keyward.db.unfinished"] {
            fs::write(site.path(&format!("{name}{suffix}")), &bytes).expect("a file");
        }
    }
    store(&site, &["restore", "-c", "keyward.toml", "backup.db"]);
    assert_eq!(site.keys(&["show", &key.id, "--json"]).json()["status"], "active");
    let names = fs::read_dir(site.path("data")).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().contains("unfinished")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(status(&site.start(), &key), 200);
}

#[test]
fn a_restored_backup_revives_no_revoked_key_before_an_operator_accepts_it() {
    let upstream = Upstream::start();
    let site = site(&upstream);
    let user = |command: &str| site.run(["users", command, "-c", "keyward.toml", "ann"]);
    user("set");
    let (revoked, works, of_ann) = (site.key(&[]), site.key(&[]), site.key_with(&["--user", "ann"]));
    store(&site, &["backup", "-c", "keyward.toml", "backup.db"]);
    let gateway = site.start();
    site.revoke(&revoked);
    user("delete");
    let statuses = |gateway: &Gateway| [&revoked, &of_ann, &works].map(|key| status(gateway, key));
    until("the ends", || statuses(&gateway) == [401, 401, 200]);

    let mark = gateway.log_mark();
    store(&site, &["restore", "-c", "keyward.toml", "backup.db"]);
    gateway.until_logged(mark, "the store's history is another");
    gateway.until_logged(mark, "no longer has this key as revoked");
    gateway.until_logged(mark, "revoked in the store again");
    let metrics = gateway.metrics();
    assert!(metrics.contains("keyward_divergence_alarms_total{kind=\"taken_back\"} 3"), "{metrics}");
    let shown = |key: &Key| site.keys(&["show", &key.id, "--json"]).json()["status"].clone();
    until("the store to say it again", || shown(&revoked) == "revoked" && shown(&of_ann) == "revoked");
    assert_eq!(statuses(&gateway), [401, 401, 200]);

    let dry = store(&site, &["accept-restore", "-c", "keyward.toml", "--dry-run"]).stdout;
    assert!(dry.contains(&revoked.id) && dry.contains("user ann") && dry.contains("nothing was changed"), "{dry}");
    assert_eq!(statuses(&gateway), [401, 401, 200]);

    let mark = gateway.log_mark();
    let accepted = store(&site, &["accept-restore", "-c", "keyward.toml", "--json"]).json();
    assert_eq!(accepted["taken_back"].as_array().map(Vec::len), Some(3), "{accepted}");
    until("the keys of the backup", || statuses(&gateway) == [200, 200, 200]);
    gateway.until_logged(mark, "accepted by an operator");
    let events = site.run(["events", "-c", "keyward.toml", "--key", &revoked.id]).stdout;
    assert!(events.lines().last().is_some_and(|line| line.contains("restored=as before revision")), "{events}");

    // Once is once: the next restore of the same backup is not meant by that.
    site.revoke(&revoked);
    until("the end", || status(&gateway, &revoked) == 401);
    let mark = gateway.log_mark();
    store(&site, &["restore", "-c", "keyward.toml", "backup.db"]);
    gateway.until_logged(mark, "no longer has this key as revoked");
    gateway.until_logged(mark, "revoked in the store again");
    assert_eq!(statuses(&gateway), [401, 200, 200]);
}

#[test]
fn a_gateway_that_was_down_takes_an_accepted_backup_over_when_it_starts() {
    let upstream = Upstream::start();
    let site = site(&upstream);
    let key = site.key(&[]);
    store(&site, &["backup", "-c", "keyward.toml", "backup.db"]);
    let mut gateway = site.start();
    site.revoke(&key);
    until("the end", || status(&gateway, &key) == 401);
    gateway.terminate();
    assert!(gateway.ended().success());
    store(&site, &["restore", "-c", "keyward.toml", "backup.db"]);
    let told = store(&site, &["accept-restore", "-c", "keyward.toml"]).stdout;
    assert!(told.starts_with("accepted the restored store"), "{told}");
    let mut gateway = site.start();
    until("the key of the backup", || status(&gateway, &key) == 200);
    gateway.terminate();
    assert!(gateway.ended().success());
    // And again: what was accepted was taken over, and does not come up a second time.
    let gateway = site.start();
    assert_eq!(status(&gateway, &key), 200);
    assert!(gateway.metrics().contains("keyward_divergence_alarms_total{kind=\"history\"} 0"));
}
