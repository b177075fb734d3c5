//! `keyward events`: who changed what, oldest first; the same rows that gateways follow.

use std::time::Duration;

use super::failure::Failure;
use super::output::Output;
use super::place::Place;
use super::values::{ConfigFile, key_id};
use crate::key::{Event, KeyId, Stamp, Subject, UserId};
use crate::store::EventQuery;

/// How many events are read at a time.
const PAGE: usize = 1000;
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
    config: ConfigFile,
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
        let subject = self.key.map(Subject::Key).or_else(|| self.user.map(Subject::User));
        EventQuery { after: Stamp { revision: self.after, ordinal: u32::MAX }, subject, limit: PAGE }
    }
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let place = Place::open(&args.config)?;
    let (follow, json) = (args.follow, args.json);
    let mut query = args.meaning();
    loop {
        let page = place.wait(place.manager.events(&place.caller, query.clone()))?;
        for event in &page {
            if json {
                output.json_line(event)?;
            } else {
                output.line(sentence(event))?;
            }
            query.after = event.stamp;
        }
        if page.len() == PAGE {
            continue;
        }
        if !follow {
            return Ok(());
        }
        output.flush()?;
        place.wait_for(place.store.wait_for_news(PATIENCE));
    }
}

fn sentence(event: &Event) -> String {
    let Event { stamp, at, kind, actor, from, subject, changes } = event;
    let subject = match subject {
        Subject::Key(id) => id.to_string(),
        Subject::User(id) => id.to_string(),
    };
    let mut line = format!("{at}  {:>6}  {:<13} {subject}  by {actor}", stamp.revision, kind.as_str());
    if let Some(address) = from {
        line.push_str("  from ");
        line.push_str(&address.to_string());
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
    use crate::key::{Actor, EventKind};

    #[test]
    fn an_event_is_told_on_one_line() {
        let event = Event {
            stamp: Stamp { revision: 7, ordinal: 0 },
            at: Timestamp::EPOCH,
            kind: EventKind::KeyRevoked,
            actor: Actor::Local("ann".to_owned()),
            from: None,
            subject: Subject::Key(KeyId::from_bits(1)),
            changes: BTreeMap::from([("name".to_owned(), "build".to_owned())]),
        };
        let expected = format!("1970-01-01T00:00:00Z       7  key.revoked   key_{:032x}  by local:ann  name=build", 1);
        assert_eq!(sentence(&event), expected);
        let from = Event { from: Some([192, 0, 2, 1].into()), ..event };
        assert_eq!(sentence(&from), expected.replace("ann", "ann  from 192.0.2.1"));
    }
}
