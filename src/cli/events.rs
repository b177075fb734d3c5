//! `keyward events`: who changed what, oldest first; the same rows that gateways follow.

use std::time::Duration;

use super::documents::{Event, Subject};
use super::failure::Failure;
use super::output::Output;
use super::place;
use super::values::{Whom, key_id};
use crate::key::{self, KeyId, Stamp, UserId};
use crate::store::EventQuery;

/// How long a follower sleeps at most where nothing wakes it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Print every change to keys and users, oldest first: who, when and what
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward events -c keyward.toml --key key_0193…
  keyward events -c keyward.toml --follow --json | jq .kind")]
pub(super) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// Go on printing as changes happen, until interrupted
    #[arg(long)]
    follow: bool,
    /// Only what came after this revision
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    after: u64,
    /// Only changes to this key
    #[arg(long, value_name = "ID", value_parser = key_id, conflicts_with = "user")]
    key: Option<KeyId>,
    /// Only changes to this user
    #[arg(long, value_name = "USER")]
    user: Option<UserId>,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

impl Args {
    fn meaning(self) -> EventQuery {
        let subject = self.key.map(key::Subject::Key).or_else(|| self.user.map(key::Subject::User));
        EventQuery { after: Stamp { revision: self.after, ordinal: u32::MAX }, subject, limit: 0 }
    }
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let asked = place::open(&args.whom)?;
    let (follow, json) = (args.follow, args.json);
    let mut query = args.meaning();
    loop {
        query.after = asked.each_event(query.clone(), &mut |event| {
            if json { output.json_line(&event) } else { output.line(sentence(&event)) }
        })?;
        if !follow {
            return Ok(());
        }
        output.flush()?;
        asked.wait_for_news(PATIENCE);
    }
}

fn sentence(event: &Event) -> String {
    let Event { revision, at, kind, actor, from, subject, changes, .. } = event;
    let (Subject::Key(subject) | Subject::User(subject)) = subject;
    let mut line = format!("{at}  {revision:>6}  {kind:<13} {subject}  by {actor}");
    if let Some(address) = from {
        line.push_str("  from ");
        line.push_str(address);
    }
    for (field, value) in changes {
        line.push_str("  ");
        line.push_str(field);
        line.push('=');
        line.push_str(value);
    }
    line
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn an_event_is_told_on_one_line() {
        let event = Event {
            revision: 7,
            ordinal: 0,
            at: Timestamp::EPOCH,
            kind: "key.revoked".to_owned(),
            actor: "local:ann".to_owned(),
            from: None,
            subject: Subject::Key(KeyId::from_bits(1).to_string()),
            changes: BTreeMap::from([("name".to_owned(), "build".to_owned())]),
        };
        let expected = format!("1970-01-01T00:00:00Z       7  key.revoked   key_{:032x}  by local:ann  name=build", 1);
        assert_eq!(sentence(&event), expected);
        let from = Event { from: Some("192.0.2.1".to_owned()), ..event };
        assert_eq!(sentence(&from), expected.replace("ann", "ann  from 192.0.2.1"));
    }
}
