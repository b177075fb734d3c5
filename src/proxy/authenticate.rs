//! Who is it: from a request's fields to a record of the table, or to the reason why there is none.

use std::net::IpAddr;

use http::HeaderMap;

use crate::clock::Timestamp;
use crate::key::{Record, Shape, TokenHash, TokenPrefix};
use crate::policy::{Credential, DenyList, Presented, RouteSpec, StaleRule, find_credential};
use crate::table::{BoxFuture, Freshness, MissAnswer, MissResolver, OnStale, Resolving, Table};

/// Where keys are looked up, and by which rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Registry<'a> {
    /// The key set.
    pub(super) table: &'a Table,
    /// Hashes that are refused though no key is known by them.
    pub(super) deny: &'a DenyList,
    /// What tokens of this installation begin with.
    pub(super) prefix: &'a TokenPrefix,
    /// What routes that say nothing of their own do with a table that is too old.
    pub(super) on_stale: OnStale,
}

/// What came of looking for a request's key.
#[derive(Debug)]
pub(super) struct Authenticated {
    /// The one token that was sent, by which an open stream is decided again.
    pub(super) sent: Option<SentToken>,
    /// What the table had seen before anybody asked.
    pub(super) version: u64,
    answer: Answer,
}

/// A token that was sent, by its hashes.
#[derive(Debug, Clone, Copy)]
pub(super) struct SentToken {
    /// By which its key is looked up.
    known_as: TokenHash,
    /// Its SHA-512, where the key is known by another: a deny list may name either.
    alias: Option<TokenHash>,
}

impl SentToken {
    /// What is known of it, where the table knows its key by `known_as`.
    fn known(self, registry: Registry<'_>, route: &RouteSpec, now: Timestamp) -> Option<Answer> {
        let answer = known(registry, &self.known_as, route, now)?;
        let is_listed = || self.alias.is_some_and(|alias| registry.deny.names_hash(&alias));
        Some(match answer {
            Answer::Record(_) if is_listed() => Answer::Plain(Presented::Listed),
            answer => answer,
        })
    }
}

#[derive(Debug)]
enum Answer {
    Plain(Presented<'static>),
    Record(Record),
}

impl Authenticated {
    /// On a public route nobody looks.
    pub(super) fn nobody(table: &Table) -> Self {
        Self { sent: None, version: table.version(), answer: Answer::Plain(Presented::Missing) }
    }

    /// As the decision wants it.
    pub(super) const fn presented(&self) -> Presented<'_> {
        match &self.answer {
            Answer::Plain(presented) => *presented,
            Answer::Record(record) => Presented::Record(record),
        }
    }
}

/// A token that the table does not know, and the store is asked for.
pub(super) struct Missing<'m> {
    hash: TokenHash,
    version: u64,
    asked: BoxFuture<'m, MissAnswer>,
}

/// A token that the table did not know, and what the store says of it.
#[derive(Debug)]
pub(super) struct Told {
    hash: TokenHash,
    /// What the table had seen when the store was asked.
    version: u64,
    answer: MissAnswer,
}

impl Missing<'_> {
    /// Waits for the store.
    pub(super) async fn told(self) -> Told {
        Told { hash: self.hash, version: self.version, answer: self.asked.await }
    }
}

/// What `headers` present where the route looks for a credential. `misses` is asked once where the table does not
/// know a token.
///
/// # Errors
/// Where the store has to be waited for. What it then says is `told` to the same question, asked again.
pub(super) fn authenticate<'m>(
    registry: Registry<'_>,
    misses: &'m dyn MissResolver,
    headers: &HeaderMap,
    route: &RouteSpec,
    (client, now): (IpAddr, Timestamp),
    told: Option<Told>,
) -> Result<Authenticated, Missing<'m>> {
    let version = told.as_ref().map_or_else(|| registry.table.version(), |told| told.version);
    let plain = |presented| Ok(Authenticated { sent: None, version, answer: Answer::Plain(presented) });
    let token = match find_credential(headers, &route.credential) {
        Credential::None => return plain(Presented::Missing),
        Credential::Repeated => return plain(Presented::Repeated),
        Credential::Malformed => return plain(Presented::Malformed),
        Credential::One(token) => token,
    };
    let shape = Shape::of(token, registry.prefix);
    if shape == Shape::NoKey {
        return plain(Presented::Malformed);
    }
    let hash = TokenHash::of(token);
    let sent = SentToken { known_as: hash, alias: None };
    if let Some(answer) = sent.known(registry, route, now) {
        return Ok(Authenticated { sent: Some(sent), version, answer });
    }
    if shape == Shape::Foreign {
        // A key that was imported by its SHA-256 is known by that alone.
        let imported = SentToken { known_as: TokenHash::sha256_of(token), alias: Some(hash) };
        if let Some(answer) = imported.known(registry, route, now) {
            return Ok(Authenticated { sent: Some(imported), version, answer });
        }
    }
    let answer = match told.filter(|told| told.hash == hash) {
        Some(told) => told.answer,
        None => match misses.resolve(hash, client, now) {
            Resolving::Now(answer) => answer,
            Resolving::Later(asked) => return Err(Missing { hash, version, asked }),
        },
    };
    Ok(Authenticated { sent: Some(sent), version, answer: missed(answer, &hash, registry.deny) })
}

/// The same question again for a stream that is open: the table alone answers, without waiting.
pub(super) fn again(
    registry: Registry<'_>,
    sent: Option<SentToken>,
    route: &RouteSpec,
    now: Timestamp,
) -> Authenticated {
    let Some(token) = sent else { return Authenticated::nobody(registry.table) };
    let version = registry.table.version();
    let unknown = || missed(MissAnswer::Unknown, &token.known_as, registry.deny);
    let answer = token.known(registry, route, now).unwrap_or_else(unknown);
    Authenticated { sent, version, answer }
}

/// What the table says of a token; none if it does not know it.
fn known(registry: Registry<'_>, hash: &TokenHash, route: &RouteSpec, now: Timestamp) -> Option<Answer> {
    match registry.table.freshness(now) {
        Freshness::Empty => return Some(Answer::Plain(Presented::NotReady)),
        Freshness::Stale if denies_stale(route, registry.on_stale) => return Some(Answer::Plain(Presented::Stale)),
        Freshness::Stale | Freshness::Fresh => {}
    }
    registry.table.lookup(hash).map(Answer::Record)
}

/// Whether a route refuses keys once the table is too old.
pub(super) fn denies_stale(route: &RouteSpec, on_stale: OnStale) -> bool {
    match (route.on_stale, on_stale) {
        (Some(StaleRule::Deny), _) | (None, OnStale::Deny) => true,
        (Some(StaleRule::Serve), _) | (None, OnStale::Serve) => false,
    }
}

fn missed(answer: MissAnswer, hash: &TokenHash, deny: &DenyList) -> Answer {
    Answer::Plain(match answer {
        MissAnswer::Found(record) => return Answer::Record(record),
        _ if deny.names_hash(hash) => Presented::Listed,
        MissAnswer::Unknown => Presented::Unknown,
        MissAnswer::UnknownYet => Presented::UnknownYet,
        MissAnswer::TooManyFailures { retry_after } => Presented::TooManyFailures { retry_after },
        MissAnswer::Overloaded => Presented::Overloaded,
    })
}
