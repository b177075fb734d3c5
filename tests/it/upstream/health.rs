//! Active checks: what they ask, and what follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::peer::Peer;
use super::sum;
use crate::harness::{Config, Gateway, Reply, Site, Upstream, get, until};

const FAST: &str = "interval = '100ms', timeout = '1s', healthy_after = 2, unhealthy_after = 2";

fn is_up(gateway: &Gateway, up: bool) {
    let wanted = if up { 1.0 } else { 0.0 };
    until("the checks' word", || sum(&gateway.metrics(), "keyward_upstream_target_up") == wanted);
}

#[test]
fn a_target_whose_checks_fail_gets_nothing_until_they_are_good_again() {
    let well = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&well);
    let upstream = Upstream::answering(move |request| match request.target.as_str() {
        "/healthz" if !told.load(Ordering::SeqCst) => Reply::text("no").status(StatusCode::SERVICE_UNAVAILABLE),
        _ => Reply::text("yes"),
    });
    let health = format!("health = {{ kind = 'http', path = '/healthz', {FAST} }}");
    let site = Site::new(&Config::towards(&format!("targets = ['http://{}']\n{health}", upstream.address())));
    let gateway = site.start();
    assert_eq!(gateway.send(get("/public/x")).text(), "yes");
    well.store(false, Ordering::SeqCst);
    is_up(&gateway, false);
    let refused = gateway.send(get("/public/x"));
    assert_eq!((refused.status, refused.code().as_str()), (503, "no_target"));
    assert!(refused.header("retry-after").is_some());
    well.store(true, Ordering::SeqCst);
    is_up(&gateway, true);
    assert_eq!(gateway.send(get("/public/x")).text(), "yes");
    let metrics = gateway.metrics();
    for result in ["good", "bad"] {
        let made = metrics.lines().any(|line| {
            line.starts_with("keyward_upstream_health_checks_total") && line.contains(result) && !line.ends_with(" 0")
        });
        assert!(made, "{result} in {metrics}");
    }
    assert_eq!(sum(&metrics, r#"keyward_upstream_errors_total{upstream="service",kind="no_target"}"#), 1.0);
}

#[test]
fn requests_go_to_the_target_that_is_well() {
    let well = Upstream::answering(|_request| Reply::text("well"));
    let ill = Upstream::answering(|_request| Reply::text("ill").status(StatusCode::INTERNAL_SERVER_ERROR));
    let targets = format!("targets = ['http://{}', 'http://{}']", well.address(), ill.address());
    let site = Site::new(&Config::towards(&format!("{targets}\nhealth = {{ kind = 'http', {FAST} }}")));
    let gateway = site.start();
    is_up(&gateway, true);
    for _ in 0..10 {
        assert_eq!(gateway.send(get("/public/x")).text(), "well");
    }
}

#[test]
fn a_tcp_check_asks_for_a_connection_alone() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let config = Config::towards(&format!("targets = ['http://{address}']\nhealth = {{ kind = 'tcp', {FAST} }}"));
    let site = Site::new(&config);
    let gateway = site.start();
    let checked = |result: &str| {
        let series = format!(
            r#"keyward_upstream_health_checks_total{{upstream="service",target="{address}",result="{result}"}}"#
        );
        sum(&gateway.metrics(), &series)
    };
    until("good checks", || checked("good") >= 2.0);
    drop(listener);
    is_up(&gateway, false);
    assert_eq!(gateway.send(get("/public/x")).code(), "no_target");
}

#[test]
fn a_grpc_check_believes_serving_and_nothing_else() {
    let serving = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&serving);
    let peer = Peer::serving(
        None,
        Arc::new(move |stream, _number, _seen| {
            let serving = Arc::clone(&told);
            Box::pin(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    assert_eq!(request.headers()["content-type"], "application/grpc");
                    let mut sending = respond.send_response(Response::new(()), false).expect("a stream");
                    let status = if serving.load(Ordering::SeqCst) { 1 } else { 2 };
                    sending.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false).expect("a stream");
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static("0"));
                    sending.send_trailers(trailers).expect("a stream");
                }
            })
        }),
    );
    let health = format!("health = {{ kind = 'grpc', service = 'pkg.Echo', {FAST} }}");
    let site = Site::new(&Config::towards(&format!("targets = ['h2c://{}']\n{health}", peer.address())));
    let gateway = site.start();
    until("checks", || sum(&gateway.metrics(), "keyward_upstream_health_checks_total") >= 3.0);
    is_up(&gateway, true);
    serving.store(false, Ordering::SeqCst);
    is_up(&gateway, false);
    serving.store(true, Ordering::SeqCst);
    is_up(&gateway, true);
}
