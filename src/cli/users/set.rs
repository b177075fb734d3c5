//! `keyward users set`: makes a user, or changes one.

use crate::cli::failure::Failure;
use crate::cli::gateways::WaitOption;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::{Which, Whom};
use crate::key::{FlagSet, Grant, ProjectId, UserId};
use crate::manage::{Activity, UserPatch};

/// Make a user, or change one; what is not named stays as it is
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward users set -c keyward.toml ann --project acme --flag jobs:read --flag 'keyring.**'
  keyward users set -c keyward.toml ann --disabled --wait 5s

A new user holds no flags but those named, works, and belongs to no project unless one is named.
Made through the management API it belongs to the operator's project, where that has one.")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    whom: Whom,
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
    #[command(flatten)]
    wait: WaitOption,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// What is to change, and nothing else.
    fn meaning(self) -> UserPatch {
        UserPatch {
            id: self.id,
            project: self.project.map(Which::one),
            flags: (self.no_flags || !self.flags.is_empty()).then(|| FlagSet::from(self.flags)),
            active: match (self.disabled, self.enabled) {
                (true, _) => Some(Activity::Disabled),
                (false, true) => Some(Activity::Active),
                (false, false) => None,
            },
        }
    }
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let asked = place::open(&args.whom)?;
    let (json, wait) = (args.json, args.wait);
    let set = asked.set_user(args.meaning())?;
    if json {
        output.json(&set.user)?;
        return wait.check(&*asked, set.revision, output);
    }
    let done = if set.is_new { "made" } else { "changed" };
    output.line(format_args!("{done} user {}, revision {}", set.user.id, set.revision))?;
    wait.tell(&*asked, set.revision, output)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: Args,
    }

    fn meaning(typed: &str) -> UserPatch {
        let words = "set -c x ann".split(' ').chain(typed.split_whitespace());
        Typed::try_parse_from(words).expect("well typed").args.meaning()
    }

    #[test]
    fn what_is_not_named_is_not_changed() {
        let change = meaning("");
        assert_eq!((change.project, change.flags, change.active), (None, None, None));
        let change = meaning("--project all --no-flags --enabled");
        let expected = (Some(None), Some(FlagSet::default()), Some(Activity::Active));
        assert_eq!((change.project, change.flags, change.active), expected);
        let change = meaning("--flag c:d --disabled");
        let flags = FlagSet::parse(["c:d"]).expect("flags");
        assert_eq!((change.flags, change.active), (Some(flags), Some(Activity::Disabled)));
    }
}
