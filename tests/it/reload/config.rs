//! A new configuration is taken whole or not at all.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::harness::{Config, Gateway, Http, Site, Upstream, get, until};

fn status(gateway: &Gateway, path: &str) -> u16 {
    gateway.send(get(path)).status
}

const EXTRA: &str = "name = 'extra'\npath = '/extra'\npublic = true";

#[test]
fn a_new_route_is_served_after_a_hangup_signal() {
    let upstream = Upstream::start();
    let config = Config::in_front_of(&upstream);
    let site = Site::new(&config);
    let gateway = site.start();
    assert_eq!(status(&gateway, "/extra"), 404);
    site.write_config(&config.route(EXTRA));
    gateway.hang_up();
    until("the new route", || status(&gateway, "/extra") == 200);
}

#[test]
fn a_new_route_is_served_once_the_file_has_changed() {
    let upstream = Upstream::start();
    let config = Config::in_front_of(&upstream);
    let site = Site::new(&config);
    let gateway = site.start();
    assert_eq!(status(&gateway, "/extra"), 404);
    site.write_config(&config.route(EXTRA));
    until("the new route", || status(&gateway, "/extra") == 200);
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let upstream = Upstream::start();
    let config = Config::in_front_of(&upstream);
    let site = Site::new(&config);
    let gateway = site.start();
    let mark = gateway.log_mark();
    site.write_config(&config.clone().route(EXTRA).route("name = 'bad'\npath = 'no-slash'\npublic = true"));
    gateway.hang_up();
    gateway.until_logged(mark, "keyward.toml:");
    assert_eq!((status(&gateway, "/extra"), status(&gateway, "/public/x")), (404, 200));

    site.write_config(&config.route(EXTRA));
    gateway.hang_up();
    until("the good file", || status(&gateway, "/extra") == 200);
}

#[test]
fn what_needs_a_restart_is_refused_whole_and_named() {
    let upstream = Upstream::start();
    let config = Config::in_front_of(&upstream);
    let site = Site::new(&config);
    let gateway = site.start();
    let mark = gateway.log_mark();
    let text = config.route(EXTRA).to_toml().replace("workers = 2", "workers = 1");
    site.replace("keyward.toml", &text);
    gateway.hang_up();
    gateway.until_logged(mark, "workers");
    assert_eq!(status(&gateway, "/extra"), 404);
}

#[test]
fn reloads_under_a_burst_of_requests_lose_none() {
    let upstream = Upstream::start();
    let config = Config::in_front_of(&upstream);
    let site = Site::new(&config);
    let key = site.key(&["keyring.read"]);
    let gateway = site.start();
    let (done, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for http in [Http::One, Http::One, Http::Two] {
            let (gateway, key, done, sent) = (&gateway, &key, &done, &sent);
            scope.spawn(move || {
                let mut connection = gateway.connect(http);
                while !done.load(Ordering::SeqCst) {
                    let answer = connection.send(get("/keyrings/comms").bearer(&key.token));
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 0..20 {
            let extra = format!("name = 'extra'\npath = '/extra-{round}'\npublic = true");
            site.write_config(&config.clone().route(&extra));
            gateway.hang_up();
            until("the new route", || status(&gateway, &format!("/extra-{round}")) == 200);
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(sent.into_inner() > 20);
}

#[test]
fn reloads_under_load_by_wrk_fail_no_request() {
    let upstream = Upstream::start();
    let config = Config::in_front_of(&upstream);
    let site = Site::new(&config);
    let key = site.key(&["keyring.read"]);
    let gateway = site.start();
    let mut wrk = Command::new("wrk")
        .args(["--threads", "1", "--connections", "16", "--duration", "4s", "--timeout", "5s"])
        .args(["--header", &format!("Authorization: Bearer {}", key.token)])
        .arg(format!("http://{}/keyrings/comms", gateway.address()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("wrk is installed: `make tools`");
    upstream.until_begun(16);
    let mut reloads = 0;
    while wrk.try_wait().expect("a child process").is_none() {
        let extra = format!("name = 'extra'\npath = '/extra-{reloads}'\npublic = true");
        site.write_config(&config.clone().route(&extra));
        gateway.hang_up();
        until("the new route", || status(&gateway, &format!("/extra-{reloads}")) == 200);
        reloads += 1;
    }
    let output = wrk.wait_with_output().expect("a child process");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("requests in"), "{said}");
    // wrk prints these lines only where there was such a thing.
    assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "after {reloads} reloads:\n{said}");
    assert!(reloads > 3, "only {reloads} reloads");
}
