//! From a denial to the answer that a client gets. What a denial means is the policy's one table;
//! here is only its shape: problem+json, the challenge of RFC 6750, or the trailers-only form of
//! gRPC.

use std::borrow::Cow;
use std::sync::LazyLock;

use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use http::{Method, Response, StatusCode, Version};

use bytes::Bytes;

use super::headers::REQUEST_ID;
use crate::policy::{Code, Denial, Reason};
use crate::wire::{PROBLEM_JSON, ProblemText, RequestId};

/// What of a request shapes the answer that refuses it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The version, which says how a connection is closed.
    pub(super) version: Version,
    /// Whether the answer has no body.
    pub(super) head: bool,
    /// The `grpc-status`, where the answer takes the form of gRPC.
    pub(super) grpc: Option<u8>,
    /// The id to name.
    pub(super) request_id: &'a RequestId,
    /// The realm of challenges.
    pub(super) realm: &'a str,
    /// Whether the true reason is told.
    pub(super) reveal_reason: bool,
}

/// Whether a request is gRPC: `application/grpc` or `application/grpc+…`. gRPC-Web is not.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(rest) = headers.get(CONTENT_TYPE).and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
    else {
        return false;
    };
    matches!(rest.first(), None | Some(b'+' | b';'))
}

/// The answer to a request that is refused. `allow` names the methods of a 405. `close` ends the
/// connection after it. `map` is one that is no longer needed: a flood of refusals makes none anew.
pub(super) fn answer(
    denial: &Denial,
    asked: Asked<'_>,
    allow: Option<HeaderValue>,
    close: bool,
    map: HeaderMap,
) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.headers_mut() = map;
    response.headers_mut().clear();
    match asked.grpc {
        Some(status) => trailers_only(denial, asked, status, &mut response),
        None => problem(denial, asked, &mut response),
    }
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REQUEST_ID, asked.request_id.value().clone());
    if let Some(allow) = allow {
        headers.insert(ALLOW, allow);
    }
    if close && asked.version != Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn problem(denial: &Denial, asked: Asked<'_>, response: &mut Response<Bytes>) {
    let body = text(denial, asked.reveal_reason).with_id(asked.request_id.as_str());
    *response.status_mut() = denial.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if asked.head {
        // Of a body that is sent the listener says itself how long it is.
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    if let Some(challenge) = denial.challenge(asked.realm)
        && let Ok(value) = HeaderValue::try_from(challenge)
    {
        headers.insert(WWW_AUTHENTICATE, value);
    }
    if let Some(seconds) = denial.retry_after_seconds() {
        headers.insert(RETRY_AFTER, whole(seconds));
    }
    if !asked.head {
        *response.body_mut() = body;
    }
}

/// A small number as a field has it: who is over the limit is nearly always told to wait for one second.
fn whole(seconds: u64) -> HeaderValue {
    if seconds == 1 { HeaderValue::from_static("1") } else { HeaderValue::from(seconds) }
}

/// What is told of a refusal, whoever asked. A flood of them writes none of it anew.
fn text(denial: &Denial, reveal: bool) -> Cow<'static, ProblemText> {
    let told = if reveal { denial.reason } else { Reason::AsCoded(denial.code) };
    let status = denial.status().as_u16();
    let usual = TEXTS.get(told.number()).filter(|_| told.code() == denial.code && status == denial.code.status());
    usual.map_or_else(|| Cow::Owned(text_of(status, denial.code, told)), Cow::Borrowed)
}

fn text_of(status: u16, code: Code, told: Reason) -> ProblemText {
    ProblemText::of(status, code.as_str(), code.title(), told.detail())
}

/// What is usually told of each reason, by its number.
static TEXTS: LazyLock<Vec<ProblemText>> =
    LazyLock::new(|| Reason::every().map(|told| text_of(told.code().status(), told.code(), told)).collect());

/// gRPC reads no bodies of errors: 200 with the status among the fields, and nothing after.
fn trailers_only(denial: &Denial, asked: Asked<'_>, status: u8, response: &mut Response<Bytes>) {
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    headers.insert("grpc-message", grpc_message(denial, asked.reveal_reason));
    if let Some(seconds) = denial.retry_after_seconds() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// `code: detail`, percent-encoded as gRPC has it; our texts hold nothing that would need it.
fn grpc_message(denial: &Denial, reveal_reason: bool) -> HeaderValue {
    let text = format!("{}: {}", denial.code.as_str(), denial.detail(reveal_reason));
    HeaderValue::try_from(text.replace('%', "%25")).unwrap_or_else(|_unprintable| HeaderValue::from_static("denied"))
}

/// Whether an answer to `method` has no body whatever its fields say.
pub(super) fn is_head(method: &Method) -> bool {
    method == Method::HEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::DeniedStatus;
    use crate::wire::{IdSource, Problem};

    fn refused(denial: &Denial, grpc: bool, reveal_reason: bool) -> Response<Bytes> {
        let request_id = RequestId::fresh(&IdSource::new([3; 16]));
        let asked = Asked {
            version: Version::HTTP_11,
            head: false,
            grpc: grpc.then(|| denial.grpc_status()),
            request_id: &request_id,
            realm: "keyward",
            reveal_reason,
        };
        answer(denial, asked, None, denial.code.closes(), HeaderMap::new())
    }

    fn field<'a>(response: &'a Response<Bytes>, name: &str) -> &'a str {
        response.headers().get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// One line a code: status, whether the connection closes, Retry-After, challenge, grpc-status.
    const SHAPES: &str = r#"
missing_key 401 - - [Bearer realm="keyward"] 16
invalid_key 401 - - [Bearer realm="keyward", error="invalid_token"] 16
invalid_request 400 - - [Bearer realm="keyward", error="invalid_request"] 3
insufficient_scope 403 - - [Bearer realm="keyward", error="insufficient_scope"] 7
not_ready 503 - 1 [] 14
stale_keys 503 - 5 [] 14
unknown_yet 503 - 5 [] 14
too_many_failures 429 - 1 [] 8
bad_request 400 close - [] 3
head_too_large 431 close - [] 8
target_too_long 414 close - [] 8
request_timeout 408 close - [] 4
body_too_large 413 close - [] 8
expectation_failed 417 - - [] 3
method_unknown 501 - - [] 12
method_not_allowed 405 - - [] 12
no_route 404 - - [] 12
ambiguous_path 400 - - [] 3
overloaded 503 - 1 [] 14
no_target 503 - 1 [] 14
upstream_unreachable 502 - - [] 14
upstream_timeout 504 - - [] 4
upstream_broken 502 - - [] 14
internal 500 close - [] 13
"#;

    #[test]
    fn every_code_has_its_shape() {
        let mut lines = String::from("\n");
        for code in Code::ALL {
            let plain = refused(&Denial::from(*code), false, false);
            let grpc = refused(&Denial::from(*code), true, false);
            let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
            lines.push_str(&format!(
                "{} {} {} {} [{}] {}\n",
                code.as_str(),
                plain.status().as_u16(),
                dash(field(&plain, "connection")),
                dash(field(&plain, "retry-after")),
                field(&plain, "www-authenticate"),
                field(&grpc, "grpc-status"),
            ));
        }
        assert_eq!(lines, SHAPES);
    }

    #[test]
    fn every_refusal_is_a_problem_that_nobody_stores() -> Result<(), serde_json::Error> {
        for code in Code::ALL {
            let response = refused(&Denial::from(*code), false, false);
            assert_eq!(field(&response, "content-type"), "application/problem+json");
            assert_eq!(field(&response, "cache-control"), "no-store");
            let body: serde_json::Value = serde_json::from_slice(response.body())?;
            assert_eq!(body["code"], code.as_str());
            assert_eq!(body["status"], response.status().as_u16());
            assert_eq!(body["request_id"], field(&response, "x-request-id"));
        }
        Ok(())
    }

    #[test]
    fn what_is_told_of_a_reason_is_made_once_and_is_what_the_table_says() {
        let contracts = [DeniedStatus::Forbidden403, DeniedStatus::Unauthorized401];
        for (reason, denied_status) in Reason::every().flat_map(|reason| contracts.map(|of| (reason, of))) {
            let denial = Denial { denied_status, ..Denial::from(reason) };
            for reveal in [false, true] {
                let response = refused(&denial, false, reveal);
                let expected = Problem {
                    status: denial.status().as_u16(),
                    code: denial.code.as_str(),
                    title: denial.code.title(),
                    detail: denial.detail(reveal),
                    request_id: field(&response, "x-request-id"),
                };
                assert_eq!(response.body(), &expected.to_json(), "{reason:?}");
            }
        }
    }

    #[test]
    fn a_grpc_refusal_is_200_without_a_body() {
        let response = refused(&Denial::from(Code::MissingKey), true, false);
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.body().is_empty());
        assert_eq!(field(&response, "content-type"), "application/grpc");
    }

    #[test]
    fn the_true_reason_is_told_only_where_that_is_wanted() {
        let revoked = Denial::from(Reason::Revoked);
        let unknown = Denial::from(Reason::Unknown);
        assert_eq!(refused(&revoked, false, false).body(), refused(&unknown, false, false).body());
        assert_ne!(refused(&revoked, false, true).body(), refused(&unknown, false, true).body());
    }

    #[test]
    fn a_route_may_answer_401_where_flags_are_lacking() {
        let mut denial = Denial::from(Reason::LacksFlags);
        denial.denied_status = DeniedStatus::Unauthorized401;
        denial.scope = Some("jobs:read".to_owned());
        let response = refused(&denial, false, false);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert!(field(&response, "www-authenticate").ends_with("error=\"insufficient_scope\", scope=\"jobs:read\""));
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(is_grpc(&headers), expected, "{kind}");
        }
    }
}
