//! Requests that go no further.

use super::harness::{OF_A_PANIC, Plan, in_house, token};

/// Sends `request` and tells status and code of the answer, and whether the connection stays.
fn refused(request: &str, status: u16, code: &str, stays: bool) {
    let request = request.replace("TOKEN", &token(1)).replace('\n', "\r\n");
    let (expected, code) = (status, code.to_owned());
    in_house(Plan::default(), async move |house| {
        let mut client = house.connect();
        client.send(&request).await;
        let (head, body) = client.answer().await;
        assert_eq!(head.status(), expected, "{request}\n{}", head.0);
        assert!(body.contains(&format!("\"code\":\"{code}\"")), "{request}\n{body}");
        assert_eq!(head.field("connection") == Some("close"), !stays, "{request}\n{}", head.0);
        if stays {
            client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(client.head().await.status(), 204, "{request}");
        } else {
            assert_eq!(client.rest().await, "");
        }
    });
}

#[test]
fn a_request_without_a_key_is_challenged_and_the_connection_stays() {
    refused("GET /any/x HTTP/1.1\nHost: a\n\n", 401, "missing_key", true);
    refused("GET /any/x HTTP/1.1\nHost: a\nAuthorization: Basic eA==\n\n", 401, "missing_key", true);
}

#[test]
fn a_key_that_does_not_work_is_refused() {
    refused("GET /any/x HTTP/1.1\nHost: a\nAuthorization: Bearer nobody\n\n", 401, "invalid_key", true);
    let mistyped =
        format!("GET /any/x HTTP/1.1\nHost: a\nAuthorization: Bearer {}\n\n", token(1).replace("kw_live_", "kw_test_"));
    refused(&mistyped, 401, "invalid_key", true);
}

#[test]
fn a_key_that_may_not_is_refused() {
    refused("GET /keyrings/other HTTP/1.1\nHost: a\nAuthorization: Bearer TOKEN\n\n", 403, "insufficient_scope", true);
}

#[test]
fn two_credentials_are_none() {
    let two = "GET /any/x HTTP/1.1\nHost: a\nAuthorization: Bearer TOKEN\nAuthorization: Bearer TOKEN\n\n";
    refused(two, 400, "invalid_request", true);
    let apart = "GET /header HTTP/1.1\nHost: a\nAuthorization: Bearer TOKEN\nX-Api-Key: TOKEN\n\n";
    refused(apart, 400, "invalid_request", true);
}

#[test]
fn what_is_not_served_needs_no_key() {
    refused("GET /nothing HTTP/1.1\nHost: a\n\n", 404, "no_route", true);
    refused("GET /any/../x HTTP/1.1\nHost: a\n\n", 400, "ambiguous_path", true);
    refused("GET /any/%2e%2e/x HTTP/1.1\nHost: a\n\n", 400, "ambiguous_path", true);
    refused("TRACE / HTTP/1.1\nHost: a\n\n", 405, "method_not_allowed", true);
    refused("PROPFIND / HTTP/1.1\nHost: a\n\n", 501, "method_unknown", true);
}

#[test]
fn bad_framing_closes_the_connection() {
    refused("GET /any/x HTTP/1.1\n\n", 400, "bad_request", false);
    refused("GET /any/x HTTP/1.1\nHost: a\nHost: a\n\n", 400, "bad_request", false);
    refused("GET http://b/any/x HTTP/1.1\nHost: a\n\n", 400, "bad_request", false);
    let nominated = "GET /any/x HTTP/1.1\nHost: a\nAuthorization: Bearer TOKEN\nConnection: authorization\n\n";
    refused(nominated, 400, "bad_request", false);
    let ours = "GET /any/x HTTP/1.1\nHost: a\nAuthorization: Bearer TOKEN\nConnection: keyward-user\n\n";
    refused(ours, 400, "bad_request", false);
}

#[test]
fn an_expectation_is_decided_before_the_body_is_asked_for() {
    let waiting = "POST /any/x HTTP/1.1\nHost: a\nContent-Length: 5\nExpect: 100-continue\n\n";
    refused(waiting, 401, "missing_key", false);
    let other = "POST /any/x HTTP/1.1\nHost: a\nContent-Length: 5\nExpect: 200-ok\n\nhello";
    refused(other, 417, "expectation_failed", false);
}

#[test]
fn a_small_body_of_a_refused_request_is_read_and_the_connection_stays() {
    refused("POST /any/x HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello", 401, "missing_key", true);
}

#[test]
fn a_large_body_of_a_refused_request_closes_the_connection() {
    refused("POST /any/x HTTP/1.1\nHost: a\nContent-Length: 100000\n\n", 401, "missing_key", false);
}

#[test]
fn a_body_over_the_limit_is_refused_before_anything_is_sent_on() {
    let declared = "POST /small HTTP/1.1\nHost: a\nAuthorization: Bearer TOKEN\nContent-Length: 11\n\nhello hello";
    refused(declared, 413, "body_too_large", false);
}

#[test]
fn a_grpc_caller_is_refused_in_its_own_way() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.send("POST /pkg.Service/Do HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\n\r\n").await;
        let (head, body) = client.answer().await;
        assert_eq!((head.status(), head.field("grpc-status"), body.as_str()), (200, Some("16"), ""));
    });
}

#[test]
fn a_head_request_is_refused_without_a_body() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        client.send("HEAD /any/x HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 401);
        assert_eq!(client.head().await.status(), 204);
    });
}

#[test]
fn past_the_cap_a_request_is_told_to_come_back() {
    in_house(Plan { settings: Some(|settings| settings.requests_max = 1), ..Plan::default() }, async |house| {
        let mut first = house.connect();
        first.get("/any/x", "").await;
        let mut upstream = house.accept().await;
        upstream.head().await;
        let mut second = house.connect();
        second.get("/any/x", "").await;
        let (head, body) = second.answer().await;
        assert_eq!((head.status(), head.field("retry-after")), (503, Some("1")));
        assert!(body.contains("overloaded"));
        upstream.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(first.head().await.status(), 204);
        second.get("/any/x", "").await;
        upstream.head().await;
        upstream.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(second.head().await.status(), 204);
    });
}

#[test]
fn a_refusal_is_counted_with_its_true_reason() {
    in_house(Plan::default(), async |house| {
        house.put(1, |row| row.states.revoked = true);
        let mut client = house.connect();
        client.get("/any/x", "").await;
        let (head, body) = client.answer().await;
        assert_eq!(head.status(), 401);
        assert!(body.contains("invalid_key") && !body.contains("revoked"));
        let text = house.metrics();
        assert!(text.contains(r#"keyward_denials_total{code="invalid_key",reason="revoked"} 1"#), "{text}");
        client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.head().await;
        let text = house.metrics();
        let counted = r#"keyward_requests_total{route="any",outcome="denied",status_class="4xx"} 1"#;
        assert!(text.contains(counted), "{text}");
    });
}

#[test]
fn a_request_that_ends_by_a_panic_is_counted_as_what_its_client_is_told() {
    in_house(Plan::default(), async |house| {
        let mut client = house.connect();
        let bearer = format!("Authorization: Bearer {}", token(OF_A_PANIC));
        client.send(&format!("GET /any/x HTTP/1.1\r\nHost: a\r\n{bearer}\r\n\r\n")).await;
        let (head, body) = client.answer().await;
        assert_eq!((head.status(), head.field("connection")), (500, Some("close")), "{body}");
        let text = house.metrics();
        for line in [
            r#"keyward_requests_total{route="any",outcome="failed",status_class="5xx"} 1"#,
            r#"keyward_denials_total{code="internal",reason="internal"} 1"#,
            "keyward_requests_in_flight 0",
        ] {
            assert!(text.contains(line), "{text}");
        }
    });
}
