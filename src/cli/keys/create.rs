//! `keyward keys create`: mints a key and prints its token, once.

use std::collections::BTreeMap;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::{end_text, flags_text, project_text, told_once};
use crate::cli::documents::{Token, Told};
use crate::cli::failure::Failure;
use crate::cli::gateways::WaitOption;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::{EndOptions, OperatorOptions, RotationOptions, Which, Whom, key_name, pair};
use crate::key::{EnvironmentId, Format, Grant, Grants, ProjectId, UserId};
use crate::manage::NewKey;

/// Make a key and print its token, once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward keys create -c keyward.toml --project acme --name build --flag jobs:read
  keyward keys create -c keyward.toml --project acme --name ann --user ann --inherit \\
      --expires-in 30d
  keyward keys create -c keyward.toml --project acme --name ci --flag jobs:read --format jwt
  keyward keys create -c keyward.toml --project all --name ops --flag 'keyward.**' \\
      --may-grant '**' --operate-project all --operate-environment all
  keyward keys create -c keyward.toml --project acme --name farm --rotate-every 30d \\
      --webhook https://farm.example.com/keyward
  keyward keys create --admin https://gw.example.com:9443 --project acme --name build

The token is the last line printed, or `key` in the JSON. It is stored nowhere.")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// The project it belongs to; all is for operators
    #[arg(long, value_name = "PROJECT")]
    project: Which<ProjectId>,
    /// What people call it
    #[arg(long, value_name = "NAME", value_parser = key_name)]
    name: String,
    /// A flag that it holds; repeatable. Without any it opens only routes for any key
    #[arg(long = "flag", value_name = "FLAG", conflicts_with = "inherit")]
    flags: Vec<Grant>,
    /// Hold whatever flags its user holds, now and later
    #[arg(long, requires = "user")]
    inherit: bool,
    /// The user who owns it
    #[arg(long, value_name = "USER")]
    user: Option<UserId>,
    /// The environment it belongs to
    #[arg(long, value_name = "ENVIRONMENT", default_value = "live")]
    environment: EnvironmentId,
    #[command(flatten)]
    end: EndOptions,
    #[command(flatten)]
    operator: OperatorOptions,
    /// Free text to keep with it; repeatable
    #[arg(long = "prop", value_name = "NAME=VALUE", value_parser = pair)]
    props: Vec<(String, String)>,
    /// Let it rotate itself
    #[arg(long)]
    self_rotate: bool,
    #[command(flatten)]
    rotation: RotationOptions,
    /// How its token is made: opaque, or a signed JWT that others can read
    #[arg(long, value_name = "FORMAT", default_value = "opaque", value_parser = format())]
    format: Format,
    #[command(flatten)]
    wait: WaitOption,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The formats that are minted here.
fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new([Format::Opaque.as_str(), Format::Jwt.as_str()])
        .map(|text| if text == Format::Jwt.as_str() { Format::Jwt } else { Format::Opaque })
}

impl Args {
    fn meaning(self) -> Result<NewKey, Failure> {
        if self.operator.lacks_scope(&self.flags) {
            return Err(Failure::usage(
                "an operator's key needs --operate-project and --operate-environment: a name each, or all",
            ));
        }
        let (may_grant, operates_on) = self.operator.meaning();
        Ok(NewKey {
            project: self.project.one(),
            environment: self.environment,
            user: self.user,
            grants: if self.inherit { Grants::Inherit } else { Grants::Only(self.flags.into()) },
            props: self.props.into_iter().collect::<BTreeMap<_, _>>(),
            may_grant,
            operates_on,
            self_rotate: self.self_rotate,
            format: self.format,
            expires: self.end.meaning().unwrap_or_default(),
            rotation_interval_days: self.rotation.rotate_every,
            rotation_webhook_url: self.rotation.webhook,
            ..NewKey::named(&self.name, None)
        })
    }
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let asked = place::open(&args.whom)?;
    let (json, wait) = (args.json, args.wait);
    let created = asked.create_key(args.meaning()?)?;
    told_once(created.key.id, print(&created, json, output))?;
    // Nothing comes after the token on standard output.
    wait.check(&*asked, created.key.revision, output)
}

fn print(created: &Told<Token>, json: bool, output: &mut Output) -> Result<(), Failure> {
    if json {
        output.json(created)?;
        return output.flush();
    }
    let Told { key, told } = created;
    output.line(format_args!("made key {} ({}), revision {}", key.id, key.name, key.revision))?;
    output.line(format_args!("  project      {}", project_text(key)))?;
    output.line(format_args!("  environment  {}", key.environment_id))?;
    if let Some(user) = &key.user_id {
        output.line(format_args!("  user         {user}"))?;
    }
    output.line(format_args!("  flags        {}", flags_text(key)))?;
    output.line(format_args!("  expires      {}", end_text(key.expires_at)))?;
    if let Some(days) = key.rotation_interval_days {
        output.line(format_args!("  rotate       every {days}d, next at {}", end_text(key.next_rotation_at)))?;
    }
    if let Some(secret) = &told.rotation_webhook_secret {
        output.line("The secret that its webhook's receiver verifies with:")?;
        output.line(secret.expose())?;
    }
    output.line("Its token, shown this once and stored nowhere:")?;
    output.line(told.key.expose())?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::manage::Expiry;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: Args,
    }

    fn meaning(typed: &str) -> Result<NewKey, String> {
        let words = "create -c x --name n".split(' ').chain(typed.split(' '));
        let typed = Typed::try_parse_from(words).map_err(|error| error.to_string())?;
        typed.args.meaning().map_err(|failure| failure.lines().concat())
    }

    #[test]
    fn what_is_typed_becomes_a_key_to_mint() {
        let new =
            meaning("--project acme --flag a.b --flag c:d --user ann --prop team=x --expires-in 30d").expect("a key");
        assert_eq!(new.project.as_ref().map(ProjectId::as_str), Some("acme"));
        assert_eq!(new.environment, EnvironmentId::live());
        assert!(matches!(&new.grants, Grants::Only(flags) if flags.to_string() == "a.b c:d"));
        assert_eq!(new.expires, Expiry::In(std::time::Duration::from_secs(30 * 86_400)));
        assert_eq!(new.props.get("team").map(String::as_str), Some("x"));
        assert!(new.operates_on.is_none());
        let new = meaning("--project acme --rotate-every 30d --webhook https://x.example/").expect("a key");
        assert_eq!(
            (new.rotation_interval_days, new.rotation_webhook_url.as_deref()),
            (Some(30), Some("https://x.example/"))
        );
    }

    #[test]
    fn nothing_said_grants_nothing() {
        let new = meaning("--project acme").expect("a key");
        assert!(matches!(&new.grants, Grants::Only(flags) if flags.is_empty()));
        assert_eq!(new.expires, Expiry::Never);
    }

    #[test]
    fn an_operator_says_what_it_operates_on() {
        assert!(
            meaning("--project all --flag keyward.keys.read").is_err_and(|line| line.contains("--operate-project"))
        );
        assert!(meaning("--project all --may-grant **").is_err());
        let all =
            meaning("--project all --flag keyward.** --may-grant ** --operate-project all --operate-environment live");
        let scope = all.expect("an operator").operates_on.expect("its scope");
        assert_eq!((scope.project, scope.environment), (None, Some(EnvironmentId::live())));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        assert!(meaning("--project acme --inherit").is_err());
        assert!(meaning("--project acme --inherit --user ann --flag a").is_err());
        assert!(meaning("--project acme --expires-in 1d --expires-at 2027-01-31T00:00:00Z").is_err());
        assert!(meaning("--project acme --flag a..b").is_err());
        assert!(meaning("--project a/b").is_err());
    }
}
