//! How long a service may take.

use crate::harness::{Config, Gate, Reply, Site, Upstream, get};

#[test]
fn each_timeout_has_its_answer_and_its_metric() {
    for (more, kind) in [("head_timeout = '150ms'", "head_timeout"), ("total_timeout = '150ms'", "total_timeout")] {
        let gate = Gate::closed();
        let held = gate.clone();
        let upstream = Upstream::answering(move |_request| Reply::text("late").behind(&held));
        let site = Site::new(&Config::towards(&format!("targets = ['http://{}']\n{more}", upstream.address())));
        let gateway = site.start();
        let answer = gateway.send(get("/public/x"));
        assert_eq!((answer.status, answer.code().as_str()), (504, "upstream_timeout"), "{more}");
        let series = format!(r#"keyward_upstream_errors_total{{upstream="service",kind="{kind}"}} 1"#);
        assert!(gateway.metrics().contains(&series), "{more}");
        gate.open();
    }
}

#[test]
fn an_answer_that_goes_on_too_long_in_all_is_cut() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let peer = super::peer::Peer::on(
        listener,
        None,
        std::sync::Arc::new(|mut stream, _number, _seen| {
            Box::pin(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let _head = stream.read(&mut [0; 4096]).await;
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                if stream.write_all(head).await.is_err() {
                    return;
                }
                let mut every = tokio::time::interval(std::time::Duration::from_millis(20));
                loop {
                    every.tick().await;
                    if stream.write_all(b"1\r\na\r\n").await.is_err() {
                        return;
                    }
                }
            })
        }),
    );
    let more = "total_timeout = '300ms'\nidle_timeout = '10s'";
    let site = Site::new(&Config::towards(&format!("targets = ['http://{address}']\n{more}")));
    let gateway = site.start();
    let answer = gateway.send(get("/public/x"));
    assert_eq!(answer.status, 200);
    assert!(answer.body.broken.is_some() && (3..30).contains(&answer.body.bytes), "{:?}", answer.body);
    drop(peer);
}
