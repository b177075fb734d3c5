//! `keyward users set`: makes a user, or changes one.

use crate::admin::UserShape;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place::Place;
use crate::cli::values::{ConfigFile, Which};
use crate::key::{FlagSet, Grant, ProjectId, User, UserId};
use crate::manage::{Activity, ManageError, UserChange};

/// Make a user, or change one; what is not named stays as it is
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward users set -c keyward.toml ann --project acme --flag jobs:read --flag 'keyring.**'
  keyward users set -c keyward.toml ann --disabled

A new user holds no flags but those named, works, and belongs to no project unless one is named.")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// The user
    #[arg(value_name = "USER")]
    id: UserId,
    /// The project it belongs to, or all for none
    #[arg(long, value_name = "PROJECT")]
    project: Option<Which<ProjectId>>,
    /// A flag that its keys may use, in place of all there were; repeatable
    #[arg(long = "flag", value_name = "FLAG", conflicts_with = "no_flags")]
    flags: Vec<Grant>,
    /// Let its keys use no flag
    #[arg(long)]
    no_flags: bool,
    /// Make all its keys stop working, until it is enabled again
    #[arg(long, conflicts_with = "enabled")]
    disabled: bool,
    /// Let its keys work again
    #[arg(long)]
    enabled: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The user as it shall be, from what is known of it.
    fn meaning(self, known: Option<User>) -> UserChange {
        let active = match (self.disabled, self.enabled, &known) {
            (true, ..) => Activity::Disabled,
            (false, true, _) | (false, false, None) => Activity::Active,
            (false, false, Some(user)) if user.active => Activity::Active,
            (false, false, Some(_)) => Activity::Disabled,
        };
        let (project, flags) = known.map(|user| (user.project, user.flags)).unwrap_or_default();
        UserChange {
            id: self.id,
            project: self.project.map_or(project, Which::one),
            flags: if self.no_flags {
                FlagSet::default()
            } else if self.flags.is_empty() {
                flags
            } else {
                self.flags.into()
            },
            active,
        }
    }
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let place = Place::open(&args.config)?;
    let json = args.json;
    let known = place.wait(async {
        match place.manager.user(&place.caller, args.id.clone()).await {
            Ok(user) => Ok(Some(user)),
            Err(ManageError::UserNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    })?;
    let set = place.wait(place.manager.set_user(&place.caller, args.meaning(known)))?;
    if json {
        return output.json(&UserShape::of(&set.user));
    }
    let done = if set.created { "made" } else { "changed" };
    output.line(format_args!("{done} user {}, revision {}", set.user.id, set.committed.revision))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::clock::Timestamp;
    use crate::key::Stamp;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: Args,
    }

    fn meaning(typed: &str, known: Option<User>) -> UserChange {
        let words = "set -c x ann".split(' ').chain(typed.split_whitespace());
        Typed::try_parse_from(words).expect("well typed").args.meaning(known)
    }

    fn ann() -> User {
        User {
            id: "ann".parse().expect("an id"),
            project: Some("acme".parse().expect("a project")),
            flags: FlagSet::parse(["a.b"]).expect("flags"),
            active: false,
            deleted: false,
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
            stamp: Stamp::default(),
        }
    }

    #[test]
    fn what_is_not_named_stays_as_it_is() {
        let change = meaning("", Some(ann()));
        assert_eq!((change.project, change.flags, change.active), (ann().project, ann().flags, Activity::Disabled));
        let change = meaning("--project all --no-flags --enabled", Some(ann()));
        assert_eq!((change.project, change.flags, change.active), (None, FlagSet::default(), Activity::Active));
    }

    #[test]
    fn a_new_user_works_and_holds_what_is_named() {
        let change = meaning("--flag c:d", None);
        assert_eq!((change.project, change.flags.to_string().as_str(), change.active), (None, "c:d", Activity::Active));
        assert_eq!(meaning("--disabled", None).active, Activity::Disabled);
    }
}
