//! The one path: the form in which a path is both matched and forwarded, and what is refused
//! because two programs could read it differently.
//!
//! Percent-encoded unreserved characters are decoded exactly once and the other escapes are
//! written in upper case (RFC 3986, 6.2.2). What some routes allow and others do not is recorded
//! as a set of [`Feature`]s, for the route is known only after matching.

use std::borrow::Cow;
use std::fmt;

/// Whether a feature is refused or passed on as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pass {
    /// 400.
    #[default]
    Reject,
    /// Matched and forwarded as it is.
    Forward,
}

/// What becomes of empty segments, as in `/a//b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EmptySegments {
    /// 400.
    #[default]
    Reject,
    /// They are taken out before forwarding.
    Merge,
}

/// What a route lets through beyond plain paths. By default nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathOptions {
    /// `%2F`. Only for upstreams that do not take it for a slash.
    pub encoded_slashes: Pass,
    /// `;` and `%3B`.
    pub path_parameters: Pass,
    /// `%25`, `%23` and `%3F`. Only for upstreams that decode once.
    pub encoded_percent: Pass,
    /// Bytes from 0x80 on that are no percent-encoded UTF-8 text.
    pub non_ascii: Pass,
    /// Empty segments.
    pub empty_segments: EmptySegments,
}

/// Something in a path that only some routes let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// `%2F`.
    EncodedSlash,
    /// `%25`, `%23` or `%3F`.
    EncodedPercent,
    /// `;` or `%3B`.
    PathParameter,
    /// A raw byte from 0x80 on, an escape that is no UTF-8, or a control character from U+0080 on.
    NonAscii,
    /// Two slashes in a row.
    EmptySegment,
}

impl Feature {
    /// Every feature.
    pub const ALL: &[Self] =
        &[Self::EncodedSlash, Self::EncodedPercent, Self::PathParameter, Self::NonAscii, Self::EmptySegment];

    const fn bit(self) -> u8 {
        match self {
            Self::EncodedSlash => 1,
            Self::EncodedPercent => 2,
            Self::PathParameter => 4,
            Self::NonAscii => 8,
            Self::EmptySegment => 16,
        }
    }

    /// The option that lets it through.
    #[must_use]
    pub const fn option(self) -> &'static str {
        match self {
            Self::EncodedSlash => "encoded_slashes",
            Self::EncodedPercent => "encoded_percent",
            Self::PathParameter => "path_parameters",
            Self::NonAscii => "non_ascii",
            Self::EmptySegment => "empty_segments",
        }
    }
}

/// A set of features.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(u8);

impl Features {
    /// Whether `feature` is in the set.
    #[must_use]
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & feature.bit() != 0
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn add(&mut self, feature: Feature) {
        self.0 |= feature.bit();
    }

    /// The features in the set.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.iter().copied().filter(move |feature| self.has(*feature))
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    NoLeadingSlash,
    /// A percent sign without two hexadecimal digits.
    #[error("the path has a percent sign without two hexadecimal digits")]
    BadEscape,
    /// NUL or another control character, raw or encoded.
    #[error("the path has a control character")]
    Control,
    /// A backslash, raw or encoded.
    #[error("the path has a backslash")]
    Backslash,
    /// A raw character that cannot stand in a path, such as a space, a quote or `#`.
    #[error("the path has a character that must be percent-encoded")]
    NotAPathCharacter,
    /// A segment that is `.` or `..`, in any form.
    #[error("the path has a dot segment")]
    DotSegment,
    /// Something that this route does not let through.
    #[error("the path has something that this route does not let through: {}", .0.option())]
    Feature(Feature),
    /// With and without its parameters, the path leads to different routes.
    #[error("the path leads to another route without its parameters")]
    ParametersChangeRoute,
    /// The path stopped being canonical when its prefix was replaced.
    #[error("the path is not canonical after its prefix was replaced")]
    NotCanonicalAfterRewrite,
}

/// A path in its canonical form, and what was seen in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalPath<'p> {
    text: Cow<'p, str>,
    features: Features,
}

impl<'p> CanonicalPath<'p> {
    /// The text. Empty segments are still in it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What was seen in it.
    #[must_use]
    pub const fn features(&self) -> Features {
        self.features
    }

    /// Whether the text is the one that was given, so that nothing was copied.
    #[must_use]
    pub const fn is_borrowed(&self) -> bool {
        matches!(self.text, Cow::Borrowed(_))
    }

    /// The text, owned or as given.
    #[must_use]
    pub fn into_text(self) -> Cow<'p, str> {
        self.text
    }

    /// Whether a route with these options lets the path through.
    ///
    /// # Errors
    /// The first thing in the path that it does not let through.
    pub fn check(&self, options: &PathOptions) -> Result<(), PathFault> {
        if self.features.is_empty() {
            return Ok(());
        }
        for feature in self.features.iter() {
            let passes = match feature {
                Feature::EncodedSlash => options.encoded_slashes == Pass::Forward,
                Feature::EncodedPercent => options.encoded_percent == Pass::Forward,
                Feature::PathParameter => options.path_parameters == Pass::Forward,
                Feature::NonAscii => options.non_ascii == Pass::Forward,
                Feature::EmptySegment => options.empty_segments == EmptySegments::Merge,
            };
            if !passes {
                return Err(PathFault::Feature(feature));
            }
        }
        if self.features.has(Feature::EncodedPercent) && hides_a_dot_segment(&self.text) {
            return Err(PathFault::DotSegment);
        }
        Ok(())
    }

    /// The path to forward, where a route with these options matched: the same text, without its
    /// empty segments.
    ///
    /// # Errors
    /// As [`CanonicalPath::check`].
    pub fn forwarded(&self, options: &PathOptions) -> Result<Cow<'_, str>, PathFault> {
        self.check(options)?;
        Ok(self.merged())
    }

    fn merged(&self) -> Cow<'_, str> {
        if !self.features.has(Feature::EmptySegment) {
            return Cow::Borrowed(&self.text);
        }
        let mut merged = String::with_capacity(self.text.len());
        for letter in self.text.chars() {
            if letter != '/' || !merged.ends_with('/') {
                merged.push(letter);
            }
        }
        Cow::Owned(merged)
    }
}

/// The canonical form of `raw`, the path of a request without its query. Borrows where nothing
/// changes, which is the usual case. Never refuses what some route may let through.
///
/// # Errors
/// What no route lets through.
pub fn canonicalize<T: AsRef<[u8]> + ?Sized>(raw: &T) -> Result<CanonicalPath<'_>, PathFault> {
    let raw = raw.as_ref();
    if raw.first() != Some(&b'/') {
        return Err(PathFault::NoLeadingSlash);
    }
    let mut features = Features::default();
    let mut output = Output { raw, changed: None };
    let mut at = plain_bytes(raw);
    let all_plain = at == raw.len();
    while let Some((&byte, rest)) = raw.get(at..).and_then(<[u8]>::split_first) {
        match byte {
            b'%' => at += escape(rest, at, &mut output, &mut features)?,
            b';' => {
                features.add(Feature::PathParameter);
                at += output.keep(at, 1);
            }
            b'\\' => return Err(PathFault::Backslash),
            0..=0x1f | 0x7f => return Err(PathFault::Control),
            0x80.. => {
                features.add(Feature::NonAscii);
                output.escape(at, byte);
                at += 1;
            }
            _ => match plain_bytes(raw.get(at..).unwrap_or_default()) {
                0 => return Err(PathFault::NotAPathCharacter),
                count => at += output.keep(at, count),
            },
        }
    }
    let text = output.text()?;
    let mut segments = text.as_bytes().split(|&byte| byte == b'/').skip(1);
    while let Some(segment) = segments.next() {
        // Nothing behind the last slash is no empty segment.
        if segment.is_empty() && segments.clone().next().is_some() {
            features.add(Feature::EmptySegment);
        }
        if matches!(segment, b"." | b"..") || !all_plain && has_dot_segment(segment) {
            return Err(PathFault::DotSegment);
        }
    }
    Ok(CanonicalPath { text, features })
}

/// How many bytes from the start on can stand as they are, slashes among them.
fn plain_bytes(bytes: &[u8]) -> usize {
    const PLAIN: [bool; 256] = {
        let mut plain = [false; 256];
        let mut byte = 0u8;
        while byte < 128 {
            #[expect(clippy::indexing_slicing, reason = "a byte is below 256; checked when compiled")]
            {
                plain[byte as usize] = is_plain(byte);
            }
            byte += 1;
        }
        plain
    };
    bytes.iter().position(|&byte| PLAIN.get(usize::from(byte)) != Some(&true)).unwrap_or(bytes.len())
}

/// Handles the escape whose percent sign is at `at`, with `rest` behind it; how many bytes it is.
fn escape(rest: &[u8], at: usize, output: &mut Output<'_>, features: &mut Features) -> Result<usize, PathFault> {
    let byte = escaped(rest).ok_or(PathFault::BadEscape)?;
    match byte {
        0..=0x1f | 0x7f => return Err(PathFault::Control),
        b'\\' => return Err(PathFault::Backslash),
        b'/' => features.add(Feature::EncodedSlash),
        b'%' | b'#' | b'?' => features.add(Feature::EncodedPercent),
        b';' => features.add(Feature::PathParameter),
        0x80.. => match utf8_escapes(byte, rest) {
            Some(length) => {
                for step in (0..length * 3).step_by(3) {
                    let byte = rest.get(step..).and_then(escaped).ok_or(PathFault::BadEscape)?;
                    output.keep_escape(at + step, byte);
                }
                return Ok(length * 3);
            }
            None => features.add(Feature::NonAscii),
        },
        _ if is_unreserved(byte) => {
            output.decode(at, byte);
            return Ok(3);
        }
        _ => {}
    }
    output.keep_escape(at, byte);
    Ok(3)
}

/// How many escapes, of which the first is `lead` with `rest` behind its percent sign, make one
/// character of UTF-8 that is no control character.
fn utf8_escapes(lead: u8, rest: &[u8]) -> Option<usize> {
    let length = match lead {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    let mut bytes = [lead, 0, 0, 0];
    for (step, byte) in bytes.iter_mut().enumerate().take(length).skip(1) {
        let (percent, digits) = rest.get(step * 3 - 1..)?.split_first()?;
        *byte = (*percent == b'%').then(|| escaped(digits)).flatten()?;
    }
    // The standard library refuses overlong forms and surrogates.
    let letter = std::str::from_utf8(bytes.get(..length)?).ok()?.chars().next()?;
    (!letter.is_control()).then_some(length)
}

/// The canonical text as it grows: nothing is copied until something differs.
struct Output<'p> {
    raw: &'p [u8],
    changed: Option<String>,
}

impl<'p> Output<'p> {
    /// Keeps `count` ASCII bytes from `at` on; how many bytes that is.
    fn keep(&mut self, at: usize, count: usize) -> usize {
        if let Some(text) = &mut self.changed {
            text.extend(self.raw.iter().skip(at).take(count).map(|&byte| char::from(byte)));
        }
        count
    }

    /// Keeps the escape of `byte` at `at`, in upper case.
    fn keep_escape(&mut self, at: usize, byte: u8) {
        let digits = hex(byte);
        if self.changed.is_none() && self.raw.get(at + 1..at + 3) == Some(digits.as_slice()) {
            return;
        }
        self.escape(at, byte);
    }

    /// Writes `byte` as an escape, instead of what is at `at`.
    fn escape(&mut self, at: usize, byte: u8) {
        let text = self.change(at);
        text.push('%');
        text.extend(hex(byte).map(char::from));
    }

    /// Writes the ASCII `byte` instead of the escape at `at`.
    fn decode(&mut self, at: usize, byte: u8) {
        self.change(at).push(char::from(byte));
    }

    /// The copy, which begins with all that was kept before `at`.
    fn change(&mut self, at: usize) -> &mut String {
        let raw = self.raw;
        self.changed.get_or_insert_with(|| {
            let mut text = String::with_capacity(raw.len() + 16);
            // All kept bytes are ASCII.
            text.extend(raw.iter().take(at).map(|&byte| char::from(byte)));
            text
        })
    }

    fn text(self) -> Result<Cow<'p, str>, PathFault> {
        match self.changed {
            Some(text) => Ok(Cow::Owned(text)),
            None => std::str::from_utf8(self.raw).map(Cow::Borrowed).map_err(|_never| PathFault::NotAPathCharacter),
        }
    }
}

/// Whether a segment is a dot segment to anybody: as it is, before its parameters, or beside an
/// encoded delimiter that somebody may decode before looking.
fn has_dot_segment(segment: &[u8]) -> bool {
    let mut dots = Some(0u8);
    let mut bytes = decode_bytes(segment);
    loop {
        let byte = bytes.next();
        match byte {
            None | Some(b'/' | b';' | b'?' | b'#') => {
                if matches!(dots, Some(1 | 2)) {
                    return true;
                }
                if byte.is_none() {
                    return false;
                }
                dots = Some(0);
            }
            Some(b'.') => dots = dots.map(|count| count.saturating_add(1)),
            Some(_) => dots = None,
        }
    }
}

/// Whether decoding again and again brings out a dot segment. In one pass: each escape is decoded
/// as soon as it is whole, so that `%252E` turns from `%2E` to a dot.
fn hides_a_dot_segment(text: &str) -> bool {
    let mut bytes: Vec<u8> = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        bytes.push(byte);
        while let Some((start, [b'%', digits @ ..])) = bytes.split_last_chunk::<3>() {
            let (Some(byte), length) = (escaped(digits), start.len()) else { break };
            bytes.truncate(length);
            bytes.push(byte);
        }
    }
    bytes
        .split(|byte| matches!(byte, b'/' | b'\\' | b';' | b'?' | b'#' | 0))
        .any(|segment| matches!(segment, b"." | b".."))
}

/// The bytes of canonical text with each escape decoded once.
pub(super) fn decode(text: &str) -> impl Iterator<Item = u8> + Clone {
    decode_bytes(text.as_bytes())
}

fn decode_bytes(text: &[u8]) -> impl Iterator<Item = u8> + Clone {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (&first, tail) = rest.split_first()?;
        let (byte, length) = match escaped(tail) {
            Some(byte) if first == b'%' => (byte, 2),
            Some(_) | None => (first, 0),
        };
        rest = tail.get(length..).unwrap_or_default();
        Some(byte)
    })
}

/// The byte that the two hexadecimal digits at the start of `text` spell.
fn escaped(text: &[u8]) -> Option<u8> {
    let (&[high, low], _) = text.split_first_chunk::<2>()?;
    Some(digit(high)? << 4 | digit(low)?)
}

const fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn hex(byte: u8) -> [u8; 2] {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'A' + value - 10 };
    [digit(byte >> 4), digit(byte & 15)]
}

/// RFC 3986, 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986, 3.3: what may stand raw in a path, but for `;`, which is looked at more closely.
const fn is_plain(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'/' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(raw: &str) -> String {
        canonicalize(raw).expect(raw).as_str().to_owned()
    }

    const STRICT: PathOptions = PathOptions {
        encoded_slashes: Pass::Reject,
        path_parameters: Pass::Reject,
        encoded_percent: Pass::Reject,
        non_ascii: Pass::Reject,
        empty_segments: EmptySegments::Reject,
    };

    const LAX: PathOptions = PathOptions {
        encoded_slashes: Pass::Forward,
        path_parameters: Pass::Forward,
        encoded_percent: Pass::Forward,
        non_ascii: Pass::Forward,
        empty_segments: EmptySegments::Merge,
    };

    #[test]
    fn a_plain_path_is_borrowed() {
        for path in [
            "/",
            "/a",
            "/a/b/",
            "/a-b._~!$&'()*+,=:@",
            "/a%20b",
            "/%C3%A9",
            "/a//b",
            "/a;b",
            "/a%2Fb",
            "/...",
            "/a.b/.c",
        ] {
            let canonical = canonicalize(path).expect(path);
            assert!(canonical.is_borrowed(), "{path}");
            assert_eq!(canonical.as_str(), path);
        }
    }

    #[test]
    fn unreserved_escapes_are_decoded_once_and_the_others_written_in_upper_case() {
        for (raw, expected) in [
            ("/%61%7e%2D%5f%30%5A", "/a~-_0Z"),
            ("/a%20b%2b", "/a%20b%2B"),
            ("/%c3%a9t%C3%a9", "/%C3%A9t%C3%A9"),
            ("/%2561", "/%2561"),
            ("/a%2fb%3bc%3fd%23e", "/a%2Fb%3Bc%3Fd%23e"),
            ("/%40%3a", "/%40%3A"),
            ("/a%2ejs", "/a.js"),
            ("/%f0%9f%94%91", "/%F0%9F%94%91"),
        ] {
            assert_eq!(canonical(raw), expected);
        }
    }

    #[test]
    fn what_no_route_lets_through_is_refused() {
        use PathFault::*;
        for (raw, fault) in [
            ("", NoLeadingSlash),
            ("a", NoLeadingSlash),
            ("*", NoLeadingSlash),
            ("/%", BadEscape),
            ("/%4", BadEscape),
            ("/%zz", BadEscape),
            ("/%-1", BadEscape),
            ("/%u0041", BadEscape),
            ("/%00", Control),
            ("/%0d%0a", Control),
            ("/%1f", Control),
            ("/%7F", Control),
            ("/\0", Control),
            ("/\t", Control),
            ("/\u{7f}", Control),
            ("/a\\b", Backslash),
            ("/%5c", Backslash),
            ("/..%5C", Backslash),
            ("/a b", NotAPathCharacter),
            ("/a#b", NotAPathCharacter),
            ("/a?b", NotAPathCharacter),
            ("/\"", NotAPathCharacter),
            ("/<", NotAPathCharacter),
            ("/a|b", NotAPathCharacter),
            ("/[x]", NotAPathCharacter),
            ("/{x}", NotAPathCharacter),
            ("/^", NotAPathCharacter),
            ("/`", NotAPathCharacter),
        ] {
            assert_eq!(canonicalize(raw), Err(fault), "{raw:?}");
        }
    }

    #[test]
    fn a_dot_segment_is_refused_in_any_form() {
        for raw in [
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/./",
            "/../",
            "/%2e",
            "/%2e%2E/",
            "/.%2e/x",
            "/%2e./x",
            "/..;/x",
            "/.;a=b",
            "/%2e%2e;x",
            "/..%3Bx",
            "/a/..%2Fb",
            "/a%2f..%2fb",
            "/a%2F..",
            "/..%2f",
            "/..%3fx",
            "/..%23",
            "/x;/..",
            "/a;..",
            "/;.",
            "//..",
        ] {
            assert_eq!(canonicalize(raw), Err(PathFault::DotSegment), "{raw}");
        }
        for raw in ["/...", "/.a", "/a.", "/..a", "/a..", "/a..b", "/.well-known/x", "/a;x=.b", "/%20."] {
            assert!(canonicalize(raw).is_ok(), "{raw}");
        }
    }

    #[test]
    fn a_dot_segment_under_more_than_one_layer_of_escapes_is_refused() {
        let layers = format!("/%{}2e%2e", "25".repeat(4_000));
        for raw in
            ["/%252e", "/%252e%252e/x", "/.%252e", "/%25252e/x", "/a%252f..%252fb", "/%252e%255cx", "/%%32%65", &layers]
        {
            let refused = canonicalize(raw).and_then(|path| path.check(&LAX));
            assert!(refused.is_err(), "{raw}");
        }
        for raw in ["/100%25", "/%2541", "/a%252fb", "/%25%25", "/%252"] {
            assert_eq!(canonicalize(raw).and_then(|path| path.check(&LAX)), Ok(()), "{raw}");
        }
    }

    #[test]
    fn each_feature_passes_only_with_its_option() {
        let strict = STRICT;
        for (raw, feature, options) in [
            ("/a%2fb", Feature::EncodedSlash, PathOptions { encoded_slashes: Pass::Forward, ..strict }),
            ("/a%25b", Feature::EncodedPercent, PathOptions { encoded_percent: Pass::Forward, ..strict }),
            ("/a%3fb", Feature::EncodedPercent, PathOptions { encoded_percent: Pass::Forward, ..strict }),
            ("/a%23b", Feature::EncodedPercent, PathOptions { encoded_percent: Pass::Forward, ..strict }),
            ("/a;b", Feature::PathParameter, PathOptions { path_parameters: Pass::Forward, ..strict }),
            ("/a%3bb", Feature::PathParameter, PathOptions { path_parameters: Pass::Forward, ..strict }),
            ("/%ff", Feature::NonAscii, PathOptions { non_ascii: Pass::Forward, ..strict }),
            ("/é", Feature::NonAscii, PathOptions { non_ascii: Pass::Forward, ..strict }),
            ("/a//b", Feature::EmptySegment, PathOptions { empty_segments: EmptySegments::Merge, ..strict }),
            ("//", Feature::EmptySegment, PathOptions { empty_segments: EmptySegments::Merge, ..strict }),
            ("/a//", Feature::EmptySegment, PathOptions { empty_segments: EmptySegments::Merge, ..strict }),
        ] {
            let path = canonicalize(raw).expect(raw);
            assert_eq!(path.features().iter().collect::<Vec<_>>(), [feature], "{raw}");
            assert_eq!(path.check(&strict), Err(PathFault::Feature(feature)), "{raw}");
            assert_eq!(path.check(&options), Ok(()), "{raw}");
        }
        assert!(canonicalize("/a/").expect("a path").features().is_empty());
    }

    #[test]
    fn escapes_that_are_utf_8_text_pass_and_others_are_a_feature() {
        for raw in ["/%C3%A9", "/%e2%82%ac", "/%F0%9F%94%91", "/%C2%A0"] {
            assert!(canonicalize(raw).expect(raw).features().is_empty(), "{raw}");
        }
        // Alone, cut off, overlong, a surrogate, beyond the last, a control from U+0080 on, mixed.
        for raw in [
            "/%80",
            "/%C3",
            "/%C3/%A9",
            "/%C3a%A9",
            "/%C0%AE",
            "/%E0%80%AE",
            "/%F0%80%80%AE",
            "/%ED%A0%80",
            "/%F5%80%80%80",
            "/%C2%85",
            "/%C2%80",
            "/%FE",
            "/%E2%82",
        ] {
            assert!(canonicalize(raw).expect(raw).features().has(Feature::NonAscii), "{raw}");
        }
        assert_eq!(canonicalize(b"/\xff\xc3").expect("a path").as_str(), "/%FF%C3");
    }

    #[test]
    fn merging_takes_out_empty_segments_and_keeps_the_trailing_slash() {
        for (raw, merged) in [("//", "/"), ("//a", "/a"), ("/a//b", "/a/b"), ("/a///b//", "/a/b/"), ("/a/", "/a/")] {
            assert_eq!(canonicalize(raw).expect(raw).forwarded(&LAX).expect(raw), merged);
        }
        assert!(canonicalize("//").expect("a path").forwarded(&STRICT).is_err());
    }

    fn nasty() -> impl Strategy<Value = String> {
        let parts = vec![
            "/", "/", ".", "%2e", "%2E", "%2f", "%5c", ";", "\\", "%", "%25", "%252e", "%c3", "%A9", "é", "A", "a",
            "%41", "%3b", "%00", " ", "~", "%7e", "#", "?", "@", "%40",
        ];
        proptest::collection::vec(prop::sample::select(parts), 0..12).prop_map(|parts| format!("/{}", parts.concat()))
    }

    fn check_all(raw: &[u8]) -> Result<(), TestCaseError> {
        let Ok(path) = canonicalize(raw) else { return Ok(()) };
        let again = canonicalize(path.as_str()).expect("a canonical path is accepted");
        prop_assert_eq!(again.as_str(), path.as_str());
        prop_assert!(again.is_borrowed());
        prop_assert!(path.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
        if let Ok(forwarded) = path.forwarded(&LAX) {
            let again = canonicalize(&*forwarded).expect("a forwarded path is canonical");
            prop_assert_eq!(again.as_str(), &*forwarded);
            prop_assert!(!forwarded.contains("//"));
        }
        if path.check(&STRICT).is_ok() {
            let decoded: Vec<u8> = decode(path.as_str()).collect();
            prop_assert_eq!(
                decoded.iter().filter(|&&byte| byte == b'/').count(),
                path.as_str().bytes().filter(|&byte| byte == b'/').count()
            );
            prop_assert!(std::str::from_utf8(&decoded).is_ok());
            prop_assert!(!decoded.iter().any(|byte| byte.is_ascii_control() || b"\\;?#%".contains(byte)));
            for segment in decoded.split(|&byte| byte == b'/') {
                prop_assert!(segment != b"." && segment != b"..");
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_canonical_form_of_a_nasty_path_is_its_own(raw in nasty()) {
            check_all(raw.as_bytes())?;
        }

        #[test]
        fn the_canonical_form_of_any_bytes_is_its_own(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            check_all(&[b"/", bytes.as_slice()].concat())?;
        }
    }
}
