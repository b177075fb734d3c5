//! What one request costs between its head and its permit: canonical path, route out of 1,000,
//! decision. The goal: under 1 µs, and no allocation.

use std::sync::Arc;

use divan::{AllocProfiler, Bencher, black_box};
use http::Method;
use keyward::clock::Timestamp;
use keyward::key::{EnvironmentId, FlagSet, KeyId, Label, Record, Standing, States, UserStanding};
use keyward::policy::{
    Access, CanonicalPath, DenyList, FlagTemplate, Forward, Found, HostPattern, PathOptions, Permit, Presented,
    RouteMatch, RouteSpec, RouteTable, canonicalize, decide,
};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const HOST: Option<&str> = Some("api.example.com:8443");
const PATH: &str = "/service-617/keyrings/comms/keys/17";

/// 1,000 routes: on one host, or 50 on each of 20; each with a capture in its requirement.
fn table(hosts: usize) -> RouteTable {
    let flags = |flags: &[&str]| flags.iter().map(|flag| FlagTemplate::parse(flag).expect("a flag")).collect();
    let spec = |at: usize| {
        let path = format!("/service-{at}/keyrings/{{ring}}/keys/{{key}}");
        let access = Access::Flags { any: flags(&["keyring.read", "keyring.{ring}.read"]), all: flags(&["jobs:read"]) };
        let mut spec = RouteSpec::new(format!("route-{at}"), path, access, Forward::to("api"));
        let host = if at % hosts == 617 % hosts {
            "api.example.com".to_owned()
        } else {
            format!("h{}.example.com", at % hosts)
        };
        spec.host = HostPattern::Exact(host);
        spec.methods = vec![Method::GET, Method::POST];
        spec
    };
    RouteTable::build((0..1000).map(spec).collect(), PathOptions::default()).expect("good routes")
}

fn record() -> Record {
    let flags = ["jobs:read", "jobs:write", "keyring.comms.read", "keyring.other.read", "x.**"];
    let label = Label {
        project: Some("acme".parse().expect("a project")),
        environment: EnvironmentId::live(),
        flags: Some(Arc::new(FlagSet::parse(flags).expect("flags"))),
    };
    Record {
        id: KeyId::from_bits(7),
        lineage: KeyId::from_bits(7).lineage(),
        hash_head: [7; 32],
        standing: Standing {
            states: States::default(),
            user: UserStanding::None,
            expires_at: Some(Timestamp::MAX),
            grace_expires_at: None,
        },
        label: label.into(),
        user: None,
        slot: 0,
    }
}

fn found<'t, 'p>(table: &'t RouteTable, path: &'p CanonicalPath<'_>) -> RouteMatch<'t, 'p> {
    match table.find(black_box(HOST), black_box(&Method::GET), path) {
        Found::Route(found) => found,
        other => unreachable!("{other:?}"),
    }
}

fn whole_request<'r>(table: &RouteTable, record: &'r Record, deny: &DenyList, raw: &str) -> Permit<'r> {
    let path = canonicalize(black_box(raw)).expect("a path");
    let found = found(table, &path);
    decide(&found, Presented::Record(black_box(record)), deny, Timestamp::EPOCH).expect("a permit")
}

#[divan::bench(args = [1, 20], sample_size = 1000)]
fn path_route_and_decision(bencher: Bencher<'_, '_>, hosts: usize) {
    let (table, record, deny) = (table(hosts), record(), DenyList::default());
    bencher.bench_local(|| whole_request(&table, &record, &deny, PATH));
}

#[divan::bench(sample_size = 1000)]
fn path_route_and_decision_with_a_long_deny_list(bencher: Bencher<'_, '_>) {
    let (table, record) = (table(1), record());
    let lines: String = (1_000..11_000).map(|id| format!("{}\n", KeyId::from_bits(id))).collect();
    let (deny, _) = DenyList::parse(lines);
    bencher.bench_local(|| whole_request(&table, &record, &deny, PATH));
}

#[divan::bench(sample_size = 1000)]
fn canonical_path(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| canonicalize(black_box(PATH)).is_ok());
}

#[divan::bench(sample_size = 1000)]
fn route(bencher: Bencher<'_, '_>) {
    let table = table(1);
    let path = canonicalize(PATH).expect("a path");
    bencher.bench_local(|| found(&table, &path).route.index());
}

#[divan::bench(sample_size = 1000)]
fn decision(bencher: Bencher<'_, '_>) {
    let (table, record, deny) = (table(1), record(), DenyList::default());
    let path = canonicalize(PATH).expect("a path");
    let found = found(&table, &path);
    bencher.bench_local(|| decide(&found, Presented::Record(black_box(&record)), &deny, Timestamp::EPOCH).is_ok());
}
