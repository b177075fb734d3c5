//! Answers: JSON, with the revision of a change and where it is in force.

use axum::body::Body;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LINK};
use http::{Response, StatusCode, Uri};
use serde::Serialize;
use tokio::time::Instant;

use super::input::Wait;
use super::operator::Call;
use super::problem::Refusal;
use crate::manage::Answered;
use crate::report::Chain;
use crate::store::Committed;

/// What an endpoint answers.
pub(super) type Answer = Result<Response<Body>, Refusal>;

/// `value` as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    Ok(of_text(status, written(value)))
}

/// `value` as the text of a body.
pub(super) fn written(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("answers are structs and maps of text, which always become JSON")
}

/// `text`, which is JSON, as a body.
pub(super) fn of_text(status: StatusCode, text: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Nothing.
pub(super) fn empty() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

impl Call {
    /// A change that was committed, as JSON, once it is in force or `patience` is over.
    pub(super) async fn changed(
        &self,
        status: StatusCode,
        value: &impl Serialize,
        committed: Committed,
        patience: Wait,
    ) -> Answer {
        Ok(self.in_force(json(status, value)?, committed.revision, patience).await)
    }

    /// What a request that is done once was answered, now or before.
    pub(super) async fn once_answered<T>(
        &self,
        status: StatusCode,
        answered: Answered<T>,
        committed: impl Fn(&T) -> Committed,
        patience: Wait,
    ) -> Answer {
        let (text, revision) = match answered {
            Answered::First { outcome, answer } => (answer, committed(&outcome).revision),
            Answered::Again { answer, revision } => (answer, revision),
        };
        Ok(self.in_force(of_text(status, text), revision, patience).await)
    }

    /// The same without a body.
    pub(super) async fn gone(&self, committed: Committed, patience: Wait) -> Answer {
        Ok(self.in_force(empty(), committed.revision, patience).await)
    }

    async fn in_force(&self, mut response: Response<Body>, revision: u64, patience: Wait) -> Response<Body> {
        self.made(revision);
        let (Wait::Here(most) | Wait::Everywhere(most)) = patience;
        let until = Instant::now() + most;
        let applied = self.parts().applied.wait(revision, most).await;
        let fields = response.headers_mut();
        fields.insert(REVISION, HeaderValue::from(revision));
        fields.insert(APPLIED, HeaderValue::from_static(if applied { "true" } else { "false" }));
        if let Wait::Everywhere(_) = patience {
            let confirmed = self.confirmed(revision, until).await;
            fields.insert(CONFIRMED, HeaderValue::from_static(if confirmed { "all" } else { "partial" }));
        }
        response
    }

    /// Whether every gateway decides by `revision` before `until` has passed.
    async fn confirmed(&self, revision: u64, until: Instant) -> bool {
        match self.manager().wait_confirmed(revision, until).await {
            Ok(confirmation) => confirmation.is_of_all(),
            Err(error) => {
                // The change is made, whatever is known of it.
                tracing::error!(error = %Chain(&error), revision, "it cannot be told where a change is in force");
                false
            }
        }
    }

    /// Says where the next page is: the same query from `cursor` on.
    pub(super) fn link_next(&self, response: &mut Response<Body>, uri: &Uri, cursor: &str) {
        let query = uri.query().unwrap_or_default();
        let kept = query.split('&').filter(|part| !part.is_empty() && part.split('=').next() != Some("cursor"));
        let query = kept.chain([format!("cursor={cursor}").as_str()]).collect::<Vec<_>>().join("&");
        let settings = self.parts().settings.load();
        let base = settings.public_url.as_deref().unwrap_or_default();
        // A query that could not be a field's value did not come through the listener.
        if let Ok(link) = HeaderValue::try_from(format!("<{base}{}?{query}>; rel=\"next\"", uri.path())) {
            response.headers_mut().insert(LINK, link);
        }
    }
}

/// The revision that holds a change.
pub(super) const REVISION: HeaderName = HeaderName::from_static("keyward-revision");
/// Whether this gateway decides by it.
pub(super) const APPLIED: HeaderName = HeaderName::from_static("keyward-applied");
/// Whether every gateway does.
const CONFIRMED: HeaderName = HeaderName::from_static("keyward-confirmed");
