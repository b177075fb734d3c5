//! The head of an answer, and what it says of the body behind it (RFC 9112, 4 to 6).

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Response, StatusCode, Version};

use crate::wire::{Decoder, FieldPlace, is_chunked_alone, one_length};

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
    #[error("the answer has a transfer-encoding that is not chunked alone, or is of HTTP/1.0 and has one")]
    Coding,
    #[error("the answer's head, with the informational ones before it, is larger than {HEAD_BYTES_MAX} bytes")]
    Large,
}

/// How far the reading of one answer's head has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Bytes that were parsed in vain: without a line's end among what came since, they would be again.
    tried: usize,
    /// Bytes of informational heads. Without a bound an upstream could go on with them for as long as its
    /// client takes to send a request.
    passed: usize,
}

/// Takes the head of the answer to a request of this method out of `read`, and all informational ones before it.
/// Its fields are put into the map of `fields`, whose own are over then: a map is 2 KiB to make anew.
///
/// # Errors
/// When it is none.
pub(super) fn read(
    read: &mut BytesMut,
    method: &Method,
    fields: &mut HeaderMap,
    progress: &mut Progress,
) -> Result<Read, BadHead> {
    while !read.is_empty() {
        let is_new = progress.tried == 0 || read.get(progress.tried..).is_some_and(|new| new.contains(&b'\n'));
        let before = read.len();
        let parsed = if is_new { parse(read, fields)? } else { None };
        let Some((response, named)) = parsed else {
            progress.tried = before;
            let too_large = progress.passed + before > HEAD_BYTES_MAX;
            return if too_large { Err(BadHead::Large) } else { Ok(Read::Partial) };
        };
        progress.tried = 0;
        progress.passed += before - read.len();
        if progress.passed > HEAD_BYTES_MAX {
            return Err(BadHead::Large);
        }
        if response.status().is_informational() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        return Ok(Read::Head(framed(response, named, method)?));
    }
    Ok(Read::Partial)
}

/// One head off the front of `read`; none where it is not whole.
fn parse(read: &mut BytesMut, used: &mut HeaderMap) -> Result<Option<(Response<()>, Named)>, BadHead> {
    // Room for the most fields is 6 KiB that would be wiped for each answer.
    match parse_up_to::<FIELDS_USUAL>(read, used) {
        Err(BadHead::Malformed(httparse::Error::TooManyHeaders)) => parse_up_to::<FIELDS_MAX>(read, used),
        parsed => parsed,
    }
}

fn parse_up_to<const FIELDS: usize>(
    read: &mut BytesMut,
    used: &mut HeaderMap,
) -> Result<Option<(Response<()>, Named)>, BadHead> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    // Where each field lies: the head is cut off as one piece of memory, of which every value is a part. Narrow, for
    // all of it is wiped first.
    let mut places = [FieldPlace::default(); FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let httparse::Status::Complete(length) =
        parser.parse_response_with_uninit_headers(&mut parsed, read, &mut fields)?
    else {
        return Ok(None);
    };
    let status = StatusCode::from_u16(parsed.code.unwrap_or(0)).map_err(http::Error::from)?;
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let count = parsed.headers.len();
    for (place, field) in places.iter_mut().zip(&*parsed.headers) {
        *place = FieldPlace::of(read, field);
    }
    let whole = read.split_to(length).freeze();
    let mut response = Response::new(());
    (*response.status_mut(), *response.version_mut()) = (status, version);
    let headers = response.headers_mut();
    *headers = std::mem::take(used);
    headers.clear();
    headers.reserve(count + ADDED);
    let mut named = Named::default();
    for place in places.iter().take(count) {
        let (name, value) = place.field(&whole)?;
        named.coding |= name == TRANSFER_ENCODING;
        named.length |= name == CONTENT_LENGTH;
        named.connection |= name == CONNECTION;
        headers.append(name, value);
    }
    Ok(Some((response, named)))
}

/// Which of the fields that say where a message ends are there: looking each up takes longer than to see it pass.
#[derive(Debug, Clone, Copy, Default)]
struct Named {
    coding: bool,
    length: bool,
    connection: bool,
}

fn framed(mut response: Response<()>, named: Named, method: &Method) -> Result<Head, BadHead> {
    let (status, is_1_0) = (response.status(), response.version() == Version::HTTP_10);
    let headers = response.headers_mut();
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    if switches {
        // Such an answer has no body (RFC 9110, 8.6): who is told of one takes the other protocol for it.
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
    }
    // A switch of protocols was just rid of both.
    let (coded, measured) = (named.coding && !switches, named.length && !switches);
    let bodiless =
        switches || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED || *method == Method::HEAD;
    let decoder = if bodiless {
        Decoder::Length(0)
    } else if coded {
        if is_1_0 || !is_chunked_alone(headers) {
            return Err(BadHead::Coding);
        }
        Decoder::chunked()
    } else if measured {
        Decoder::Length(one_length(headers).ok_or(BadHead::Length)?)
    } else {
        Decoder::UntilEnd
    };
    // What says two things of its body, or of one that it cannot have, may be followed by one of them.
    let doubtful =
        coded && measured || status == StatusCode::NO_CONTENT && (coded || measured && one_length(headers) != Some(0));
    let keeps = if named.connection { keeps(headers, is_1_0) } else { !is_1_0 };
    let keep = keeps && !doubtful && !switches && !matches!(decoder, Decoder::UntilEnd);
    Ok(Head { response, decoder, keep, switches })
}

/// Whether the connection stays, by what the head says. One `close` counts, whatever else is said.
fn keeps(headers: &HeaderMap, is_1_0: bool) -> bool {
    let says = |wanted: &[u8]| {
        let options = headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        options.map(<[u8]>::trim_ascii).any(|option| option.eq_ignore_ascii_case(wanted))
    };
    !says(b"close") && (!is_1_0 || says(b"keep-alive"))
}

/// The largest head of an answer, with all informational ones before it.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The fields of an answer.
const FIELDS_MAX: usize = 100;
/// As many as most answers have.
const FIELDS_USUAL: usize = 24;
/// Room for those that are put on later, so that the map need not grow.
const ADDED: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn read_whole(text: &str, method: &Method) -> Result<Head, BadHead> {
        for end in 0..text.len() {
            let mut begun = BytesMut::from(text.get(..end).unwrap_or_default());
            if let Read::Head(head) = read(&mut begun, method, &mut HeaderMap::new(), &mut Progress::default())? {
                panic!("{end} of {} bytes are a head: {head:?}", text.len());
            }
        }
        match read(&mut BytesMut::from(text), method, &mut HeaderMap::new(), &mut Progress::default())? {
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
        for coding in
            ["gzip", "gzip, chunked", "chunked, chunked", "chunked\r\ntransfer-encoding: chunked", ",chunked", ""]
        {
            assert!(matches!(get(&format!("transfer-encoding: {coding}\r\n")), Err(BadHead::Coding)), "{coding}");
        }
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
            let head = read_whole(&text, &method).expect("a head");
            assert!(matches!(head.decoder, Decoder::Length(0)), "{text}");
            // One that may not even say so may well send it too.
            assert_eq!(head.keep, !status.starts_with("204"), "{text}");
        }
        let text = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\ncontent-length: 5\r\n\r\n";
        let head = read_whole(text, &Method::GET).expect("a head");
        assert!(head.switches && !head.keep);
        assert!(!head.response.headers().contains_key(CONTENT_LENGTH));
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
            ("1.1", "transfer-encoding: chunked\r\n", false),
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
    fn informational_heads_count_as_part_of_the_head() {
        let (mut came, mut progress, mut heads) = (BytesMut::new(), Progress::default(), 0);
        let ended = loop {
            came.extend_from_slice(b"HTTP/1.1 102 Processing\r\n\r\n");
            heads += 1;
            match read(&mut came, &Method::GET, &mut HeaderMap::new(), &mut progress) {
                Ok(Read::Partial) if heads < 10_000 => {}
                ended => break ended,
            }
        };
        assert!(matches!(ended, Err(BadHead::Large)), "{ended:?} after {heads}");
    }

    #[test]
    fn a_head_is_too_large_however_it_comes() {
        let of = |length: usize| {
            let rest = "HTTP/1.1 200 OK\r\nx: \r\n\r\n".len();
            format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(length - rest))
        };
        for (length, fits) in [(HEAD_BYTES_MAX, true), (HEAD_BYTES_MAX + 1, false), (2 * HEAD_BYTES_MAX, false)] {
            for at_a_time in [1000, HEAD_BYTES_MAX - 1, HEAD_BYTES_MAX, 3 * HEAD_BYTES_MAX] {
                let (mut came, mut progress) = (BytesMut::new(), Progress::default());
                let mut last = Ok(Read::Partial);
                for piece in of(length).as_bytes().chunks(at_a_time) {
                    came.extend_from_slice(piece);
                    last = read(&mut came, &Method::GET, &mut HeaderMap::new(), &mut progress);
                    if last.is_err() {
                        break;
                    }
                }
                assert_eq!(matches!(last, Ok(Read::Head(_))), fits, "{length} bytes, {at_a_time} at a time");
                assert_eq!(matches!(last, Err(BadHead::Large)), !fits, "{length} bytes, {at_a_time} at a time");
            }
        }
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
            let mut begun = BytesMut::from(text);
            let read = read(&mut begun, &Method::GET, &mut HeaderMap::new(), &mut Progress::default());
            assert!(read.is_err(), "{text:?}");
        }
        let many = "a: b\r\n".repeat(FIELDS_MAX + 1);
        assert!(matches!(get(&many), Err(BadHead::Malformed(httparse::Error::TooManyHeaders))));
    }
}
