//! A request whose head the listener refused before this gateway could see it: one that is no HTTP, too large or too
//! slow. It is counted and logged like any other refusal, under the id that its client was told.

use std::rc::Rc;

use http::{HeaderMap, Method, Version};

use super::account::Account;
use super::metrics::Outcome;
use super::refusal::is_grpc;
use super::worker::Worker;
use crate::listen::{Peer, RefusedHead};
use crate::policy::Denial;
use crate::wire::{TraceParent, client_address};

/// Counts it and writes its line. What could not be read is not guessed at.
pub(super) fn note(worker: &Worker, head: &RefusedHead<'_>, peer: &Peer) {
    let view = worker.view();
    // One of these is answered already.
    let _is_within = worker.ledger.in_flight.begin(view.settings.requests_max);
    let now = worker.shared.clock.monotonic();
    let none = HeaderMap::new();
    let headers = head.request.map_or(&none, |request| request.headers());
    let client = client_address(peer.address.ip(), headers, &view.settings.trusted_proxies);
    let mut account = Account {
        ledger: Rc::clone(&worker.ledger),
        started: now,
        ended: Some(now),
        request_id: head.request_id.clone(),
        trace: TraceParent::fresh(&worker.ids),
        trace_continues: false,
        method: head.request.map_or_else(unknown_method, |request| request.method().clone()),
        version: head.request.map_or(Version::HTTP_09, |request| request.version()),
        client,
        peer: (client != peer.address.ip()).then_some(peer.address),
        tls: peer.tls.is_some(),
        grpc: is_grpc(headers),
        authority: None,
        target: head.request.and_then(|request| request.uri().path_and_query().cloned()),
        route: None,
        websocket: false,
        key: None,
        expiry: None,
        decided: None,
        denial: None,
        cors: None,
        outcome: Outcome::Denied,
        status: head.refusal.status().as_u16(),
        upstream_took: None,
        upstream_error: None,
        received: None,
        sent: 0,
        view,
    };
    account.refused(&Denial::from(head.refusal.code()), Outcome::Denied);
}

/// As a log of nginx shows what it does not know.
fn unknown_method() -> Method {
    Method::from_bytes(b"-").unwrap_or_default()
}
