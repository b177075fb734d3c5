//! A reader of HTTP/1.1 requests that knows one spelling of everything, and calls the rest a fault. It
//! shares no code with what it judges.

/// One request, read to its last byte.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<(String, String)>,
}

impl Request {
    /// The values of a field.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(have, _)| have == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The one value of a field; none where it is missing.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, String> {
        match self.all(name).as_slice() {
            [] => Ok(None),
            [value] => Ok(Some(value)),
            more => Err(format!("{name} {} times", more.len())),
        }
    }
}

/// The first request of `bytes` and how long it is; none while it is not whole.
pub(super) fn read(bytes: &[u8]) -> Result<Option<(Request, usize)>, String> {
    let Some((lines, mut at)) = lines(bytes, 0)? else { return Ok(None) };
    let mut lines = lines.into_iter();
    let mut request = Request::default();
    let first = String::from_utf8(lines.next().ok_or("no request line")?).map_err(|_no_text| "a target of bytes")?;
    let words: Vec<_> = first.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words.as_slice() else { return Err(format!("request line {first:?}")) };
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err(format!("method {method:?}"));
    }
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) || target.contains('#') {
        return Err(format!("target {target:?}"));
    }
    (request.method, request.target) = ((*method).to_owned(), (*target).to_owned());
    for line in lines {
        request.fields.push(field(&line)?);
    }
    let host = request.one("host")?.ok_or("no host")?;
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte)) {
        return Err(format!("host {host:?}"));
    }
    match (request.one("content-length")?, request.one("transfer-encoding")?) {
        (None, None) => {}
        (Some(length), None) => {
            let plain = length.bytes().all(|byte| byte.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
            let length: usize = length.parse().ok().filter(|_| plain).ok_or_else(|| format!("length {length:?}"))?;
            let Some(body) = bytes.get(at..at + length) else { return Ok(None) };
            request.body = body.to_vec();
            at += length;
        }
        (None, Some("chunked")) => match chunks(bytes, at, &mut request)? {
            Some(end) => at = end,
            None => return Ok(None),
        },
        both => return Err(format!("framing {both:?}")),
    }
    Ok(Some((request, at)))
}

/// The lines from `at` to the empty one, and where that ends.
fn lines(bytes: &[u8], mut at: usize) -> Result<Option<(Vec<Vec<u8>>, usize)>, String> {
    let mut lines = Vec::new();
    loop {
        let Some(line) = line(bytes, at)? else { return Ok(None) };
        at += line.len() + 2;
        if line.is_empty() {
            return Ok(Some((lines, at)));
        }
        lines.push(line.to_vec());
    }
}

/// The line at `at`, without its end; none while that has not come.
fn line(bytes: &[u8], at: usize) -> Result<Option<&[u8]>, String> {
    let rest = &bytes[at..];
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    match rest[..end].strip_suffix(b"\r") {
        Some(line) if !line.contains(&b'\r') => Ok(Some(line)),
        _ => Err(format!("line end in {:?}", String::from_utf8_lossy(&rest[..=end]))),
    }
}

fn field(line: &[u8]) -> Result<(String, String), String> {
    let fault = || format!("field {:?}", String::from_utf8_lossy(line));
    let colon = line.iter().position(|byte| *byte == b':').ok_or_else(fault)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let value = value.strip_prefix(b" ").unwrap_or(value);
    let is_value = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    if name.is_empty() || !name.iter().all(is_token) || !value.iter().all(is_value) || value.trim_ascii() != value {
        return Err(fault());
    }
    Ok((String::from_utf8_lossy(name).to_ascii_lowercase(), String::from_utf8_lossy(value).into_owned()))
}

/// A body in chunks: where it ends, trailers included.
fn chunks(bytes: &[u8], mut at: usize, request: &mut Request) -> Result<Option<usize>, String> {
    loop {
        let Some(size) = line(bytes, at)? else { return Ok(None) };
        at += size.len() + 2;
        let text = String::from_utf8_lossy(size).into_owned();
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = usize::from_str_radix(&text, 16).ok().filter(|_| plain).ok_or_else(|| format!("chunk {text:?}"))?;
        if size == 0 {
            let Some((trailers, end)) = lines(bytes, at)? else { return Ok(None) };
            for trailer in trailers {
                request.trailers.push(field(&trailer)?);
            }
            return Ok(Some(end));
        }
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        let data = chunk.strip_suffix(b"\r\n").ok_or("a chunk without its end")?;
        request.body.extend_from_slice(data);
        at += size + 2;
    }
}

#[test]
fn one_spelling_is_read_and_every_other_is_a_fault() {
    let whole = b"POST /a?b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\nrest";
    let (request, length) = read(whole).expect("canonical").expect("whole");
    assert_eq!((request.body.as_slice(), length), (b"abc".as_slice(), whole.len() - 4));
    assert_eq!(request.trailers, [("x".to_owned(), "y".to_owned())]);
    for length in 0..whole.len() - 4 {
        assert!(read(&whole[..length]).expect("a beginning").is_none());
    }
    for fault in [
        "GET / HTTP/1.0\r\nhost: a\r\n\r\n",
        "get / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET a HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 01\r\n\r\na",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    ] {
        assert!(read(fault.as_bytes()).is_err(), "{fault:?}");
    }
}
