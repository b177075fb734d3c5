//! What a route requires of a key: flags, some segments of which come from the path.

use std::fmt;

use super::matcher::Captures;
use super::path::decode;
use super::route::CAPTURES_MAX;
use crate::key::{RESERVED_SEGMENT, RecordFlags, SEGMENTS_MAX, is_segment};

const FLAG_BYTES_MAX: usize = 256;
const SEGMENT_BYTES_MAX: usize = 64;

/// Who may use a route. There is no default: a route says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without a key.
    Public,
    /// Any key that works.
    AnyKey,
    /// A key with flags: at least one of `any` where that is not empty, and every one of `all`.
    /// Both empty is a fault.
    Flags {
        /// One of these.
        any: Vec<FlagTemplate>,
        /// Each of these.
        all: Vec<FlagTemplate>,
    },
}

/// A required flag such as `keyring.{ring}.read`: each segment is literal or one whole capture.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlagTemplate {
    text: Box<str>,
    segments: Box<[TemplateSegment]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum TemplateSegment {
    Literal(Box<str>),
    Capture(Box<str>),
}

/// Text that is no requirement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateFault {
    /// Longer than a flag may be.
    #[error("required flag of {0} bytes is longer than 256")]
    TooLong(usize),
    /// More segments than a flag may have.
    #[error("required flag {0:?} has more than 16 segments")]
    TooDeep(String),
    /// A segment that is neither literal nor one whole capture.
    #[error(
        "required flag {flag:?} has the segment {segment:?}: \
         expected 1 to 64 of A-Z a-z 0-9 _ : -, or a whole {{capture}}; a requirement has no wildcards"
    )]
    Segment {
        /// The whole flag.
        flag: String,
        /// The segment at fault.
        segment: String,
    },
    /// The first segment is reserved for managing keys, which is not done through routes.
    #[error("required flag {0:?} begins with the reserved segment keyward, which opens no route")]
    Reserved(String),
}

impl FlagTemplate {
    /// The requirement that `text` spells. Whether its captures are the route's is checked when
    /// the table is built.
    ///
    /// # Errors
    /// When `text` can be no requirement.
    pub fn parse(text: &str) -> Result<Self, TemplateFault> {
        if text.len() > FLAG_BYTES_MAX {
            return Err(TemplateFault::TooLong(text.len()));
        }
        let segments: Vec<_> = text
            .split('.')
            .map(|segment| {
                TemplateSegment::parse(segment)
                    .ok_or_else(|| TemplateFault::Segment { flag: text.to_owned(), segment: segment.to_owned() })
            })
            .collect::<Result<_, _>>()?;
        if segments.len() > SEGMENTS_MAX {
            return Err(TemplateFault::TooDeep(text.to_owned()));
        }
        if text.split('.').next() == Some(RESERVED_SEGMENT) {
            return Err(TemplateFault::Reserved(text.to_owned()));
        }
        Ok(Self { text: text.into(), segments: segments.into() })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of its captures.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            TemplateSegment::Capture(name) => Some(&**name),
            TemplateSegment::Literal(_) => None,
        })
    }
}

impl fmt::Display for FlagTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TemplateSegment {
    fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
            Some(name) => super::route::is_capture_name(name).then(|| Self::Capture(name.into())),
            None => is_segment(text).then(|| Self::Literal(text.into())),
        }
    }
}

/// A route's flags with their captures resolved to places.
#[derive(Debug, Clone, Default)]
pub(super) struct Requirement {
    pub(super) any: Box<[Required]>,
    pub(super) all: Box<[Required]>,
}

/// One required flag.
#[derive(Debug, Clone)]
pub(super) struct Required {
    segments: Box<[Part]>,
}

#[derive(Debug, Clone)]
enum Part {
    Literal(Box<str>),
    /// The place of the capture among the route's.
    Capture(usize),
}

impl Required {
    /// Resolves the captures of `template` among `names`; the first that is unknown otherwise.
    pub(super) fn resolve<'n>(template: &'n FlagTemplate, names: &[Box<str>]) -> Result<Self, &'n str> {
        let segments = template.segments.iter().map(|segment| match segment {
            TemplateSegment::Literal(text) => Ok(Part::Literal(text.clone())),
            TemplateSegment::Capture(name) => {
                names.iter().position(|known| known == name).map(Part::Capture).ok_or(&**name)
            }
        });
        Ok(Self { segments: segments.collect::<Result<_, _>>()? })
    }

    /// The flag with its captures filled in; none where one of them can stand in no flag.
    pub(super) fn fill<'s>(&'s self, filling: &'s Filling<'_>) -> Option<Concrete<'s>> {
        let mut concrete = Concrete { segments: [""; SEGMENTS_MAX], count: 0 };
        let mut bytes = 0;
        for (place, part) in concrete.segments.iter_mut().zip(&self.segments) {
            *place = match part {
                Part::Literal(text) => text,
                Part::Capture(at) => filling.get(*at)?,
            };
            bytes += place.len() + 1;
            concrete.count += 1;
        }
        // The reserved segment cannot be reached through a capture either.
        let reserved = concrete.segments.first() == Some(&RESERVED_SEGMENT);
        (bytes <= FLAG_BYTES_MAX + 1 && !reserved).then_some(concrete)
    }

    pub(super) fn is_met(&self, filling: &Filling<'_>, flags: RecordFlags<'_>) -> bool {
        self.fill(filling).is_some_and(|flag| flags.meets(&flag.segments()))
    }

    /// Whether it has no captures, and `flags` meet it. What `fill` looks at was looked at when it was parsed.
    fn is_met_as_written(&self, flags: RecordFlags<'_>) -> bool {
        self.segments.iter().all(|part| matches!(part, Part::Literal(_)))
            && flags.meets(&self.segments.iter().map(|part| match part {
                Part::Literal(text) => &**text,
                Part::Capture(_) => "",
            }))
    }
}

impl Requirement {
    /// Whether `flags` meet it whatever the path is, because nothing of the path goes into it. Most requirements are
    /// of this kind, and cost less for being told apart.
    pub(super) fn is_met_as_written(&self, flags: RecordFlags<'_>) -> bool {
        (self.any.is_empty() || self.any.iter().any(|flag| flag.is_met_as_written(flags)))
            && self.all.iter().all(|flag| flag.is_met_as_written(flags))
            && !(self.any.is_empty() && self.all.is_empty())
    }

    /// Whether `flags` meet it: some of `any`, and each of `all`.
    pub(super) fn is_met(&self, filling: &Filling<'_>, flags: RecordFlags<'_>) -> bool {
        (self.any.is_empty() || self.any.iter().any(|flag| flag.is_met(filling, flags)))
            && self.all.iter().all(|flag| flag.is_met(filling, flags))
            // A requirement of nothing is never built; were there one, nobody would meet it.
            && !(self.any.is_empty() && self.all.is_empty())
    }

    /// Flags that would be enough, for the challenge: every one of `all` and the first of `any`,
    /// of those that the path can fill.
    pub(super) fn enough(&self, filling: &Filling<'_>) -> Option<String> {
        let any = self.any.iter().find_map(|flag| flag.fill(filling));
        let all = self.all.iter().filter_map(|flag| flag.fill(filling));
        let flags: Vec<_> = any.into_iter().chain(all).map(|flag| flag.to_string()).collect();
        (!flags.is_empty()).then(|| flags.join(" "))
    }
}

/// A required flag with its captures filled in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Concrete<'s> {
    segments: [&'s str; SEGMENTS_MAX],
    count: usize,
}

impl<'s> Concrete<'s> {
    fn segments(&self) -> impl Iterator<Item = &'s str> + Clone {
        self.segments.iter().copied().take(self.count)
    }
}

impl fmt::Display for Concrete<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, segment) in self.segments().enumerate() {
            if at > 0 {
                f.write_str(".")?;
            }
            f.write_str(segment)?;
        }
        Ok(())
    }
}

/// What the captures of one request put into flags: the once-decoded segments that are flag
/// segments, and nothing for the others, so that no `*`, `.`, `/` or `%` of a path gets into a flag.
#[derive(Debug)]
pub(super) struct Filling<'p>([Option<&'p str>; CAPTURES_MAX]);

impl Filling<'_> {
    /// Hands the filling of `captures` to `then`.
    pub(super) fn with<T>(captures: &Captures<'_>, then: impl FnOnce(&Filling<'_>) -> T) -> T {
        if captures.iter().any(|capture| capture.contains('%')) {
            return Self::with_decoded(captures, then);
        }
        let mut filling = Filling([None; CAPTURES_MAX]);
        for (place, capture) in filling.0.iter_mut().zip(captures.iter()) {
            *place = Some(capture).filter(|capture| is_segment(capture));
        }
        then(&filling)
    }

    /// The same where some capture has escapes, decoded on the stack. Kept apart, for hardly any
    /// request needs the room.
    #[inline(never)]
    fn with_decoded<T>(captures: &Captures<'_>, then: impl FnOnce(&Filling<'_>) -> T) -> T {
        let mut room = [[0; SEGMENT_BYTES_MAX]; CAPTURES_MAX];
        let mut filling = Filling([None; CAPTURES_MAX]);
        for ((place, room), capture) in filling.0.iter_mut().zip(&mut room).zip(captures.iter()) {
            *place = decode_into(capture, room).filter(|capture| is_segment(capture));
        }
        then(&filling)
    }

    fn get(&self, at: usize) -> Option<&str> {
        self.0.get(at).copied().flatten()
    }
}

/// `segment` decoded once; none where it does not fit or is no text.
fn decode_into<'r>(segment: &str, room: &'r mut [u8; SEGMENT_BYTES_MAX]) -> Option<&'r str> {
    let mut count = 0;
    for byte in decode(segment) {
        *room.get_mut(count)? = byte;
        count += 1;
    }
    std::str::from_utf8(room.get(..count)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{set, template};
    use proptest::prelude::*;

    #[test]
    fn a_required_flag_is_literals_and_whole_captures() {
        for text in ["a", "keyring.read", "keyring.{ring}.read", "{a}.{b}", "jobs:write", "x.keyward"] {
            assert_eq!(template(text).as_str(), text);
        }
        assert_eq!(template("a.{b}.c.{d}").captures().collect::<Vec<_>>(), ["b", "d"]);
        for text in ["", "a..b", "a.*", "**", "a.{b", "a.b}", "a.x{b}", "a.{}", "a.{*b}", "a b", "a.{b c}"] {
            assert!(matches!(FlagTemplate::parse(text), Err(TemplateFault::Segment { .. })), "{text}");
        }
        assert!(matches!(FlagTemplate::parse("keyward.keys.read"), Err(TemplateFault::Reserved(_))));
        assert!(matches!(FlagTemplate::parse(&["a"; 17].join(".")), Err(TemplateFault::TooDeep(_))));
        assert!(matches!(FlagTemplate::parse(&"a".repeat(257)), Err(TemplateFault::TooLong(257))));
    }

    fn met(required: &str, capture: &str, granted: &[&str]) -> bool {
        let names: [Box<str>; 1] = ["ring".into()];
        let template = template(required);
        let required = Required::resolve(&template, &names).expect("the capture is known");
        let captures = Captures::from_values(&[capture]);
        Filling::with(&captures, |filling| required.is_met(filling, RecordFlags::Own(&set(granted))))
    }

    #[test]
    fn a_capture_fills_in_the_segment_decoded_once() {
        assert!(met("keyring.{ring}.read", "comms", &["keyring.comms.read"]));
        assert!(met("keyring.{ring}.read", "comms", &["keyring.*.read"]));
        assert!(!met("keyring.{ring}.read", "other", &["keyring.comms.read"]));
        assert!(met("keyring.{ring}", "a%3Ab", &["keyring.a:b"]));
        assert!(!met("keyring.{ring}", "a%253Ab", &["keyring.**"]));
    }

    #[test]
    fn no_path_forges_a_flag() {
        let long = "a".repeat(65);
        for capture in [
            "*",
            "**",
            "%2A",
            "a.b",
            "a/b",
            "a%2Fb",
            "a%2Eb",
            "%25",
            "",
            "a b",
            "a%20b",
            "%C3%A9",
            "comms;x",
            &long,
            "%3A%3A%00",
        ] {
            for granted in ["**", "keyring.**", "keyring.*.read", "keyring.comms.read"] {
                assert!(!met("keyring.{ring}.read", capture, &[granted]), "{capture} {granted}");
            }
        }
        assert!(!met("{ring}.keys.read", "keyward", &["keyward.**", "**"]));
    }

    #[test]
    fn another_alternative_still_counts_beside_one_that_cannot_be_filled() {
        let names: [Box<str>; 1] = ["ring".into()];
        let (filled, plain) = (template("keyring.{ring}.read"), template("keyring.read"));
        let any = [&filled, &plain].map(|template| Required::resolve(template, &names).expect("known"));
        let requirement = Requirement { any: any.into(), all: [].into() };
        let captures = Captures::from_values(&["a.b"]);
        Filling::with(&captures, |filling| {
            assert!(requirement.is_met(filling, RecordFlags::Own(&set(&["keyring.**"]))));
            assert!(!requirement.is_met(filling, RecordFlags::Own(&set(&["keyring.*.read"]))));
            assert_eq!(requirement.enough(filling).as_deref(), Some("keyring.read"));
        });
    }

    #[test]
    fn a_requirement_of_nothing_is_met_by_nobody() {
        let captures = Captures::from_values(&[]);
        let nothing = Requirement::default();
        assert!(!Filling::with(&captures, |filling| nothing.is_met(filling, RecordFlags::Own(&set(&["**"])))));
    }

    #[test]
    fn a_filled_flag_is_no_longer_than_flags_are() {
        let captures = ["a".repeat(64), "b".repeat(64), "c".repeat(64), "d".repeat(64)];
        let captures = Captures::from_values(&captures.each_ref().map(String::as_str));
        let names = ["a".into(), "b".into(), "c".into(), "d".into()];
        let fills = |text: &str| {
            let template = template(text);
            let required = Required::resolve(&template, &names).expect("known");
            Filling::with(&captures, |filling| required.fill(filling).is_some())
        };
        assert!(fills("{a}.{b}.{c}"));
        assert!(!fills("{a}.{b}.{c}.{d}"));
    }

    proptest! {
        #[test]
        fn only_a_segment_that_decodes_to_a_flag_segment_meets_anything(capture in "[a-zA-Z0-9._~!$*+%:@;/-]{0,70}") {
            let decoded: Vec<u8> = decode(&capture).collect();
            let segment = String::from_utf8(decoded).is_ok_and(|text| is_segment(&text));
            prop_assert_eq!(met("a.{ring}", &capture, &["a.**"]), segment);
        }

        #[test]
        fn any_text_is_a_requirement_or_none(text in ".{0,80}") {
            if let Ok(template) = FlagTemplate::parse(&text) {
                prop_assert_eq!(template.to_string(), text);
            }
        }
    }
}
