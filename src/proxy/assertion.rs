//! `keyward-assertion`: what proves to an upstream who calls it. Signed by the gateway, never handed to
//! a client, and no key anywhere.
//!
//! A signature costs more than all the rest of a request's fields, so one is used again for some seconds by
//! requests of the same key to the same upstream, as long as nothing about the key has changed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use super::headers::SharedIdentity;
use crate::clock::Timestamp;
use crate::key::{KeyId, Record, Signers, UserId};

/// How long an assertion is used again. It is good for a minute, so that five sixths of that are left.
const REUSED_FOR: Duration = Duration::from_secs(10);
/// Enough for the keys that are busy at a time; past it all are forgotten, which costs a signature each.
const KEPT_MAX: usize = 4096;

/// The assertions that one worker made last.
#[derive(Debug, Default)]
pub(super) struct Assertions {
    made: RefCell<HashMap<(KeyId, Rc<str>), Made>>,
}

/// An assertion and all that it was made of.
#[derive(Debug)]
struct Made {
    value: HeaderValue,
    identity: Rc<SharedIdentity>,
    user: Option<UserId>,
    signers: Arc<Signers>,
    ends_at: Option<Timestamp>,
    at: Timestamp,
}

impl Assertions {
    /// That the key of `record`, which has `identity` in common with others, was let through to `upstream` at `now`.
    pub(super) fn of(
        &self,
        record: &Record,
        identity: &Rc<SharedIdentity>,
        upstream: &Rc<str>,
        signers: &Arc<Signers>,
        now: Timestamp,
    ) -> HeaderValue {
        let mut made = self.made.borrow_mut();
        let ends_at = record.standing.ends_at();
        let key = (record.id, Rc::clone(upstream));
        if let Some(known) = made.get(&key)
            && Rc::ptr_eq(&known.identity, identity)
            && known.user.as_ref() == record.user_id()
            && Arc::ptr_eq(&known.signers, signers)
            && known.ends_at == ends_at
            && known.at <= now
            && now.since(known.at) < REUSED_FOR
        {
            return known.value.clone();
        }
        if made.len() >= KEPT_MAX {
            made.clear();
        }
        let text = Bytes::from(signers.assert(record, upstream, now));
        let mut value = HeaderValue::from_maybe_shared(text).expect("a JWT is ASCII without spaces");
        value.set_sensitive(true);
        let (identity, signers) = (Rc::clone(identity), Arc::clone(signers));
        let user = record.user_id().cloned();
        made.insert(key, Made { value: value.clone(), identity, user, signers, ends_at, at: now });
        value
    }
}
