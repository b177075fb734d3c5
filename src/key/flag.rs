//! Flags: what a key is granted, what a route requires, and whether one meets the other.
//!
//! A flag is segments joined by dots. A granted flag may hold `*` for exactly one segment and end
//! in `**` for one or more; a required flag is concrete. No wildcard ever reaches the reserved
//! first segment `keyward`: only a grant that literally begins `keyward.` does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The first segment that only a literal grant matches.
pub const RESERVED_SEGMENT: &str = "keyward";
/// The most segments a flag has.
pub const SEGMENTS_MAX: usize = 16;
const FLAG_BYTES_MAX: usize = 256;
const SEGMENT_BYTES_MAX: usize = 64;

/// Whether `text` is one concrete segment: 1 to 64 of `A-Z a-z 0-9 _ : -`.
#[must_use]
pub fn is_segment(text: &str) -> bool {
    (1..=SEGMENT_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-'))
}

/// Text that is no flag that could be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagFault {
    /// More than 256 bytes.
    #[error("flag of {0} bytes is longer than 256")]
    TooLong(usize),
    /// More than 16 segments.
    #[error("flag {0:?} has more than 16 segments")]
    TooDeep(String),
    /// An empty, overlong or misspelt segment, or a `**` that is not last.
    #[error("flag {flag:?} has the segment {segment:?}: expected 1 to 64 of A-Z a-z 0-9 _ : -, or *, or a final **")]
    Segment {
        /// The whole flag.
        flag: String,
        /// The segment at fault.
        segment: String,
    },
    /// More flags than one key may hold.
    #[error("{found} flags where at most {max} are allowed")]
    TooMany {
        /// How many there were.
        found: usize,
        /// How many there may be.
        max: usize,
    },
}

/// A flag as granted to a key or user, with wildcards.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant(Box<str>);

impl Grant {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether this grant lies below the reserved segment.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.segments().next() == Some(RESERVED_SEGMENT)
    }

    /// Whether this grant meets a requirement given as concrete segments.
    #[must_use]
    pub fn matches<'a>(&self, mut required: impl Iterator<Item = &'a str>) -> bool {
        let mut first = true;
        for segment in self.segments() {
            let Some(wanted) = required.next() else { return false };
            if first && wanted == RESERVED_SEGMENT && segment != RESERVED_SEGMENT {
                return false;
            }
            first = false;
            match segment {
                "**" => return true,
                "*" => {}
                literal => {
                    if literal != wanted {
                        return false;
                    }
                }
            }
        }
        required.next().is_none()
    }

    /// Whether everything that `other` grants is granted by this too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if other.is_reserved() && !self.is_reserved() {
            return false;
        }
        let mut others = other.segments();
        for mine in self.segments() {
            let Some(theirs) = others.next() else { return false };
            match (mine, theirs) {
                ("**", _) => return true,
                (_, "**") => return false,
                ("*", _) => {}
                (literal, theirs) => {
                    if literal != theirs {
                        return false;
                    }
                }
            }
        }
        others.next().is_none()
    }
}

impl FromStr for Grant {
    type Err = FlagFault;

    fn from_str(text: &str) -> Result<Self, FlagFault> {
        if text.len() > FLAG_BYTES_MAX {
            return Err(FlagFault::TooLong(text.len()));
        }
        let mut segments = text.split('.').peekable();
        let mut count = 0;
        while let Some(segment) = segments.next() {
            count += 1;
            let wildcard = segment == "*" || (segment == "**" && segments.peek().is_none());
            if !wildcard && !is_segment(segment) {
                return Err(FlagFault::Segment { flag: text.to_owned(), segment: segment.to_owned() });
            }
        }
        if count > SEGMENTS_MAX {
            return Err(FlagFault::TooDeep(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for Grant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Grant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A set of grants, sorted and without repeats. The empty set grants nothing.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Grant>")]
pub struct FlagSet(Box<[Grant]>);

impl FlagSet {
    /// The set of the flags spelt in `texts`.
    ///
    /// # Errors
    /// The first that is no flag.
    pub fn parse<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, FlagFault> {
        let grants = texts.into_iter().map(|text| text.as_ref().parse());
        Ok(grants.collect::<Result<Vec<Grant>, FlagFault>>()?.into())
    }

    /// The grants in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Grant> {
        self.0.iter()
    }

    /// How many grants there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether some grant meets the requirement given as concrete segments.
    #[must_use]
    pub fn meets<'a>(&self, required: &(impl Iterator<Item = &'a str> + Clone)) -> bool {
        self.0.iter().any(|grant| grant.matches(required.clone()))
    }

    /// Whether some grant meets the concrete flag `required`, given as text.
    #[must_use]
    pub fn grants(&self, required: &str) -> bool {
        self.meets(&required.split('.'))
    }

    /// Whether one grant of this set covers all that `other` grants.
    #[must_use]
    pub fn covers(&self, other: &Grant) -> bool {
        self.0.iter().any(|grant| grant.covers(other))
    }

    /// Whether every grant of `other` is covered.
    #[must_use]
    pub fn covers_all(&self, other: &Self) -> bool {
        other.iter().all(|grant| self.covers(grant))
    }

    /// Whether some grant lies below the reserved segment, which makes its holder an operator.
    #[must_use]
    pub fn holds_reserved(&self) -> bool {
        self.0.iter().any(Grant::is_reserved)
    }
}

impl From<Vec<Grant>> for FlagSet {
    fn from(mut grants: Vec<Grant>) -> Self {
        grants.sort_unstable();
        grants.dedup();
        Self(grants.into())
    }
}

impl FromIterator<Grant> for FlagSet {
    fn from_iter<I: IntoIterator<Item = Grant>>(grants: I) -> Self {
        grants.into_iter().collect::<Vec<_>>().into()
    }
}

impl fmt::Debug for FlagSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Space-separated, as in the `scope` of RFC 6750.
impl fmt::Display for FlagSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, grant) in self.iter().enumerate() {
            if at > 0 {
                f.write_str(" ")?;
            }
            f.write_str(grant.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(flags: &[&str]) -> FlagSet {
        FlagSet::parse(flags).expect("flags of a test are well-formed")
    }

    #[test]
    fn a_wildcard_stands_for_one_segment_and_a_final_double_for_one_or_more() {
        assert!(set(&["keyring.*.read"]).grants("keyring.comms.read"));
        assert!(!set(&["keyring.*.read"]).grants("keyring.comms.config.read"));
        assert!(!set(&["keyring.*.read"]).grants("keyring.read"));
        assert!(set(&["keyring.**"]).grants("keyring.comms.config.read"));
        assert!(!set(&["keyring.**"]).grants("keyring"));
        assert!(set(&["**"]).grants("jobs:write"));
        assert!(!set(&[]).grants("jobs:write"));
    }

    #[test]
    fn only_a_literal_grant_reaches_the_reserved_segment() {
        for grant in ["**", "*", "*.keys.read", "*.**"] {
            assert!(!set(&[grant]).grants("keyward.keys.read"), "{grant}");
            assert!(!set(&[grant]).covers(&"keyward.keys.read".parse().expect("a flag")), "{grant}");
            assert!(!set(&[grant]).holds_reserved(), "{grant}");
        }
        assert!(set(&["keyward.**"]).grants("keyward.keys.read"));
        assert!(set(&["keyward.*.read"]).grants("keyward.keys.read"));
        assert!(set(&["keyward"]).holds_reserved());
    }

    #[test]
    fn a_misspelt_flag_is_refused() {
        for text in ["", ".", "a..b", "a.**.b", "a*", "***", "a b", "ä", "a.b/c", "a%2e"] {
            assert!(text.parse::<Grant>().is_err(), "{text:?}");
        }
        assert!(vec!["a"; 17].join(".").parse::<Grant>().is_err());
        assert!("a".repeat(65).parse::<Grant>().is_err());
        assert!(vec!["a"; 16].join(".").parse::<Grant>().is_ok());
    }

    fn segment() -> impl Strategy<Value = String> {
        prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just("keyward".to_owned())]
    }

    fn concrete() -> impl Strategy<Value = String> {
        proptest::collection::vec(segment(), 1..4).prop_map(|segments| segments.join("."))
    }

    fn pattern() -> impl Strategy<Value = Grant> {
        let inner = prop_oneof![segment(), Just("*".to_owned())];
        let last = prop_oneof![segment(), Just("*".to_owned()), Just("**".to_owned())];
        (proptest::collection::vec(inner, 0..3), last).prop_map(|(mut segments, last)| {
            segments.push(last);
            segments.join(".").parse().expect("built from segments")
        })
    }

    /// What the rule says, written as slowly as it reads.
    fn by_the_rule(grant: &[&str], flag: &[&str]) -> bool {
        if flag.first() == Some(&RESERVED_SEGMENT) && grant.first() != Some(&RESERVED_SEGMENT) {
            return false;
        }
        match (grant, flag) {
            (["**"], [_, ..]) => true,
            ([g, grant @ ..], [f, flag @ ..]) => {
                (*g == "*" || g == f) && (grant.is_empty() && flag.is_empty() || below(grant, flag))
            }
            _ => false,
        }
    }

    fn below(grant: &[&str], flag: &[&str]) -> bool {
        match (grant, flag) {
            ([], []) | (["**"], [_, ..]) => true,
            ([g, grant @ ..], [f, flag @ ..]) => (*g == "*" || g == f) && below(grant, flag),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_follows_the_rule(grant in pattern(), flag in concrete()) {
            let grant_segments: Vec<_> = grant.as_str().split('.').collect();
            let flag_segments: Vec<_> = flag.split('.').collect();
            prop_assert_eq!(grant.matches(flag.split('.')), by_the_rule(&grant_segments, &flag_segments));
        }

        #[test]
        fn what_covers_matches_all_that_is_covered(wide in pattern(), narrow in pattern(), flag in concrete()) {
            if wide.covers(&narrow) && narrow.matches(flag.split('.')) {
                prop_assert!(wide.matches(flag.split('.')));
            }
        }

        #[test]
        fn covering_is_reflexive_and_transitive(a in pattern(), b in pattern(), c in pattern()) {
            prop_assert!(a.covers(&a));
            if a.covers(&b) && b.covers(&c) {
                prop_assert!(a.covers(&c));
            }
        }
    }
}
