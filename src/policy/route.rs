//! What a route is: its specification as configuration gives it, its pattern, and the faults that
//! keep a table from being built.

use std::fmt;

use http::Method;

use super::credential::CredentialSource;
use super::denial::DeniedStatus;
use super::forward::{Forward, StaleRule};
use super::host::HostPattern;
use super::path::{Feature, PathFault, PathOptions, canonicalize, decode};
use super::requirement::{Access, Requirement};
use crate::clock::Timestamp;
use crate::key::{EnvironmentId, ProjectId};

/// The most captures that one pattern has.
pub const CAPTURES_MAX: usize = 16;
/// The most segments that one pattern has. Bounds how deep matching goes.
pub const PATTERN_SEGMENTS_MAX: usize = 64;

/// A route as configuration gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// Its name in log and metric. Unique.
    pub name: String,
    /// The hosts that it answers for.
    pub host: HostPattern,
    /// Its path pattern: literal segments, `{capture}`s, and perhaps a final `{*rest}`.
    pub path: String,
    /// Its methods; empty for any.
    pub methods: Vec<Method>,
    /// Who may use it.
    pub access: Access,
    /// Where a credential may be.
    pub credential: Vec<CredentialSource>,
    /// The projects whose keys may use it; empty for all.
    pub projects: Vec<ProjectId>,
    /// The environments whose keys may use it; empty for all.
    pub environments: Vec<EnvironmentId>,
    /// Whether it only watches.
    pub shadow: Option<Shadow>,
    /// The status where a key works but may not.
    pub denied_status: DeniedStatus,
    /// What its paths may have in them.
    pub path_options: PathOptions,
    /// What it does once the table is too stale; none for the gateway's rule.
    pub on_stale: Option<StaleRule>,
    /// How it forwards.
    pub forward: Forward,
}

impl RouteSpec {
    /// A segment of the path that other routers would take for a capture (`*`, `:id`) and that is plain text here,
    /// with what to write for a capture.
    #[must_use]
    pub fn foreign_capture(&self) -> Option<(&str, String)> {
        let (_, last) = self.path.rsplit_once('/')?;
        let foreign = |segment: &&str| segment.contains('*') || segment.starts_with(':');
        let segment = self.path.split('/').filter(|segment| !segment.contains('{')).find(foreign)?;
        let capture = match segment.strip_prefix(':') {
            Some(name) if is_capture_name(name) => format!("{{{name}}}"),
            _ if segment == last => "{*rest}".to_owned(),
            _ => "{name}".to_owned(),
        };
        Some((segment, capture))
    }

    /// A route of any host and method with everything else at its default.
    #[must_use]
    pub fn new(name: impl Into<String>, path: impl Into<String>, access: Access, forward: Forward) -> Self {
        Self {
            name: name.into(),
            host: HostPattern::Any,
            path: path.into(),
            methods: Vec::new(),
            access,
            credential: vec![CredentialSource::Bearer],
            projects: Vec::new(),
            environments: Vec::new(),
            shadow: None,
            denied_status: DeniedStatus::default(),
            path_options: PathOptions::default(),
            on_stale: None,
            forward,
        }
    }
}

/// A route only watches: what it would refuse is logged and passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shadow {
    /// From this instant on it refuses; none for never.
    pub until: Option<Timestamp>,
}

impl Shadow {
    /// Whether refusals still pass at `now`.
    #[must_use]
    pub fn watches(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// A route of a built table.
#[derive(Debug, Clone)]
pub struct Route {
    pub(super) index: usize,
    pub(super) spec: RouteSpec,
    pub(super) captures: Box<[Box<str>]>,
    pub(super) requirement: Requirement,
}

impl Route {
    /// Its place in the table, from 0, in the order of configuration.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// All that configuration said of it.
    #[must_use]
    pub const fn spec(&self) -> &RouteSpec {
        &self.spec
    }

    /// The names of its captures, from left to right.
    pub fn capture_names(&self) -> impl Iterator<Item = &str> {
        self.captures.iter().map(|name| &**name)
    }
}

/// A path pattern, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) segments: Vec<PatternSegment>,
    /// The names of captures, the catch-all's last.
    pub(super) captures: Vec<Box<str>>,
    pub(super) catch_all: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PatternSegment {
    /// Decoded once, so that `a@b` and `a%40b` are one.
    Literal(Box<[u8]>),
    Capture,
}

/// Why a path pattern is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// It does not begin with a slash.
    #[error("path {0:?} does not begin with a slash")]
    NoLeadingSlash(String),
    /// It is another path's spelling, which no request has once it was made canonical.
    #[error("path {found:?} is not canonical: write {canonical:?}")]
    NotCanonical {
        /// As found.
        found: String,
        /// As it should be.
        canonical: String,
    },
    /// A literal segment that no request can have.
    #[error("path {path:?} has the segment {segment:?}, which no request can have: {fault}")]
    Literal {
        /// The whole pattern.
        path: String,
        /// The segment at fault.
        segment: String,
        /// What is wrong with it.
        fault: PathFault,
    },
    /// A brace that does not enclose a whole segment, or a name that is none.
    #[error(
        "path {path:?} has the segment {segment:?}: a capture is a whole segment, {{name}} or a final {{*name}}, with a name of a-z A-Z 0-9 _"
    )]
    Capture {
        /// The whole pattern.
        path: String,
        /// The segment at fault.
        segment: String,
    },
    /// A catch-all that is not last.
    #[error("path {path:?} goes on after {segment:?}, which takes all that is left")]
    CatchAllNotLast {
        /// The whole pattern.
        path: String,
        /// The catch-all.
        segment: String,
    },
    /// Two captures of one name.
    #[error("path {path:?} has two captures named {name:?}")]
    RepeatedCapture {
        /// The whole pattern.
        path: String,
        /// The name.
        name: String,
    },
    /// More captures or segments than are handled.
    #[error("path {path:?} has more than {max} {what}")]
    TooMany {
        /// The whole pattern.
        path: String,
        /// Of what there are too many.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
}

/// Whether `text` can name a capture.
pub(super) fn is_capture_name(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=64).contains(&text.len()) && text.bytes().all(letter)
}

impl Pattern {
    pub(super) fn parse(path: &str, options: &PathOptions) -> Result<Self, PatternFault> {
        let owned = || path.to_owned();
        let inner = path.strip_prefix('/').ok_or_else(|| PatternFault::NoLeadingSlash(owned()))?;
        let mut pattern = Self { segments: Vec::new(), captures: Vec::new(), catch_all: false };
        let mut canonical = String::new();
        let mut catch_all = None;
        for segment in inner.split('/').filter(|segment| !segment.is_empty()) {
            if let Some(segment) = catch_all {
                return Err(PatternFault::CatchAllNotLast { path: owned(), segment });
            }
            canonical.push('/');
            if !segment.contains(['{', '}']) {
                let literal = canonical_literal(segment, options).map_err(|fault| PatternFault::Literal {
                    path: owned(),
                    segment: segment.to_owned(),
                    fault,
                })?;
                canonical.push_str(&literal);
                pattern.segments.push(PatternSegment::Literal(decode(&literal).collect()));
                continue;
            }
            canonical.push_str(segment);
            let misspelt = || PatternFault::Capture { path: owned(), segment: segment.to_owned() };
            let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or_else(misspelt)?;
            let (rest, name) = name.strip_prefix('*').map_or((false, name), |name| (true, name));
            if !is_capture_name(name) {
                return Err(misspelt());
            }
            if pattern.captures.iter().any(|known| &**known == name) {
                return Err(PatternFault::RepeatedCapture { path: owned(), name: name.to_owned() });
            }
            pattern.captures.push(name.into());
            if rest {
                pattern.catch_all = true;
                catch_all = Some(segment.to_owned());
            } else {
                pattern.segments.push(PatternSegment::Capture);
            }
        }
        if canonical.is_empty() {
            canonical.push('/');
        }
        if canonical != path {
            return Err(PatternFault::NotCanonical { found: owned(), canonical });
        }
        for (count, max, what) in [
            (pattern.captures.len(), CAPTURES_MAX, "captures"),
            (pattern.segments.len(), PATTERN_SEGMENTS_MAX, "segments"),
        ] {
            if count > max {
                return Err(PatternFault::TooMany { path: owned(), what, max });
            }
        }
        Ok(pattern)
    }

    /// Whether the first segments are the literal ones of `prefix`.
    pub(super) fn begins_with(&self, prefix: &str) -> bool {
        let mut segments = self.segments.iter();
        super::forward::segments_of(prefix).all(|wanted| match segments.next() {
            Some(PatternSegment::Literal(literal)) => literal.iter().copied().eq(decode(wanted)),
            Some(PatternSegment::Capture) | None => false,
        })
    }
}

/// The canonical form of one literal segment, where requests can have it.
fn canonical_literal(segment: &str, options: &PathOptions) -> Result<String, PathFault> {
    let path = format!("/{segment}");
    let canonical = canonicalize(&path)?;
    canonical.check(options)?;
    // A path is matched with and without its parameters, so these are no part of a pattern.
    if canonical.features().has(Feature::PathParameter) {
        return Err(PathFault::Feature(Feature::PathParameter));
    }
    Ok(canonical.as_str().trim_start_matches('/').to_owned())
}

/// Why a table cannot be built: which route, which of its settings, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteFault {
    /// The route's place in configuration, from 0.
    pub route: usize,
    /// The route's name.
    pub name: String,
    /// The setting at fault, as configuration spells it.
    pub field: &'static str,
    /// What is wrong.
    pub problem: RouteProblem,
}

impl fmt::Display for RouteFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {:?}: {}", self.name, self.problem)
    }
}

impl std::error::Error for RouteFault {}

/// What is wrong with a route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteProblem {
    /// A name that is empty, overlong, or cannot stand in log and metric.
    #[error("{0:?} is no route name: expected 1 to 64 of A-Z a-z 0-9 . _ -")]
    Name(String),
    /// Another route has the name.
    #[error("route {0:?} is defined twice; names are unique")]
    NameTaken(String),
    /// A host that is not in the form in which hosts are compared.
    #[error("{0:?} is no host in lower case and without port")]
    Host(String),
    /// The path pattern is none.
    #[error(transparent)]
    Pattern(#[from] PatternFault),
    /// Both could match one request, and neither is more specific.
    #[error(
        "matches the same requests as route {other_name:?} (routes[{other}]) and neither is more specific: give them different paths, hosts or methods"
    )]
    Tie {
        /// The other route's place.
        other: usize,
        /// The other route's name.
        other_name: String,
    },
    /// TRACE or CONNECT.
    #[error("method {0} is never forwarded")]
    MethodRefused(Method),
    /// A method that is listed twice.
    #[error("method {0} is listed twice")]
    MethodRepeated(Method),
    /// More different methods in one table than are handled.
    #[error("more than 64 different methods over all routes")]
    TooManyMethods,
    /// No flag at all is required.
    #[error("requires no flag: give any_flags or all_flags, any_key = true, or public = true")]
    NoFlags,
    /// A requirement names a capture that the path has not.
    #[error("required flag {flag:?} uses {{{capture}}}, which path {path:?} has not")]
    UnknownCapture {
        /// The flag.
        flag: String,
        /// The capture.
        capture: String,
        /// The pattern.
        path: String,
    },
    /// A requirement names the catch-all, which may be many segments or none.
    #[error("required flag {flag:?} uses {{*{capture}}}, which may be many segments or none")]
    CatchAllInFlag {
        /// The flag.
        flag: String,
        /// The capture.
        capture: String,
    },
    /// Nowhere to look for a credential.
    #[error("names no place for a credential")]
    NoCredential,
    /// One field is looked at twice, so every credential would count as repeated.
    #[error("looks for a credential in {0} twice")]
    CredentialRepeated(String),
    /// A field that cannot hold a credential.
    #[error("field {0} cannot hold a credential")]
    CredentialField(String),
    /// A project that stands for all.
    #[error("project \"all\" is reserved; leave projects out to allow every project")]
    ReservedProject,
    /// A public route refuses nothing, so there is nothing to narrow or to watch.
    #[error("has no meaning on a public route")]
    NotOnPublic,
    /// The prefix that is replaced is not what the path begins with.
    #[error("path {path:?} does not begin with the segments of {prefix:?}")]
    PrefixNotInPath {
        /// The prefix.
        prefix: String,
        /// The pattern.
        path: String,
    },
    /// A prefix that is no canonical path.
    #[error("{0:?} is no canonical path")]
    Prefix(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(path: &str) -> PatternFault {
        Pattern::parse(path, &PathOptions::default()).expect_err(path)
    }

    #[test]
    fn a_pattern_is_literals_captures_and_perhaps_the_rest() {
        for path in ["/", "/a", "/a/{b}", "/a/{b}/c", "/{*rest}", "/a/{b}/{*rest}", "/a%20b", "/%C3%A9", "/a@b:c"] {
            assert!(Pattern::parse(path, &PathOptions::default()).is_ok(), "{path}");
        }
        let pattern = Pattern::parse("/a/{b}/{*rest}", &PathOptions::default()).expect("a pattern");
        assert_eq!(pattern.captures, ["b".into(), "rest".into()]);
        assert!(pattern.catch_all);
    }

    #[test]
    fn what_other_routers_take_for_a_capture_is_told_from_text() {
        let found = |path: &str| {
            let forward = Forward::to("up");
            let spec = RouteSpec::new("r", path, Access::Public, forward);
            spec.foreign_capture().map(|(segment, capture)| format!("{segment} {capture}"))
        };
        for (path, told) in [
            ("/api/*", "* {*rest}"),
            ("/api/**", "** {*rest}"),
            ("/*/b", "* {name}"),
            ("/files/a*", "a* {*rest}"),
            ("/users/:id/keys", ":id {id}"),
            ("/users/:", ": {*rest}"),
        ] {
            assert_eq!(found(path).as_deref(), Some(told), "{path}");
        }
        for path in ["/", "/a", "/a/{b}", "/{*rest}", "/a:b", "/v1/x:y/{z}"] {
            assert_eq!(found(path), None, "{path}");
        }
    }

    #[test]
    fn a_literal_that_is_not_canonical_is_refused_with_its_canonical_form() {
        for (found, canonical) in
            [("/%61/b", "/a/b"), ("/a%c3%a9", "/a%C3%A9"), ("/a/", "/a"), ("//a", "/a"), ("/{x}/", "/{x}"), ("//", "/")]
        {
            let expected = PatternFault::NotCanonical { found: found.to_owned(), canonical: canonical.to_owned() };
            assert_eq!(fault(found), expected);
        }
    }

    #[test]
    fn a_literal_that_no_request_can_have_is_refused() {
        for path in ["/a/../b", "/a%2Fb", "/a;b", "/a%", "/a b", "/a?b", "/a\\b", "/a%00", "/%2e", "/ä"] {
            assert!(matches!(fault(path), PatternFault::Literal { .. }), "{path}");
        }
        let slashes = PathOptions { encoded_slashes: super::super::path::Pass::Forward, ..PathOptions::default() };
        assert!(Pattern::parse("/a%2Fb", &slashes).is_ok());
        let parameters = PathOptions { path_parameters: super::super::path::Pass::Forward, ..PathOptions::default() };
        assert!(Pattern::parse("/a;b", &parameters).is_err());
    }

    #[test]
    fn a_capture_is_a_whole_segment_with_a_name() {
        for path in ["/{", "/}", "/{}", "/{*}", "/a{b}", "/{b}c", "/{a-b}", "/{a{b}}", "/{**rest}", "/{a b}"] {
            assert!(matches!(fault(path), PatternFault::Capture { .. }), "{path}");
        }
        assert!(matches!(fault("/{a}/{a}"), PatternFault::RepeatedCapture { .. }));
        assert!(matches!(fault("/{*rest}/a"), PatternFault::CatchAllNotLast { .. }));
        assert!(matches!(fault("/{*a}/{*b}"), PatternFault::CatchAllNotLast { .. }));
        assert!(matches!(fault("a"), PatternFault::NoLeadingSlash(_)));
        assert!(matches!(fault(""), PatternFault::NoLeadingSlash(_)));
    }

    #[test]
    fn captures_and_segments_are_bounded() {
        let captures = |count: usize| (0..count).map(|at| format!("/{{c{at}}}")).collect::<String>();
        assert!(Pattern::parse(&captures(16), &PathOptions::default()).is_ok());
        assert!(matches!(fault(&captures(17)), PatternFault::TooMany { what: "captures", .. }));
        assert!(matches!(fault(&"/a".repeat(65)), PatternFault::TooMany { what: "segments", .. }));
    }
}
