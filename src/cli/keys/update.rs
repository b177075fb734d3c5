//! `keyward keys update`: changes what a key is called, may do, and how long it lives.

use crate::cli::failure::Failure;
use crate::cli::gateways::WaitOption;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::{EndOptions, OperatorOptions, RotationOptions, Whom, key_id, key_name, pair};
use crate::key::{EnvironmentId, FlagSet, Grant, Grants, KeyId};
use crate::manage::{Activity, Expiry, KeyChange};

/// Change a key; what is not named stays as it is
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward keys update -c keyward.toml key_0193… --flag jobs:read --flag jobs:write
  keyward keys update -c keyward.toml key_0193… --disable
  keyward keys update -c keyward.toml key_0193… --never-expires --name farm")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// The key
    #[arg(value_name = "ID", value_parser = key_id)]
    id: KeyId,
    /// What people shall call it
    #[arg(long, value_name = "NAME", value_parser = key_name)]
    name: Option<String>,
    #[command(flatten)]
    grants: GrantOptions,
    #[command(flatten)]
    activity: ActivityOptions,
    /// The environment it shall belong to
    #[arg(long, value_name = "ENVIRONMENT")]
    environment: Option<EnvironmentId>,
    #[command(flatten)]
    end: EndOptions,
    /// Let it live until it is revoked
    #[arg(long, conflicts_with_all = ["expires_in", "expires_at"])]
    never_expires: bool,
    #[command(flatten)]
    operator: OperatorOptions,
    #[command(flatten)]
    rotation: RotationOptions,
    /// Plan no rotation
    #[arg(long, conflicts_with = "rotate_every")]
    no_rotation: bool,
    /// Tell nobody
    #[arg(long, conflicts_with = "webhook")]
    no_webhook: bool,
    /// Free text to keep with it, in place of all there was; repeatable
    #[arg(long = "prop", value_name = "NAME=VALUE", value_parser = pair)]
    props: Vec<(String, String)>,
    /// Keep no free text with it
    #[arg(long, conflicts_with = "props")]
    no_props: bool,
    #[command(flatten)]
    wait: WaitOption,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct GrantOptions {
    /// A flag that it shall hold, in place of all it held; repeatable
    #[arg(long = "flag", value_name = "FLAG")]
    flags: Vec<Grant>,
    /// Hold no flag
    #[arg(long)]
    no_flags: bool,
    /// Hold whatever flags its user holds, now and later
    #[arg(long)]
    inherit: bool,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct ActivityOptions {
    /// Switch it off, until it is switched on again
    #[arg(long)]
    disable: bool,
    /// Switch it on again
    #[arg(long)]
    enable: bool,
}

impl Args {
    fn meaning(self) -> Result<KeyChange, Failure> {
        let operator = if self.operator.is_empty() { None } else { Some(self.operator.meaning()) };
        let (may_grant, operates_on) = operator.unzip();
        let change = KeyChange {
            name: self.name,
            active: self.activity.meaning(),
            grants: self.grants.meaning(),
            props: (self.no_props || !self.props.is_empty()).then(|| self.props.into_iter().collect()),
            expires: if self.never_expires { Some(Expiry::Never) } else { self.end.meaning() },
            environment: self.environment,
            rotation_interval_days: self.rotation.rotate_every.map(Some).or(self.no_rotation.then_some(None)),
            rotation_webhook_url: self.rotation.webhook.map(Some).or(self.no_webhook.then_some(None)),
            may_grant: may_grant.filter(|flags| !flags.is_empty()),
            operates_on: operates_on.filter(Option::is_some),
        };
        if changes_nothing(&change) {
            return Err(Failure::usage(
                "nothing to change: name at least one option; see `keyward keys update --help`",
            ));
        }
        Ok(change)
    }
}

impl GrantOptions {
    fn meaning(self) -> Option<Grants> {
        if self.inherit {
            Some(Grants::Inherit)
        } else if self.no_flags {
            Some(Grants::Only(FlagSet::default()))
        } else {
            Some(self.flags).filter(|flags| !flags.is_empty()).map(|flags| Grants::Only(flags.into()))
        }
    }
}

impl ActivityOptions {
    const fn meaning(&self) -> Option<Activity> {
        match (self.disable, self.enable) {
            (true, _) => Some(Activity::Disabled),
            (false, true) => Some(Activity::Active),
            (false, false) => None,
        }
    }
}

const fn changes_nothing(change: &KeyChange) -> bool {
    let KeyChange {
        name,
        active,
        grants,
        props,
        expires,
        environment,
        rotation_interval_days,
        rotation_webhook_url,
        may_grant,
        operates_on,
    } = change;
    name.is_none()
        && active.is_none()
        && grants.is_none()
        && props.is_none()
        && expires.is_none()
        && environment.is_none()
        && rotation_interval_days.is_none()
        && rotation_webhook_url.is_none()
        && may_grant.is_none()
        && operates_on.is_none()
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let asked = place::open(&args.whom)?;
    let (id, json, wait) = (args.id, args.json, args.wait);
    let change = args.meaning()?;
    let changed = asked.update_key(id, change)?;
    let revision = changed.key.revision;
    if json {
        output.json(&changed)?;
        return wait.check(&*asked, revision, output);
    }
    output.line(format_args!("changed key {id} ({}), revision {}", changed.key.name, changed.key.revision))?;
    if let Some(secret) = &changed.told.rotation_webhook_secret {
        output.line("The secret that its webhook's receiver verifies with:")?;
        output.line(secret.expose())?;
    }
    wait.tell(&*asked, revision, output)
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

    fn meaning(typed: &[&str]) -> Result<KeyChange, String> {
        let id = KeyId::from_bits(7).to_string();
        let words = ["update", "-c", "x", &id].into_iter().chain(typed.iter().copied());
        let typed = Typed::try_parse_from(words).map_err(|error| error.to_string())?;
        typed.args.meaning().map_err(|failure| failure.lines().concat())
    }

    #[test]
    fn only_what_is_named_changes() {
        let change = meaning(&["--disable", "--flag", "a"]).expect("a change");
        assert_eq!(change.active, Some(Activity::Disabled));
        assert!(matches!(change.grants, Some(Grants::Only(flags)) if flags.len() == 1));
        assert!(change.name.is_none() && change.expires.is_none() && change.props.is_none());
        assert_eq!(meaning(&["--never-expires"]).expect("a change").expires, Some(Expiry::Never));
        assert!(meaning(&["--no-props"]).expect("a change").props.is_some_and(|props| props.is_empty()));
        let rotation = meaning(&["--rotate-every", "30d", "--no-webhook"]).expect("a change");
        assert_eq!((rotation.rotation_interval_days, rotation.rotation_webhook_url), (Some(Some(30)), Some(None)));
        assert!(meaning(&["--no-flags"]).expect("a change").grants.is_some());
    }

    #[test]
    fn nothing_named_or_a_contradiction_is_wrong_use() {
        assert!(meaning(&[]).is_err_and(|line| line.contains("nothing to change")));
        assert!(meaning(&["--disable", "--enable"]).is_err());
        assert!(meaning(&["--rotate-every", "30d", "--no-rotation"]).is_err());
        assert!(meaning(&["--flag", "a", "--inherit"]).is_err());
        assert!(meaning(&["--never-expires", "--expires-in", "1d"]).is_err());
    }
}
