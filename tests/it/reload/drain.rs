//! A process that is asked to stop finishes what it has begun.

use std::thread;
use std::time::Duration;

use crate::harness::{Config, EchoService, Gate, Http, Reply, Site, Stopwatch, Upstream, WebSocket, get, until};

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

/// Sends until the gateway has ended the connection by the rules of its protocol; how many
/// were answered.
fn send_until_told_to_leave(gateway: &crate::harness::Gateway, http: Http, pause: Duration) -> usize {
    let mut connection = gateway.connect(http);
    for sent in 0.. {
        match connection.try_send(get("/public/x")) {
            Ok(answer) => {
                assert_eq!((answer.status, answer.body.broken.as_deref()), (200, None));
                if answer.header("connection") == Some("close") {
                    return sent;
                }
            }
            // GOAWAY: not a byte of this call has left.
            Err(fault) if http == Http::Two && (fault.is_canceled() || fault.is_closed()) => return sent,
            Err(fault) => panic!("a call over {http:?} broke off after {sent}: {fault:?}"),
        }
        // A client that has something to say now and then.
        thread::sleep(pause);
    }
    unreachable!("the loop has no end of its own")
}

#[test]
fn a_stop_under_load_breaks_no_call_off_however_seldom_a_client_calls() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let mut gateway = site.start();
    thread::scope(|scope| {
        let gateway = &gateway;
        let clients: Vec<_> = (0..12)
            .map(|number| {
                let http = if number % 3 == 0 { Http::Two } else { Http::One };
                let pause = Duration::from_millis([0, 1, 20, 700][number % 4]);
                scope.spawn(move || send_until_told_to_leave(gateway, http, pause))
            })
            .collect();
        upstream.until_begun(500);
        gateway.terminate();
        let sent: usize = clients.into_iter().map(|client| client.join().expect("no call broke off")).sum();
        assert!(sent > 100, "only {sent} calls");
    });
    assert!(gateway.ended().success());
}

#[test]
fn a_websocket_goes_on_until_the_deadline_and_is_then_cut() {
    let service = EchoService::start();
    let config = Config::in_front_of_address(service.address())
        .gateway("timeouts.drain = '2s'")
        .route("name = 'socket'\npath = '/socket'\nany_key = true\nupgrades = ['websocket']");
    let site = Site::new(&config);
    let key = site.key(&[]);
    let mut gateway = site.start();
    let mut socket = WebSocket::open(gateway.address(), "/socket", &key.token);
    gateway.terminate();
    until("the listener to close", || !gateway.accepts());
    assert!(socket.echoes());
    let watch = Stopwatch::start();
    socket.until_cut();
    assert!(watch.elapsed() > Duration::from_millis(1000), "after {:?}", watch.elapsed());
    assert!(gateway.ended().success());
}

#[test]
fn load_balancers_are_told_before_the_listeners_close() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).gateway("timeouts.drain_delay = '3s'"));
    let mut gateway = site.start();
    assert_eq!(gateway.ops("/readyz").status, 200);
    gateway.terminate();
    until("readiness to be gone", || gateway.ops("/readyz").status == 503);
    let answer = gateway.send(get("/public/x"));
    assert_eq!((answer.status, answer.header("connection")), (200, None), "served as ever");
    until("the listener to close", || !gateway.accepts());
    assert!(gateway.ended().success());
}

#[test]
fn it_answers_for_itself_until_the_last_request_is_done_and_a_second_signal_waits_for_nothing() {
    let gate = Gate::closed();
    let held = gate.clone();
    let upstream = Upstream::answering(move |_request| Reply::text("never").behind(&held));
    let site = Site::new(&Config::in_front_of(&upstream));
    let mut gateway = site.start();
    thread::scope(|scope| {
        scope.spawn(|| assert!(gateway_call_breaks(&gateway)));
        upstream.until_begun(1);
        gateway.terminate();
        until("the listener to close", || !gateway.accepts());
        assert_eq!(gateway.ops("/readyz").status, 503);
        assert!(gateway.metrics().contains("keyward_"));
        gateway.terminate();
    });
    let watch = Stopwatch::start();
    assert!(gateway.ended().success());
    assert!(watch.elapsed() < Duration::from_secs(5), "took {:?}", watch.elapsed());
    gate.open();
}

fn gateway_call_breaks(gateway: &crate::harness::Gateway) -> bool {
    gateway.connect(Http::One).try_send(get("/public/x")).is_err()
}
