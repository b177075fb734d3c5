//! Where the body of an HTTP/1 message ends (RFC 9112, 6 and 7).

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// How the rest of a body is delimited.
#[derive(Debug)]
pub enum Decoder {
    /// By its length.
    Length(u64),
    /// By chunks.
    Chunked(Chunked),
    /// By the end of the connection.
    UntilEnd,
}

/// What comes next of a body of chunks.
#[derive(Debug, Default)]
pub struct Chunked {
    part: Part,
    /// Bytes of extensions so far, of all chunks.
    extensions: usize,
}

#[derive(Debug, Default)]
enum Part {
    #[default]
    Size,
    /// So much is left of a chunk.
    Data(u64),
    DataEnd,
    /// In so many bytes of them there is no end.
    Trailers(usize),
    Over,
}

/// What was decoded.
#[derive(Debug)]
pub enum Decoded {
    /// Bytes of the body; never none.
    Data(Bytes),
    /// The fields behind the body, which is over.
    Trailers(HeaderMap),
    /// The body is over.
    End,
    /// More has to be read.
    More,
}

/// What is no body by its own framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// What should be the line of a chunk's size is none.
    #[error("a chunk has no size")]
    Size,
    /// Too much stands beside the sizes.
    #[error(
        "the sizes of chunks carry more than {EXTENSION_BYTES_MAX} bytes beside them, or one is a line of more than \
         {LINE_BYTES_MAX}"
    )]
    Extensions,
    /// More or less comes than a size says.
    #[error("a chunk does not end where its size says")]
    Data,
    /// The fields behind the body are none, or too many.
    #[error("the trailers are malformed or too large")]
    Trailers,
}

impl Decoder {
    /// A body of chunks.
    pub fn chunked() -> Self {
        Self::Chunked(Chunked::default())
    }

    /// Whether the body is over and nothing more has to be read for that.
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunked { part: Part::Over, .. }))
    }

    /// What is left, where that is known.
    pub const fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(Chunked { part: Part::Over, .. }) => Some(0),
            Self::Chunked(_) | Self::UntilEnd => None,
        }
    }

    /// Takes a body of a known length out of `read`, where all of it is there.
    pub fn take_whole(&self, read: &mut BytesMut) -> Option<Bytes> {
        let Self::Length(left) = self else { return None };
        let count = usize::try_from(*left).ok().filter(|count| *count <= read.len())?;
        Some(read.split_to(count).freeze())
    }

    /// Takes what comes next out of `read`.
    ///
    /// # Errors
    /// When it is no body.
    pub fn decode(&mut self, read: &mut BytesMut) -> Result<Decoded, BadBody> {
        match self {
            Self::Length(0) => Ok(Decoded::End),
            Self::Length(left) => Ok(take(read, left)),
            Self::Chunked(chunked) => chunked.decode(read),
            Self::UntilEnd if read.is_empty() => Ok(Decoded::More),
            Self::UntilEnd => Ok(Decoded::Data(read.split().freeze())),
        }
    }

    /// Takes the end of a body of chunks out of `read`, where it is there and brings no trailers: then nobody
    /// has to ask for it.
    pub fn finish(&mut self, read: &mut BytesMut) {
        if let Self::Chunked(Chunked { part: part @ Part::DataEnd, .. }) = self
            && read.starts_with(LAST)
        {
            read.advance(LAST.len());
            *part = Part::Over;
        }
    }
}

/// The end of a chunk, the last chunk, and no trailers.
const LAST: &[u8] = b"\r\n0\r\n\r\n";

fn take(read: &mut BytesMut, left: &mut u64) -> Decoded {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
    if count == 0 {
        return Decoded::More;
    }
    *left -= u64::try_from(count).unwrap_or(*left);
    Decoded::Data(read.split_to(count).freeze())
}

impl Chunked {
    fn decode(&mut self, read: &mut BytesMut) -> Result<Decoded, BadBody> {
        loop {
            match &mut self.part {
                Part::Size => {
                    // With the CR and LF of its end.
                    let Some(end) = read.iter().take(LINE_BYTES_MAX + 2).position(|byte| *byte == b'\n') else {
                        let too_long = read.len() >= LINE_BYTES_MAX + 2;
                        return if too_long { Err(BadBody::Extensions) } else { Ok(Decoded::More) };
                    };
                    let line = read.split_to(end + 1);
                    let line = line.strip_suffix(b"\r\n").ok_or(BadBody::Size)?;
                    let (size, extensions) = size(line)?;
                    self.extensions += extensions;
                    if self.extensions > EXTENSION_BYTES_MAX {
                        return Err(BadBody::Extensions);
                    }
                    self.part = if size == 0 { Part::Trailers(0) } else { Part::Data(size) };
                }
                Part::Data(left) => {
                    let taken = take(read, left);
                    if *left == 0 {
                        self.part = Part::DataEnd;
                    }
                    return Ok(taken);
                }
                Part::DataEnd => match **read {
                    [b'\r', b'\n', ..] => {
                        read.advance(2);
                        self.part = Part::Size;
                    }
                    [] | [b'\r'] => return Ok(Decoded::More),
                    _ => return Err(BadBody::Data),
                },
                Part::Trailers(searched) => {
                    let decoded = trailers(read, searched)?;
                    if !matches!(decoded, Decoded::More) {
                        self.part = Part::Over;
                    }
                    return Ok(decoded);
                }
                Part::Over => return Ok(Decoded::End),
            }
        }
    }
}

/// The size in a chunk's first line, and how many bytes stand beside it.
fn size(line: &[u8]) -> Result<(u64, usize), BadBody> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at_checked(digits).ok_or(BadBody::Size)?;
    let text = std::str::from_utf8(digits).map_err(|_not_text| BadBody::Size)?;
    if !(1..=DIGITS_MAX).contains(&text.len()) {
        return Err(BadBody::Size);
    }
    let size = u64::from_str_radix(text, 16).map_err(|_too_large| BadBody::Size)?;
    // Spaces, then nothing or an extension; a line has no CR but the one at its end.
    let extension = rest.trim_ascii_start();
    let only_blanks = rest.iter().take(rest.len() - extension.len()).all(|byte| matches!(byte, b' ' | b'\t'));
    let is_extension = extension.is_empty() || extension.starts_with(b";");
    if only_blanks && is_extension && !extension.contains(&b'\r') { Ok((size, rest.len())) } else { Err(BadBody::Size) }
}

/// Of `searched` bytes it is known that they have no end.
fn trailers(read: &mut BytesMut, searched: &mut usize) -> Result<Decoded, BadBody> {
    match **read {
        [b'\r', b'\n', ..] => {
            read.advance(2);
            return Ok(Decoded::End);
        }
        [] | [b'\r'] => return Ok(Decoded::More),
        _ => {}
    }
    let from = searched.saturating_sub(3);
    let unknown = read.get(from..).unwrap_or_default();
    let Some(end) = unknown.windows(4).position(|four| four == b"\r\n\r\n").map(|end| from + end) else {
        *searched = read.len();
        // With all but the last byte of what ends them.
        return if read.len() > TRAILER_BYTES_MAX + 3 { Err(BadBody::Trailers) } else { Ok(Decoded::More) };
    };
    if end > TRAILER_BYTES_MAX {
        return Err(BadBody::Trailers);
    }
    let block = read.split_to(end + 4).freeze();
    // The parser takes a line's feed alone for its end, too.
    if block.split(|byte| *byte == b'\n').rev().skip(1).any(|line| !line.ends_with(b"\r")) {
        return Err(BadBody::Trailers);
    }
    let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    let Ok(httparse::Status::Complete((length, fields))) = httparse::parse_headers(&block, &mut fields) else {
        return Err(BadBody::Trailers);
    };
    if length != block.len() {
        return Err(BadBody::Trailers);
    }
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_bad| BadBody::Trailers)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_bad| BadBody::Trailers)?;
        trailers.append(name, value);
    }
    Ok(Decoded::Trailers(trailers))
}

/// As many digits as a size of 64 bits has.
const DIGITS_MAX: usize = 16;
/// A signature of a chunk takes some 200.
const LINE_BYTES_MAX: usize = 512;
const EXTENSION_BYTES_MAX: usize = 16 * 1024;
const TRAILER_BYTES_MAX: usize = 16 * 1024;
const TRAILERS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    /// A body, its trailers, and what is left behind it.
    type Parts = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

    /// What `bytes` are that come so many at a time.
    fn decoded(bytes: &[u8], at_a_time: usize) -> Result<Parts, BadBody> {
        let (mut decoder, mut read, mut body) = (Decoder::chunked(), BytesMut::new(), Vec::new());
        let mut pieces = bytes.chunks(at_a_time);
        loop {
            match decoder.decode(&mut read)? {
                Decoded::Data(data) => body.extend_from_slice(&data),
                Decoded::Trailers(trailers) => return Ok((body, Some(trailers), read.to_vec())),
                Decoded::End => {
                    return Ok((body, None, [&read[..], &pieces.flatten().copied().collect::<Vec<_>>()].concat()));
                }
                Decoded::More => match pieces.next() {
                    Some(piece) => read.extend_from_slice(piece),
                    None => return Ok((body, None, b"cut short".to_vec())),
                },
            }
        }
    }

    #[test]
    fn chunks_are_joined_however_they_come() {
        let text = b"5\r\nhello\r\n6;a=b\r\n world\r\n00A \t\r\n0123456789\r\n0\r\n\r\nrest";
        for at_a_time in 1..text.len() {
            let (body, trailers, rest) = decoded(text, at_a_time).expect("good chunks");
            assert_eq!(body, b"hello world0123456789", "{at_a_time}");
            assert_eq!((trailers, &rest[..]), (None, &b"rest"[..]), "{at_a_time}");
        }
    }

    #[test]
    fn trailers_come_last() {
        let text = b"1\r\nx\r\n0\r\nA: b\r\ngrpc-status: 0\r\n\r\n";
        for at_a_time in 1..text.len() {
            let (body, trailers, _) = decoded(text, at_a_time).expect("good chunks");
            assert_eq!(body, b"x");
            let trailers = trailers.expect("trailers");
            assert!(trailers["a"] == "b" && trailers["grpc-status"] == "0" && trailers.len() == 2, "{trailers:?}");
        }
    }

    #[test]
    fn what_two_programs_could_read_differently_is_no_body() {
        for (text, fault) in [
            (&b"\r\n"[..], BadBody::Size),
            (b"x\r\n", BadBody::Size),
            (b"-1\r\n", BadBody::Size),
            (b"+1\r\nx", BadBody::Size),
            (b"0x1\r\nx", BadBody::Size),
            (b" 1\r\nx", BadBody::Size),
            (b"1 1\r\nx", BadBody::Size),
            (b"1\nx\r\n0\r\n\r\n", BadBody::Size),
            (b"1;a\rb\r\nx", BadBody::Size),
            (b"1\r\r\nx", BadBody::Size),
            (b"1\x0b\r\nx", BadBody::Size),
            (b"11111111111111111\r\nx", BadBody::Size),
            (b"1\r\nxy\r\n", BadBody::Data),
            (b"1\r\nx\n", BadBody::Data),
            (b"1\r\nx\rx", BadBody::Data),
            (b"0\r\nno field\r\n\r\n", BadBody::Trailers),
            (b"0\r\n a: b\r\n\r\n", BadBody::Trailers),
            (b"0\r\na: b\nc: d\r\n\r\n", BadBody::Trailers),
        ] {
            for at_a_time in [1, text.len()] {
                assert_eq!(decoded(text, at_a_time).map(|_| ()), Err(fault), "{:?}", text.escape_ascii().to_string());
            }
        }
        for (length, verdict) in [(LINE_BYTES_MAX, Ok(())), (LINE_BYTES_MAX + 1, Err(BadBody::Extensions))] {
            let line = [b"1;".to_vec(), vec![b'a'; length - 2], b"\r\nx\r\n0\r\n\r\n".to_vec()].concat();
            for at_a_time in [1, length, line.len()] {
                assert_eq!(decoded(&line, at_a_time).map(|_| ()), verdict, "{length} by {at_a_time}");
            }
        }
        // A line that never ends is not waited for.
        for beginning in [&b"1;"[..], b"1", b"0"] {
            let endless = [beginning.to_vec(), vec![beginning[0]; LINE_BYTES_MAX + 2]].concat();
            assert_eq!(decoded(&endless, 100).map(|_| ()), Err(BadBody::Extensions));
        }
        let many = b"1;0123456789abcdef\r\nx\r\n".repeat(1100);
        assert_eq!(decoded(&many, 1000).map(|_| ()), Err(BadBody::Extensions));
        let trailers = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(4000)].concat();
        assert_eq!(decoded(&trailers, 1000).map(|_| ()), Err(BadBody::Trailers));
    }

    #[test]
    fn a_length_is_taken_and_no_more() {
        let (mut decoder, mut read) = (Decoder::Length(3), BytesMut::from(&b"abcd"[..]));
        assert!(matches!(decoder.decode(&mut read), Ok(Decoded::Data(data)) if &data[..] == b"abc"));
        assert!(decoder.is_over());
        assert!(matches!(decoder.decode(&mut read), Ok(Decoded::End)));
        assert_eq!(&read[..], b"d");
    }

    #[test]
    fn the_end_that_is_here_already_is_taken_at_once() {
        let (mut decoder, mut read) = (Decoder::chunked(), BytesMut::from(&b"1\r\nx\r\n0\r\n\r\n"[..]));
        assert!(matches!(decoder.decode(&mut read), Ok(Decoded::Data(_))));
        assert!(!decoder.is_over());
        decoder.finish(&mut read);
        assert!(decoder.is_over() && read.is_empty());
    }
}
