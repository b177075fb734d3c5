//! Waiting until a change is in force everywhere.

use super::{Fleet, go_on, status, stop};
use crate::harness::{Config, EchoService, Upstream, WebSocket, times, until};

fn sockets(service: &EchoService) -> Config {
    Config::to(service.address())
        .route("name = 'any'\npath = '/any/{*rest}'\nany_key = true\nupgrades = ['websocket']")
        .admin()
}

#[test]
fn what_is_confirmed_by_all_is_refused_by_all_from_that_moment_on() {
    let upstream = Upstream::start();
    let fleet = Fleet::of(3, &Config::in_front_of(&upstream));
    for _ in 0..times("KEYWARD_CONFIRMATIONS", 5) {
        let key = fleet.key();
        let done = fleet.revoke(&key, "20s");
        let answers: Vec<_> = fleet.gateways.iter().map(|gateway| status(gateway, &key)).collect();
        assert_eq!((done.code, answers.as_slice()), (Some(0), &[401; 3][..]), "{done:?}");
        assert!(done.stdout.ends_with("in force on all 3 gateways\n"), "{done:?}");
    }
}

#[test]
fn open_streams_are_cut_before_their_end_is_confirmed() {
    let service = EchoService::start();
    let fleet = Fleet::of(2, &sockets(&service));
    let (key, kept) = (fleet.site.key(&[]), fleet.site.key(&[]));
    let open = |key: &crate::harness::Key| {
        let open = |gateway: &crate::harness::Gateway| WebSocket::open(gateway.address(), "/any/x", &key.token);
        fleet.gateways.iter().map(open).collect::<Vec<_>>()
    };
    let (mut ending, mut staying) = (open(&key), open(&kept));
    assert!(ending.iter_mut().chain(&mut staying).all(WebSocket::echoes));
    let done = fleet.revoke(&key, "20s");
    assert_eq!(done.code, Some(0), "{done:?}");
    for gateway in &fleet.gateways {
        assert!(gateway.metrics().contains("keyward_streams_cut_total{reason=\"revoked\"} 1"), "{}", gateway.metrics());
    }
    ending.iter_mut().for_each(WebSocket::until_cut);
    assert!(staying.iter_mut().all(WebSocket::echoes));
}

#[test]
fn a_gateway_that_stands_still_is_named_until_it_goes_on() {
    let upstream = Upstream::start();
    let fleet = Fleet::of(3, &Config::in_front_of(&upstream));
    let key = fleet.key();
    let process = fleet.gateways[1].process();
    let id = fleet.id_of(process);
    until("it has told that it has the key", || fleet.listed_as(process)["lag_revisions"] == 0);
    stop(process);
    let done = fleet.revoke(&key, "700ms");
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stdout.starts_with("revoked key "), "the change is made: {done:?}");
    assert!(done.stderr.contains("is not confirmed by 1 of 3 gateways") && done.stderr.contains(&id), "{done:?}");
    let others = [0, 2].map(|number| fleet.id_of(fleet.gateways[number].process()));
    assert!(others.iter().all(|other| !done.stderr.contains(other)), "{done:?}");
    assert_eq!(fleet.listed_as(process)["lag_revisions"], 1);
    let told = fleet.site.try_run(["keys", "revoke", "-c", "keyward.toml", &key.id, "--wait", "0s", "--json"]);
    assert_eq!((told.code, &told.json()["confirmation"]["unconfirmed"][0]["id"]), (Some(1), &id.as_str().into()));
    // Also where nobody reads what it prints.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut unread = fleet.site.command(["keys", "revoke", "-c", "keyward.toml", &key.id, "--wait", "0s"]);
    assert_eq!(unread.stdout(writer).output().expect("the program starts").status.code(), Some(1));
    go_on(process);
    let again = fleet.revoke(&key, "20s");
    assert_eq!((again.code, status(&fleet.gateways[1], &key)), (Some(0), 401), "{again:?}");
    assert_eq!(fleet.listed_as(process)["state"], "current");
}

#[test]
fn other_changes_are_waited_for_too() {
    let upstream = Upstream::start();
    let fleet = Fleet::of(2, &Config::in_front_of(&upstream));
    let (switched, replaced) = (fleet.key(), fleet.key());
    let update = fleet.site.keys(&["update", &switched.id, "--disable", "--wait", "20s"]);
    assert!(update.stdout.ends_with("in force on all 2 gateways\n"), "{update:?}");
    assert!(fleet.gateways.iter().all(|gateway| status(gateway, &switched) == 401));
    let rotate = fleet.site.keys(&["rotate", &replaced.id, "--grace", "0s", "--wait", "20s"]);
    assert!(rotate.stdout.lines().last().is_some_and(|token| token.starts_with("kw_")), "the token stays last");
    assert!(fleet.gateways.iter().all(|gateway| status(gateway, &replaced) == 401));
}

#[test]
fn what_is_made_is_waited_for_and_works_everywhere() {
    let upstream = Upstream::start();
    let fleet = Fleet::of(2, &Config::in_front_of(&upstream));
    let create = ["create", "--project", "acme", "--name", "new", "--flag", "keyring.read", "--wait", "20s"];
    let made = fleet.site.keys(&create);
    let token = made.stdout.lines().last().expect("a token");
    let status = |gateway: &crate::harness::Gateway, token: &str| {
        gateway.send(crate::harness::get("/keyrings/a").bearer(token)).status
    };
    assert!(fleet.gateways.iter().all(|gateway| status(gateway, token) == 200), "{made:?}");
    let imported = "an-imported-token-of-thirty-two-letters-or-more-0123456789";
    std::fs::write(fleet.site.path("tokens"), imported).expect("a file");
    let import = ["import", "--project", "acme", "--flag", "keyring.read", "--tokens", "tokens", "--wait", "20s"];
    let taken = fleet.site.keys(&import);
    assert!(taken.stdout.ends_with("in force on all 2 gateways\n"), "{taken:?}");
    assert!(fleet.gateways.iter().all(|gateway| status(gateway, imported) == 200));
    stop(fleet.gateways[1].process());
    let late =
        ["keys", "create", "-c", "keyward.toml", "--project", "acme", "--name", "late", "--wait", "300ms", "--json"];
    let late = fleet.site.try_run(late);
    go_on(fleet.gateways[1].process());
    assert!(late.code == Some(1) && late.json()["key"].is_string(), "made, told and not confirmed: {late:?}");
    assert!(late.stderr.contains("is not confirmed by 1 of 2 gateways"), "{late:?}");
}

#[test]
fn with_no_gateway_there_is_nobody_to_wait_for() {
    let upstream = Upstream::start();
    let site = crate::harness::Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let done = site.keys(&["revoke", &key.id, "--wait", "5s"]);
    assert!(done.stdout.ends_with("in force: no gateway is running\n"), "{done:?}");
    assert_eq!(site.run(["gateways", "-c", "keyward.toml"]).stdout, "no gateway follows this store\n");
}

#[test]
fn the_list_says_how_far_each_has_come() {
    let upstream = Upstream::start();
    let fleet = Fleet::of(2, &Config::in_front_of(&upstream));
    let key = fleet.key();
    let revision = fleet.site.keys(&["revoke", &key.id, "--wait", "20s", "--json"]).json()["revision"].clone();
    for gateway in &fleet.gateways {
        let listed = fleet.listed_as(gateway.process());
        assert_eq!((&listed["state"], &listed["lag_revisions"]), (&"current".into(), &0.into()), "{listed}");
        assert_eq!((&listed["applied_revision"], &listed["streams_cut_revision"]), (&revision, &revision));
        assert_eq!((&listed["version"], &listed["on_stale"]), (&env!("CARGO_PKG_VERSION").into(), &"serve".into()));
        until("the revision in the metrics", || {
            gateway.metrics().contains(&format!("keyward_sync_reported_revision {revision}\n"))
        });
    }
    let table = fleet.site.run(["gateways", "list", "-c", "keyward.toml"]).stdout;
    assert!(table.starts_with("GATEWAY") && table.matches("current").count() == 2, "{table}");
    assert!(table.ends_with(&format!("The newest revision is {revision}.\n")), "{table}");
}
