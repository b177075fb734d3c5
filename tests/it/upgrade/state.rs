//! The state folder goes with the sockets, and what is revoked meanwhile is refused by both.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Pid, getpriority_process};

use super::config;
use crate::harness::{EchoService, Http, Ran, Site, WebSocket, get, until};

fn assert_in_use(ran: &Ran) {
    assert_eq!(ran.code, Some(64), "{ran:?}");
    assert!(ran.stderr.contains("in use"), "{ran:?}");
}

#[test]
fn the_lock_of_the_state_folder_ends_up_with_the_new_process() {
    let service = EchoService::start();
    let site = Site::new(&config(&service));
    let mut gateway = site.start();
    let serve = ["serve", "-c", "keyward.toml"];
    assert_in_use(&site.try_run(serve));
    gateway.upgrade();
    assert_in_use(&site.try_run(serve));
    assert!(gateway.ended().success());
    assert_in_use(&site.try_run(serve));
    gateway.terminate();
    gateway.successor_ended();
    drop(site.start());
}

#[test]
fn a_revocation_is_enforced_by_the_old_process_and_the_new() {
    let service = EchoService::start();
    let site = Site::new(&config(&service));
    let (kept, revoked) = (site.key(&[]), site.key(&[]));
    let gateway = site.start();
    let mut old = WebSocket::open(gateway.address(), "/any/socket", &revoked.token);
    let mut stays = WebSocket::open(gateway.address(), "/any/socket", &kept.token);
    gateway.upgrade();
    let mut new = WebSocket::open(gateway.address(), "/any/socket", &revoked.token);
    assert!(old.echoes() && new.echoes());
    site.revoke(&revoked);
    old.until_cut();
    new.until_cut();
    assert!(stays.echoes(), "a key that is not revoked keeps its WebSocket");
    assert_eq!(gateway.send(get("/any/x").bearer(&revoked.token)).status, 401);
    assert_eq!(gateway.send(get("/any/x").bearer(&kept.token)).status, 200);
}

#[test]
fn revocations_while_processes_follow_each_other_are_enforced_at_once_and_outlive_them_all() {
    let service = EchoService::start();
    let site = Site::new(&config(&service));
    let keys: Vec<_> = (0..6).map(|_key| site.key(&[])).collect();
    let gateway = site.start();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (gateway, done) = (&gateway, &done);
        let upgrading = scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                gateway.upgrade();
            }
        });
        for key in &keys {
            let mut connection = gateway.connect(Http::One);
            assert_eq!(connection.send(get("/any/x").bearer(&key.token)).status, 200);
            site.revoke(key);
            // On connections old and new, whichever process has them.
            until("the revocation", || gateway.send(get("/any/x").bearer(&key.token)).status == 401);
        }
        done.store(true, Ordering::SeqCst);
        upgrading.join().expect("every upgrade is one");
    });
    // The last process remembers what all of them have seen.
    gateway.terminate();
    gateway.successor_ended();
    site.hide_store();
    let gateway = site.start();
    for key in &keys {
        assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 401);
    }
}

/// How nice the threads of this process are, by name.
fn niceness(process: Pid) -> BTreeMap<String, i32> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("its threads");
    let threads = threads.filter_map(|thread| {
        // One that has ended since has neither.
        let thread = thread.ok()?.path();
        let name = std::fs::read_to_string(thread.join("comm")).ok()?;
        let id = thread.file_name()?.to_str()?.parse().ok()?;
        Some((name.trim().to_owned(), getpriority_process(Pid::from_raw(id)).ok()?))
    });
    threads.collect()
}

#[test]
fn what_is_not_traffic_gives_way_and_an_upgrade_changes_nothing_of_that() {
    let service = EchoService::start();
    let site = Site::new(&config(&service));
    let gateway = site.start();
    let ours = getpriority_process(None).expect("there is this process");
    let check = || {
        let niceness = niceness(gateway.process());
        let workers = niceness.iter().filter(|(name, _)| name.starts_with("worker-"));
        assert!(workers.clone().count() > 0 && workers.clone().all(|(_, nice)| *nice == ours), "{niceness:?}");
        // Each once it runs.
        let nice = |name| self::niceness(gateway.process()).get(name) == Some(&(ours + 5).min(19));
        for name in ["sync", "keyward-store", "ops"] {
            until(&format!("{name} to give way"), || nice(name));
        }
    };
    check();
    gateway.upgrade();
    check();
}
