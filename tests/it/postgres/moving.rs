//! Moving a store of one file into a server that many gateways share.

use std::process::Command;

use crate::harness::{Care, Cluster, Config, Site, Upstream, client, get, until, version_of};

#[test]
fn a_gateway_on_a_copy_serves_the_same_keys() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Fast));
    let site = Site::new(&Config::in_front_of(&upstream));
    let (kept, gone) = (site.key(&["keyring.read"]), site.key(&["keyring.read"]));
    site.revoke(&gone);

    let from = format!("sqlite://{}", site.path("data/keyward.db").display());
    let copy = ["store", "copy", "--from", &from, "--to", &cluster.url(), "--json"];
    let copied = site.run(copy).json();
    assert!(copied["rows"].as_u64() > Some(3) && copied["rows"] == copied["written"], "{copied}");
    let again = site.try_run(copy);
    assert!(again.code != Some(0) && again.stderr.contains("nothing was copied"), "{again:?}");

    // The same secret and state, and another store.
    site.write_config(&Config::in_front_of(&upstream).postgres(&cluster.url(), ""));
    site.hide_store();
    let gateway = site.start();
    let status = |token: &str| gateway.send(get("/keyrings/a").bearer(token)).status;
    assert_eq!((status(&kept.token), status(&gone.token)), (200, 401));
    let made = site.key(&["keyring.read"]);
    assert_eq!(status(&made.token), 200, "it goes on like any other");
    site.revoke(&kept);
    until("the revocation", || status(&kept.token) == 401);

    // And back, with what was changed since.
    let back = format!("sqlite://{}", site.path("back.db").display());
    site.run(["store", "copy", "--from", "keyward.toml", "--to", &back]);
    let dry = site.run(["store", "accept-restore", "-c", "keyward.toml", "--dry-run"]);
    assert_eq!(dry.code, Some(0), "{dry:?}");
}

#[test]
fn a_dump_that_is_restored_revives_no_key_until_somebody_accepts_it() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Fast));
    if version_of(&client("pg_dump")) < cluster.version() {
        eprintln!("left out: a dump of PostgreSQL {} wants a pg_dump of that version", cluster.version());
        return;
    }
    let site = Site::new(&Config::in_front_of(&upstream).postgres(&cluster.url(), ""));
    let gateway = site.start();
    let (key, other) = (site.key(&["keyring.read"]), site.key(&["keyring.read"]));
    let status = |token: &str| gateway.send(get("/keyrings/a").bearer(token)).status;
    // As docs/OPERATIONS.md says.
    let dump = site.path("keyward.dump");
    let file = format!("--file={}", dump.display());
    tool("pg_dump", &["--format=custom", "--schema=keyward", &file, &cluster.url()]);
    site.revoke(&key);
    until("the revocation", || status(&key.token) == 401);

    let into = format!("--dbname={}", cluster.url());
    let dump = dump.display().to_string();
    let restore = ["--clean", "--if-exists", "--single-transaction", &into, &dump];
    // What reads just then may be in its way: it is told so, and nothing has changed.
    until("a restore that meets nobody", || match run("pg_restore", &restore) {
        Ok(()) => true,
        Err(said) => {
            assert!(said.contains("deadlock detected"), "{said}");
            false
        }
    });
    let again = "SELECT count(*) FROM keyward.keys WHERE revoked";
    until("the gateway to revoke it again", || cluster.sql(again) == "1");
    assert_eq!((status(&key.token), status(&other.token)), (401, 200));
    site.run(["store", "accept-restore", "-c", "keyward.toml"]);
    until("the key that the backup has", || status(&key.token) == 200);
    assert_eq!(status(&site.key(&["keyring.read"]).token), 200, "it goes on like any other");
}

/// Runs one of the server's own tools, which must succeed.
fn tool(name: &str, arguments: &[&str]) {
    let ran = run(name, arguments);
    assert!(ran.is_ok(), "{name}: {ran:?}");
}

/// Runs one of the server's own tools; what it said where it failed.
fn run(name: &str, arguments: &[&str]) -> Result<(), String> {
    let ran = Command::new(client(name)).args(arguments).output().expect("it is installed");
    if ran.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&ran.stderr).into_owned()) }
}
