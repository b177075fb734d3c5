//! What a route says of fields, and the secrets that some of their values are.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};

use super::fault::shown;
use super::reader::{Item, Section};
use super::{Variables, private};
use crate::policy::FieldRules;
use crate::secret::Secret;
use crate::wire::is_decided_here;

const VALUE_BYTES_MAX: usize = 4096;

/// Where secrets are read from, and which files were.
#[derive(Debug)]
pub(super) struct Secrets<'a> {
    base: &'a Path,
    variables: Variables,
    files: RefCell<Vec<PathBuf>>,
}

impl<'a> Secrets<'a> {
    pub(super) fn new(base: &'a Path, variables: Variables) -> Self {
        Self { base, variables, files: RefCell::default() }
    }

    /// Every file that was read, or was to be.
    pub(super) fn into_files(self) -> Vec<PathBuf> {
        let mut files = self.files.into_inner();
        files.sort_unstable();
        files.dedup();
        files
    }

    /// The secret in the file at `path`, without the line's end.
    pub(super) fn file(&self, path: PathBuf) -> Result<Secret, String> {
        let text = private::read(&path, "put the secret there, mode 0600");
        let shown = path.display().to_string();
        self.files.borrow_mut().push(path);
        let text = text?;
        let end = text.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
        let secret = Secret::new(text.get(..end).unwrap_or_default());
        if secret.expose().is_empty() { Err(format!("{shown} is empty")) } else { Ok(secret) }
    }

    /// The secret in the variable `name`; one that is empty says nothing.
    pub(super) fn variable_if_set(&self, name: &str) -> Option<Secret> {
        let Variables(look_up) = self.variables;
        look_up(name).filter(|secret| !secret.expose().is_empty())
    }

    fn variable(&self, name: &str) -> Result<Secret, String> {
        self.variable_if_set(name).ok_or_else(|| format!("the environment has no {}", shown(name)))
    }
}

/// Reads `[routes.request_headers]` or `[routes.response_headers]`.
pub(super) fn read_rules(section: &Section<'_>, secrets: &Secrets<'_>) -> FieldRules {
    let set = read_fields(section, "set", secrets);
    let add = read_fields(section, "add", secrets);
    let mut remove = Vec::new();
    for item in section.list("remove").unwrap_or_default() {
        let Some(name) = item.text().and_then(|text| read_name(text, &item)) else { continue };
        if set.iter().any(|(other, _)| *other == name) {
            item.fault(format!("{name} is in set too, which takes its place anyway: keep one"));
        }
        remove.push(name);
    }
    FieldRules { remove, set, add }
}

fn read_fields(section: &Section<'_>, key: &str, secrets: &Secrets<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (text, item) in section.entries(key).unwrap_or_default() {
        let name = read_name(text, &item);
        let value = read_value(&item, secrets);
        let (Some(name), Some(value)) = (name, value) else { continue };
        if fields.iter().any(|(other, _)| *other == name) {
            item.fault(format!("{name} is there twice: keep one"));
        }
        fields.push((name, value));
    }
    fields
}

/// A name that a route may say something about.
fn read_name(text: &str, item: &Item<'_>) -> Option<HeaderName> {
    let Ok(name) = text.parse::<HeaderName>() else {
        item.fault(format!("{} is not the name of a field", shown(text)));
        return None;
    };
    if is_decided_here(&name) {
        item.fault(format!("{name} is the gateway's own to decide about: remove it"));
        return None;
    }
    Some(name)
}

/// Text, `{ env = "…" }` or `{ file = "…" }`.
fn read_value(item: &Item<'_>, secrets: &Secrets<'_>) -> Option<HeaderValue> {
    const EXPECTED: &str = "text, { env = \"NAME\" } or { file = \"PATH\" }";
    let Some(entries) = item.entries() else {
        if !item.is_text() {
            item.expected(EXPECTED);
            return None;
        }
        let value = HeaderValue::from_str(item.text()?).ok().filter(|value| value.len() <= VALUE_BYTES_MAX);
        if value.is_none() {
            item.fault("is no value that a field can have");
        }
        return value;
    };
    let [(source, from)] = entries.as_slice() else {
        item.expected(EXPECTED);
        return None;
    };
    let text = from.text()?;
    let secret = match *source {
        "env" => secrets.variable(text),
        "file" => secrets.file(secrets.base.join(text)),
        _other => {
            item.expected(EXPECTED);
            return None;
        }
    };
    match secret.and_then(|secret| to_value("", &secret)) {
        Ok(value) => Some(value),
        Err(what) => {
            from.fault(what);
            None
        }
    }
}

/// A value that is shown nowhere.
fn to_value(prefix: &str, secret: &Secret) -> Result<HeaderValue, String> {
    let bytes = [prefix.as_bytes(), secret.expose()].concat();
    let mut value = HeaderValue::from_bytes(&bytes)
        .ok()
        .filter(|value| value.len() <= VALUE_BYTES_MAX)
        .ok_or_else(|| "what it holds is no value that a field can have".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads `[routes.upstream_credential]`.
pub(super) fn read_credential_for_upstream(
    section: &Section<'_>,
    secrets: &Secrets<'_>,
) -> Option<(HeaderName, HeaderValue)> {
    let name = match section.item("header") {
        None => Some(AUTHORIZATION),
        Some(item) => item.text().and_then(|text| read_name(text, &item)),
    };
    let prefix = if section.has("prefix") { section.text("prefix")? } else { "Bearer " };
    if !section.has("file") {
        section.missing("file", "add file = \"…\", which holds the secret");
    }
    let path = section.file("file", secrets.base)?;
    match secrets.file(path).and_then(|secret| to_value(prefix, &secret)) {
        Ok(value) => Some((name?, value)),
        Err(what) => {
            section.fault_of("file", what);
            None
        }
    }
}
