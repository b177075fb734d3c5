//! What scripts of other origins are told, by the rules that browsers keep (the Fetch standard's
//! CORS protocol). The gateway answers preflights itself, for a browser sends them without a key.
//! None of this protects a service: a key does. It says whose pages may use one.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};

use super::headers::vary_on;
use crate::policy::Cors;

/// What an answer says to the script that asked.
#[derive(Debug, Clone)]
pub(super) struct CorsFields {
    origin: Option<HeaderValue>,
    /// Whether another origin would be answered otherwise.
    depends: bool,
    credentials: bool,
    expose: Option<HeaderValue>,
}

impl CorsFields {
    /// What the answer to a request with these fields says.
    pub(super) fn of(rules: &Cors, headers: &HeaderMap) -> Self {
        let asked = only(headers).cloned();
        let origin = match &rules.origins {
            None => asked.map(|_origin| HeaderValue::from_static("*")),
            Some(origins) => asked.filter(|origin| origins.contains(origin)),
        };
        let expose = join(rules.expose.iter().map(|name| name.as_str()));
        Self { origin, depends: rules.origins.is_some(), credentials: rules.credentials, expose }
    }

    /// Says it, in place of what the upstream says.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let ours = [
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_HEADERS,
            ACCESS_CONTROL_MAX_AGE,
        ];
        for name in ours {
            headers.remove(name);
        }
        if self.depends {
            vary_on(headers, &ORIGIN);
        }
        let Some(origin) = &self.origin else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

/// The method that a preflight asks about; none where the request is no preflight.
pub(super) fn asked_method(parts: &Parts) -> Option<Method> {
    if parts.method != Method::OPTIONS {
        return None;
    }
    only(&parts.headers)?;
    let mut methods = parts.headers.get_all(ACCESS_CONTROL_REQUEST_METHOD).iter();
    let method = Method::from_bytes(methods.next()?.as_bytes()).ok()?;
    methods.next().is_none().then_some(method)
}

/// Answers a preflight.
pub(super) fn write_preflight(rules: &Cors, asked: &HeaderMap, headers: &mut HeaderMap) {
    let fields = CorsFields { expose: None, ..CorsFields::of(rules, asked) };
    fields.write(headers);
    vary_on(headers, &ACCESS_CONTROL_REQUEST_METHOD);
    vary_on(headers, &ACCESS_CONTROL_REQUEST_HEADERS);
    if fields.origin.is_none() {
        return;
    }
    if let Some(methods) = join(rules.methods.iter().map(Method::as_str)) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    if let Some(names) = join(rules.headers.iter().map(|name| name.as_str())) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(rules.max_age.as_secs()));
}

/// The one origin of a request.
fn only(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let origin = origins.next()?;
    origins.next().is_none().then_some(origin)
}

fn join<'t>(words: impl Iterator<Item = &'t str>) -> Option<HeaderValue> {
    let text = words.collect::<Vec<_>>().join(", ");
    if text.is_empty() { None } else { HeaderValue::try_from(text).ok() }
}
