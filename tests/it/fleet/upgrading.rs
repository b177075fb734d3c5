//! One binary after the other: as long as both let requests through, both are waited for.

use rustix::process::{Pid, Signal, kill_process};

use serde_json::Value;

use super::{Fleet, go_on, stop};
use crate::harness::{Config, EchoService, WebSocket, until};

/// A gateway whose old process goes on for a WebSocket's sake, and its process.
fn upgraded() -> (Fleet, WebSocket, Pid, EchoService) {
    let service = EchoService::start();
    let config = Config::to(service.address())
        .route("name = 'any'\npath = '/any/{*rest}'\nany_key = true\nupgrades = ['websocket']");
    let fleet = Fleet::of(1, &config);
    let key = fleet.site.key(&[]);
    let socket = WebSocket::open(fleet.gateways[0].address(), "/any/x", &key.token);
    let old = fleet.gateways[0].process();
    fleet.gateways[0].upgrade();
    (fleet, socket, old, service)
}

#[test]
fn both_processes_of_an_upgrade_are_waited_for_until_the_old_one_has_ended() {
    let (mut fleet, mut socket, old, _service) = upgraded();
    let new = fleet.gateways[0].process();
    assert!(socket.echoes());
    until("both in the list", || fleet.listed().len() == 2);
    assert_eq!(fleet.id_of(old), fleet.id_of(new));
    let key = fleet.key();
    let done = fleet.revoke(&key, "20s");
    assert!(done.code == Some(0) && done.stdout.ends_with("in force on the only gateway\n"), "{done:?}");
    for process in [old, new] {
        let key = fleet.key();
        stop(process);
        let done = fleet.revoke(&key, "300ms");
        let unconfirmed = format!("process {}:", process.as_raw_nonzero());
        assert!(done.code == Some(1) && done.stderr.contains(&unconfirmed), "{done:?}");
        go_on(process);
        assert_eq!(fleet.revoke(&key, "20s").code, Some(0));
    }
    drop(socket);
    assert!(fleet.gateways[0].ended().success());
    assert_eq!(fleet.listed().len(), 1);
    fleet.listed_as(new);
    fleet.gateways[0].terminate();
    fleet.gateways[0].successor_ended();
    assert_eq!(fleet.listed().len(), 0);
}

#[test]
fn an_old_process_that_is_killed_is_told_of_by_the_new_one() {
    let (fleet, _socket, old, _service) = upgraded();
    until("both in the list", || fleet.listed().len() == 2);
    kill_process(old, Signal::KILL).expect("a live process");
    until("the new one alone in the list", || fleet.listed().len() == 1);
    fleet.listed_as(fleet.gateways[0].process());
}

#[test]
fn an_old_process_that_still_serves_outlives_the_crash_of_the_new_one() {
    let (mut fleet, mut socket, old, _service) = upgraded();
    until("both in the list", || fleet.listed().len() == 2);
    let new = fleet.gateways[0].process();
    kill_process(new, Signal::KILL).expect("a live process");
    fleet.gateways[0].successor_ended();
    // The next finds the state folder free, and the old process running.
    let third = fleet.start(0);
    until("the old and the third in the list", || {
        let listed: Vec<_> = fleet.listed().iter().map(|listed| listed["pid"].clone()).collect();
        let expected = [old, third.process()].map(|process| Value::from(process.as_raw_nonzero().get()));
        listed == expected
    });
    assert!(socket.echoes());
    fleet.gateways.push(third);
}
