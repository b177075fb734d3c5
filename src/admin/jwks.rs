//! `/.well-known/jwks.json`: the public keys of keys in JWT form and of assertions, for whoever verifies them.

use std::sync::Arc;

use axum::extract::State;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use utoipa::ToSchema;

use super::answer::{Answer, of_text};
use super::handler::Parts;
use super::input::{Nothing, Query};

/// A JWK set: RFC 7517.
#[derive(ToSchema)]
#[schema(as = JwkSet)]
#[expect(dead_code, reason = "tells the API's description what a set of keys is; the signers write it themselves")]
pub(super) struct KeySet {
    /// The public keys.
    keys: Vec<std::collections::BTreeMap<String, Value>>,
}

/// Answers with the keys.
pub(super) async fn show(State(parts): State<Arc<Parts>>, Query(Nothing {}): Query<Nothing>) -> Answer {
    let signers = parts.signers.load();
    let mut response = of_text(StatusCode::OK, signers.jwks().as_bytes().to_vec());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    Ok(response)
}
