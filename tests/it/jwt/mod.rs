//! What is signed, as it is seen from outside: by the gateway, by an upstream, and by a library that
//! nobody here wrote.

mod assertions;
mod keys;
mod secrets;

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Config, Gateway, Key, Site, Upstream};
use crate::peers::python::run;

const KEY: &str = "keyward-key+jwt";
const ASSERTION: &str = "keyward-assertion+jwt";

/// What `PyJWT` makes of tokens, given public keys, type and audience: what each says, or why it is refused.
fn verified<const N: usize>(asked: [[&str; 4]; N]) -> [Value; N] {
    let printed = run(["-m", "jwts", "verify"].into_iter().chain(asked.into_iter().flatten()));
    let seen: Vec<Value> = serde_json::from_str(&printed).unwrap_or_else(|fault| panic!("{fault}: {printed}"));
    seen.try_into().expect("an answer for each")
}

/// Tokens that somebody without the signing key makes of one.
fn forged(jwks: &str, token: &str) -> Vec<String> {
    let printed = run(["-m", "jwts", "forge", jwks, token]);
    serde_json::from_str(&printed).unwrap_or_else(|fault| panic!("{fault}: {printed}"))
}

/// All public keys of a site, in a file.
fn public_keys(site: &Site) -> String {
    let file = site.path("jwks.json");
    fs::write(&file, site.run(["secrets", "jwks", "-c", "keyward.toml"]).stdout).expect("a file");
    text(&file)
}

/// Where a gateway serves the public keys of assertions.
fn served_keys(gateway: &Gateway) -> String {
    format!("http://{}/.well-known/jwks.json", gateway.address())
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// A key in JWT form with these further arguments.
fn jwt_key(site: &Site, arguments: &[&str]) -> Key {
    site.key_with(&[&["--format", "jwt"], arguments].concat())
}

/// A route that asks for assertions beside the usual ones, and the public keys where upstreams look for them.
fn asserting(upstream: &Upstream) -> Config {
    Config::in_front_of(upstream)
        .gateway("jwks = true")
        .gateway("issuer = 'https://api.example.com'")
        .route("name = 'asserted'\npath = '/asserted/{*rest}'\nany_key = true\nassertion = true")
}

/// The assertion that the last request came with.
fn last_assertion(upstream: &Upstream) -> String {
    let last = upstream.requests().pop().expect("a request");
    last.header("keyward-assertion").expect("an assertion").to_owned()
}

fn kid(token: &str) -> String {
    let parts = keyward::key::JwtParts::of(token).expect("a JWT");
    parts.head["kid"].as_str().expect("a name").to_owned()
}
