//! Connections to upstreams: kept, found dead, replaced; and requests that are sent once.

use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;

use super::harness::{Plan, Wire, in_house, target, token};
use crate::proxy::{Settings, Upstream};

const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_connection_is_used_again() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.get("/any/1", "").await;
        let mut upstream = house.accept().await;
        for turn in 2..10 {
            upstream.head().await;
            upstream.send(EMPTY).await;
            assert_eq!(client.head().await.status(), 200);
            client.get(&format!("/any/{turn}"), "").await;
        }
    });
}

#[test]
fn a_pooled_connection_that_died_costs_an_idempotent_request_nothing() {
    in_house(Plan::default(), async |house| {
        // Three connections in the pool, all of which the upstream then closes upon the next request.
        let (mut clients, mut upstreams) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let mut client = house.connect();
            client.get("/any/x", "").await;
            let mut upstream = house.accept().await;
            upstream.head().await;
            clients.push(client);
            upstreams.push(upstream);
        }
        for (client, upstream) in clients.iter_mut().zip(&mut upstreams) {
            upstream.send(EMPTY).await;
            assert_eq!(client.head().await.status(), 200);
        }
        let mut client = clients.remove(0);
        client.get("/any/again", "").await;
        // The one that was used last gets the request, and dies without a byte.
        let mut last = upstreams.pop().expect("three");
        last.head().await;
        drop(last);
        let mut fresh = house.accept().await;
        assert_eq!(fresh.head().await.line(), "GET /any/again HTTP/1.1");
        fresh.send(EMPTY).await;
        assert_eq!(client.head().await.status(), 200);
        let text = house.metrics();
        assert!(
            text.contains(r#"keyward_upstream_retries_total{upstream="api",reason="stale_connection"} 1"#),
            "{text}"
        );
    });
}

#[test]
fn a_request_that_may_have_had_an_effect_is_never_sent_twice() {
    in_house(Plan::default(), async |house| {
        for (method, fields, body) in [("POST", "Content-Length: 0\r\n", ""), ("PUT", "Content-Length: 3\r\n", "abc")] {
            let mut client = house.connect();
            client.get("/any/x", "").await;
            let mut upstream = house.accept().await;
            upstream.head().await;
            upstream.send(EMPTY).await;
            assert_eq!(client.head().await.status(), 200);
            client.request(method, "/any/once", fields).await;
            client.send(body).await;
            assert_eq!(upstream.head().await.line(), format!("{method} /any/once HTTP/1.1"));
            assert_eq!(upstream.take(body.len()).await, body);
            drop(upstream);
            let (head, body) = client.answer().await;
            assert_eq!(head.status(), 502, "{method}");
            assert!(body.contains("upstream_broken"));
        }
    });
}

#[test]
fn a_request_whose_answer_had_begun_is_not_sent_again() {
    in_house(Plan::default(), async |house| {
        let (mut client, mut upstream) = house.ask("GET", "/any/x", "", "").await;
        upstream.send(EMPTY).await;
        client.head().await;
        client.get("/any/x", "").await;
        upstream.head().await;
        upstream.send("HTTP/1.1 20").await;
        drop(upstream);
        assert_eq!(client.answer().await.0.status(), 502);
    });
}

#[test]
fn a_connection_that_was_closed_while_idle_is_not_used() {
    in_house(Plan::default(), async |house| {
        for _ in 0..20 {
            let mut client = house.connect();
            client.request("POST", "/any/x", "Content-Length: 0\r\n").await;
            let mut upstream = house.accept().await;
            upstream.head().await;
            upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            assert_eq!(client.head().await.status(), 200);
        }
    });
}

#[test]
fn a_connection_is_not_kept_past_its_time() {
    let short = |upstream: &mut Upstream| upstream.pool_idle = Duration::ZERO;
    in_house(Plan { upstream: Some(short), ..Plan::default() }, async |house| {
        let mut client = house.connect();
        for _ in 0..3 {
            client.get("/any/x", "").await;
            let mut upstream = house.accept().await;
            upstream.head().await;
            upstream.send(EMPTY).await;
            assert_eq!(client.head().await.status(), 200);
        }
    });
}

/// A body that ends when it is told to.
struct EndsWhenTold(tokio::sync::oneshot::Receiver<()>);

impl http_body::Body for EndsWhenTold {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.0).poll(cx).map(|_told| None)
    }
}

#[test]
fn a_connection_is_as_old_as_it_is_once_a_body_was_proved_empty() {
    let short = |upstream: &mut Upstream| upstream.pool_idle = Duration::from_secs(30);
    in_house(Plan { upstream: Some(short), ..Plan::default() }, async |house| {
        let mut client = house.connect();
        client.get("/any/x", "").await;
        let mut old = house.accept().await;
        old.head().await;
        old.send(EMPTY).await;
        assert_eq!(client.head().await.status(), 200);
        // Said to be empty, and not yet at its end: it waits, and the connection grows too old meanwhile.
        let mut sender = house.connect_http2().await;
        let (end, told) = tokio::sync::oneshot::channel();
        let request = http::Request::post("https://api.example/any/y")
            .header("authorization", format!("Bearer {}", token(1)))
            .header("content-length", "0")
            .body(EndsWhenTold(told))
            .expect("a request");
        let answer = tokio::task::spawn_local(sender.send_request(request));
        while house.shared.metrics.in_flight.is_none() {
            tokio::task::yield_now().await;
        }
        house.clock.pass(Duration::from_secs(60));
        end.send(()).expect("the request waits");
        let mut fresh = house.accept().await;
        assert_eq!(fresh.head().await.line(), "POST /any/y HTTP/1.1");
        fresh.send(EMPTY).await;
        assert_eq!(answer.await.expect("no panic").expect("an answer").status(), 200);
    });
}

#[test]
fn an_answer_with_length_and_coding_is_read_by_its_coding_and_closes() {
    in_house(Plan::default(), async |house| {
        let (mut client, mut upstream) = house.ask("GET", "/any/x", "", "").await;
        upstream
            .send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
            .await;
        let head = client.head().await;
        assert!(head.fields("content-length").is_empty(), "{}", head.0);
        assert_eq!(client.take(12).await, "2\r\nok\r\n0\r\n\r\n");
        assert_eq!(upstream.rest().await, "");
    });
}

#[test]
fn an_upstream_that_refuses_is_502() {
    in_house(Plan::default(), async |house| {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        retarget(&house.shared.settings, vec![free]);
        let mut client = house.connect();
        client.get("/any/x", "").await;
        let (head, body) = client.answer().await;
        assert_eq!(head.status(), 502);
        assert!(body.contains("upstream_unreachable"));
        client.request("POST", "/any/x", "Content-Length: 3\r\n").await;
        client.send("abc").await;
        assert_eq!(client.answer().await.0.status(), 502);
        client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 204);
    });
}

#[test]
fn a_target_that_refuses_is_passed_over_whatever_the_request() {
    in_house(Plan::default(), async |house| {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        let live = house.upstream.local_addr().expect("an address");
        retarget(&house.shared.settings, vec![free, live]);
        let mut client = house.connect();
        let mut upstream = None;
        for _ in 0..4 {
            client.request("POST", "/any/x", "Content-Length: 0\r\n").await;
            if upstream.is_none() {
                upstream = Some(house.accept().await);
            }
            let upstream = upstream.as_mut().expect("accepted");
            upstream.head().await;
            upstream.send(EMPTY).await;
            assert_eq!(client.head().await.status(), 200);
        }
    });
}

#[test]
fn targets_take_turns() {
    in_house(Plan::default(), async |house| {
        let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addresses = [&house.upstream, &other].map(|listener| listener.local_addr().expect("an address"));
        retarget(&house.shared.settings, addresses.to_vec());
        let (mut one, mut two) = (house.connect(), house.connect());
        one.get("/any/x", "").await;
        two.get("/any/x", "").await;
        let (first, second) = tokio::join!(house.upstream.accept(), other.accept());
        assert!(first.is_ok() && second.is_ok());
    });
}

#[test]
fn what_a_reload_took_away_is_let_go_of_though_a_stream_that_began_before_goes_on() {
    in_house(Plan::default(), async |house| {
        let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stays = house.upstream.local_addr().expect("an address");
        retarget(&house.shared.settings, vec![stays, other.local_addr().expect("an address")]);
        let mut clients = [house.connect(), house.connect(), house.connect(), house.connect()];
        for client in &mut clients {
            client.get("/any/x", "").await;
        }
        let (mut first, mut second) = (house.accept().await, house.accept().await);
        let mut gone = [Wire::accept(&other).await, Wire::accept(&other).await];
        // The target that stays sends a stream; of the other one connection lies idle, and one is in use.
        for upstream in &mut gone {
            upstream.head().await;
        }
        for upstream in [&mut first, &mut second] {
            upstream.head().await;
            upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        }
        gone[0].send(EMPTY).await;
        let target = other.local_addr().expect("an address");
        let series = format!("keyward_upstream_idle_connections{{upstream=\"api\",target=\"{target}\"}} ");
        let is_idle = |count: u64| house.metrics().lines().any(|line| line == format!("{series}{count}"));
        while !is_idle(1) {
            tokio::task::yield_now().await;
        }
        retarget(&house.shared.settings, vec![stays]);
        let [kept, used] = &mut gone;
        assert_eq!(kept.rest().await, "");
        assert!(is_idle(0));
        used.send(EMPTY).await;
        assert_eq!(used.rest().await, "");
        assert!(is_idle(0));
        first.send("2\r\nok\r\n0\r\n\r\n").await;
        second.send("2\r\nok\r\n0\r\n\r\n").await;
        let mut streamed = 0;
        for client in &mut clients {
            let head = client.head().await;
            assert_eq!(head.status(), 200);
            if head.field("transfer-encoding").is_some() {
                assert_eq!(client.take(12).await, "2\r\nok\r\n0\r\n\r\n");
                streamed += 1;
            }
        }
        assert_eq!(streamed, 2);
    });
}

#[test]
fn nothing_is_kept_of_an_upstream_that_no_route_leads_to_any_more() {
    in_house(Plan::default(), async |house| {
        let blue = house.upstream.local_addr().expect("an address");
        let green = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = house.connect();
        client.get("/any/x", "").await;
        let mut idle = house.accept().await;
        idle.head().await;
        idle.send(EMPTY).await;
        assert_eq!(client.head().await.status(), 200);
        configure(&house.shared.settings, "green", |upstreams| {
            upstreams.insert("api".to_owned(), Upstream::new(vec![target(blue)]));
            upstreams.insert("green".to_owned(), Upstream::new(vec![target(green.local_addr().expect("an address"))]));
        });
        assert_eq!(idle.rest().await, "");
        client.get("/any/x", "").await;
        let mut other = Wire::accept(&green).await;
        other.head().await;
        other.send(EMPTY).await;
        assert_eq!(client.head().await.status(), 200);
    });
}

/// Points the upstream at other addresses, as a reload does.
fn retarget(settings: &arc_swap::ArcSwap<Settings>, addresses: Vec<std::net::SocketAddr>) {
    configure(settings, "api", |upstreams| {
        upstreams.insert("api".to_owned(), Upstream::new(addresses.into_iter().map(target).collect()));
    });
}

/// Leads all routes to `upstream`, as a reload does.
fn configure(
    settings: &arc_swap::ArcSwap<Settings>,
    upstream: &str,
    fill: impl FnOnce(&mut std::collections::BTreeMap<String, Upstream>),
) {
    let old = settings.load_full();
    let specs = old.routes.routes().iter().map(|route| {
        let mut spec = route.spec().clone();
        upstream.clone_into(&mut spec.forward.upstream);
        spec
    });
    let routes =
        crate::policy::RouteTable::build(specs.collect(), crate::policy::PathOptions::default()).expect("routes");
    let mut upstreams = std::collections::BTreeMap::new();
    fill(&mut upstreams);
    settings.store(std::sync::Arc::new(Settings {
        routes,
        upstreams,
        token_prefix: old.token_prefix.clone(),
        realm: old.realm.clone(),
        reveal_reason: old.reveal_reason,
        expiry_notice: old.expiry_notice,
        trusted_proxies: old.trusted_proxies.clone(),
        on_stale: old.on_stale,
        requests_max: old.requests_max,
        access_log: old.access_log,
        jwks: old.jwks,
    }));
}
