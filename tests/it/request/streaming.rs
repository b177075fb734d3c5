//! Bodies larger than what the gateway may hold.

use std::thread;

use crate::harness::{Config, Gate, Http, Reply, Site, Upstream, get, post};

const LARGE: u64 = 256 << 20;
const RESIDENT_KIB_MAX: u64 = 64 << 10;

#[test]
fn large_bodies_stream_both_ways_in_little_memory() {
    let upstream = Upstream::answering(|request| match request.target.as_str() {
        "/any/down" => Reply::zeros(LARGE),
        _ => Reply::text(request.body.bytes.to_string()),
    });
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    for http in [Http::One, Http::Two] {
        let mut connection = gateway.connect(http);
        let up = connection.send(post("/any/up").bearer(&key.token).zeros(LARGE));
        assert_eq!(up.text(), LARGE.to_string(), "{http:?}");
        let down = connection.send(get("/any/down").bearer(&key.token));
        assert_eq!((down.body.bytes, down.body.broken), (LARGE, None), "{http:?}");
    }
    let most = gateway.resident_kib_max();
    assert!(most < RESIDENT_KIB_MAX, "{most} KiB resident");
}

#[test]
fn one_slow_answer_holds_up_no_other() {
    let gate = Gate::closed();
    let held = gate.clone();
    let upstream = Upstream::answering(move |request| match request.target.as_str() {
        "/any/slow" => Reply::text("at last").behind(&held),
        _ => Reply::text("at once"),
    });
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = site.key(&[]);
    let gateway = site.start();
    thread::scope(|scope| {
        let slow: Vec<_> =
            (0..8).map(|_| scope.spawn(|| gateway.send(get("/any/slow").bearer(&key.token)).text())).collect();
        upstream.until_begun(8);
        for _ in 0..8 {
            assert_eq!(gateway.send(get("/any/fast").bearer(&key.token)).text(), "at once");
        }
        gate.open();
        for answer in slow {
            assert_eq!(answer.join().expect("a slow call"), "at last");
        }
    });
}
