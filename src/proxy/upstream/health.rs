//! Active checks: what a target answers when it is asked how it is, over a connection of its own. One
//! of the workers makes each, and all learn of it.

use std::error::Error;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Limited};

use super::link::{Asked, Dial, Link, Upload};
use super::pool::{Pool, is_exhausted};
use crate::proxy::settings::{HealthCheck, Probe, Upstream};

/// More than any answer to a check needs.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

type Fault = Box<dyn Error + Send + Sync>;

/// Makes one check, in time or not; none where the gateway had nothing left to connect with.
pub(super) async fn is_well<D: Dial>(pool: &Rc<Pool<D>>, upstream: &Upstream, rules: &HealthCheck) -> Option<bool> {
    Some(match tokio::time::timeout(rules.timeout, check(pool, upstream, rules)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::debug!(target = %pool.target().authority, %error, "a health check failed");
            if error.downcast_ref().is_some_and(is_exhausted) {
                return None;
            }
            false
        }
        Err(_elapsed) => {
            tracing::debug!(target = %pool.target().authority, "a health check took too long");
            false
        }
    })
}

async fn check<D: Dial>(pool: &Rc<Pool<D>>, upstream: &Upstream, rules: &HealthCheck) -> Result<(), Fault> {
    let link = pool.dial_apart(upstream).await?;
    let request = match &rules.probe {
        Probe::Tcp => return Ok(()),
        Probe::Http(path) => request(Method::GET, path, Upload::Empty)?,
        Probe::Grpc(service) => {
            let mut request = request(Method::POST, "/grpc.health.v1.Health/Check", Upload::Own(question(service)))?;
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
            request
        }
    };
    answered(link, pool.target().host_field(), request, matches!(rules.probe, Probe::Grpc(_))).await
}

fn request(method: Method, path: &str, body: Upload) -> Result<Request<Upload>, Fault> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse()?;
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("keyward-health"));
    Ok(request)
}

async fn answered<L: Link>(link: L, host: &str, mut request: Request<Upload>, grpc: bool) -> Result<(), Fault> {
    request.headers_mut().insert(HOST, host.parse()?);
    let shared = link.share();
    let mut link = shared.unwrap_or(link);
    let response = link.exchange(Box::new(Asked::of(request))).await.map_err(|lost| lost.cause)?;
    if !response.status().is_success() {
        return Err(format!("the answer is {}", response.status().as_u16()).into());
    }
    if !grpc {
        return Ok(());
    }
    let said_at_once = response.headers().get("grpc-status").cloned();
    let whole = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?;
    let said = said_at_once.or_else(|| whole.trailers()?.get("grpc-status").cloned());
    if said.as_ref().map(HeaderValue::as_bytes) != Some(b"0") {
        return Err(format!("grpc-status is {said:?}").into());
    }
    if is_serving(&whole.to_bytes()) { Ok(()) } else { Err("it says that it is not serving".into()) }
}

/// `HealthCheckRequest { service }` in one gRPC message.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if let (Ok(length), false) = (u8::try_from(service.len()), service.is_empty()) {
        message.put_u8(0x0A);
        message.put_u8(length);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(0));
    framed.put_slice(&message);
    framed.freeze()
}

/// Whether a `HealthCheckResponse` in one gRPC message has the status `SERVING`.
fn is_serving(framed: &[u8]) -> bool {
    matches!(framed, [0, _, _, _, _, 0x08, 1, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_the_message_that_grpc_defines() {
        assert_eq!(question("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(question("ab").as_ref(), [0, 0, 0, 0, 4, 0x0A, 2, b'a', b'b']);
    }

    #[test]
    fn serving_is_the_one_good_answer() {
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]));
        for bad in [&[0, 0, 0, 0, 2, 8, 2][..], &[0, 0, 0, 0, 0], &[], &[1, 0, 0, 0, 2, 8, 1]] {
            assert!(!is_serving(bad), "{bad:?}");
        }
    }
}
