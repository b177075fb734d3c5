//! The strict gate behind the parsers: what two programs could read differently goes no further.
//!
//! They let some odd requests through that a server behind us may take for another request than
//! the one that was decided on. Everything here is looked at before routing, and answered 400, 405,
//! 417 or 501 without asking for a key.

use std::cell::RefCell;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, Version};

use crate::policy::{Code, normalize_host};
use crate::wire::Seen;

/// What is known of a request that passed the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gated {
    /// The authority as the client named it, port included; none on HTTP/1.0 without Host.
    pub(super) authority: Option<Authority>,
    /// `OPTIONS *`: answered here.
    pub(super) asterisk: bool,
}

/// The host that was named last. It is nearly always named again, and to read one anew takes as long as routing.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    last: RefCell<Option<Authority>>,
}

impl Hosts {
    /// What `field` names, well formed and without user information.
    fn read(&self, field: &HeaderValue) -> Result<Authority, Code> {
        let mut last = self.last.borrow_mut();
        if let Some(known) = last.as_ref()
            && known.as_str().as_bytes() == field.as_bytes()
        {
            return Ok(known.clone());
        }
        let text = bytes::Bytes::copy_from_slice(field.as_bytes());
        let authority = Authority::from_maybe_shared(text).ok().filter(is_plain).ok_or(Code::BadRequest)?;
        if field.len() <= HOST_BYTES_KEPT {
            *last = Some(authority.clone());
        }
        Ok(authority)
    }
}

/// A name has at most 253.
const HOST_BYTES_KEPT: usize = 264;

/// Lets a request through to routing, or says which refusal it gets. `seen` are the fields that it has, and `known`
/// says whether a method is one of the usual ones or one that some route lists.
pub(super) fn check(parts: &Parts, seen: Seen, hosts: &Hosts, known: impl Fn(&Method) -> bool) -> Result<Gated, Code> {
    if [Method::TRACE, Method::CONNECT].contains(&parts.method) {
        return Err(Code::MethodNotAllowed);
    }
    let authority = match parts.version {
        Version::HTTP_2 => authority_of_http2(parts, hosts)?,
        Version::HTTP_10 | Version::HTTP_11 => {
            if seen.has(Seen::TRANSFER_ENCODING) {
                check_framing(parts)?;
            }
            authority_of_http1(parts, hosts)?
        }
        _ => return Err(Code::BadRequest),
    };
    let asterisk = parts.uri.path() == "*";
    if asterisk && parts.method != Method::OPTIONS {
        return Err(Code::BadRequest);
    }
    // `GET ?a` has an empty path that `Uri::path` reports as a slash.
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    if !asterisk && !target.starts_with('/') {
        return Err(Code::BadRequest);
    }
    if !known(&parts.method) {
        return Err(Code::MethodUnknown);
    }
    if seen.has(Seen::REPEATED) && parts.headers.get_all(AUTHORIZATION).iter().nth(1).is_some() {
        return Err(Code::InvalidRequest);
    }
    if seen.has(Seen::EXPECT) {
        check_expectation(&parts.headers)?;
    }
    Ok(Gated { authority, asterisk })
}

/// Transfer-Encoding is exactly one field equal to `chunked`. Beside it there is no Content-Length:
/// the listener takes that away and closes after the answer, which is asserted here once more.
fn check_framing(parts: &Parts) -> Result<(), Code> {
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
    if !chunked || parts.version == Version::HTTP_10 || parts.headers.contains_key(CONTENT_LENGTH) {
        return Err(Code::BadRequest);
    }
    Ok(())
}

/// At most one expectation, and only the one that is met.
fn check_expectation(headers: &HeaderMap) -> Result<(), Code> {
    let mut expectations = headers.get_all(EXPECT).iter();
    let Some(expectation) = expectations.next() else { return Ok(()) };
    let met = expectation.as_bytes().eq_ignore_ascii_case(b"100-continue") && expectations.next().is_none();
    if met { Ok(()) } else { Err(Code::ExpectationFailed) }
}

fn authority_of_http1(parts: &Parts, hosts: &Hosts) -> Result<Option<Authority>, Code> {
    let host = host_field(&parts.headers, hosts)?;
    let Some(named) = parts.uri.authority() else {
        return match host {
            None if parts.version == Version::HTTP_11 => Err(Code::BadRequest),
            host => Ok(host),
        };
    };
    // An authority without a scheme is the form of CONNECT, which was refused already.
    if !has_web_scheme(parts) || !is_plain(named) {
        return Err(Code::BadRequest);
    }
    match host {
        Some(host) if same(&host, named, parts) => Ok(Some(named.clone())),
        None if parts.version == Version::HTTP_10 => Ok(Some(named.clone())),
        Some(_) | None => Err(Code::BadRequest),
    }
}

fn authority_of_http2(parts: &Parts, hosts: &Hosts) -> Result<Option<Authority>, Code> {
    if parts.uri.scheme().is_some() && !has_web_scheme(parts) {
        return Err(Code::BadRequest);
    }
    let host = host_field(&parts.headers, hosts)?;
    match (parts.uri.authority(), host) {
        (Some(named), _) if !is_plain(named) => Err(Code::BadRequest),
        (Some(named), None) => Ok(Some(named.clone())),
        (Some(named), Some(host)) if same(&host, named, parts) => Ok(Some(named.clone())),
        (None, Some(host)) => Ok(Some(host)),
        (Some(_), Some(_)) | (None, None) => Err(Code::BadRequest),
    }
}

fn has_web_scheme(parts: &Parts) -> bool {
    parts.uri.scheme_str().is_some_and(|scheme| matches!(scheme, "http" | "https"))
}

/// `host` or `host:port`, without user information.
fn is_plain(authority: &Authority) -> bool {
    let text = authority.as_str();
    !text.contains('@') && !text.ends_with(':') && normalize_host(text).is_some_and(|host| !host.is_empty())
}

/// The one Host field, well formed; none if there is none.
fn host_field(headers: &HeaderMap, hosts: &Hosts) -> Result<Option<Authority>, Code> {
    let mut fields = headers.get_all(HOST).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(Code::BadRequest);
    }
    hosts.read(field).map(Some)
}

/// Whether two authorities are the same host and port, the scheme's own port left out or not.
fn same(one: &Authority, other: &Authority, parts: &Parts) -> bool {
    let usual = match parts.uri.scheme_str() {
        Some("https") => 443,
        _ => 80,
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(usual);
    normalize_host(one.as_str()) == normalize_host(other.as_str()) && port(one) == port(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    /// The host as routes compare it.
    fn host(gated: &Gated) -> Option<std::borrow::Cow<'_, str>> {
        gated.authority.as_ref().and_then(|authority| normalize_host(authority.as_str()))
    }

    fn check(parts: &Parts, known: impl Fn(&Method) -> bool) -> Result<Gated, Code> {
        super::check(parts, Seen::of(&parts.headers), &Hosts::default(), known)
    }

    fn is_usual(method: &Method) -> bool {
        crate::policy::RouteTable::default().knows_method(method)
    }

    fn parts(version: Version, method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().version(version).method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request in a test").into_parts().0
    }

    fn h1(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<Gated, Code> {
        check(&parts(Version::HTTP_11, method, uri, fields), is_usual)
    }

    fn h2(uri: &str, fields: &[(&str, &str)]) -> Result<Gated, Code> {
        check(&parts(Version::HTTP_2, "GET", uri, fields), is_usual)
    }

    #[test]
    fn the_host_of_http_1_1_is_one_and_well_formed() {
        assert_eq!(host(&h1("GET", "/", &[("host", "A.example:80")]).expect("plain")).as_deref(), Some("a.example"));
        for host in ["", "a b", "u@a", "a:", "a:x", "a:99999", "a/b", "a,b", "[::1", "::1"] {
            assert_eq!(h1("GET", "/", &[("host", host)]), Err(Code::BadRequest), "{host:?}");
        }
        assert_eq!(h1("GET", "/", &[]), Err(Code::BadRequest));
        assert_eq!(h1("GET", "/", &[("host", "a"), ("host", "a")]), Err(Code::BadRequest));
        assert!(h1("GET", "/", &[("host", "[::1]:8443")]).is_ok());
    }

    #[test]
    fn http_1_0_may_leave_its_host_out() {
        let gated = check(&parts(Version::HTTP_10, "GET", "/", &[]), is_usual).expect("allowed on 1.0");
        assert_eq!(host(&gated), None);
        let two = parts(Version::HTTP_10, "GET", "/", &[("host", "a"), ("host", "a")]);
        assert_eq!(check(&two, is_usual), Err(Code::BadRequest));
    }

    #[test]
    fn an_absolute_target_agrees_with_its_host() {
        assert!(h1("GET", "http://a.example/x", &[("host", "A.EXAMPLE")]).is_ok());
        assert!(h1("GET", "https://a.example/x", &[("host", "a.example:443")]).is_ok());
        for (uri, host) in [
            ("http://a.example/x", "b.example"),
            ("http://a.example:81/x", "a.example"),
            ("http://u@a.example/x", "a.example"),
            ("ftp://a.example/x", "a.example"),
        ] {
            assert_eq!(h1("GET", uri, &[("host", host)]), Err(Code::BadRequest), "{uri}");
        }
        assert_eq!(h1("GET", "http://a.example/x", &[]), Err(Code::BadRequest));
    }

    #[test]
    fn a_target_starts_with_a_slash() {
        for target in ["*", "evil:80", "admin"] {
            assert_eq!(h1("GET", target, &[("host", "a")]), Err(Code::BadRequest), "{target}");
        }
        assert!(h1("OPTIONS", "*", &[("host", "a")]).expect("allowed").asterisk);
    }

    #[test]
    fn a_transfer_coding_is_exactly_chunked() {
        assert!(h1("POST", "/", &[("host", "a"), ("transfer-encoding", "Chunked")]).is_ok());
        for coding in [",chunked", "gzip, chunked", "chunked, chunked", "identity", "chunked;a=1", "", "xchunked"] {
            let fields = [("host", "a"), ("transfer-encoding", coding)];
            assert_eq!(h1("POST", "/", &fields), Err(Code::BadRequest), "{coding}");
        }
        let twice = [("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert_eq!(h1("POST", "/", &twice), Err(Code::BadRequest));
        let both = [("host", "a"), ("transfer-encoding", "chunked"), ("content-length", "1")];
        assert_eq!(h1("POST", "/", &both), Err(Code::BadRequest));
    }

    #[test]
    fn trace_and_connect_come_before_everything_else() {
        for method in ["TRACE", "CONNECT"] {
            assert_eq!(h1(method, "a:80", &[]), Err(Code::MethodNotAllowed));
        }
    }

    #[test]
    fn a_method_that_no_route_lists_is_unknown_and_case_counts() {
        for method in ["PROPFIND", "get", "Get", "QUERY"] {
            assert_eq!(h1(method, "/", &[("host", "a")]), Err(Code::MethodUnknown), "{method}");
        }
        let listed = parts(Version::HTTP_11, "PROPFIND", "/", &[("host", "a")]);
        assert!(check(&listed, |method| method.as_str() == "PROPFIND").is_ok());
    }

    #[test]
    fn only_one_expectation_can_be_met() {
        assert!(h1("POST", "/", &[("host", "a"), ("expect", "100-Continue")]).is_ok());
        assert_eq!(h1("POST", "/", &[("host", "a"), ("expect", "200-ok")]), Err(Code::ExpectationFailed));
        let two = [("host", "a"), ("expect", "100-continue"), ("expect", "100-continue")];
        assert_eq!(h1("POST", "/", &two), Err(Code::ExpectationFailed));
    }

    #[test]
    fn two_authorizations_are_refused() {
        let two = [("host", "a"), ("authorization", "Bearer a"), ("authorization", "Bearer a")];
        assert_eq!(h1("GET", "/", &two), Err(Code::InvalidRequest));
    }

    #[test]
    fn the_authority_of_http_2_agrees_with_host() {
        assert!(h2("https://a.example/", &[]).is_ok());
        assert!(h2("https://a.example/", &[("host", "a.example")]).is_ok());
        assert!(h2("/", &[("host", "a.example")]).is_ok());
        assert_eq!(h2("/", &[]), Err(Code::BadRequest));
        assert_eq!(h2("https://a.example/", &[("host", "b.example")]), Err(Code::BadRequest));
        assert_eq!(h2("https://a/", &[("host", "a"), ("host", "a")]), Err(Code::BadRequest));
        assert_eq!(h2("https://u@a.example/", &[]), Err(Code::BadRequest));
        assert_eq!(h2("ftp://a.example/", &[]), Err(Code::BadRequest));
    }
}
