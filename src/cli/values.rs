//! Values on the command line: the texts that several commands read the same way.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::failure::Failure;
use crate::clock::Timestamp;
use crate::key::{EnvironmentId, FlagSet, Grant, KeyId, NameFault, OperatorScope, ProjectId, Status, check_key_name};
use crate::manage::Expiry;

const SECONDS_PER_DAY: u64 = 86_400;

/// Which configuration a command works on.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigFile {
    /// The configuration file
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub(super) path: PathBuf,
}

/// Whom a command asks: the store itself, or a gateway that runs.
#[derive(Debug, clap::Args)]
pub(super) struct Whom {
    #[command(flatten)]
    place: WhomAtLeast,
    #[arg(
        long,
        value_name = "FILE",
        requires = "admin",
        help = "With --admin: the file that holds the operator's token, in place of KEYWARD_TOKEN"
    )]
    pub(super) token_file: Option<PathBuf>,
    /// With --admin: the file of the authorities to trust, in place of the machine's
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub(super) ca: Option<PathBuf>,
}

/// The same where another command may stand in its place.
#[derive(Debug, clap::Args)]
pub(super) struct WhomIfAny {
    /// The configuration file, whose store is opened
    #[arg(short = 'c', long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// The management API of a running gateway, asked as an operator: https://HOST:PORT
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    #[arg(
        long,
        value_name = "FILE",
        requires = "admin",
        help = "With --admin: the file that holds the operator's token, in place of KEYWARD_TOKEN"
    )]
    token_file: Option<PathBuf>,
    /// With --admin: the file of the authorities to trust, in place of the machine's
    #[arg(long, value_name = "FILE", requires = "admin")]
    ca: Option<PathBuf>,
}

impl WhomIfAny {
    /// As it stands where it must be given.
    pub(super) fn whom(self) -> Whom {
        let Self { config, admin, token_file, ca } = self;
        Whom { place: WhomAtLeast { config, admin }, token_file, ca }
    }
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct WhomAtLeast {
    /// The configuration file, whose store is opened
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The management API of a running gateway, asked as an operator: https://HOST:PORT
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
}

/// Who is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    /// The store that this configuration names.
    Store(&'a Path),
    /// The management API at this URL.
    Admin(&'a str),
}

impl Whom {
    /// Who that is.
    pub(super) fn meaning(&self) -> Result<Asked<'_>, Failure> {
        match (&self.place.config, &self.place.admin) {
            (Some(config), None) => Ok(Asked::Store(config)),
            (None, Some(url)) => Ok(Asked::Admin(url)),
            (Some(_), Some(_)) | (None, None) => Err(Failure::usage("expected one of --config and --admin")),
        }
    }
}

/// One of a kind, or `all`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Which<T> {
    /// Every one.
    All,
    /// This one.
    One(T),
}

impl<T> Which<T> {
    /// The one, or none for all.
    pub(super) fn one(self) -> Option<T> {
        match self {
            Self::All => None,
            Self::One(one) => Some(one),
        }
    }
}

impl<T: FromStr> FromStr for Which<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text == "all" { Ok(Self::All) } else { text.parse().map(Self::One) }
    }
}

/// When a key ends: after a while, or at an instant.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(multiple = false)]
pub(super) struct EndOptions {
    /// Refuse the key after this long, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires_in: Option<Duration>,
    /// Refuse the key from this instant on, such as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires_at: Option<Timestamp>,
}

impl EndOptions {
    /// When the key shall end; none where nothing was said.
    pub(super) fn meaning(self) -> Option<Expiry> {
        let at = self.expires_at.map(Expiry::At);
        at.or_else(|| self.expires_in.map(Expiry::In))
    }
}

/// How often a key is replaced, and who is told.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct RotationOptions {
    /// Replace it this often, in whole days, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = whole_days)]
    pub(super) rotate_every: Option<u32>,
    /// The https:// URL that is told when it is due, expires or has ended
    #[arg(long, value_name = "URL")]
    pub(super) webhook: Option<String>,
}

/// Whose keys an operator manages, as typed.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct OperatorOptions {
    /// A flag, or pattern of flags, that the key may grant to others; makes it an operator's. Repeatable
    #[arg(long = "may-grant", value_name = "FLAG")]
    may_grant: Vec<Grant>,
    /// The project whose keys an operator manages, or all
    #[arg(long, value_name = "PROJECT", requires = "operate_environment")]
    operate_project: Option<Which<ProjectId>>,
    /// The environment whose keys an operator manages, or all
    #[arg(long, value_name = "ENVIRONMENT", requires = "operate_project")]
    operate_environment: Option<Which<EnvironmentId>>,
}

impl OperatorOptions {
    /// Which flags may be granted, and to which keys.
    pub(super) fn meaning(self) -> (FlagSet, Option<OperatorScope>) {
        let scope = self.operate_project.zip(self.operate_environment);
        let scope = scope
            .map(|(project, environment)| OperatorScope { project: project.one(), environment: environment.one() });
        (self.may_grant.into(), scope)
    }

    /// Whether something was said that makes a key an operator's.
    pub(super) const fn is_empty(&self) -> bool {
        self.may_grant.is_empty() && self.operate_project.is_none()
    }

    /// Whether an operator is described whose keys to manage are not.
    pub(super) fn lacks_scope(&self, flags: &[Grant]) -> bool {
        let operator = !self.may_grant.is_empty() || flags.iter().any(Grant::is_reserved);
        operator && self.operate_project.is_none()
    }
}

/// A duration such as `30s`, `5m`, `2h` or `30d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text).map_err(|fault| fault.to_string())
}

/// A duration of whole days: another than was asked for would surprise.
pub(super) fn whole_days(text: &str) -> Result<u32, String> {
    let seconds = duration(text)?.as_secs();
    if !seconds.is_multiple_of(SECONDS_PER_DAY) {
        return Err("expected whole days, such as 30d".to_owned());
    }
    u32::try_from(seconds / SECONDS_PER_DAY).map_err(|_too_many| format!("{text:?} is too long"))
}

/// A name that a key can have.
pub(super) fn key_name(text: &str) -> Result<String, NameFault> {
    check_key_name(text).map(|()| text.to_owned())
}

/// `NAME=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// A status that the store can give a key, by its name. `listed` is each gateway's own.
pub(super) fn status() -> impl TypedValueParser<Value = Status> {
    let known = || Status::ALL.into_iter().filter(|status| *status != Status::Listed);
    PossibleValuesParser::new(known().map(Status::as_str))
        .try_map(move |name| known().find(|status| status.as_str() == name).ok_or("no status"))
}

/// A key's id.
pub(super) fn key_id(text: &str) -> Result<KeyId, String> {
    // Whatever was typed is not repeated: it may be a token.
    text.parse().map_err(|_fault| "expected a key's id: key_ and 32 hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_no_project_and_anything_else_is_one() {
        assert_eq!("all".parse::<Which<ProjectId>>().expect("all").one(), None);
        let acme = "acme".parse::<Which<ProjectId>>().expect("a project").one();
        assert_eq!(acme.as_ref().map(ProjectId::as_str), Some("acme"));
        assert!("a b".parse::<Which<ProjectId>>().is_err());
    }

    #[test]
    fn a_rotation_is_every_so_many_whole_days() {
        assert_eq!(whole_days("30d"), Ok(30));
        assert_eq!(whole_days("48h"), Ok(2));
        assert_eq!(whole_days("36h"), Err("expected whole days, such as 30d".to_owned()));
        assert!(whole_days("a while").is_err());
    }

    #[test]
    fn a_prop_is_split_at_its_first_equals_sign() {
        assert_eq!(pair("team=a=b"), Ok(("team".to_owned(), "a=b".to_owned())));
        assert!(pair("team").is_err());
        assert!(pair("=a").is_err());
    }

    #[test]
    fn an_end_is_after_a_while_or_at_an_instant() {
        let ends = |expires_in, expires_at| EndOptions { expires_in, expires_at }.meaning();
        assert_eq!(ends(None, None), None);
        assert_eq!(ends(Some(Duration::from_secs(5)), None), Some(Expiry::In(Duration::from_secs(5))));
        assert_eq!(ends(None, Some(Timestamp::EPOCH)), Some(Expiry::At(Timestamp::EPOCH)));
    }
}
