//! What stops the program from starting is said in a line, with what to do.

use std::fs;
use std::net::TcpListener;

use crate::harness::{Config, Ran, Site, Upstream};

fn assert_one_line(ran: &Ran, codes: &[i32], needles: &[&str]) {
    assert!(ran.code.is_some_and(|code| codes.contains(&code)), "{ran:?}");
    for needle in needles {
        assert!(ran.stderr.contains(needle), "no {needle:?} in {ran:?}");
    }
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
}

#[test]
fn ten_faults_are_ten_lines() {
    let upstream = Upstream::start();
    let config = Config::in_front_of(&upstream);
    let site = Site::new(&config);
    let mut bad = config;
    for number in 0..10 {
        bad = bad.route(&format!("name = 'bad-{number}'\npath = 'no-slash-{number}'\npublic = true"));
    }
    site.write_config(&bad);
    for command in ["check", "serve"] {
        let ran = site.try_run([command, "-c", "keyward.toml"]);
        assert_eq!(ran.code, Some(64), "{ran:?}");
        let said = format!("{}{}", ran.stdout, ran.stderr);
        for number in 0..10 {
            let lines: Vec<_> = said.lines().filter(|line| line.contains(&format!("no-slash-{number}"))).collect();
            assert!(lines.iter().any(|line| line.contains("keyward.toml:")), "fault {number} in {said}");
        }
    }
}

#[test]
fn a_port_in_use_is_named() {
    let upstream = Upstream::start();
    let config = Config::in_front_of(&upstream);
    let site = Site::new(&config);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a bound socket").to_string();
    let text = config.to_toml().replacen("127.0.0.1:0", &address, 1);
    site.replace("keyward.toml", &text);
    assert_one_line(&site.try_run(["serve", "-c", "keyward.toml"]), &[1, 64], &[&address]);
}

#[test]
fn a_missing_or_mismatched_certificate_is_named() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).tls());
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    site.replace("tls/key.pem", &other.signing_key.serialize_pem());
    let text = fs::read_to_string(site.path("keyward.toml")).expect("a file");
    let line = 1 + text.lines().position(|line| line.contains("chain")).expect("the pair is named");
    let named = |key: &str| format!("keyward.toml:{line}: gateway.tls.certificates[0].{key}: ");
    for command in ["check", "serve"] {
        let ran = site.try_run([command, "-c", "keyward.toml"]);
        assert_one_line(&ran, &[64], &["key.pem: the private key does not belong", &named("key")]);
    }
    fs::remove_file(site.path("tls/chain.pem")).expect("the file was there");
    for command in ["check", "serve"] {
        let ran = site.try_run([command, "-c", "keyward.toml"]);
        assert_one_line(&ran, &[64], &["chain.pem: no such file", &named("chain")]);
    }
}

#[test]
fn a_damaged_store_a_newer_one_and_a_wrong_secret_are_told_apart() {
    let upstream = Upstream::start();
    let config = Config::in_front_of(&upstream);
    let list = ["keys", "list", "-c", "keyward.toml"];

    let site = Site::new(&config);
    site.replace("data/master.secret", &format!("{}\n", "0123456789abcdef".repeat(4)));
    assert_one_line(&site.try_run(["serve", "-c", "keyward.toml"]), &[64], &["secret"]);

    let site = Site::new(&config);
    fs::write(site.path("data/keyward.db"), "this is no database, but it is long enough to look like one")
        .expect("a file");
    assert_one_line(&site.try_run(list), &[1, 64], &["keyward.db", "damaged"]);

    let site = Site::new(&config);
    let store = rusqlite::Connection::open(site.path("data/keyward.db")).expect("the store opens");
    store.pragma_update(None, "user_version", 9999).expect("the store is writable");
    drop(store);
    assert_one_line(&site.try_run(list), &[1, 64], &["keyward.db", "9999"]);
}
