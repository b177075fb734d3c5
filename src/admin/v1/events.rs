//! `/v1/events`: who changed what and when, as a page of JSON or all of it as JSON lines.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use http_body::Frame;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::page;
use crate::admin::answer::{Answer, json};
use crate::admin::input::Query;
use crate::admin::operator::Call;
use crate::admin::problem::Refusal;
use crate::key::{Event, KeyId, Stamp, Subject, UserId};
use crate::manage::{Caller, ManageError, Manager};
use crate::report::Chain;
use crate::store::EventQuery;

/// The media type of JSON lines.
pub(in crate::admin) const JSON_LINES: &str = "application/x-ndjson";
/// How many events are read at a time for an export.
const CHUNK: usize = 500;

/// Which events to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct Filter {
    /// Those after this revision.
    #[param(maximum = 9223372036854775807_i64)]
    after: Option<u64>,
    /// Those of this key.
    #[param(value_type = Option<String>, pattern = "^key_[0-9a-f]{32}$")]
    key_id: Option<KeyId>,
    /// Those of this user; not beside `key_id`.
    #[param(value_type = Option<String>, pattern = "^[A-Za-z0-9._:@+-]{1,128}$")]
    user_id: Option<UserId>,
    /// How many; 100 where it is left out. JSON lines are never cut.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// Where the page before ended: from its `Link`.
    #[param(min_length = 1)]
    cursor: Option<String>,
}

/// One change to a key or user.
#[derive(ToSchema)]
#[schema(as = Event)]
#[expect(dead_code, reason = "tells the API's description what an event says; events write themselves")]
pub(in crate::admin) struct EventShape {
    /// The revision that holds it.
    revision: u64,
    /// Its place within the revision.
    ordinal: u32,
    /// When, by the store's clock.
    #[schema(format = DateTime)]
    at: String,
    /// What happened, such as `key.revoked`.
    kind: String,
    /// Who did it: a key's id, `local:` and a login, or `system`.
    actor: String,
    /// The address it was asked from; null at the command line.
    #[schema(required)]
    from: Option<String>,
    /// Whom it is about.
    subject: SubjectShape,
    /// What changed, field by field. Never a token.
    changes: BTreeMap<String, String>,
}

/// The key or the user that an event is about.
#[derive(ToSchema)]
#[schema(as = EventSubject, rename_all = "snake_case")]
#[expect(dead_code, reason = "tells the API's description what an event is about")]
pub(super) enum SubjectShape {
    /// The key's id.
    Key(String),
    /// The user's id.
    User(String),
}

/// Lists events, oldest first.
pub(in crate::admin) async fn list(call: Call, Query(asked): Query<Filter>, headers: HeaderMap, uri: Uri) -> Answer {
    let limit = page::limit(asked.limit)?;
    let subject = match (asked.key_id, asked.user_id) {
        (Some(_), Some(_)) => return Err(Refusal::conflicting("user_id", "is there beside key_id: keep one")),
        (Some(id), None) => Some(Subject::Key(id)),
        (None, user) => user.map(Subject::User),
    };
    // What the store counts with has a sign.
    let revision = asked.after.unwrap_or(0);
    if i64::try_from(revision).is_err() {
        return Err(Refusal::of_field("after", "is no revision"));
    }
    let after = page::place(asked.cursor.as_deref(), stamp)?;
    let after = after.unwrap_or(Stamp { revision, ordinal: u32::MAX });
    let query = EventQuery { after, subject, limit: limit + 1 };
    if wants_lines(&headers) {
        return export(&call, EventQuery { limit: CHUNK, ..query }).await;
    }
    let mut events = call.manager().events(&call.caller, query).await?;
    let more = page::cut(&mut events, limit);
    let mut response = json(StatusCode::OK, &events)?;
    if let Some(last) = events.last().filter(|_| more) {
        let place = format!("{} {}", last.stamp.revision, last.stamp.ordinal);
        call.link_next(&mut response, &uri, &page::cursor(&place));
    }
    Ok(response)
}

fn stamp(place: &str) -> Option<Stamp> {
    let (revision, ordinal) = place.split_once(' ')?;
    let revision = revision.parse().ok().filter(|revision| i64::try_from(*revision).is_ok())?;
    Some(Stamp { revision, ordinal: ordinal.parse().ok()? })
}

fn wants_lines(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(','));
    kinds.any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(JSON_LINES)))
}

/// Every event from there on, a line each, read as fast as they are taken.
async fn export(call: &Call, query: EventQuery) -> Answer {
    let source = Arc::new(Source { manager: call.manager().clone(), caller: call.caller.clone() });
    let mut lines = Lines { source, query, reading: None, over: false };
    // The first page is read before the head is sent: who may not read is told so.
    let first = lines.next_page().await?;
    let first = lines.taken(&first);
    let mut response = Response::new(Body::new(Export { first, lines }));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON_LINES));
    Ok(response)
}

#[derive(Debug)]
struct Source {
    manager: Manager,
    caller: Caller,
}

type Reading = Pin<Box<dyn Future<Output = Result<Vec<Event>, ManageError>> + Send>>;

/// Where an export stands.
struct Lines {
    source: Arc<Source>,
    query: EventQuery,
    reading: Option<Reading>,
    over: bool,
}

impl Lines {
    fn next_page(&self) -> Reading {
        let (source, query) = (Arc::clone(&self.source), self.query.clone());
        Box::pin(async move { source.manager.events(&source.caller, query).await })
    }

    /// The lines of a page.
    fn taken(&mut self, page: &[Event]) -> Bytes {
        self.over = page.len() < self.query.limit;
        if let Some(last) = page.last() {
            self.query.after = last.stamp;
        }
        let mut text = Vec::with_capacity(page.len() * 256);
        for event in page {
            // Maps of text always become JSON.
            if serde_json::to_writer(&mut text, event).is_ok() {
                text.push(b'\n');
            }
        }
        text.into()
    }
}

/// The body of an export. One that cannot be finished breaks off, so that nobody takes it for whole.
struct Export {
    first: Bytes,
    lines: Lines,
}

impl http_body::Body for Export {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let Self { first, lines } = self.get_mut();
        if !first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(first)))));
        }
        if lines.over {
            return Poll::Ready(None);
        }
        let next = lines.next_page();
        let page = ready!(lines.reading.get_or_insert(next).as_mut().poll(cx));
        lines.reading = None;
        match page {
            Ok(page) if page.is_empty() => Poll::Ready(None),
            Ok(page) => Poll::Ready(Some(Ok(Frame::data(lines.taken(&page))))),
            Err(error) => {
                tracing::error!(error = %Chain(&error), "an export of events broke off");
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sent_to_whoever_asks_for_them() {
        let asked =
            |value: &'static str| wants_lines(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))]));
        assert!(asked("application/x-ndjson") && asked("text/html, Application/X-NDJSON;q=0.5"));
        assert!(!asked("application/json") && !asked("*/*") && !wants_lines(&HeaderMap::new()));
    }

    #[test]
    fn a_place_is_a_revision_and_an_ordinal() {
        assert_eq!(stamp("7 1"), Some(Stamp { revision: 7, ordinal: 1 }));
        for wrong in ["7", "7 -1", "x 1", "18446744073709551615 0", ""] {
            assert_eq!(stamp(wrong), None, "{wrong}");
        }
    }
}
