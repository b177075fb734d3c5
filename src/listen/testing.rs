//! A handler served on any stream, as a listener would: for tests of handlers.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use prometheus::IntGauge;

use super::cap::Connections;
use super::connection::HttpConnection;
use super::flow::Flow;
use super::handler::Handler;
use super::metrics::ListenMetrics;
use super::peer::Peer;
use super::request_body::RequestBody;
use super::settings::Settings;
use super::upgrade::Stream;
use super::watched::Watched;

/// Serves HTTP/1 to whoever is at the other end of `stream`.
pub(crate) async fn serve_http1<H: Handler>(stream: impl Stream + 'static, handler: Rc<H>, peer: Rc<Peer>) {
    let (worker, settings) = (peer.worker(), Arc::new(Settings::default()));
    let flow = Flow::new(worker.ticker.watch(), worker.ticker.coarse().clone(), &settings);
    let gauge = IntGauge::new("open", "open").expect("a name");
    let place = Connections::new(1).enter(&gauge).expect("a place");
    let metrics = Rc::new(ListenMetrics::new("test").expect("counters"));
    let io = Watched::new(Box::new(stream), Bytes::new(), Arc::clone(&flow), place);
    HttpConnection { handler, peer, worker, settings, metrics }.serve_http1(io, flow).await;
}

/// A body that came over HTTP/2.
pub(crate) const fn http2_body(body: Incoming) -> RequestBody {
    RequestBody::of_http2(body)
}
