//! What a route says about forwarding. Plain data that the proxy acts on, and the one rule of it
//! that has to do with paths: the prefix.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::path::{PathFault, PathOptions, canonicalize};

/// How a request is forwarded once it was permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// The name of the upstream.
    pub upstream: String,
    /// What becomes of the beginning of the path.
    pub prefix: Prefix,
    /// Which Host the upstream sees.
    pub host: HostForward,
    /// Whether the upstream gets the credential. Default: it is stripped.
    pub forward_credential: bool,
    /// Whether the upstream gets a signed assertion of who calls.
    pub assertion: bool,
    /// Whether a WebSocket may be opened. Nothing else is ever upgraded.
    pub websocket: bool,
    /// How long a WebSocket may go without a byte either way.
    pub websocket_idle: Duration,
    /// How long request and answer may go without a byte either way, in place of what bounds the pauses of
    /// each; none for what holds where the route says nothing.
    pub stream_idle: Option<Duration>,
    /// The most bytes of a request's body; none for no limit.
    pub request_body_max: Option<u64>,
    /// Whether shared caches may keep answers: then no `Cache-Control: private` is added.
    pub shared_cache: bool,
    /// Fields such as `X-HTTP-Method-Override` that are let through although they are stripped by
    /// default.
    pub keep_override_fields: Vec<HeaderName>,
    /// What becomes of the fields of requests beyond what holds for all.
    pub request_fields: FieldRules,
    /// What becomes of the fields of answers beyond what holds for all.
    pub response_fields: FieldRules,
    /// A field by which the gateway shows the upstream who it is. Its value is marked sensitive.
    pub upstream_credential: Option<(HeaderName, HeaderValue)>,
    /// What scripts of other origins may do; none for nothing.
    pub cors: Option<Cors>,
}

/// Changes of a message's fields, in this order. None of them touches a field that the gateway
/// itself decides about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldRules {
    /// Fields that are taken off.
    pub remove: Vec<HeaderName>,
    /// Fields that take the place of any of their name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Fields that come beside any of their name.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl FieldRules {
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// What scripts of other origins may do with a route, by the rules that browsers keep (CORS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// The origins whose scripts may; none means those of any.
    pub origins: Option<Vec<HeaderValue>>,
    /// The methods that they may use.
    pub methods: Vec<Method>,
    /// The fields that they may send.
    pub headers: Vec<HeaderName>,
    /// The fields of answers that they may read, beyond the few that they may always.
    pub expose: Vec<HeaderName>,
    /// Whether requests may carry cookies.
    pub credentials: bool,
    /// How long a browser may remember this.
    pub max_age: Duration,
}

impl Forward {
    /// How long a WebSocket may go without a byte where the route does not say.
    pub const WEBSOCKET_IDLE: Duration = Duration::from_secs(300);

    /// The same for calls of gRPC: their messages come when there is something to say.
    pub const GRPC_IDLE: Duration = Duration::from_secs(3600);

    /// The defaults, to the upstream of this name.
    #[must_use]
    pub fn to(upstream: impl Into<String>) -> Self {
        Self {
            upstream: upstream.into(),
            prefix: Prefix::Keep,
            host: HostForward::Client,
            forward_credential: false,
            assertion: false,
            websocket: false,
            websocket_idle: Self::WEBSOCKET_IDLE,
            stream_idle: None,
            request_body_max: None,
            shared_cache: false,
            keep_override_fields: Vec::new(),
            request_fields: FieldRules::default(),
            response_fields: FieldRules::default(),
            upstream_credential: None,
            cors: None,
        }
    }
}

/// What becomes of the beginning of the path. Works on whole segments; a route's pattern must
/// begin with the prefix, in literal segments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Prefix {
    /// The path stays as it is.
    #[default]
    Keep,
    /// These segments are taken off: `/api` makes `/` of `/api` and `/jobs` of `/api/jobs`.
    Strip(String),
    /// These segments are replaced by others.
    Rewrite {
        /// What is taken off, such as `/api`.
        from: String,
        /// What is put in its place, such as `/v2`.
        to: String,
    },
}

impl Prefix {
    /// The path that goes upstream, from the canonical path that was matched. Allocates only where
    /// something is put in front.
    ///
    /// # Errors
    /// When what comes out is not a canonical path that `options` let through.
    pub fn apply<'p>(&self, path: &'p str, options: &PathOptions) -> Result<Cow<'p, str>, PathFault> {
        let (from, to) = match self {
            Self::Keep => return Ok(Cow::Borrowed(path)),
            Self::Strip(from) => (from.as_str(), ""),
            Self::Rewrite { from, to } => (from.as_str(), to.trim_end_matches('/')),
        };
        let rest = without_segments(path, segments_of(from).count());
        let rewritten = match (to, rest) {
            ("", "") => Cow::Borrowed("/"),
            ("", rest) => Cow::Borrowed(rest),
            (to, rest) => Cow::Owned(format!("{to}{rest}")),
        };
        let again = canonicalize(rewritten.as_ref())?;
        again.check(options)?;
        if again.as_str() != rewritten {
            return Err(PathFault::NotCanonicalAfterRewrite);
        }
        drop(again);
        Ok(rewritten)
    }
}

/// The segments of a path that are not empty.
pub(super) fn segments_of(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// What is left of `path`, from a slash on, without its first `count` segments.
fn without_segments(path: &str, count: usize) -> &str {
    let mut rest = path;
    for _ in 0..count {
        let inner = rest.trim_start_matches('/');
        rest = match inner.find('/') {
            Some(at) => inner.split_at(at).1,
            None => "",
        };
    }
    rest
}

/// Which Host the upstream sees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostForward {
    /// The one that the client sent.
    #[default]
    Client,
    /// The target's own name and port.
    Target,
    /// This one.
    Fixed(String),
}

/// What a route does once the table is staler than is tolerated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleRule {
    /// Go on answering from what is known.
    Serve,
    /// Refuse with 503.
    Deny,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strip(prefix: &str, path: &str) -> Result<String, PathFault> {
        Prefix::Strip(prefix.to_owned()).apply(path, &PathOptions::default()).map(Cow::into_owned)
    }

    #[test]
    fn a_prefix_comes_off_in_whole_segments() {
        assert_eq!(strip("/api", "/api").as_deref(), Ok("/"));
        assert_eq!(strip("/api", "/api/").as_deref(), Ok("/"));
        assert_eq!(strip("/api", "/api/jobs/").as_deref(), Ok("/jobs/"));
        assert_eq!(strip("/api/v1", "/api/v1/jobs").as_deref(), Ok("/jobs"));
        assert_eq!(strip("/a@b", "/a%40b/jobs").as_deref(), Ok("/jobs"));
    }

    #[test]
    fn a_prefix_is_replaced_by_another() {
        let rewrite = |to: &str, path: &str| {
            let prefix = Prefix::Rewrite { from: "/api".to_owned(), to: to.to_owned() };
            prefix.apply(path, &PathOptions::default()).map(Cow::into_owned)
        };
        assert_eq!(rewrite("/v2", "/api/jobs").as_deref(), Ok("/v2/jobs"));
        assert_eq!(rewrite("/v2", "/api").as_deref(), Ok("/v2"));
        assert_eq!(rewrite("/v2/", "/api/jobs").as_deref(), Ok("/v2/jobs"));
        assert_eq!(rewrite("/", "/api/jobs").as_deref(), Ok("/jobs"));
        assert!(rewrite("/../x", "/api/jobs").is_err());
        assert!(rewrite("/%41", "/api/jobs").is_err());
    }
}
