//! An upstream's answer is the same however its bytes are cut; and what is taken for a whole answer is
//! what a slow reader, who reads line by line and knows nothing of buffers, takes it for.
#![no_main]

use http::Method;
use keyward::proxy::{AnswerEnd, AnswerRead, read_answer};
use libfuzzer_sys::fuzz_target;

/// What the bytes begin with, so that bodies are reached as soon as heads.
const BEGINNINGS: [&str; 5] = [
    "",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length:",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n",
];

fuzz_target!(|data: &[u8]| {
    let [choice, cut, data @ ..] = data else { return };
    let method = if choice & 0x80 == 0 { Method::GET } else { Method::HEAD };
    let beginning = BEGINNINGS[usize::from(choice & 0x7f) % BEGINNINGS.len()];
    let bytes = [beginning.as_bytes(), data].concat();

    let whole = read_answer(&method, [&bytes[..]]);
    for piece in [1, 2, 7, usize::from(*cut) + 1] {
        assert_eq!(read_answer(&method, bytes.chunks(piece)), whole, "{piece} at a time: {}", bytes.escape_ascii());
    }
    let (one, other) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    assert_eq!(read_answer(&method, [one, other]), whole, "{}", bytes.escape_ascii());
    check(&whole, &method, &bytes);
});

/// Compares what was read with what the slow reader reads.
fn check(answer: &AnswerRead, method: &Method, bytes: &[u8]) {
    if answer.end == AnswerEnd::Broken {
        return;
    }
    let Some(slow) = slowly(method, bytes) else { panic!("{answer:?}: {}", bytes.escape_ascii()) };
    assert_eq!(answer.status.map(|status| status.as_u16()), Some(slow.status), "{}", bytes.escape_ascii());
    assert_eq!(answer.fields.len(), slow.fields, "{}", bytes.escape_ascii());
    assert!(answer.body == slow.body, "{:?}, {:?}: {}", answer.body, slow.body, bytes.escape_ascii());
    match &answer.end {
        AnswerEnd::Kept => assert!(slow.stays && slow.rest.is_empty(), "{}", bytes.escape_ascii()),
        AnswerEnd::Closed { left } => assert_eq!(*left, slow.rest.len(), "{}", bytes.escape_ascii()),
        AnswerEnd::Switched(first) => assert!(slow.status == 101 && *first == slow.rest),
        AnswerEnd::Broken => {}
    }
}

/// What the slow reader reads.
struct Slow {
    status: u16,
    fields: usize,
    body: Vec<u8>,
    rest: Vec<u8>,
    stays: bool,
}

fn slowly(method: &Method, bytes: &[u8]) -> Option<Slow> {
    let mut rest = bytes;
    loop {
        let mut line = line(&mut rest)?;
        while line.is_empty() {
            line = self::line(&mut rest)?;
        }
        let minor = match &line[..] {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ (b'0' | b'1'), b' ', ..] => *minor,
            _ => return None,
        };
        let status: u16 = std::str::from_utf8(line.get(9..12)?).ok()?.parse().ok()?;
        let fields = fields(&mut rest)?;
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        let all = |wanted: &str| -> Vec<String> {
            let values = fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.clone());
            values.collect()
        };
        let (codings, lengths) = (all("transfer-encoding"), all("content-length"));
        let options = all("connection").join(",").to_ascii_lowercase();
        let says = |wanted: &str| options.split(',').any(|option| option.trim() == wanted);
        let mut stays = !says("close") && (minor == b'1' || says("keep-alive"));
        stays &= codings.is_empty() || lengths.is_empty();
        let mut body = Vec::new();
        if status == 101 {
            let fields = fields.len() - codings.len() - lengths.len();
            return Some(Slow { status, fields, body, rest: rest.to_vec(), stays: false });
        }
        if *method == Method::HEAD || status == 204 || status == 304 {
            let nothing = lengths.iter().all(|value| value.split(',').all(|member| member.trim().parse() == Ok(0)));
            stays &= status != 204 || codings.is_empty() && nothing;
        } else if !codings.is_empty() {
            (minor == b'1' && codings.len() == 1 && codings[0].eq_ignore_ascii_case("chunked")).then_some(())?;
            loop {
                let line = self::line(&mut rest)?;
                let digits = line.split(|byte| b"; \t".contains(byte)).next()?;
                let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
                if size == 0 {
                    break;
                }
                body.extend_from_slice(rest.get(..size)?);
                rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
            }
            self::fields(&mut rest)?;
        } else if let Some(first) = lengths.first() {
            let length: usize = first.split(',').next()?.trim().parse().ok()?;
            let alike = |member: &str| member.trim().parse() == Ok(length);
            lengths.iter().all(|value| value.split(',').all(alike)).then_some(())?;
            body.extend_from_slice(rest.get(..length)?);
            rest = &rest[length..];
        } else {
            stays = false;
            body = std::mem::take(&mut rest).to_vec();
        }
        return Some(Slow { status, fields: fields.len(), body, rest: rest.to_vec(), stays });
    }
}

/// A line, without its end.
fn line(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = &rest[..end];
    *rest = &rest[end + 1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}

/// Names and values up to an empty line.
fn fields(rest: &mut &[u8]) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = line(rest)?;
        if line.is_empty() {
            return Some(fields);
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
        let value = String::from_utf8_lossy(&line[colon + 1..]).trim_matches([' ', '\t']).to_owned();
        fields.push((name, value));
    }
}
