//! Keys in the files of other systems. A fault names its line and never quotes a token or hash.

mod kong;
mod nginx;
mod unkey;

use std::str::FromStr;

use serde::de::DeserializeOwned;

use super::rows::{Defaults, LineFault};
use crate::key::{FlagSet, Grants, check_key_name};
use crate::manage::ImportedKey;

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum System {
    /// Kong's declarative configuration: YAML or JSON.
    Kong,
    /// A `map` of nginx.
    Nginx,
    /// Keys of Unkey: JSON, or one JSON object a line.
    Unkey,
}

impl FromStr for System {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "kong" => Ok(Self::Kong),
            "nginx" => Ok(Self::Nginx),
            "unkey" => Ok(Self::Unkey),
            other => Err(format!("no system {other:?}; known: kong, nginx, unkey")),
        }
    }
}

/// What to do with the groups or permissions that the other system knows of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Groups {
    /// They become flags, beside those that hold for all rows.
    AsFlags,
    /// They are kept as a prop, and grant nothing.
    AsProp,
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Keys to import.
    pub(super) keys: Vec<ImportedKey>,
    /// What is not imported, and why.
    pub(super) left_out: Vec<LineFault>,
    faults: Vec<LineFault>,
}

impl Found {
    fn take(&mut self, line: usize, key: Result<ImportedKey, Refused>) {
        let fault = |cause| LineFault { line, cause };
        match key {
            Ok(key) => self.keys.push(key),
            Err(Refused::Ended(cause)) => self.left_out.push(fault(cause)),
            Err(Refused::Faulty(cause)) => self.faults.push(fault(cause)),
        }
    }
}

/// Why an entry is not imported.
enum Refused {
    /// It does not work there either.
    Ended(String),
    /// It cannot be read as a key.
    Faulty(String),
}

impl From<String> for Refused {
    fn from(cause: String) -> Self {
        Self::Faulty(cause)
    }
}

/// Reads every key of `text`.
///
/// # Errors
/// Every entry at fault.
pub(super) fn read(system: System, text: &str, defaults: &Defaults, groups: Groups) -> Result<Found, Vec<LineFault>> {
    let found = match system {
        System::Kong => kong::read(text, defaults, groups),
        System::Nginx => nginx::read(text, defaults),
        System::Unkey => unkey::read(text, defaults, groups),
    };
    let found = found.map_err(|fault| vec![fault])?;
    if found.faults.is_empty() { Ok(found) } else { Err(found.faults) }
}

/// Reads YAML, of which JSON is a part. The reader's own words may quote a token, so that only the
/// place of a fault is told.
fn from_yaml<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, LineFault> {
    // The file of an operator, who may have a million keys.
    let budget = serde_saphyr::budget! {
        max_nodes: usize::MAX,
        max_events: usize::MAX,
        max_total_scalar_bytes: usize::MAX,
    };
    let options = serde_saphyr::options! { budget: budget };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(1, |location| line_of(location.line()));
        LineFault { line, cause: format!("is not {what}") }
    })
}

fn line_of(line: u64) -> usize {
    usize::try_from(line).unwrap_or(usize::MAX)
}

/// Adds `flags` to those that the key has.
fn grant(key: &mut ImportedKey, defaults: &Defaults, flags: &[String]) -> Result<(), String> {
    let all = defaults.flags.iter().map(ToString::to_string).chain(flags.iter().cloned());
    let set = FlagSet::parse(all.collect::<Vec<_>>()).map_err(|fault| format!("flags: {fault}"))?;
    key.grants = Grants::Only(set);
    Ok(())
}

/// Keeps `values` as the prop `name`.
fn keep(key: &mut ImportedKey, name: &str, values: &[String]) {
    if !values.is_empty() {
        key.props.insert(name.to_owned(), values.join(" "));
    }
}

/// Names the key. What is no name is not quoted: in a file that was read the wrong way round it is a token.
fn rename(key: &mut ImportedKey, name: &str) -> Result<(), String> {
    check_key_name(name)
        .map_err(|_quoted| "its name is not 1 to 200 characters, none of them a control character".to_owned())?;
    name.clone_into(&mut key.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::EnvironmentId;
    use crate::manage::ImportedSecret;

    pub(super) fn defaults() -> Defaults {
        Defaults {
            project: Some("acme".parse().expect("a project")),
            environment: EnvironmentId::live(),
            user: None,
            flags: FlagSet::parse(["a.b"]).expect("flags"),
        }
    }

    pub(super) fn token_of(key: &ImportedKey) -> &str {
        match &key.secret {
            ImportedSecret::Token(token) => token.expose(),
            ImportedSecret::Hash(_) => "",
        }
    }

    pub(super) fn flags_of(key: &ImportedKey) -> String {
        match &key.grants {
            Grants::Only(flags) => flags.to_string(),
            Grants::Inherit => "inherits".to_owned(),
        }
    }

    pub(super) fn faults(system: System, text: &str) -> Vec<String> {
        let faults = read(system, text, &defaults(), Groups::AsFlags).expect_err("faults");
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_system_is_known_by_its_name() {
        assert_eq!("kong".parse(), Ok(System::Kong));
        assert_eq!("tyk".parse::<System>(), Err("no system \"tyk\"; known: kong, nginx, unkey".to_owned()));
    }
}
