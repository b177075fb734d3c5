//! The disk that a gateway keeps its state on is full, or what it holds is damaged: nothing stops for that, it is said
//! loudly, and nothing is started from that is not whole.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Resource, Rlimit, prlimit};

use super::nodes::{Nodes, status};
use crate::harness::{Care, Cluster, Config, Gateway, Site, Stopwatch, Upstream, delete, get, until};

/// Serves in a process whose writes fail, and do not kill it, where a file would become too long.
fn start_limited(site: &Site) -> Gateway {
    let serve = site.command(["serve", "-c", "keyward.toml"]);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(serve.get_program()).args(serve.get_args());
    command.current_dir(serve.get_current_dir().expect("it has a folder"));
    for (name, _removed) in serve.get_envs() {
        command.env_remove(name);
    }
    Gateway::start_by(site, command)
}

/// From here on no file of a gateway may become longer than this.
fn limit(gateway: &Gateway, bytes: Option<u64>) {
    prlimit(Some(gateway.process()), Resource::Fsize, Rlimit { current: bytes, maximum: None }).expect("our own child");
}

fn snapshots(site: &Site) -> Vec<PathBuf> {
    let is_one = |file: &PathBuf| {
        let name = file.file_name().expect("a file").to_string_lossy();
        name.starts_with("snapshot.") && !name.ends_with(".new")
    };
    site.files().into_iter().filter(is_one).collect()
}

/// How often something failed, by a gateway's metrics.
fn counted(gateway: &Gateway, name: &str) -> u64 {
    let page = gateway.metrics();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
}

#[test]
fn a_snapshot_for_which_there_is_no_room_leaves_the_last_one_and_the_journal() {
    let (upstream, mut cluster) = (Upstream::start(), Cluster::start(Care::Durable));
    let site = Site::new(&Config::in_front_of(&upstream).postgres(&cluster.url(), "connect_timeout = '1s'").admin());
    let tokens: String =
        (0..400).map(|number| format!("imported-{number:060}-9f86d081884c7d659a2feaa0c55ad015\n")).collect();
    fs::write(site.path("tokens"), &tokens).expect("a file");
    site.keys(&["import", "--project", "acme", "--tokens", "tokens", "--allow-weak"]);
    let (kept, revoked) = (site.key(&[]), site.key(&[]));
    let mut gateway = site.start();
    gateway.terminate();
    assert!(gateway.ended().success());
    let before = snapshots(&site);
    let smallest = before.iter().map(|file| fs::metadata(file).expect("a file").len()).min().expect("a snapshot");

    let mut gateway = start_limited(&site);
    limit(&gateway, Some(smallest / 2));
    until("that it fails", || counted(&gateway, "keyward_snapshot_failures_total") > 0);
    gateway.until_logged(0, "a snapshot could not be written");
    let answer = gateway.api(delete(&format!("/v1/api-keys/{}?wait=10s", revoked.id)).bearer(site.operator()));
    assert_eq!((answer.status, answer.header("keyward-confirmed")), (204, Some("all")), "the journal has room");
    assert_eq!((status(&gateway, &kept.token), status(&gateway, &revoked.token)), (200, 401));
    assert_eq!(gateway.ops("/readyz").status, 200);
    gateway.kill();

    // What was confirmed is remembered.
    cluster.kill();
    let watch = Stopwatch::start();
    let gateway = site.start();
    eprintln!("serving from snapshot and journal after {:?}", watch.elapsed());
    assert_eq!((status(&gateway, &kept.token), status(&gateway, &revoked.token)), (200, 401));
}

#[test]
fn what_cannot_be_written_down_is_enforced_and_not_confirmed() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Fast));
    let site = Site::new(&Config::in_front_of(&upstream).postgres(&cluster.url(), "").admin());
    let (kept, revoked) = (site.key(&[]), site.key(&[]));
    let gateway = start_limited(&site);
    until("a snapshot", || !snapshots(&site).is_empty());
    limit(&gateway, Some(0));
    let answer = gateway.api(delete(&format!("/v1/api-keys/{}?wait=1s", revoked.id)).bearer(site.operator()));
    assert_eq!((answer.status, answer.header("keyward-confirmed")), (204, Some("partial")));
    assert_eq!((status(&gateway, &kept.token), status(&gateway, &revoked.token)), (200, 401));
    gateway.until_logged(0, "changes are enforced but not reported as applied");
    assert!(counted(&gateway, "keyward_divergence_alarms_total{kind=\"journal\"}") > 0);

    limit(&gateway, None);
    let revision = answer.header("keyward-revision").expect("a revision").to_owned();
    until("the confirmation", || {
        let told = gateway.api(get(&format!("/v1/revisions/{revision}")).bearer(site.operator()));
        told.json()["confirmed"] == serde_json::json!(true)
    });
}

#[test]
fn a_damaged_snapshot_is_an_alarm_and_the_store_is_read() {
    let (upstream, mut cluster) = (Upstream::start(), Cluster::start(Care::Durable));
    let mut nodes = Nodes::start(1, &upstream, &cluster, |config| config);
    let (kept, revoked) = (nodes.known_key(), nodes.known_key());
    nodes.revoke(0, &revoked);
    let node = &mut nodes.nodes[0];
    node.gateway.terminate();
    assert!(node.gateway.ended().success());
    let damaged = snapshots(&node.site);
    assert!(!damaged.is_empty());
    for file in &damaged {
        let mut bytes = fs::read(file).expect("a file");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes).expect("a file");
    }
    let alarms = |gateway: &Gateway| {
        gateway.until_logged(0, "its authentication code is wrong");
        counted(gateway, "keyward_divergence_alarms_total{kind=\"state\"}")
    };

    // With the server down nothing can be told of anybody.
    cluster.kill();
    node.gateway = node.site.start_unready();
    let send = || node.gateway.send(get("/any/x").bearer(&kept.token));
    assert_eq!((send().status, send().code().as_str()), (503, "not_ready"));
    assert_eq!((node.gateway.ops("/livez").status, node.gateway.ops("/readyz").status), (200, 503));
    assert_eq!(alarms(&node.gateway), 1);
    // Nor by the next, whatever this one leaves behind.
    node.gateway.terminate();
    assert!(node.gateway.ended().success());
    node.gateway = node.site.start_unready();
    let send = || node.gateway.send(get("/any/x").bearer(&kept.token));
    assert_eq!((send().status, send().code().as_str()), (503, "not_ready"));
    cluster.restart();
    until("the store", || send().status == 200);
    assert_eq!((status(&node.gateway, &revoked.token), node.gateway.ops("/readyz").status), (401, 200));
    // It has written another, and none of it is of the damaged ones.
    until("a snapshot", || snapshots(&node.site).iter().any(|file| !damaged.contains(file)));
    node.gateway.kill();
    cluster.kill();
    let watch = Stopwatch::start();
    node.gateway = node.site.start();
    eprintln!("serving from the new snapshot after {:?}", watch.elapsed());
    assert_eq!((status(&node.gateway, &kept.token), status(&node.gateway, &revoked.token)), (200, 401));
    node.gateway.kill();
    cluster.restart();

    // With the server up nobody sees a difference.
    for file in snapshots(&node.site) {
        fs::write(file, "no snapshot at all").expect("a file");
    }
    node.gateway = node.site.start();
    assert_eq!((status(&node.gateway, &kept.token), status(&node.gateway, &revoked.token)), (200, 401));
    assert_eq!(alarms(&node.gateway), 1);
}

#[test]
fn older_state_that_was_put_back_is_served_by_no_start_without_the_store() {
    let (upstream, mut cluster) = (Upstream::start(), Cluster::start(Care::Durable));
    let mut nodes = Nodes::start(1, &upstream, &cluster, |config| config);
    let (kept, revoked) = (nodes.known_key(), nodes.known_key());
    let stop = |gateway: &mut Gateway| {
        gateway.terminate();
        assert!(gateway.ended().success());
    };
    let state = nodes.nodes[0].site.path("keyward.state");
    let is_kept = |name: &str| name.starts_with("snapshot.") || name.starts_with("journal.");
    let files = || {
        let names = fs::read_dir(&state).expect("a folder").map(|entry| entry.expect("a file").file_name());
        names.map(|name| name.into_string().expect("text")).filter(|name| is_kept(name)).collect::<Vec<_>>()
    };
    stop(&mut nodes.nodes[0].gateway);
    let older: Vec<_> =
        files().into_iter().map(|name| (name.clone(), fs::read(state.join(name)).expect("a file"))).collect();
    nodes.nodes[0].gateway = nodes.nodes[0].site.start();
    nodes.revoke(0, &revoked);
    stop(&mut nodes.nodes[0].gateway);
    for name in files() {
        fs::remove_file(state.join(name)).expect("a file");
    }
    for (name, bytes) in &older {
        fs::write(state.join(name), bytes).expect("a file");
    }

    cluster.kill();
    let node = &mut nodes.nodes[0];
    for _ in 0..2 {
        node.gateway = node.site.start_unready();
        node.gateway.until_logged(0, "it is older than the high-water file says");
        let answer = node.gateway.send(get("/any/x").bearer(&revoked.token));
        assert_eq!((answer.status, answer.code().as_str()), (503, "not_ready"));
        stop(&mut node.gateway);
    }
    cluster.restart();
    node.gateway = node.site.start();
    assert_eq!((status(&node.gateway, &kept.token), status(&node.gateway, &revoked.token)), (200, 401));
}
