//! Refusals: one stable code each, one status a code, and the body that tells of it.

use std::time::Duration;

use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::key::{KeyId, Status};
use crate::manage::ManageError;
use crate::report::Chain;
use crate::wire::{PROBLEM_JSON, RequestId};

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $text:literal, $status:literal, $title:literal;)*) => {
        /// Why a request to the management API was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Code { $($(#[$doc])* $code,)* }

        impl Code {
            /// Every code.
            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$code,)*];

            /// The code in bodies, logs and metrics. Never changes.
            pub(super) const fn as_str(self) -> &'static str {
                match self { $(Self::$code => $text,)* }
            }

            /// The HTTP status.
            pub(super) const fn status(self) -> u16 {
                match self { $(Self::$code => $status,)* }
            }

            /// What it means, the same every time.
            pub(super) const fn title(self) -> &'static str {
                match self { $(Self::$code => $title,)* }
            }
        }
    };
}

codes! {
    /// No bearer key.
    MissingKey = "missing_key", 401, "The request has no key";
    /// A key that does not work, or none at all.
    InvalidKey = "invalid_key", 401, "The key does not work";
    /// The key ended between being known and being used.
    CallerNotLive = "caller_not_live", 401, "The calling key has ended";
    /// Two credentials.
    InvalidRequest = "invalid_request", 400, "The request cannot be understood";
    /// No JSON.
    InvalidJson = "invalid_json", 400, "The body is no JSON";
    /// A field or parameter that there is not.
    UnknownField = "unknown_field", 400, "The request has a field that is unknown";
    /// A field or parameter that breaks a rule.
    InvalidField = "invalid_field", 400, "A field breaks a rule";
    /// An Idempotency-Key that is none.
    BadIdempotencyKey = "bad_idempotency_key", 400, "The Idempotency-Key is none";
    /// Rows of an import.
    ImportRefused = "import_refused", 400, "Rows of the import are refused";
    /// The caller lacks the permission.
    LacksPermission = "lacks_permission", 403, "The key lacks the permission";
    /// The result would hold what the caller may not grant.
    MayNotGrant = "may_not_grant", 403, "The key may not grant this flag";
    /// Outside of what the caller manages.
    OutOfScope = "out_of_scope", 403, "The key does not manage this";
    /// A user's key that may not do this.
    NotOneself = "not_oneself", 403, "The key may not do this for its user";
    /// No such key.
    NotFound = "not_found", 404, "There is no such key";
    /// No such user.
    UserNotFound = "user_not_found", 404, "There is no such user";
    /// A cursor that no page gave.
    InvalidCursor = "invalid_cursor", 404, "The cursor is of no page";
    /// No such gateway.
    GatewayNotFound = "gateway_not_found", 404, "There is no such gateway";
    /// No such revision, or not yet.
    RevisionNotFound = "revision_not_found", 404, "There is no such revision";
    /// No such endpoint.
    NoRoute = "no_route", 404, "Nothing is served here";
    /// Another method.
    MethodNotAllowed = "method_not_allowed", 405, "The path has no such method";
    /// The body came too slowly.
    RequestTimeout = "request_timeout", 408, "The request came too slowly";
    /// A field that could be right, and is not beside another, what is stored, what is configured or the time.
    ConflictingField = "conflicting_field", 409, "A field conflicts with something";
    /// A route that there is not, or that cannot be decided by its name.
    UnknownRoute = "unknown_route", 409, "There is no such route";
    /// A format of tokens that is not minted.
    FormatNotAvailable = "format_not_available", 409, "Tokens of this format are not minted";
    /// A webhook where none are sent.
    WebhooksNotAvailable = "webhooks_not_available", 409, "No webhooks are sent here";
    /// An Idempotency-Key that was used for another request.
    IdempotencyConflict = "idempotency_conflict", 409, "The Idempotency-Key was used for another request";
    /// A request that was done, and whose answer is gone.
    TokenAlreadyIssued = "token_already_issued", 409, "The request was done before";
    /// A rotation whose successor may be in use.
    RotationUnsettled = "rotation_unsettled", 409, "The key was rotated just now";
    /// A user that has as many keys as it may have.
    TooManyKeys = "too_many_keys", 409, "The user has as many keys as it may have";
    /// A user makes keys for itself again and again.
    MadeTooOften = "made_too_often", 409, "The user has made keys too often";
    /// A user changes a key of its own again and again.
    ChangedTooOften = "changed_too_often", 409, "The user has changed the key too often";
    /// A key rotates itself again and again.
    RotatedTooOften = "rotated_too_often", 409, "The key has rotated itself too often";
    /// A user's id that was used and is gone.
    UserDeleted = "user_deleted", 409, "The user was deleted";
    /// A key that is revoked.
    KeyRevoked = "key_revoked", 409, "The key is revoked";
    /// A key that cannot be rotated.
    NotRotatable = "not_rotatable", 409, "The key cannot be rotated";
    /// A key that was rotated.
    AlreadyRotated = "already_rotated", 409, "The key was rotated already";
    /// A token that is stored.
    DuplicateToken = "duplicate_token", 409, "The token is stored already";
    /// A body over the limit.
    BodyTooLarge = "body_too_large", 413, "The body is too large";
    /// A body that is said to be no JSON.
    UnsupportedMediaType = "unsupported_media_type", 415, "The body must be application/json";
    /// Too many bad credentials from one client.
    TooManyFailures = "too_many_failures", 429, "Too many bad keys came from this address";
    /// A fault of this program.
    Internal = "internal", 500, "A fault of the gateway";
    /// A store without a list of gateways.
    GatewaysNotKnown = "gateways_not_known", 501, "The store does not know its gateways";
    /// No randomness.
    NoRandomness = "no_randomness", 500, "The operating system gave no randomness";
    /// The store failed.
    StoreFailed = "store_failed", 503, "The store cannot be used now";
}

/// A refusal as JSON: RFC 9457.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem<'a> {
    /// `urn:keyward:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// What the code means, the same every time.
    title: &'a str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What went wrong this time.
    detail: &'a str,
    /// The stable code.
    code: &'a str,
    /// The request's id, as in the log.
    request_id: &'a str,
    /// The field or parameter that is refused, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    /// The key that stands in the way, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    key_id: Option<KeyId>,
}

/// A request that is refused. Nothing was changed.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) code: Code,
    status: u16,
    detail: String,
    field: Option<String>,
    key: Option<KeyId>,
    /// In whole seconds.
    retry_after: Option<u64>,
}

impl Refusal {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, status: code.status(), detail: detail.into(), field: None, key: None, retry_after: None }
    }

    /// A client that sent too many bad credentials, and may send another after `wait`.
    pub(super) fn too_many_failures(wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let detail = "too many keys that do not work came from this address; wait";
        Self { retry_after: Some(seconds.max(1)), ..Self::new(Code::TooManyFailures, detail) }
    }

    /// A field or parameter that breaks a rule.
    pub(super) fn of_field(field: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        let field = field.into();
        let detail = format!("{field}: {cause}");
        Self { field: Some(field), ..Self::new(Code::InvalidField, detail) }
    }

    /// A field or parameter that breaks a rule only beside something else.
    pub(super) fn conflicting(field: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Self { code: Code::ConflictingField, status: Code::ConflictingField.status(), ..Self::of_field(field, cause) }
    }

    /// A field or parameter that there is not.
    pub(super) fn unknown_field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(Code::UnknownField, detail) }
    }

    /// The same where lacking a permission is answered as lacking a key.
    pub(super) fn unauthorized(self) -> Self {
        match self.code {
            Code::LacksPermission | Code::MayNotGrant | Code::OutOfScope => Self { status: 401, ..self },
            _ => self,
        }
    }

    /// The status it is answered with.
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether what is left of the request is not read.
    pub(super) const fn leaves_body(&self) -> bool {
        matches!(self.code, Code::BodyTooLarge | Code::RequestTimeout)
    }

    /// The answer's body, which names the request.
    pub(super) fn to_json(&self, request_id: &RequestId) -> Bytes {
        let (detail, field) = (without_tokens(&self.detail), self.field.as_deref().map(without_tokens));
        let problem = Problem {
            kind: format!("urn:keyward:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.status,
            detail: &detail,
            code: self.code.as_str(),
            request_id: request_id.as_str(),
            field: field.as_deref(),
            key_id: self.key,
        };
        Bytes::from(serde_json::to_vec(&problem).unwrap_or_default())
    }
}

/// The head of the answer; the body is made where the request's id is known.
impl IntoResponse for Refusal {
    fn into_response(self) -> axum::response::Response {
        let mut response = Response::new(axum::body::Body::empty());
        *response.status_mut() = self.status();
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after {
            fields.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self.code {
            Code::MissingKey => {
                fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"keyward-admin\""));
            }
            Code::StoreFailed => {
                fields.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ if self.status == 401 => {
                let challenge = match self.code {
                    Code::InvalidKey | Code::CallerNotLive => "Bearer realm=\"keyward-admin\", error=\"invalid_token\"",
                    _ => "Bearer realm=\"keyward-admin\", error=\"insufficient_scope\"",
                };
                fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            _ => {}
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// What the manager refused, in the API's words.
impl From<ManageError> for Refusal {
    fn from(error: ManageError) -> Self {
        let said = error.to_string();
        match error {
            ManageError::Invalid { field, cause } => Self::of_field(field, cause),
            ManageError::Conflicting { field, cause } => Self::conflicting(field, cause),
            ManageError::FormatNotAvailable { .. } => {
                Self { field: Some("format".to_owned()), ..Self::new(Code::FormatNotAvailable, said) }
            }
            ManageError::KeyNotFound { id } => {
                Self::new(Code::NotFound, format!("no key {id} that the calling key could know of"))
            }
            ManageError::UserNotFound { id } => {
                Self::new(Code::UserNotFound, format!("no user {id:?} that the calling key could know of"))
            }
            ManageError::BadCursor => Self::new(Code::InvalidCursor, said),
            ManageError::GatewayNotFound { .. } => Self::new(Code::GatewayNotFound, said),
            ManageError::GatewaysNotKnown { .. } => {
                Self::new(Code::GatewaysNotKnown, "the store does not know its gateways")
            }
            ManageError::RevisionNotFound { .. } => Self::new(Code::RevisionNotFound, said),
            ManageError::UserDeleted { .. } => Self::new(Code::UserDeleted, said),
            ManageError::KeyRevoked { id } => Self { key: Some(id), ..Self::new(Code::KeyRevoked, said) },
            ManageError::NotRotatable { id, .. } => Self { key: Some(id), ..Self::new(Code::NotRotatable, said) },
            ManageError::AlreadyRotated { successor, .. } => {
                Self { key: Some(successor), ..Self::new(Code::AlreadyRotated, said) }
            }
            ManageError::CallerNotLive { status } => {
                let status = status.map_or("unknown", Status::as_str);
                Self::new(Code::CallerNotLive, format!("the calling key is {status}"))
            }
            ManageError::LacksPermission { .. } => Self::new(Code::LacksPermission, said),
            ManageError::MayNotGrant { .. } => Self::new(Code::MayNotGrant, said),
            ManageError::OutOfScope { field, .. } => {
                Self { field: Some(field.to_owned()), ..Self::new(Code::OutOfScope, said) }
            }
            ManageError::RotationUnsettled { successor, .. } => {
                Self { key: Some(successor), ..Self::new(Code::RotationUnsettled, said) }
            }
            ManageError::NotOneself { .. } => Self::new(Code::NotOneself, said),
            ManageError::TooManyKeys { .. } => Self::new(Code::TooManyKeys, said),
            ManageError::MadeTooOften { .. } => Self::new(Code::MadeTooOften, said),
            ManageError::ChangedTooOften { .. } => Self::new(Code::ChangedTooOften, said),
            ManageError::RotatedTooOften { .. } => Self::new(Code::RotatedTooOften, said),
            ManageError::BadIdempotencyKey => {
                Self { field: Some("idempotency-key".to_owned()), ..Self::new(Code::BadIdempotencyKey, said) }
            }
            ManageError::IdempotencyConflict => Self::new(Code::IdempotencyConflict, said),
            ManageError::TokenAlreadyIssued { id } => Self { key: id, ..Self::new(Code::TokenAlreadyIssued, said) },
            ManageError::DuplicateToken { existing } => {
                Self { key: Some(existing), ..Self::new(Code::DuplicateToken, said) }
            }
            ManageError::WebhooksNotAvailable => {
                let field = Some("rotation_webhook_url".to_owned());
                Self { field, ..Self::new(Code::WebhooksNotAvailable, said) }
            }
            ManageError::Import(_) => Self::new(Code::ImportRefused, said),
            ManageError::NoRandomness(_) => Self::new(Code::NoRandomness, said),
            ManageError::Store(error) => {
                // Where the store lies is nobody's business but that of those who read the log.
                tracing::error!(error = %Chain(&error), "the management API could not use the store");
                Self::new(Code::StoreFailed, "the store cannot be used now, and nothing was changed; try again")
            }
        }
    }
}

/// `text` without what looks like a token: whoever sent one where it does not belong shall not find it
/// in the error that they paste elsewhere.
pub(super) fn without_tokens(text: &str) -> String {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.');
    let mut shown = String::with_capacity(text.len());
    for piece in text.split_inclusive(|letter: char| !is_part(letter)) {
        let run = piece.trim_end_matches(|letter: char| !is_part(letter));
        let is_id = ["key_", "lin_", "gw_"].iter().any(|prefix| run.starts_with(prefix));
        let longest = run.split(|letter: char| !letter.is_ascii_alphanumeric()).map(str::len).max().unwrap_or(0);
        if (longest >= 32 && !is_id) || run.starts_with("eyJ") {
            shown.push_str("***");
            shown.push_str(piece.strip_prefix(run).unwrap_or_default());
        } else {
            shown.push_str(piece);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::wire::IdSource;

    #[test]
    fn every_code_is_listed_with_its_status() {
        let page = include_str!("../../docs/ERRORS.md");
        let (_, section) = page.split_once("\n## Management API").expect("the page has the section");
        let section = section.split("\n## ").next().unwrap_or_default();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        let listed: BTreeMap<String, String> = rows
            .map(|row| {
                let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
                (cells.next().expect("a code"), cells.next().expect("a status"))
            })
            .collect();
        let known = Code::ALL.iter().map(|code| (code.as_str().to_owned(), code.status().to_string()));
        assert_eq!(listed, known.collect());
    }

    #[test]
    fn a_token_in_the_wrong_place_is_not_repeated() {
        let token = "kw_live_0123456789abcdefghijABCDEFGHIJ0123456789abc012345";
        assert_eq!(without_tokens(&format!("name: {token:?} is no name")), "name: \"***\" is no name");
        assert_eq!(without_tokens("x: eyJhbGciOiJFZERTQSJ9.e30.c2ln"), "x: ***");
        let id = "key_0123456789abcdef0123456789abcdef";
        assert_eq!(without_tokens(&format!("no key {id}; sorry")), format!("no key {id}; sorry"));
    }

    #[test]
    fn a_refusal_is_a_problem_that_names_code_field_and_request() -> Result<(), serde_json::Error> {
        let id = RequestId::fresh(&IdSource::new([3; 16]));
        let body = Refusal::of_field("name", "is \"empty\"\n").to_json(&id);
        let body: serde_json::Value = serde_json::from_slice(&body)?;
        assert_eq!(body["type"], "urn:keyward:problem:invalid_field");
        assert_eq!(
            (&body["status"], &body["code"], &body["field"]),
            (&400.into(), &"invalid_field".into(), &"name".into())
        );
        assert_eq!(body["detail"], "name: is \"empty\"\n");
        assert_eq!(body["request_id"], id.as_str());
        Ok(())
    }
}
