//! However a service comes to understand a path, it is one that the route that matched allows.
//!
//! `KEYWARD_PATHS` says how many are generated.

use http::Method;
use keyward::policy::{Access, Forward, Found, PathOptions, RouteSpec, RouteTable, canonicalize};

use super::mutants::Random;
use super::recorder::{decode, resolve};
use crate::harness::times;

const PATHS: u64 = 50_000;
const ROUTES: [&str; 7] = [
    "/public/{*rest}",
    "/public/admin/{*rest}",
    "/files/{name}",
    "/files/{name}/secret",
    "/api/v1/keys",
    "/api/v1/keys/{id}/rotate",
    "/Aa",
];
const LITERALS: [&str; 9] = ["public", "admin", "files", "secret", "api", "v1", "keys", "rotate", "Aa"];
const PIECES: [&str; 26] = [
    "/", "/", "/", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "%5C", ";", ";x", ";x=y", "//", "\\", "A", "a", "%",
    "%25", "%252e", "%00", "%3b", "%23", "%c3%a9", "x",
];

fn table() -> RouteTable {
    let spec = |(at, path)| RouteSpec::new(format!("route-{at}"), path, Access::AnyKey, Forward::to("service"));
    let specs = ROUTES.into_iter().enumerate().map(spec).collect();
    RouteTable::build(specs, PathOptions::default()).expect("a table")
}

/// The route that a path as it comes leads to.
fn route(table: &RouteTable, path: &str) -> Option<&'static str> {
    let path = canonicalize(path).ok()?;
    match table.find(None, &Method::GET, &path) {
        Found::Route(found) => Some(ROUTES[found.route.index()]),
        Found::NoRoute | Found::WrongMethod(_) | Found::Ambiguous(_) => None,
    }
}

/// What several servers make of a path: nginx decodes, merges and follows dots; others cut parameters off, take
/// a backslash for a slash, decode twice, or end at NUL.
fn readings(path: &str) -> Vec<String> {
    let once = decode(path);
    let bare: Vec<_> = once.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    let early: Vec<_> = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    let readings = [
        once.clone(),
        decode(&once),
        bare.join("/"),
        decode(&early.join("/")),
        once.replace('\\', "/"),
        once.split(['\0', '#', '?']).next().unwrap_or_default().to_owned(),
    ];
    readings.iter().map(|reading| resolve(reading)).collect()
}

/// `literal` with some of its letters escaped.
fn spelt(literal: &str, random: &mut Random) -> String {
    let escape = |byte: u8, random: &mut Random| match random.below(6) {
        0 => format!("%{byte:02x}"),
        1 => format!("%{byte:02X}"),
        _ => char::from(byte).to_string(),
    };
    literal.bytes().map(|byte| escape(byte, random)).collect()
}

fn generated(random: &mut Random) -> String {
    let mut path = String::from("/");
    for _ in 0..=random.below(8) {
        if random.below(2) == 0 {
            path += &spelt(LITERALS[random.below(LITERALS.len())], random);
        } else {
            path += PIECES[random.below(PIECES.len())];
        }
        if random.below(2) == 0 {
            path.push('/');
        }
    }
    path
}

/// What is wrong with the route that `path` leads to.
fn judge(table: &RouteTable, path: &str) -> Result<bool, String> {
    let Some(found) = route(table, path) else { return Ok(false) };
    let canonical = canonicalize(path).expect("it led to a route");
    // A service that decodes nothing.
    let plain = format!("/{}", resolve(canonical.as_str()));
    if route(table, &plain) != Some(found) {
        return Err(format!("{path} leads to {found}, and {plain} to {:?}", route(table, &plain)));
    }
    for reading in readings(canonical.as_str()) {
        // Written out again, every byte that is no letter of a path escaped: what it names, and nothing else.
        let again: String = reading.bytes().fold(String::from("/"), |mut text, byte| {
            if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
            text
        });
        if route(table, &again) != Some(found) {
            return Err(format!("{path} leads to {found}, and read as {again} to {:?}", route(table, &again)));
        }
    }
    Ok(true)
}

#[test]
fn however_a_service_reads_a_path_the_route_that_matched_allows_it() {
    let table = table();
    let mut random = Random(times("KEYWARD_SEED", 1));
    let mut led = 0;
    let count = times("KEYWARD_PATHS", PATHS);
    for _ in 0..count {
        let path = generated(&mut random);
        led += u64::from(judge(&table, &path).unwrap_or_else(|fault| panic!("{fault}")));
    }
    assert!(led > count / 50, "only {led} of {count} led anywhere");
}

#[test]
fn every_literal_of_a_route_in_every_spelling_leads_there_or_nowhere() {
    let table = table();
    for pattern in ROUTES {
        let plain = pattern.replace("{*rest}", "x").replace("{name}", "x").replace("{id}", "x");
        assert_eq!(route(&table, &plain), Some(pattern));
        for (at, letter) in plain.char_indices().filter(|(_, letter)| letter.is_ascii_alphanumeric()) {
            let byte = u32::from(letter);
            for escape in [format!("%{byte:02x}"), format!("%{byte:02X}")] {
                let mut spelt = plain.clone();
                spelt.replace_range(at..=at, &escape);
                assert_eq!(route(&table, &spelt), Some(pattern), "{spelt}");
                for tail in ["/", ";x", "/;x", "/.", "/..", "//", "%2f", "%00", "/%2e%2e", "..;/"] {
                    let odd = format!("{spelt}{tail}");
                    let found = judge(&table, &odd).unwrap_or_else(|fault| panic!("{fault}"));
                    assert_eq!(found, tail == "/", "{odd}");
                }
            }
        }
    }
}
