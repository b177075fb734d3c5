//! The upstream that `quickstart` starts where none is named: it answers with what it was sent, so
//! that one sees what a service behind the gateway sees.

use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::{Map, Value, json};

use crate::listen::{Handler, Peer, RequestBody};

/// The most of a body that is told back.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Answers every request with its method, target, fields and body as JSON.
#[derive(Debug)]
pub(super) struct Echo;

impl Handler for Echo {
    type Body = Full<Bytes>;

    async fn handle(self: Rc<Self>, request: Request<RequestBody>, _peer: Rc<Peer>) -> Response<Self::Body> {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        let body = body.map_or_else(|_cut| Bytes::new(), http_body_util::Collected::to_bytes);
        let fields: Map<String, Value> = head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect();
        let told = json!({
            "method": head.method.as_str(),
            "target": head.uri.to_string(),
            "fields": fields,
            "body": String::from_utf8_lossy(&body),
        });
        let mut response = Response::new(Full::from(format!("{told:#}\n")));
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}
