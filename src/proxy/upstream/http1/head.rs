//! The head of an answer, and what it says of the body behind it (RFC 9112, 4 to 6).

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};

use super::decoder::Decoder;

/// What was read of a head.
#[derive(Debug)]
pub(super) enum Read {
    /// All of it.
    Head(Head),
    /// A part; more has to come.
    Partial,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) decoder: Decoder,
    /// Whether the connection may serve another request.
    pub(super) keep: bool,
    /// Whether the connection is another protocol's from here on.
    pub(super) switches: bool,
}

/// What is no head of an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadHead {
    #[error("the answer's head is malformed")]
    Malformed(#[from] httparse::Error),
    #[error("a field of the answer's head is malformed")]
    Field(#[from] http::Error),
    #[error("the answer's content-length is not one number")]
    Length,
    #[error("the answer is of HTTP/1.0 and has a transfer-encoding")]
    Coding,
}

/// Takes the head of the answer to a request of this method out of `read`, and all informational ones before it.
/// Its fields are put into the map of `fields`, whose own are over then: a map is 2 KiB to make anew.
///
/// # Errors
/// When it is none.
pub(super) fn read(read: &mut BytesMut, method: &Method, fields: &mut HeaderMap) -> Result<Read, BadHead> {
    while !read.is_empty() {
        let Some(response) = parse(read, fields)? else { return Ok(Read::Partial) };
        if response.status().is_informational() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        return Ok(Read::Head(framed(response, method)?));
    }
    Ok(Read::Partial)
}

/// One head off the front of `read`; none where it is not whole.
fn parse(read: &mut BytesMut, used: &mut HeaderMap) -> Result<Option<Response<()>>, BadHead> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    // Where each field lies: the head is cut off as one piece of memory, of which every value is a part.
    let mut places = [Place::default(); FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = parsed.parse(read)? else { return Ok(None) };
    let status = StatusCode::from_u16(parsed.code.unwrap_or(0)).map_err(http::Error::from)?;
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let start = read.as_ptr().addr();
    let count = parsed.headers.len();
    for (place, field) in places.iter_mut().zip(&*parsed.headers) {
        let at = |bytes: &[u8]| bytes.as_ptr().addr().wrapping_sub(start);
        let (name, value) = (field.name.as_bytes(), field.value);
        *place = Place {
            name: at(name),
            name_end: at(name) + name.len(),
            value: at(value),
            value_end: at(value) + value.len(),
        };
    }
    let whole = read.split_to(length).freeze();
    let mut response = Response::new(());
    (*response.status_mut(), *response.version_mut()) = (status, version);
    let headers = response.headers_mut();
    *headers = std::mem::take(used);
    headers.clear();
    headers.reserve(count + ADDED);
    for place in places.iter().take(count) {
        let name = whole.get(place.name..place.name_end).unwrap_or_default();
        let name = HeaderName::from_bytes(name).map_err(http::Error::from)?;
        let value =
            HeaderValue::from_maybe_shared(whole.slice(place.value..place.value_end)).map_err(http::Error::from)?;
        headers.append(name, value);
    }
    Ok(Some(response))
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    name: usize,
    name_end: usize,
    value: usize,
    value_end: usize,
}

fn framed(response: Response<()>, method: &Method) -> Result<Head, BadHead> {
    let (status, headers) = (response.status(), response.headers());
    let is_1_0 = response.version() == Version::HTTP_10;
    let keep = keeps(headers, is_1_0);
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    let bodiless =
        switches || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED || *method == Method::HEAD;
    let decoder = if bodiless {
        Decoder::Length(0)
    } else if headers.contains_key(TRANSFER_ENCODING) {
        if is_1_0 {
            return Err(BadHead::Coding);
        }
        if is_chunked(headers) { Decoder::chunked() } else { Decoder::UntilEnd }
    } else if headers.contains_key(CONTENT_LENGTH) {
        Decoder::Length(length(headers).ok_or(BadHead::Length)?)
    } else {
        Decoder::UntilEnd
    };
    Ok(Head { response, decoder, keep: keep && !switches, switches })
}

/// Whether the connection stays, by what the head says. One `close` counts, whatever else is said.
fn keeps(headers: &HeaderMap, is_1_0: bool) -> bool {
    let says = |wanted: &[u8]| {
        let options = headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        options.map(<[u8]>::trim_ascii).any(|option| option.eq_ignore_ascii_case(wanted))
    };
    !says(b"close") && (!is_1_0 || says(b"keep-alive"))
}

/// Whether the last coding is `chunked`.
fn is_chunked(headers: &HeaderMap) -> bool {
    let last = headers.get_all(TRANSFER_ENCODING).iter().next_back();
    let last = last.and_then(|value| value.as_bytes().rsplit(|byte| *byte == b',').next());
    last.is_some_and(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// The one length that all fields and their members say; none where they do not, or say no number.
fn length(headers: &HeaderMap) -> Option<u64> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for member in value.to_str().ok()?.split(',').map(str::trim) {
            let said = member.parse().ok().filter(|_| member.bytes().all(|byte| byte.is_ascii_digit()))?;
            if length.is_some_and(|other| other != said) {
                return None;
            }
            length = Some(said);
        }
    }
    length
}

/// The fields of an answer.
const FIELDS_MAX: usize = 100;
/// Room for those that are put on later, so that the map need not grow.
const ADDED: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn read_whole(text: &str, method: &Method) -> Result<Head, BadHead> {
        for end in 0..text.len() {
            let mut begun = BytesMut::from(text.get(..end).unwrap_or_default());
            if let Read::Head(head) = read(&mut begun, method, &mut HeaderMap::new())? {
                panic!("{end} of {} bytes are a head: {head:?}", text.len());
            }
        }
        match read(&mut BytesMut::from(text), method, &mut HeaderMap::new())? {
            Read::Head(head) => Ok(head),
            Read::Partial => panic!("partial: {text}"),
        }
    }

    fn get(fields: &str) -> Result<Head, BadHead> {
        read_whole(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), &Method::GET)
    }

    #[test]
    fn a_body_is_delimited_by_coding_then_length_then_the_end() {
        assert!(matches!(get("Content-Length: 5\r\n"), Ok(Head { decoder: Decoder::Length(5), keep: true, .. })));
        assert!(matches!(
            get("content-length: 5, 5\r\ncontent-length: 5\r\n"),
            Ok(Head { decoder: Decoder::Length(5), .. })
        ));
        assert!(matches!(get("transfer-encoding: Chunked\r\n"), Ok(Head { decoder: Decoder::Chunked(_), .. })));
        assert!(matches!(
            get("content-length: 5\r\ntransfer-encoding: chunked\r\n"),
            Ok(Head { decoder: Decoder::Chunked(_), .. })
        ));
        assert!(matches!(get("transfer-encoding: gzip\r\n"), Ok(Head { decoder: Decoder::UntilEnd, .. })));
        assert!(matches!(get("x: y\r\n"), Ok(Head { decoder: Decoder::UntilEnd, .. })));
    }

    #[test]
    fn a_length_that_is_not_one_number_is_refused() {
        for length in ["", "x", "-1", "+1", "1 1", "1,2", "1\r\ncontent-length: 2", "0x1", "99999999999999999999", ","]
        {
            assert!(matches!(get(&format!("content-length: {length}\r\n")), Err(BadHead::Length)), "{length:?}");
        }
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        for (status, method) in
            [("204 No Content", Method::GET), ("304 Not Modified", Method::GET), ("200 OK", Method::HEAD)]
        {
            let text = format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\n");
            assert!(matches!(read_whole(&text, &method), Ok(Head { decoder: Decoder::Length(0), keep: true, .. })));
        }
        let text = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";
        assert!(matches!(read_whole(text, &Method::GET), Ok(Head { switches: true, keep: false, .. })));
    }

    #[test]
    fn a_connection_stays_unless_one_side_says_otherwise() {
        for (version, fields, keep) in [
            ("1.1", "", true),
            ("1.1", "connection: Close\r\n", false),
            ("1.1", "connection: x, close\r\nconnection: keep-alive\r\n", false),
            ("1.0", "", false),
            ("1.0", "connection: keep-alive\r\n", true),
            ("1.0", "connection: keep-alive, close\r\n", false),
        ] {
            let text = format!("HTTP/{version} 200 OK\r\ncontent-length: 0\r\n{fields}\r\n");
            assert_eq!(read_whole(&text, &Method::GET).expect("a head").keep, keep, "{text}");
        }
    }

    #[test]
    fn informational_heads_are_passed_over() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\na: b\r\n\r\n";
        let head = read_whole(text, &Method::GET).expect("a head");
        assert_eq!((head.response.status(), head.response.headers().len()), (StatusCode::OK, 1));
    }

    #[test]
    fn a_coding_has_no_meaning_on_http_1_0() {
        let text = "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(matches!(read_whole(text, &Method::GET), Err(BadHead::Coding)));
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for text in [
            "HTTP/2.0 200 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        ] {
            assert!(read(&mut BytesMut::from(text), &Method::GET, &mut HeaderMap::new()).is_err(), "{text:?}");
        }
        let many = "a: b\r\n".repeat(FIELDS_MAX + 1);
        assert!(matches!(get(&many), Err(BadHead::Malformed(httparse::Error::TooManyHeaders))));
    }
}
