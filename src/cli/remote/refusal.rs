//! What the API refused, in one line: its code, what that means, what went wrong this time, and what to do.

use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::token::TOKEN_VARIABLE;
use super::url::ApiUrl;
use crate::cli::failure::Failure;
use crate::wire::PROBLEM_JSON;

/// The parts of a problem (RFC 9457) that are told.
#[derive(Debug, Deserialize)]
struct Problem {
    title: String,
    #[serde(default)]
    detail: String,
    code: String,
}

/// Why a request was answered `status`.
pub(super) fn of(url: &ApiUrl, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let problem = serde_json::from_slice::<Problem>(body).ok().filter(|_| kind.starts_with(PROBLEM_JSON));
    let status = status.as_u16();
    let Some(Problem { title, detail, code }) = problem else {
        return Failure::failed(format_args!(
            "{url} answers {status} in no words of a management API: give the URL of an [admin] listener"
        ));
    };
    let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
    let remedy = remedy(status, &code);
    Failure::failed(format_args!("{url} answers {status} {code}: {title}{detail}{remedy}"))
}

fn remedy(status: u16, code: &str) -> String {
    match (status, code) {
        (401, _) => format!("; give the token of an operator's key that works, by {TOKEN_VARIABLE} or --token-file"),
        (403, "lacks_permission") => "; use the token of an operator's key that holds that flag".to_owned(),
        (403, _) => "; use the token of an operator's key that may do this".to_owned(),
        (404, "no_route") => "; is this the [admin] listener of a gateway of this version?".to_owned(),
        (503, _) => "; try again once the gateway's store can be used".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, kind: &'static str, body: &str) -> String {
        let url = ApiUrl::parse("https://gw:9443").expect("a URL");
        let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind))]);
        let failure = of(&url, StatusCode::from_u16(status).expect("a status"), &headers, body.as_bytes());
        let [line] = failure.lines() else { panic!("{failure:?}") };
        line.clone()
    }

    #[test]
    fn a_refusal_is_one_line_with_code_title_detail_and_remedy() {
        let body =
            r#"{"type":"x","title":"The key does not work","status":401,"detail":"it ended","code":"invalid_key"}"#;
        let line = told(401, PROBLEM_JSON, body);
        assert!(
            line.starts_with("https://gw:9443 answers 401 invalid_key: The key does not work: it ended; "),
            "{line}"
        );
        assert!(line.contains("KEYWARD_TOKEN"));
        let body = r#"{"title":"There is no such key","detail":"no key x","code":"not_found"}"#;
        assert_eq!(
            told(404, PROBLEM_JSON, body),
            "https://gw:9443 answers 404 not_found: There is no such key: no key x"
        );
    }

    #[test]
    fn an_answer_of_something_else_is_told_as_such() {
        for (kind, body) in [("text/html", "<h1>Bad gateway</h1>"), (PROBLEM_JSON, "{}"), ("text/html", "{}")] {
            assert!(told(502, kind, body).contains("[admin]"), "{kind} {body}");
        }
    }
}
