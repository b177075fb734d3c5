//! Who is waited for, and from when on not any more.

use super::{Fleet, go_on, status, stop};
use crate::harness::{Config, Upstream, get, until};

#[test]
fn a_gateway_that_was_killed_is_waited_for_until_it_is_back() {
    let upstream = Upstream::start();
    let mut fleet = Fleet::of(2, &Config::in_front_of(&upstream));
    let key = fleet.key();
    let id = fleet.id_of(fleet.gateways[1].process());
    fleet.gateways[1].kill();
    let done = fleet.revoke(&key, "300ms");
    assert!(done.code == Some(1) && done.stderr.contains(&id), "{done:?}");
    fleet.gateways[1] = fleet.start(1);
    let again = fleet.revoke(&key, "20s");
    assert_eq!((again.code, status(&fleet.gateways[1], &key)), (Some(0), 401), "{again:?}");
    assert_eq!(fleet.id_of(fleet.gateways[1].process()), id, "the process is another, the gateway is the same");
    assert_eq!(fleet.listed().len(), 2);
}

#[test]
fn a_gateway_that_was_killed_is_waited_for_until_it_is_forgotten() {
    let upstream = Upstream::start();
    let mut fleet = Fleet::of(2, &Config::in_front_of(&upstream));
    let key = fleet.key();
    let id = fleet.id_of(fleet.gateways[1].process());
    fleet.gateways[1].kill();
    assert_eq!(fleet.revoke(&key, "100ms").code, Some(1));
    let forget = |id: &str| fleet.site.try_run(["gateways", "forget", "-c", "keyward.toml", id]);
    assert_eq!(forget(&id).code, Some(0));
    assert_eq!((fleet.revoke(&key, "20s").code, fleet.listed().len()), (Some(0), 1));
    let unknown = forget(&id);
    assert!(unknown.code == Some(1) && unknown.stderr.contains("no gateway gw_"), "{unknown:?}");
    assert_eq!(forget("somebody").code, Some(2));
}

#[test]
fn a_gateway_that_is_forgotten_while_it_runs_is_waited_for_again() {
    let upstream = Upstream::start();
    let fleet = Fleet::of(1, &Config::in_front_of(&upstream));
    let id = fleet.id_of(fleet.gateways[0].process());
    let mark = fleet.gateways[0].log_mark();
    fleet.site.run(["gateways", "forget", "-c", "keyward.toml", &id]);
    fleet.gateways[0].until_logged(mark, "the store had forgotten this gateway");
    assert_eq!(fleet.id_of(fleet.gateways[0].process()), id);
}

#[test]
fn a_gateway_that_was_stopped_leaves_with_its_last_request() {
    let upstream = Upstream::start();
    let mut fleet = Fleet::of(2, &Config::in_front_of(&upstream));
    let key = fleet.key();
    fleet.gateways[1].terminate();
    assert!(fleet.gateways[1].ended().success());
    assert_eq!(fleet.listed().len(), 1);
    let done = fleet.revoke(&key, "20s");
    assert!(done.code == Some(0) && done.stdout.ends_with("in force on the only gateway\n"), "{done:?}");
    let left = fleet.site.files().into_iter().any(|file| {
        let of_second = file.parent().is_some_and(|folder| folder.ends_with("1.state"));
        of_second && file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("process."))
    });
    assert!(!left, "nothing says that it runs");
}

#[test]
fn a_gateway_that_refuses_everything_by_itself_is_waited_for_no_longer() {
    let upstream = Upstream::start();
    let serves = Config::in_front_of(&upstream).sync("poll = '100ms'").sync("max_staleness = '1s'");
    let denies = serves.clone().sync("on_stale = 'deny'");
    let fleet = Fleet::of_each(&[serves, denies]);
    let key = fleet.key();
    let (serving, denying) = (fleet.gateways[0].process(), fleet.gateways[1].process());
    assert_eq!(fleet.listed_as(denying)["on_stale"], "deny");
    stop(denying);
    assert_eq!(fleet.revoke(&key, "100ms").code, Some(1), "it was just heard");
    let done = fleet.revoke(&key, "20s");
    assert_eq!((done.code, &fleet.listed_as(denying)["state"]), (Some(0), &"stale".into()), "{done:?}");
    go_on(denying);
    // The first thing that it does.
    assert_ne!(status(&fleet.gateways[1], &key), 200);
    until("it is back", || fleet.listed_as(denying)["state"] == "current");
    assert_eq!(fleet.gateways[1].send(get("/public/x")).status, 200);
    // One that goes on serving is never given up, however short its patience.
    let other = fleet.site.key(&[]);
    stop(serving);
    assert_eq!(fleet.revoke(&other, "2500ms").code, Some(1));
    go_on(serving);
}
