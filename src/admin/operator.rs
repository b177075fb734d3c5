//! Who asks: the holder of the bearer key, looked up in the store for each request. What it may do is
//! not decided here but by the manager, on the row as it stands when the change is made.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath};
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::account::Context;
use super::handler::Parts;
use super::problem::{Code, Refusal, without_tokens};
use super::settings::Surface;
use crate::key::{Key, KeyId, Record, Shape, Token};
use crate::manage::{Authenticated, Caller, KeyView, Manager, Once};
use crate::policy::{Credential, CredentialSource, find_credential};

/// One request of a caller whose key works.
#[derive(Debug)]
pub(super) struct Call {
    /// As the manager knows it.
    pub(super) caller: Caller,
    /// Its key.
    pub(super) key: Key,
    parts: Arc<Parts>,
    context: Context,
    asked: Asked,
}

/// What names a request that shall be done once.
#[derive(Debug)]
struct Asked {
    method: Method,
    path: String,
    idempotency_keys: Vec<HeaderValue>,
}

impl Call {
    /// What makes this a request that is done once, where its caller asks for that.
    pub(super) fn once(&self, body: &[u8]) -> Result<Option<Once>, Refusal> {
        let key = match self.asked.idempotency_keys.as_slice() {
            [] => return Ok(None),
            [one] => one.as_bytes(),
            _ => return Err(Refusal::new(Code::InvalidRequest, "send exactly one Idempotency-Key field")),
        };
        let Asked { method, path, .. } = &self.asked;
        Ok(Some(Once::new(&self.caller, method.as_str(), path, key, body)?))
    }

    /// What changes and reads keys.
    pub(super) fn manager(&self) -> &Manager {
        &self.parts.manager
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Notes for the log what the request is about: an id, unless somebody sent a token in its place.
    pub(super) fn about(&self, subject: &impl ToString) {
        self.context.noted.lock().subject = Some(without_tokens(&subject.to_string()));
    }

    /// Notes for the log which revision it made.
    pub(super) fn made(&self, revision: u64) {
        self.context.noted.lock().revision = Some(revision);
    }

    /// The key that a path names for its rotation. Where callers are, a key rotates itself alone, and there as by
    /// the name `self` it has to be one that may: what else an operator may do is for the management network.
    pub(super) fn to_rotate(&self, id: &str) -> Result<KeyId, Refusal> {
        let by_itself = id == "self" || self.context.surface == Surface::OwnKeys;
        let id = self.named(id)?;
        if !by_itself {
            return Ok(id);
        }
        if id != self.key.id {
            return Err(Refusal::new(Code::NotFound, "here a key rotates itself alone"));
        }
        if !self.key.rotates_itself() {
            let detail = "the key may not rotate itself: it has neither self_rotate nor a rotation webhook";
            return Err(Refusal::new(Code::LacksPermission, detail));
        }
        Ok(id)
    }

    /// The key that a path names: an id, or `self` for the caller's own.
    pub(super) fn named(&self, id: &str) -> Result<KeyId, Refusal> {
        if id == "self" { Ok(self.key.id) } else { key_id(id) }
    }
}

/// A key's id in a path. What is none is no key that could be found.
pub(super) fn key_id(text: &str) -> Result<KeyId, Refusal> {
    text.parse().map_err(|_no_id| Refusal::new(Code::NotFound, "a key's id is key_ and 32 hexadecimal digits"))
}

impl FromRequestParts<Arc<Parts>> for Call {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Head, parts: &Arc<Parts>) -> Result<Self, Refusal> {
        let context = context(head)?;
        let token = token(&head.headers, parts)?;
        let KeyView { key, .. } = *authenticate(parts, &token, context.from).await?;
        context.noted.lock().caller = Some((key.id, key.project.clone()));
        let caller = Caller::Key { id: key.id, from: context.from };
        let idempotency_keys = head.headers.get_all(IDEMPOTENCY_KEY).iter().cloned().collect();
        let asked = Asked { method: head.method.clone(), path: head.uri.path().to_owned(), idempotency_keys };
        Ok(Self { caller, key, parts: Arc::clone(parts), context, asked })
    }
}

/// Where the request comes from; notes for the log which endpoint it asks.
pub(super) fn context(head: &Head) -> Result<Context, Refusal> {
    let context = head.extensions.get::<Context>().cloned();
    let context = context.ok_or_else(|| Refusal::new(Code::Internal, "a request without a context"))?;
    let endpoint = head.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned());
    context.noted.lock().endpoint = endpoint;
    Ok(context)
}

fn token(headers: &HeaderMap, parts: &Parts) -> Result<Token, Refusal> {
    match find_credential(headers, &[CredentialSource::Bearer]) {
        Credential::None => Err(Refusal::new(Code::MissingKey, "send Authorization: Bearer and an operator's token")),
        Credential::Repeated => Err(Refusal::new(Code::InvalidRequest, "send exactly one Authorization field")),
        Credential::Malformed => Err(invalid()),
        Credential::One(token) => {
            let text = std::str::from_utf8(token).map_err(|_no_text| invalid())?;
            // A typo is refused without a look-up.
            if Shape::of(token, &parts.prefix) == Shape::NoKey { Err(invalid()) } else { Ok(Token::from_text(text)) }
        }
    }
}

fn invalid() -> Refusal {
    Refusal::new(Code::InvalidKey, "the key is unknown, or works no more")
}

async fn authenticate(parts: &Parts, token: &Token, from: IpAddr) -> Result<Box<KeyView>, Refusal> {
    let attempt = parts.guard.admit(&token.hash(), from, parts.clock.now()).map_err(Refusal::too_many_failures)?;
    let view = match parts.manager.authenticate(token).await {
        Ok(Authenticated::Live(view)) => view,
        Ok(Authenticated::NotLive { .. } | Authenticated::Unknown) => {
            attempt.failed();
            return Err(invalid());
        }
        Err(error) => {
            attempt.broke_off();
            return Err(error.into());
        }
    };
    let deny = parts.deny.load();
    if deny.names(&Record::of(&view.key, view.user.as_ref())) || deny.names_hash(&token.hash()) {
        attempt.failed();
        return Err(invalid());
    }
    attempt.worked();
    Ok(view)
}

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
