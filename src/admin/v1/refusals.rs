//! `/v1/refusals`: who tried to change what and was refused, counted by the minute.

use http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::page;
use crate::admin::answer::{Answer, json};
use crate::admin::input::Query;
use crate::admin::operator::Call;
use crate::clock::Timestamp;
use crate::key::{Actor, KeyId, Subject};
use crate::store::{RefusalQuery, RefusalTally};

/// Which refused attempts to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct Filter {
    /// Those of this key.
    #[param(value_type = Option<String>, pattern = "^key_[0-9a-f]{32}$")]
    actor: Option<KeyId>,
    /// How many at least, where there are as many; 100 where it is left out. A minute is never cut.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// Where the page before ended: from its `Link`.
    #[param(min_length = 1)]
    cursor: Option<String>,
}

/// Refused attempts of one kind by one caller within one minute.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RefusedAttempts)]
pub(in crate::admin) struct Shape<'a> {
    /// The beginning of the minute.
    #[schema(value_type = String, format = DateTime)]
    minute: Timestamp,
    /// Who asked: a key's id, `local:` and a login, or `system`.
    #[schema(value_type = String)]
    actor: &'a Actor,
    /// The address it was asked from; null at the command line, or where there were too many.
    #[schema(value_type = Option<String>, required)]
    from: Option<std::net::IpAddr>,
    /// What for, in a word.
    operation: &'a str,
    /// Why it was refused, as a code.
    code: &'a str,
    /// The key or user that was named last.
    #[schema(value_type = Option<super::events::SubjectShape>, required)]
    subject: Option<&'a Subject>,
    /// How often.
    count: u64,
    /// When last.
    #[schema(value_type = String, format = DateTime)]
    last_at: Timestamp,
}

impl<'a> Shape<'a> {
    fn of(tally: &'a RefusalTally) -> Self {
        Self {
            minute: tally.minute,
            actor: &tally.actor,
            from: tally.from,
            operation: &tally.operation,
            code: &tally.code,
            subject: tally.subject.as_ref(),
            count: tally.count,
            last_at: tally.last_at,
        }
    }
}

/// Lists refused attempts, newest first.
pub(in crate::admin) async fn list(call: Call, Query(asked): Query<Filter>, uri: Uri) -> Answer {
    let limit = page::limit(asked.limit)?;
    let before = page::place(asked.cursor.as_deref(), |place| Some(Timestamp::from_nanos(place.parse().ok()?)))?;
    let query = RefusalQuery { before, actor: asked.actor.map(Actor::Key), limit };
    let mut tallies = call.manager().refusals(&call.caller, query.clone()).await?;
    let last = tallies.last().map(|tally| tally.minute).filter(|_| tallies.len() >= limit);
    if let Some(minute) = last {
        // The next page begins with another minute, so this one is completed.
        let whole = RefusalQuery { before, limit: 0, ..query };
        tallies = call.manager().refusals(&call.caller, whole).await?;
        tallies.retain(|tally| tally.minute >= minute);
    }
    let shapes: Vec<_> = tallies.iter().map(Shape::of).collect();
    let mut response = json(StatusCode::OK, &shapes)?;
    if let Some(minute) = last {
        call.link_next(&mut response, &uri, &page::cursor(&minute.nanos().to_string()));
    }
    Ok(response)
}
