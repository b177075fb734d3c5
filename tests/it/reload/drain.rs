//! A process that is asked to stop finishes what it has begun.

use std::thread;

use crate::harness::{Config, Gate, Http, Reply, Site, Stopwatch, Upstream, get, until};
use std::time::Duration;

#[test]
fn an_open_request_is_finished_and_no_new_one_is_taken() {
    let gate = Gate::closed();
    let held = gate.clone();
    let upstream = Upstream::answering(move |_request| Reply::text("finished").behind(&held));
    let site = Site::new(&Config::in_front_of(&upstream));
    let mut gateway = site.start();
    for_each_protocol(&gateway, &upstream, &gate);
    let status = gateway.ended();
    assert!(status.success(), "{status}\n{}", gateway.log());
    assert_eq!(gateway.stdout(), "", "serve prints nothing");
}

fn for_each_protocol(gateway: &crate::harness::Gateway, upstream: &Upstream, gate: &Gate) {
    thread::scope(|scope| {
        let open = [Http::One, Http::Two].map(|http| scope.spawn(move || gateway.connect(http).send(get("/public/x"))));
        upstream.until_begun(2);
        gateway.terminate();
        until("the listener to close", || !gateway.accepts());
        gate.open();
        for call in open {
            let answer = call.join().expect("an open call");
            assert_eq!((answer.status, answer.text().as_str()), (200, "finished"));
        }
    });
}

#[test]
fn an_idle_connection_does_not_hold_the_process_up() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let mut gateway = site.start();
    let mut idle = [gateway.connect(Http::One), gateway.connect(Http::Two)];
    for connection in &mut idle {
        assert_eq!(connection.send(get("/public/x")).status, 200);
    }
    gateway.terminate();
    let watch = Stopwatch::start();
    assert!(gateway.ended().success());
    assert!(watch.elapsed() < Duration::from_secs(5), "took {:?}", watch.elapsed());
    for connection in &mut idle {
        assert!(connection.is_closed_within(Duration::from_secs(5)));
    }
}
