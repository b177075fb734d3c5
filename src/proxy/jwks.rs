//! `/.well-known/jwks.json`: the public keys by which an upstream verifies assertions, where the gateway
//! is told to serve them.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Response};

use super::account::Account;
use super::answer::Content;
use super::headers::REQUEST_ID;
use super::metrics::Outcome;
use crate::key::Signers;

/// Where they are.
pub(super) const PATH: &str = "/.well-known/jwks.json";
/// A new key is known to everybody after five minutes, and one that is unknown before is asked for.
const FRESH: HeaderValue = HeaderValue::from_static("public, max-age=300");
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/jwk-set+json");

/// The answer to a request for the keys, or the methods there are.
pub(super) fn answer(
    method: &Method,
    signers: &Signers,
    account: &mut Account,
) -> Result<Response<Content>, HeaderValue> {
    let is_head = method == Method::HEAD;
    if !is_head && method != Method::GET {
        return Err(HeaderValue::from_static("GET, HEAD"));
    }
    account.outcome = Outcome::Answered;
    let text = Bytes::copy_from_slice(signers.assertion_jwks().as_bytes());
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(Content::Own((!is_head).then_some(text)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, MEDIA_TYPE);
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(CACHE_CONTROL, FRESH);
    headers.insert(REQUEST_ID, account.request_id.value().clone());
    Ok(response)
}
