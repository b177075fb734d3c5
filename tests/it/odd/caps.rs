//! Too many, too slow: who comes honestly is served all the same.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::{Config, Gate, Gateway, Reply, Site, Stopwatch, Upstream, get, times, until};

fn connect(gateway: &Gateway) -> TcpStream {
    let stream = TcpStream::connect(gateway.address()).expect("the gateway accepts connections");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    stream
}

/// The value of a metric without labels of its own.
pub(super) fn metric(gateway: &Gateway, name: &str) -> u64 {
    let page = gateway.metrics();
    let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

#[test]
fn past_the_cap_of_open_requests_the_answer_is_503_and_comes_at_once() {
    let gate = Gate::closed();
    let held = gate.clone();
    let upstream = Upstream::answering(move |_request| Reply::text("late").behind(&held));
    let site = Site::new(&Config::in_front_of(&upstream).gateway("requests_max = 2"));
    let gateway = site.start();
    let mut open: Vec<_> = (0..2).map(|_| connect(&gateway)).collect();
    for stream in &mut open {
        stream.write_all(b"GET /public/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("a socket");
    }
    upstream.until_begun(2);
    let mut took = Vec::new();
    for _ in 0..50 {
        let watch = Stopwatch::start();
        let answer = gateway.raw("GET /public/x HTTP/1.1\r\nHost: a\r\n\r\n");
        took.push(watch.elapsed());
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"), "{answer}");
    }
    took.sort();
    assert!(took[25] < Duration::from_millis(10), "half of them took over {:?}", took[25]);
    assert_eq!(upstream.count(), 2);
    gate.open();
    for mut stream in open {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.ends_with("late"), "{answer}");
    }
    assert_eq!(gateway.send(get("/public/x")).status, 200);
}

#[test]
fn whoever_used_up_its_share_of_unknown_tokens_is_told_so_of_those_alone() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).gateway("failure_limit = { per_second = 1, burst = 5 }"));
    let (works, revoked) = (site.key(&[]), site.key(&[]));
    site.revoke(&revoked);
    let gateway = site.start();
    let ask = |token: &str| gateway.send(get("/any/x").bearer(token));
    for number in 0..19 {
        ask(&format!("unknown-{number}"));
    }
    let last = ask("unknown-19");
    assert_eq!((last.status, last.code().as_str()), (429, "too_many_failures"));
    assert_eq!(last.header("retry-after"), Some("1"));
    let known = |wanted: u16, token: &str| (0..20).all(|_| ask(token).status == wanted);
    assert!(known(200, &works.token) && known(401, &revoked.token));
    assert_eq!(ask("unknown-20").status, 429, "and nothing was given back");
}

#[test]
fn without_file_descriptors_it_neither_ends_nor_spins_and_comes_back() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).gateway("connections_max = 10000"));
    let gateway = site.start();
    assert_eq!(gateway.send(get("/public/x")).status, 200);
    gateway.leave_files(20);
    let crowd: Vec<_> = (0..200).map(|_| connect(&gateway)).collect();
    let (watch, before) = (Stopwatch::start(), gateway.cpu_ticks());
    until("a second in the crowd", || watch.elapsed() > Duration::from_secs(1));
    let ticks = gateway.cpu_ticks() - before;
    assert!(ticks <= 10, "{ticks} hundredths of a second of the processor in one second of waiting");
    drop(crowd);
    let watch = Stopwatch::start();
    assert_eq!(gateway.send(get("/public/x")).status, 200);
    assert!(watch.elapsed() < Duration::from_secs(1), "{:?}", watch.elapsed());
    assert!(metric(&gateway, "keyward_accept_errors_total{listener=\"gateway\"}") > 0);
}

#[test]
fn a_lack_of_files_for_the_service_is_the_gateways_own_and_no_fault_of_a_target() {
    let gate = Gate::closed();
    let [upstream, other] =
        [gate.clone(), gate.clone()].map(|gate| Upstream::answering(move |_request| Reply::text("late").behind(&gate)));
    let targets = [&upstream, &other].map(|upstream| format!("'http://{}'", upstream.address())).join(", ");
    let site = Site::new(&Config::towards(&format!("targets = [{targets}]")).gateway_workers(1));
    let gateway = site.start();
    let mut crowd: Vec<_> = (0..30).map(|_| connect(&gateway)).collect();
    until("all are accepted", || metric(&gateway, "keyward_connections_open{listener=\"gateway\"}") == 30);
    gateway.leave_files(4);
    for stream in &mut crowd {
        stream.write_all(b"GET /public/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("a socket");
        stream.set_nonblocking(true).expect("a socket");
    }
    let is_told = |stream: &&TcpStream| stream.peek(&mut [0]).is_ok_and(|bytes| bytes > 0);
    until("each is held or refused", || {
        crowd.iter().filter(is_told).count() + upstream.begun() + other.begun() == crowd.len()
    });
    gate.open();
    let answer_on = |stream: &mut TcpStream| {
        stream.set_nonblocking(false).expect("a socket");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let answers: Vec<_> = crowd.iter_mut().map(answer_on).collect();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 503 ")).collect();
    // One that is refused is closed, and its file serves the next.
    assert!(refused.len() > 5, "{} were refused", refused.len());
    for answer in &refused {
        assert!(answer.contains("retry-after: 1") && answer.contains("\"overloaded\""), "{answer}");
    }
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 503 ") || answer.starts_with("HTTP/1.1 200 ")));
    let page = gateway.metrics();
    assert!(page.contains("keyward_upstream_errors_total{upstream=\"service\",kind=\"exhausted\"}"), "{page}");
    assert!(!page.contains("kind=\"unreachable\"} 1") && !page.contains("reason=\"other_target\"} 1"), "{page}");
    for upstream in [&upstream, &other] {
        let name =
            format!("keyward_upstream_ejections_total{{upstream=\"service\",target=\"{}\"}}", upstream.address());
        assert_eq!(metric(&gateway, &name), 0);
    }
}

#[test]
fn slow_connections_cost_honest_ones_nothing_and_are_all_shed() {
    let upstream = Upstream::start();
    let site = Site::new(
        &Config::in_front_of(&upstream)
            .gateway("timeouts = { first_byte = '3s', head = '3s', body_idle = '3s' }")
            .gateway("connections_max = 20000\naccess_log = false"),
    );
    let gateway = site.start();
    let mut honest = gateway.connect(crate::harness::Http::One);
    let mut sample = || -> Duration {
        let watch = Stopwatch::start();
        assert_eq!(honest.send(get("/public/x")).status, 200);
        watch.elapsed()
    };
    let mut alone: Vec<_> = (0..200).map(|_| sample()).collect();
    let mut crowd = Vec::new();
    let watch = Stopwatch::start();
    let size = usize::try_from(times("KEYWARD_SLOW", 500)).expect("a count");
    for at in 0..size {
        let mut stream = connect(&gateway);
        let beginnings: [&[u8]; 5] = [
            b"",
            b"P",
            b"PRI * HTTP/2.0\r\n\r\nSM",
            b"GET /public/x HTTP/1.1\r\nHost: a\r\nX: ",
            b"POST /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc",
        ];
        stream.write_all(beginnings[at % beginnings.len()]).expect("a socket");
        crowd.push(stream);
    }
    let arrived = watch.elapsed();
    let mut among: Vec<_> = (0..200).map(|_| sample()).collect();
    alone.sort();
    among.sort();
    // Twice, and what a machine that does other things beside adds.
    assert!(among[198] <= 2 * alone[198] + Duration::from_millis(20), "{:?} alone, {:?} among", alone[198], among[198]);
    for mut stream in crowd {
        let mut answer = String::new();
        let _reset = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    let took = watch.elapsed() - arrived;
    assert!(took < Duration::from_secs(3 + 2), "the last of them after {took:?}");
    until("all are gone but the honest one", || {
        metric(&gateway, "keyward_connections_open{listener=\"gateway\"}") <= 1
    });
}

#[test]
fn a_client_has_as_many_connections_as_it_may_and_others_are_served() {
    let upstream = Upstream::start();
    let limits = "connections_per_client = 2\nproxy_protocol = true\ntrusted_proxies = ['127.0.0.0/8']";
    let site = Site::new(&Config::in_front_of(&upstream).gateway(limits));
    let gateway = site.start();
    let from = |client: &str| {
        let mut stream = connect(&gateway);
        let head = "GET /public/x HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(format!("PROXY TCP6 {client} ::1 4711 443\r\n{head}").as_bytes()).expect("a socket");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("an answer");
        (stream, String::from_utf8_lossy(&answer).into_owned())
    };
    // Of one network of 56 bits.
    let _held = ["2001:db8:0:100::1", "2001:db8:0:1ff::2"].map(|client| {
        let (stream, answer) = from(client);
        assert_eq!(answer, "HTTP/1.1 200");
        stream
    });
    assert_eq!(from("2001:db8:0:1ab::3").1, "HTTP/1.1 503");
    assert_eq!(from("2001:db8:0:200::1").1, "HTTP/1.1 200");
    assert_eq!(metric(&gateway, "keyward_client_connections_refused_total{listener=\"gateway\"}"), 1);
}

#[test]
fn the_client_is_whom_a_trusted_balancer_speaks_for() {
    let upstream = Upstream::start();
    let site =
        Site::new(&Config::in_front_of(&upstream).gateway("proxy_protocol = true\ntrusted_proxies = ['127.0.0.0/8']"));
    let gateway = site.start();
    let head = "GET /public/x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    let answer = gateway.raw(format!("PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n{head}"));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // It is no trusted proxy itself, so what it says of others is not believed.
    assert_eq!(upstream.only_request().header("x-forwarded-for"), Some("192.0.2.7"));
    let logged = gateway.until_logged(0, "\"192.0.2.7\"");
    assert!(logged.contains("keyward::access"), "{logged}");
    assert_eq!(gateway.raw(head), "");
    assert_eq!(upstream.count(), 1);
}
