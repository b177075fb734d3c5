//! Several targets: turns, load, and targets that fail.

use std::thread;

use super::peer::tally;
use super::sum;
use crate::harness::{Config, Gate, Gateway, Http, Reply, Site, Upstream, get, post, until};

fn named(name: &'static str) -> Upstream {
    Upstream::answering(move |_request| Reply::text(name))
}

fn site(targets: &[&Upstream], more: &str) -> Site {
    let targets: Vec<_> = targets.iter().map(|target| format!("'http://{}'", target.address())).collect();
    Site::new(&Config::towards(&format!("targets = [{}]\n{more}", targets.join(", "))).gateway_workers(1))
}

fn answers(gateway: &Gateway, count: usize) -> Vec<String> {
    let mut connection = gateway.connect(Http::One);
    (0..count).map(|_| connection.send(get("/public/x")).text()).collect()
}

#[test]
fn targets_take_turns() {
    let (one, two, three) = (named("one"), named("two"), named("three"));
    let site = site(&[&one, &two, &three], "");
    let counts = tally(answers(&site.start(), 30));
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [10, 10, 10], "{counts:?}");
}

#[test]
fn the_target_with_the_fewest_requests_is_next() {
    let gate = Gate::closed();
    let held = gate.clone();
    let slow = Upstream::answering(move |_request| Reply::text("slow").behind(&held));
    let fast = named("fast");
    let site = site(&[&slow, &fast], "balance = 'least_requests'");
    let gateway = site.start();
    thread::scope(|scope| {
        // One of two goes to the slow one, and stays there.
        let waiting: Vec<_> = (0..2).map(|_| scope.spawn(|| gateway.send(get("/public/x")).text())).collect();
        slow.until_begun(1);
        // The other has been answered: it is no load any more.
        until("the one at the fast one", || waiting.iter().filter(|call| call.is_finished()).count() == 1);
        assert_eq!(tally(answers(&gateway, 20)).len(), 1);
        gate.open();
        for call in waiting {
            call.join().expect("a call");
        }
    });
    assert_eq!(slow.count(), 1);
}

#[test]
fn a_target_that_refuses_is_passed_over_and_comes_back() {
    let live = named("live");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = gone.local_addr().expect("an address");
    drop(gone);
    let more = "ejection = { base = '300ms', max = '300ms' }";
    let service = format!("targets = ['http://{}', 'http://{address}']\n{more}", live.address());
    let site = Site::new(&Config::towards(&service).gateway_workers(1));
    let gateway = site.start();
    assert!(answers(&gateway, 20).iter().all(|answer| answer == "live"));
    let series = |name: &str| format!(r#"{name}{{upstream="service",target="{address}"}}"#);
    let metrics = gateway.metrics();
    assert!(sum(&metrics, &series("keyward_upstream_ejections_total")) >= 1.0, "{metrics}");
    let retried = sum(&metrics, r#"keyward_upstream_retries_total{upstream="service",reason="other_target"}"#);
    assert!((1.0..5.0).contains(&retried), "{retried}");
    let listener = std::net::TcpListener::bind(address).expect("the port is free again");
    let _back = super::peer::Peer::on(
        listener,
        None,
        std::sync::Arc::new(|stream, _number, seen| Box::pin(super::peer::h1_text(stream, seen))),
    );
    until("the target that came back", || answers(&gateway, 2).iter().any(|answer| answer == "http/1.1"));
    until("the metric that says so", || sum(&gateway.metrics(), &series("keyward_upstream_target_up")) == 1.0);
}

#[test]
fn a_target_that_breaks_off_again_and_again_is_ejected_but_never_all() {
    let (one, two) =
        (Upstream::answering(|_request| Reply::hang_up()), Upstream::answering(|_request| Reply::hang_up()));
    let site = site(&[&one, &two], "ejection = { failures = 3, base = '1m', share_max = 100 }");
    let gateway = site.start();
    let mut connection = gateway.connect(Http::One);
    for _ in 0..40 {
        assert_eq!(connection.send(post("/public/x")).status, 502);
    }
    let (fewer, more) = (one.count().min(two.count()), one.count().max(two.count()));
    assert!(fewer <= 4 && more >= 36, "{fewer} {more}");
    assert_eq!(sum(&gateway.metrics(), "keyward_upstream_ejections_total"), 1.0);
}
