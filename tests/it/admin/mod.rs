//! The management API: what operators and their programs do over HTTP.

mod bad_input;
mod events;
mod flag_keys;
mod guard;
mod keys;
mod killed;
mod listener;
mod once;
mod openapi;
mod refusals;
mod schemathesis;
mod user_keys;
mod users;
mod verify;

use serde_json::{Value, json};

use crate::harness::{Answer, Call, Config, Gateway, Site, Upstream, post};

/// A gateway with the management API, and its first operator.
struct Place {
    gateway: Gateway,
    site: Site,
    upstream: Upstream,
}

impl Place {
    fn new() -> Self {
        Self::with(|config| config.admin())
    }

    fn with(change: impl FnOnce(Config) -> Config) -> Self {
        let upstream = Upstream::start();
        let site = Site::new(&change(Config::in_front_of(&upstream)));
        let gateway = site.start();
        Self { gateway, site, upstream }
    }

    /// A call by the first operator.
    fn asks(&self, call: Call) -> Answer {
        self.asks_as(self.site.operator(), call)
    }

    /// A call by the holder of this token.
    fn asks_as(&self, token: &str, call: Call) -> Answer {
        self.gateway.api(call.bearer(token))
    }

    /// A key made by the first operator from these fields.
    fn made(&self, fields: &Value) -> Value {
        let answer = self.asks(post("/v1/api-keys").json(fields));
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    }

    /// The token of an operator of project `acme` that holds and may grant these flags.
    fn operator(&self, holds: &[&str], may_grant: &[&str]) -> String {
        let made = self.made(&json!({
            "project_id": "acme", "name": "operator", "scopes": holds, "may_grant": may_grant,
            "operates_on": { "project": "acme", "environment": "all" },
        }));
        text(&made, "key")
    }

    /// Which status the gateway answers the holder of this token on a route for any key.
    fn lets_through(&self, token: &str) -> u16 {
        self.gateway.send(crate::harness::get("/any/x").bearer(token)).status
    }
}

/// The text of a field.
fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no text {name} in {value}")).to_owned()
}

/// A key of project `acme` with these flags, to make.
fn acme(name: &str, scopes: &[&str]) -> Value {
    json!({ "project_id": "acme", "name": name, "scopes": scopes })
}

/// A token with another last letter, which its checksum tells.
fn mistyped(token: &str) -> String {
    let mut token = token.to_owned();
    let last = token.pop().expect("a token is not empty");
    token.push(if last == 'x' { 'y' } else { 'x' });
    token
}
