//! Whatever patterns make a table, the route that is found does not depend on their order, and is
//! one whose pattern the path fits.
#![no_main]

use http::Method;
use keyward::policy::{Access, Forward, Found, PathOptions, RouteSpec, RouteTable, canonicalize};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &str| {
    let mut lines = data.lines();
    let Some(path) = lines.next() else { return };
    let mut specs: Vec<RouteSpec> = lines
        .take(8)
        .enumerate()
        .map(|(at, pattern)| RouteSpec::new(format!("route-{at}"), pattern, Access::AnyKey, Forward::to("service")))
        .collect();
    let Ok(table) = RouteTable::build(specs.clone(), PathOptions::default()) else { return };
    specs.reverse();
    let reversed = RouteTable::build(specs, PathOptions::default()).expect("the order of routes does not matter");
    let Ok(path) = canonicalize(path) else { return };
    let (one, other) = (find(&table, &path), find(&reversed, &path));
    assert_eq!(one, other, "{}", path.as_str());
});

fn find(table: &RouteTable, path: &keyward::policy::CanonicalPath<'_>) -> Option<String> {
    match table.find(None, &Method::GET, path) {
        Found::Route(found) => Some(found.route.name().to_owned()),
        _ => None,
    }
}
