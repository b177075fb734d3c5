//! Many reloads while requests come in: none fails, and each sees one configuration, whole.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use http::StatusCode;

use crate::harness::{Client, Config, Gateway, Http, Reply, Site, Upstream, get, times, until};

/// An upstream to which only paths of `word` may come.
fn upstream_of(word: &'static str) -> Upstream {
    Upstream::answering(move |request| {
        if request.target == format!("/{word}/x") {
            return Reply::text(word);
        }
        Reply::text("two configurations were mixed").status(StatusCode::IM_A_TEAPOT)
    })
}

/// Upstream and path belong together, and the route's name tells the round.
fn config_of(upstream: &Upstream, word: &str, round: usize) -> Config {
    Config::bare(upstream)
        .gateway("access_log = false")
        .route(&format!("name = 'whole'\npath = '/whole/x'\nany_key = true\nstrip_prefix = '/whole'\nrewrite_prefix = '/{word}'"))
        .route(&format!("name = 'round'\npath = '/round-{round}'\npublic = true\nstrip_prefix = '/round-{round}'\nrewrite_prefix = '/{word}/x'"))
}

fn is_round(gateway: &Gateway, round: usize) -> bool {
    gateway.send(get(&format!("/round-{round}"))).status != 404
}

#[test]
fn every_request_sees_one_whole_configuration_and_every_bad_file_is_refused() {
    let words = ["even", "odd"];
    let upstreams = words.map(upstream_of);
    let site = Site::new(&config_of(&upstreams[0], words[0], 0));
    let key = site.key(&[]);
    let gateway = site.start();
    let rounds = times("KEYWARD_TEST_RELOADS", 30);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = [Http::One, Http::One, Http::Two]
            .into_iter()
            .map(|http| {
                let (gateway, done, key) = (&gateway, &done, &key);
                scope.spawn(move || {
                    let (mut client, mut seen) = (Client::new(gateway, http), [0, 0]);
                    while !done.load(Ordering::SeqCst) {
                        let answer = client.send(&get("/whole/x").bearer(&key.token));
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        seen[usize::from(answer.text() == words[1])] += 1;
                    }
                    (client.opened, seen)
                })
            })
            .collect();
        for round in 1..=rounds {
            let which = round % 2;
            let good = config_of(&upstreams[which], words[which], round);
            let mark = gateway.log_mark();
            site.write_config(&good.clone().route("name = 'bad'\npath = 'no-slash'\npublic = true"));
            gateway.hang_up();
            gateway.until_logged(mark, "configuration not reloaded");
            assert!(is_round(&gateway, round - 1) && !is_round(&gateway, round), "a bad file changed something");
            site.write_config(&good);
            gateway.hang_up();
            until("the new round", || is_round(&gateway, round));
        }
        done.store(true, Ordering::SeqCst);
        for client in clients {
            let (opened, seen) = client.join().expect("no call failed");
            assert_eq!(opened, 1, "no connection is closed for a reload");
            assert!(seen.iter().all(|&count| count > 0), "{seen:?}");
        }
    });
}

#[test]
fn certificates_are_replaced_under_load_and_no_call_or_handshake_fails() {
    let upstream = Upstream::start();
    let mut site = Site::new(&Config::in_front_of(&upstream).gateway("access_log = false").tls());
    let gateway = site.start();
    let rounds = times("KEYWARD_TEST_RELOADS", 30);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = [Http::One, Http::Two]
            .into_iter()
            .map(|http| {
                let (gateway, done) = (&gateway, &done);
                scope.spawn(move || {
                    let mut client = Client::new(gateway, http);
                    while !done.load(Ordering::SeqCst) {
                        assert_eq!(client.send(&get("/public/x")).status, 200);
                    }
                    client.opened
                })
            })
            .collect();
        for _round in 0..rounds {
            let old = site.certificate().cloned().expect("a site with TLS");
            let mark = gateway.log_mark();
            let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
            site.replace("tls/key.pem", &other.signing_key.serialize_pem());
            gateway.hang_up();
            gateway.until_logged(mark, "configuration not reloaded");
            assert!(gateway.shows(&old), "a key without its certificate changed something");
            site.new_certificate();
            let new = site.certificate().cloned().expect("a site with TLS");
            gateway.hang_up();
            until("the new certificate", || gateway.shows(&new));
        }
        done.store(true, Ordering::SeqCst);
        for client in clients {
            assert_eq!(client.join().expect("no call failed"), 1, "no connection is closed for a certificate");
        }
    });
}
