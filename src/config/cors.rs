//! `[routes.cors]`: what scripts of other origins may do.

use http::Method;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use super::fault::shown;
use super::reader::{Item, Section};
use super::routes::read_method_items;
use crate::policy::{Access, Cors, CredentialSource};
use std::time::Duration;

/// Reads what a route of these methods and credentials says; none where it says nothing.
pub(super) fn read(
    section: &Section<'_>,
    methods: &[Method],
    access: Option<&Access>,
    keyed: &[CredentialSource],
) -> Option<Cors> {
    if !section.is_there() {
        return None;
    }
    if !section.has("origins") {
        section.missing("origins", "add origins = [\"https://app.example.com\"], or [\"*\"] for any");
    }
    let credentials = section.switch("credentials").unwrap_or(false);
    let origins = read_origins(section, credentials);
    let methods = match section.list("methods") {
        Some(items) => read_method_items(&items),
        None if methods.is_empty() => {
            vec![Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::PATCH]
        }
        None => methods.to_vec(),
    };
    let headers = section.list("headers").map_or_else(
        || {
            let keyed = if access == Some(&Access::Public) { &[] } else { keyed };
            keyed.iter().map(|source| source.field().clone()).chain([CONTENT_TYPE]).collect()
        },
        |items| read_names(&items),
    );
    let expose = section.list("expose").map(|items| read_names(&items)).unwrap_or_default();
    let max_age = section.duration("max_age").unwrap_or(Duration::from_secs(600));
    Some(Cors { origins: origins?, methods, headers, expose, credentials, max_age })
}

/// The origins, or none for any.
fn read_origins(section: &Section<'_>, credentials: bool) -> Option<Option<Vec<HeaderValue>>> {
    let items = section.list("origins")?;
    if items.is_empty() {
        section.fault_of("origins", "is empty and would let no script through: name one, or remove the table");
    }
    let mut origins = Vec::new();
    for item in &items {
        let Some(text) = item.text() else { continue };
        if text == "*" {
            if items.len() > 1 {
                item.fault("\"*\" is any origin: remove the others, or it");
            } else if credentials {
                item.fault("\"*\" cannot stand beside credentials = true: name the origins");
            }
            return Some(None);
        }
        match origin(text) {
            Some(origin) => origins.push(origin),
            None => item.fault(format!(
                "found {}, expected an origin such as \"https://app.example.com\", as a browser sends it: lower case, \
                 no path, no default port",
                shown(text)
            )),
        }
    }
    Some(Some(origins))
}

/// An origin in the one form in which browsers send it.
fn origin(text: &str) -> Option<HeaderValue> {
    let (scheme, authority) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte));
    let is_authority = !authority.is_empty()
        && authority.bytes().all(|byte| {
            byte.is_ascii_lowercase()
                || byte.is_ascii_digit()
                || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']')
        });
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "\0",
    };
    if !is_scheme || !is_authority || authority.ends_with(default_port) {
        return None;
    }
    HeaderValue::from_str(text).ok()
}

fn read_names(items: &[Item<'_>]) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for item in items {
        let Some(text) = item.text() else { continue };
        match text.parse::<HeaderName>() {
            Ok(name) if text != "*" => names.push(name),
            Ok(_) | Err(_) => item.fault(format!("found {}, expected the name of a field", shown(text))),
        }
    }
    names
}
