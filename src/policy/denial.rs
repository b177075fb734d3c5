//! Refusals: the one table from cause to status, code and challenge. Nothing else in the program
//! maps a refusal to an answer.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

use crate::key::Status;

/// What the answer's challenge says (RFC 6750, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// No challenge.
    None,
    /// The realm alone: no credential was sent.
    Bare,
    /// The realm and this error.
    Error(&'static str),
}

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $text:literal, $status:literal, grpc $grpc:literal, $challenge:expr,
        retry $retry:expr, closes $closes:literal, $title:literal, $detail:literal;)*) => {
        /// Why a request was refused, as the caller, the log and the metrics are told.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])* $code,)* }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$code,)*];

            /// The code in body, log and metric.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$code => $text,)* }
            }

            /// The status, where a route says nothing else.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$code => $status,)* }
            }

            /// The `grpc-status` of a gRPC request's answer.
            #[must_use]
            pub const fn grpc_status(self) -> u8 {
                match self { $(Self::$code => $grpc,)* }
            }

            /// What `WWW-Authenticate` says.
            #[must_use]
            pub const fn challenge(self) -> Challenge {
                match self { $(Self::$code => $challenge,)* }
            }

            /// After how many seconds to try again, where the answer says so.
            #[must_use]
            pub const fn retry_after_seconds(self) -> Option<u32> {
                match self { $(Self::$code => $retry,)* }
            }

            /// Whether the connection is closed after the answer, whatever was read of the body.
            #[must_use]
            pub const fn closes(self) -> bool {
                match self { $(Self::$code => $closes,)* }
            }

            /// The short text of the problem, the same for every occurrence.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$code => $title,)* }
            }

            /// What to do about it, for people.
            #[must_use]
            pub const fn detail(self) -> &'static str {
                match self { $(Self::$code => $detail,)* }
            }
        }
    };
}

codes! {
    /// No credential where the route looks for one.
    MissingKey = "missing_key", 401, grpc 16, Challenge::Bare, retry None, closes false,
        "Missing API key", "This route needs an API key, and the request carries none where it is looked for.";
    /// Malformed, unknown, or a key that no longer works.
    InvalidKey = "invalid_key", 401, grpc 16, Challenge::Error("invalid_token"), retry None, closes false,
        "Invalid API key", "The API key is not valid.";
    /// Two credentials, or one field twice.
    InvalidRequest = "invalid_request", 400, grpc 3, Challenge::Error("invalid_request"), retry None, closes false,
        "Ambiguous credential", "The request carries more than one credential; send exactly one.";
    /// The key lacks flags, is of another project or environment, or is an operator's.
    InsufficientScope = "insufficient_scope", 403, grpc 7, Challenge::Error("insufficient_scope"), retry None, closes false,
        "Not allowed", "The API key is valid but may not do this.";
    /// No keys have been loaded yet.
    NotReady = "not_ready", 503, grpc 14, Challenge::None, retry Some(1), closes false,
        "Not ready", "The gateway has not loaded its keys yet.";
    /// The keys are older than this route tolerates.
    StaleKeys = "stale_keys", 503, grpc 14, Challenge::None, retry Some(5), closes false,
        "Keys too old", "The gateway has been out of touch with its key store for too long.";
    /// The key is unknown here and the store cannot be asked.
    UnknownYet = "unknown_yet", 503, grpc 14, Challenge::None, retry Some(5), closes false,
        "Key not known yet", "The gateway does not know this API key and cannot ask its key store now.";
    /// Too many unknown keys from one source.
    TooManyFailures = "too_many_failures", 429, grpc 8, Challenge::None, retry Some(1), closes false,
        "Too many failures", "Too many unknown API keys came from this address.";
    /// Bad framing, Host or target.
    BadRequest = "bad_request", 400, grpc 3, Challenge::None, retry None, closes true,
        "Bad request", "The request is malformed.";
    /// The head or a field of it is too large.
    HeadTooLarge = "head_too_large", 431, grpc 8, Challenge::None, retry None, closes true,
        "Request head too large", "The fields of the request are too many or too large.";
    /// The target is too long.
    TargetTooLong = "target_too_long", 414, grpc 8, Challenge::None, retry None, closes true,
        "Request target too long", "The path and query of the request are too long.";
    /// The head or body came too slowly.
    RequestTimeout = "request_timeout", 408, grpc 4, Challenge::None, retry None, closes true,
        "Request too slow", "The request did not arrive in time.";
    /// The body is over the route's limit.
    BodyTooLarge = "body_too_large", 413, grpc 8, Challenge::None, retry None, closes true,
        "Request body too large", "The body of the request is larger than this route allows.";
    /// An `Expect` other than `100-continue`.
    ExpectationFailed = "expectation_failed", 417, grpc 3, Challenge::None, retry None, closes false,
        "Expectation failed", "The only expectation that can be met is 100-continue.";
    /// A method that no route lists and that is none of the usual.
    MethodUnknown = "method_unknown", 501, grpc 12, Challenge::None, retry None, closes false,
        "Method not known", "The method is not known here.";
    /// The path has routes, but none for this method.
    MethodNotAllowed = "method_not_allowed", 405, grpc 12, Challenge::None, retry None, closes false,
        "Method not allowed", "The method is not allowed on this path.";
    /// No route matches.
    NoRoute = "no_route", 404, grpc 12, Challenge::None, retry None, closes false,
        "Not found", "Nothing is served under this host and path.";
    /// A path that two programs could read differently.
    AmbiguousPath = "ambiguous_path", 400, grpc 3, Challenge::None, retry None, closes false,
        "Ambiguous path", "The path could be read in more than one way.";
    /// Over a cap of requests in flight or of look-ups.
    Overloaded = "overloaded", 503, grpc 14, Challenge::None, retry Some(1), closes false,
        "Overloaded", "The gateway is at its limit; try again shortly.";
    /// No target of the upstream is usable.
    NoTarget = "no_target", 503, grpc 14, Challenge::None, retry Some(1), closes false,
        "Service unavailable", "No instance of the service is available.";
    /// The upstream refused the connection.
    UpstreamUnreachable = "upstream_unreachable", 502, grpc 14, Challenge::None, retry None, closes false,
        "Service unreachable", "The service could not be reached.";
    /// The upstream did not answer in time.
    UpstreamTimeout = "upstream_timeout", 504, grpc 4, Challenge::None, retry None, closes false,
        "Service too slow", "The service did not answer in time.";
    /// The upstream broke off or answered what is no HTTP.
    UpstreamBroken = "upstream_broken", 502, grpc 14, Challenge::None, retry None, closes false,
        "Bad answer from service", "The service broke off or gave an answer that could not be used.";
    /// A fault of the gateway itself.
    Internal = "internal", 500, grpc 13, Challenge::None, retry None, closes true,
        "Internal error", "The gateway failed to handle the request.";
}

/// The true reason of a refusal, for log and metric. The caller learns it only of a code that has
/// one reason, or with `reveal_reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// What the code says.
    AsCoded(Code),
    /// The credential can be no token, or has a wrong checksum.
    Malformed,
    /// No such key.
    Unknown,
    /// The deny list names the key.
    Listed,
    /// The key is revoked.
    Revoked,
    /// The key is switched off.
    Disabled,
    /// The key's user is switched off or gone.
    UserDisabled,
    /// The key has expired.
    Expired,
    /// The key was replaced and its grace is over.
    Superseded,
    /// The key lacks flags.
    LacksFlags,
    /// The key is of no project, or of one that the route does not list.
    WrongProject,
    /// The key is of an environment that the route does not list.
    WrongEnvironment,
    /// The key is an operator's: it manages keys and opens no routes.
    OperatorKey,
}

impl Reason {
    /// Every reason that is more than its code.
    pub const ALL: &[Self] = &[
        Self::Malformed,
        Self::Unknown,
        Self::Listed,
        Self::Revoked,
        Self::Disabled,
        Self::UserDisabled,
        Self::Expired,
        Self::Superseded,
        Self::LacksFlags,
        Self::WrongProject,
        Self::WrongEnvironment,
        Self::OperatorKey,
    ];

    /// There are so many reasons, those that say no more than their code among them.
    pub const COUNT: usize = Code::ALL.len() + Self::ALL.len();

    /// Its number, below [`Reason::COUNT`], by which what is kept of each is found.
    #[must_use]
    pub fn number(self) -> usize {
        if let Self::AsCoded(code) = self {
            return code as usize;
        }
        Code::ALL.len() + Self::ALL.iter().take_while(|other| **other != self).count()
    }

    /// Every reason, in the order of their numbers.
    pub fn every() -> impl Iterator<Item = Self> {
        Code::ALL.iter().map(|code| Self::AsCoded(*code)).chain(Self::ALL.iter().copied())
    }

    /// The name in log and metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AsCoded(code) => code.as_str(),
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Listed => "listed",
            Self::Revoked => "revoked",
            Self::Disabled => "disabled",
            Self::UserDisabled => "user_disabled",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::LacksFlags => "lacks_flags",
            Self::WrongProject => "wrong_project",
            Self::WrongEnvironment => "wrong_environment",
            Self::OperatorKey => "operator_key",
        }
    }

    /// What the holder is told of it with `reveal_reason`.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::AsCoded(code) => code.detail(),
            Self::Malformed => "The API key is malformed; check that it was copied whole.",
            Self::Unknown => "The API key is unknown.",
            Self::Listed => "The API key is on this gateway's deny list.",
            Self::Revoked => "The API key was revoked.",
            Self::Disabled => "The API key is disabled.",
            Self::UserDisabled => "The user of the API key is disabled or deleted.",
            Self::Expired => "The API key has expired.",
            Self::Superseded => "The API key was replaced by another and its grace is over.",
            Self::LacksFlags => "The API key lacks the flags that this route requires.",
            Self::WrongProject => "The API key is not of a project that may use this route.",
            Self::WrongEnvironment => "The API key is not of an environment that may use this route.",
            Self::OperatorKey => "The API key manages keys; it opens no routes.",
        }
    }

    /// The code that answers it.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::AsCoded(code) => code,
            Self::Malformed
            | Self::Unknown
            | Self::Listed
            | Self::Revoked
            | Self::Disabled
            | Self::UserDisabled
            | Self::Expired
            | Self::Superseded => Code::InvalidKey,
            Self::LacksFlags | Self::WrongProject | Self::WrongEnvironment | Self::OperatorKey => {
                Code::InsufficientScope
            }
        }
    }

    /// The reason why a key of this status is refused; none for one that works.
    #[must_use]
    pub const fn of_status(status: Status) -> Option<Self> {
        match status {
            Status::Listed => Some(Self::Listed),
            Status::Revoked => Some(Self::Revoked),
            Status::Disabled => Some(Self::Disabled),
            Status::UserDisabled => Some(Self::UserDisabled),
            Status::Expired => Some(Self::Expired),
            Status::Superseded => Some(Self::Superseded),
            Status::Grace | Status::Active => None,
        }
    }
}

/// The status of a key that works but may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeniedStatus {
    /// 403, as HTTP has it.
    #[default]
    Forbidden403,
    /// 401, for services whose contract says so.
    Unauthorized401,
}

/// A refusal, with all that its answer needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// What the caller is told.
    pub code: Code,
    /// Why, for log and metric.
    pub reason: Reason,
    /// Flags that would have been enough, space-separated, where flags were lacking.
    pub scope: Option<String>,
    /// What `Retry-After` says, where the code has one and this occasion knows better.
    pub retry_after: Option<Duration>,
    /// The status of a key that works but may not.
    pub denied_status: DeniedStatus,
}

impl From<Reason> for Denial {
    fn from(reason: Reason) -> Self {
        Self { code: reason.code(), reason, scope: None, retry_after: None, denied_status: DeniedStatus::Forbidden403 }
    }
}

impl From<Code> for Denial {
    fn from(code: Code) -> Self {
        Reason::AsCoded(code).into()
    }
}

impl Denial {
    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        let status = if self.is_401_by_contract() { 401 } else { self.code.status() };
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The `grpc-status` of the answer to a gRPC request.
    #[must_use]
    pub fn grpc_status(&self) -> u8 {
        if self.is_401_by_contract() { Code::InvalidKey.grpc_status() } else { self.code.grpc_status() }
    }

    /// The `grpc-status` that ends a call which was let through and no longer is. The caller is asked to
    /// authenticate anew, whatever it now lacks; not where it is the gateway that cannot tell.
    #[must_use]
    pub const fn grpc_status_of_cut(&self) -> u8 {
        let code = if self.code.status() == 503 { self.code } else { Code::InvalidKey };
        code.grpc_status()
    }

    fn is_401_by_contract(&self) -> bool {
        self.code == Code::InsufficientScope && self.denied_status == DeniedStatus::Unauthorized401
    }

    /// Seconds for `Retry-After`, at least one.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let usual = self.code.retry_after_seconds()?;
        let known = self.retry_after.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
        Some(known.unwrap_or(u64::from(usual)).max(1))
    }

    /// The value of `WWW-Authenticate`, where the answer has one.
    #[must_use]
    pub fn challenge(&self, realm: &str) -> Option<String> {
        let error = match self.code.challenge() {
            Challenge::None => return None,
            Challenge::Bare => return Some(format!("Bearer realm=\"{}\"", quoted(realm))),
            Challenge::Error(error) => error,
        };
        let mut value = format!("Bearer realm=\"{}\", error=\"{error}\"", quoted(realm));
        if let Some(scope) = &self.scope {
            // Flags are printable and hold neither quote nor backslash.
            value.push_str(&format!(", scope=\"{scope}\""));
        }
        Some(value)
    }

    /// The text for people: the code's, or with `reveal` the true reason's.
    #[must_use]
    pub const fn detail(&self, reveal: bool) -> &'static str {
        if reveal { self.reason.detail() } else { self.code.detail() }
    }
}

/// `text` for a quoted string (RFC 9110, 5.6.4): what cannot stand there is left out.
fn quoted(text: &str) -> Cow<'_, str> {
    let plain = |c: char| (' '..='~').contains(&c) && c != '"' && c != '\\';
    if text.chars().all(plain) { Cow::Borrowed(text) } else { Cow::Owned(text.chars().filter(|&c| plain(c)).collect()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_and_reason_has_its_own_name() {
        let codes: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), Code::ALL.len());
        let reasons: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(reasons.len(), Reason::ALL.len());
        assert!(codes.is_disjoint(&reasons));
    }

    #[test]
    fn reasons_are_numbered_in_their_order() {
        let numbers: Vec<_> = Reason::every().map(Reason::number).collect();
        assert_eq!(numbers, (0..Reason::COUNT).collect::<Vec<_>>());
    }

    #[test]
    fn the_table_is_the_documented_one() {
        let expected = [
            ("missing_key", 401, 16),
            ("invalid_key", 401, 16),
            ("invalid_request", 400, 3),
            ("insufficient_scope", 403, 7),
            ("not_ready", 503, 14),
            ("stale_keys", 503, 14),
            ("unknown_yet", 503, 14),
            ("too_many_failures", 429, 8),
            ("bad_request", 400, 3),
            ("head_too_large", 431, 8),
            ("target_too_long", 414, 8),
            ("request_timeout", 408, 4),
            ("body_too_large", 413, 8),
            ("expectation_failed", 417, 3),
            ("method_unknown", 501, 12),
            ("method_not_allowed", 405, 12),
            ("no_route", 404, 12),
            ("ambiguous_path", 400, 3),
            ("overloaded", 503, 14),
            ("no_target", 503, 14),
            ("upstream_unreachable", 502, 14),
            ("upstream_timeout", 504, 4),
            ("upstream_broken", 502, 14),
            ("internal", 500, 13),
        ];
        let table: Vec<_> = Code::ALL.iter().map(|code| (code.as_str(), code.status(), code.grpc_status())).collect();
        assert_eq!(table, expected);
    }

    #[test]
    fn exactly_the_answers_that_pass_have_a_retry_after() {
        for &code in Code::ALL {
            assert_eq!(code.retry_after_seconds().is_some(), matches!(code.status(), 503 | 429), "{code:?}");
        }
    }

    #[test]
    fn every_401_has_a_challenge() {
        for &code in Code::ALL {
            let challenge = Denial::from(code).challenge("api");
            assert_eq!(
                challenge.is_some(),
                matches!(code.status(), 401 | 403) || code == Code::InvalidRequest,
                "{code:?}"
            );
        }
        assert_eq!(Denial::from(Code::MissingKey).challenge("api").as_deref(), Some(r#"Bearer realm="api""#));
        let mut denial = Denial::from(Reason::LacksFlags);
        denial.scope = Some("a.b c:d".to_owned());
        let expected = r#"Bearer realm="api", error="insufficient_scope", scope="a.b c:d""#;
        assert_eq!(denial.challenge("a\"p\\i\r\n").as_deref(), Some(expected));
    }

    #[test]
    fn the_true_reason_is_told_only_when_asked() {
        let revoked = Denial::from(Reason::Revoked);
        let unknown = Denial::from(Reason::Unknown);
        assert_eq!(revoked.code, unknown.code);
        assert_eq!(revoked.detail(false), unknown.detail(false));
        assert_ne!(revoked.detail(true), unknown.detail(true));
        assert_eq!(revoked.challenge("r"), unknown.challenge("r"));
    }

    #[test]
    fn a_contract_may_want_401_where_flags_are_lacking() {
        let contract = DeniedStatus::Unauthorized401;
        let denial = Denial { denied_status: contract, ..Denial::from(Reason::LacksFlags) };
        assert_eq!((denial.status().as_u16(), denial.grpc_status()), (401, 16));
        assert_eq!(denial.code.as_str(), "insufficient_scope");
        let other = Denial { denied_status: contract, ..Denial::from(Code::NoRoute) };
        assert_eq!(other.status().as_u16(), 404);
    }

    #[test]
    fn a_call_that_is_cut_is_told_to_authenticate_whatever_it_lacks() {
        for reason in [Reason::Revoked, Reason::UserDisabled, Reason::LacksFlags, Reason::AsCoded(Code::NoRoute)] {
            assert_eq!(Denial::from(reason).grpc_status_of_cut(), 16, "{reason:?}");
        }
        assert_eq!(Denial::from(Code::StaleKeys).grpc_status_of_cut(), 14);
    }

    #[test]
    fn a_wait_is_rounded_up_to_whole_seconds() {
        let denial = Denial { retry_after: Some(Duration::from_millis(1200)), ..Denial::from(Code::TooManyFailures) };
        assert_eq!(denial.retry_after_seconds(), Some(2));
        assert_eq!(Denial::from(Code::TooManyFailures).retry_after_seconds(), Some(1));
        assert_eq!(Denial::from(Code::NoRoute).retry_after_seconds(), None);
    }
}
