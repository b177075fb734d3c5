//! Finding the route of a request: by host, then path segment by segment, then method.
//!
//! Each host has a tree of the patterns of its routes, so that looking takes time by the length of
//! the path and not by the number of routes. Looking visits each node of a tree at most once,
//! whatever the path, and goes no deeper than the longest pattern.

use std::fmt;

use http::header::HeaderValue;
use http::{HeaderName, Method};

use super::credential::CredentialSource;
use super::forward::Prefix;
use super::host::{self, HostPattern};
use super::path::{CanonicalPath, Feature, PathFault, PathOptions, canonicalize, decode};
use super::requirement::{Access, FlagTemplate, Required, Requirement};
use super::route::{CAPTURES_MAX, Pattern, PatternSegment, Route, RouteFault, RouteProblem, RouteSpec};

const METHODS_MAX: usize = 64;

/// The routes of a configuration, built for finding.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<Route>,
    /// The methods that some route lists. A method's place here is its bit in a leaf.
    methods: Vec<Method>,
    /// By host in lower case, sorted.
    exact: Vec<(Box<str>, Node)>,
    /// By suffix in lower case, sorted.
    wildcard: Vec<(Box<str>, Node)>,
    any: Node,
    /// For paths that no route matches.
    path_options: PathOptions,
}

/// What was found for a request.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a match lives on the stack of one request; a box would allocate")]
pub enum Found<'t, 'p> {
    /// A route.
    Route(RouteMatch<'t, 'p>),
    /// None matches host and path.
    NoRoute,
    /// Some match host and path, but none the method.
    WrongMethod(Allow<'t>),
    /// The path has something that may not be.
    Ambiguous(PathFault),
}

/// A route and what its captures took.
#[derive(Debug, Clone)]
pub struct RouteMatch<'t, 'p> {
    /// The route.
    pub route: &'t Route,
    /// What its captures took.
    pub captures: Captures<'p>,
}

/// What captures took from a path, from left to right: segments as they are in the canonical path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Captures<'p> {
    values: [&'p str; CAPTURES_MAX],
    count: usize,
}

impl<'p> Captures<'p> {
    const NONE: Self = Self { values: [""; CAPTURES_MAX], count: 0 };

    /// The values.
    pub fn iter(&self) -> impl Iterator<Item = &'p str> {
        self.values.iter().copied().take(self.count)
    }

    /// The captures of these values.
    #[cfg(test)]
    pub(super) fn from_values(values: &[&'p str]) -> Self {
        let mut captures = Self::NONE;
        values.iter().for_each(|value| captures.push(value));
        captures
    }

    fn push(&mut self, value: &'p str) {
        if let Some(place) = self.values.get_mut(self.count) {
            *place = value;
            self.count += 1;
        }
    }
}

impl fmt::Debug for Captures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The methods that a path allows.
#[derive(Debug, Clone, Copy)]
pub struct Allow<'t> {
    methods: &'t [Method],
    bits: u64,
}

impl<'t> Allow<'t> {
    /// The methods. HEAD is among them where GET is.
    pub fn iter(&self) -> impl Iterator<Item = &'t Method> + use<'t> {
        let (methods, bits) = (self.methods, self.bits);
        let listed = move |wanted: &Method| {
            methods.iter().enumerate().any(|(at, method)| bits >> at & 1 == 1 && method == wanted)
        };
        let head = (listed(&Method::GET) && !listed(&Method::HEAD)).then_some(&Method::HEAD);
        methods.iter().enumerate().filter(move |(at, _)| bits >> at & 1 == 1).map(|(_, method)| method).chain(head)
    }

    /// The value of `Allow`.
    ///
    /// # Panics
    /// Never: methods are tokens.
    #[must_use]
    pub fn to_value(&self) -> HeaderValue {
        let names: Vec<_> = self.iter().map(Method::as_str).collect();
        HeaderValue::try_from(names.join(", ")).expect("methods are tokens")
    }
}

/// A node of a tree: where the segments so far have led.
#[derive(Debug, Default)]
struct Node {
    literals: Literals,
    capture: Option<Box<Self>>,
    /// Routes whose pattern ends here.
    here: Leaf,
    /// Routes that take all that is left.
    catch_all: Leaf,
}

/// The literal segments below a node. Sorted by hash: ten steps through neighbouring numbers and
/// one comparison find one of a thousand. Nobody but configuration chooses what is in here, so a
/// hash without a secret is enough.
#[derive(Debug, Default)]
struct Literals {
    hashes: Vec<u64>,
    /// By segment decoded once, in the order of `hashes`.
    nodes: Vec<(Box<[u8]>, Node)>,
}

impl Literals {
    fn find(&self, step: &Step<'_>) -> Option<&Node> {
        if step.escapes { self.find_bytes(&decode(step.segment)) } else { self.find_bytes(&step.segment.bytes()) }
    }

    fn find_bytes(&self, segment: &(impl Iterator<Item = u8> + Clone)) -> Option<&Node> {
        if self.hashes.is_empty() {
            return None;
        }
        let at = self.place(fnv(segment.clone()), segment).ok()?;
        self.nodes.get(at).map(|(_, node)| node)
    }

    fn find_or_insert(&mut self, literal: &[u8]) -> &mut Node {
        let bytes = || literal.iter().copied();
        let hash = fnv(bytes());
        let at = self.place(hash, &bytes()).unwrap_or_else(|at| {
            self.hashes.insert(at, hash);
            self.nodes.insert(at, (literal.into(), Node::default()));
            at
        });
        let (_, node) = self.nodes.get_mut(at).expect("found or inserted there");
        node
    }

    /// Where the segment is, or where it belongs.
    fn place(&self, hash: u64, segment: &(impl Iterator<Item = u8> + Clone)) -> Result<usize, usize> {
        let first = self.hashes.partition_point(|&other| other < hash);
        let same = self.hashes.iter().skip(first).take_while(|&&other| other == hash).count();
        let found = self.nodes.iter().skip(first).take(same);
        let at = found.into_iter().position(|(literal, _)| literal.iter().copied().eq(segment.clone()));
        at.map(|at| first + at).ok_or(first)
    }
}

/// FNV-1a.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Routes of one pattern, apart by method.
#[derive(Debug, Default)]
struct Leaf(Vec<Entry>);

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// None: any method.
    methods: Option<u64>,
    route: usize,
}

/// The method that is looked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    bit: u64,
    /// The bit of GET where the method is HEAD.
    instead: u64,
}

impl Leaf {
    /// The route for the method: one that lists it, for HEAD one that lists GET, else one of any.
    fn choose(&self, wanted: Wanted) -> Option<usize> {
        let listed = |bit: u64| self.0.iter().find(|entry| entry.methods.is_some_and(|bits| bits & bit != 0));
        listed(wanted.bit)
            .or_else(|| listed(wanted.instead))
            .or_else(|| self.0.iter().find(|entry| entry.methods.is_none()))
            .map(|entry| entry.route)
    }
}

/// How much of a segment counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    Whole,
    /// What stands before the first `;` or `%3B`.
    BeforeParameters,
}

impl View {
    fn of(self, segment: &str) -> &str {
        match self {
            Self::Whole => segment,
            Self::BeforeParameters => {
                let end = segment.find(';').into_iter().chain(segment.find("%3B")).min();
                end.map_or(segment, |end| segment.split_at(end).0)
            }
        }
    }

    /// The first segment that is not empty, what it is part of, and what stands behind it.
    fn next(self, path: &str) -> Option<Step<'_>> {
        let mut path = path;
        loop {
            let slashes = path.bytes().take_while(|&byte| byte == b'/').count();
            let left = path.split_at(slashes).1;
            let mut escapes = false;
            let end = left.bytes().position(|byte| {
                escapes |= byte == b'%';
                byte == b'/'
            });
            let (whole, behind) = left.split_at(end.unwrap_or(left.len()));
            let segment = self.of(whole);
            if !segment.is_empty() {
                return Some(Step { segment, escapes, left, behind });
            }
            if behind.is_empty() {
                return None;
            }
            path = behind;
        }
    }
}

struct Step<'p> {
    segment: &'p str,
    /// Whether there are escapes in the segment.
    escapes: bool,
    /// From the segment on.
    left: &'p str,
    behind: &'p str,
}

/// One look through the trees.
struct Search<'t> {
    wanted: Wanted,
    view: View,
    table: &'t RouteTable,
}

impl<'t> Search<'t> {
    /// The route. What its captures took is put into `captures`, in place: it is a quarter of a KiB.
    fn host<'p>(&self, host: Option<&str>, path: &'p str, captures: &mut Captures<'p>) -> Option<&'t Route> {
        self.table.trees(host).find_map(|tree| {
            captures.count = 0;
            self.table.routes.get(self.node(tree, path, captures)?)
        })
    }

    /// The most specific route below `node`: literal before capture before catch-all, and back
    /// again where one leads nowhere.
    fn node<'p>(&self, node: &'t Node, path: &'p str, captures: &mut Captures<'p>) -> Option<usize> {
        let Some(step) = self.view.next(path) else {
            if let Some(route) = node.here.choose(self.wanted) {
                return Some(route);
            }
            let route = node.catch_all.choose(self.wanted)?;
            captures.push("");
            return Some(route);
        };
        if let Some(next) = node.literals.find(&step)
            && let Some(route) = self.node(next, step.behind, captures)
        {
            return Some(route);
        }
        if let Some(next) = &node.capture {
            let count = captures.count;
            captures.push(step.segment);
            if let Some(route) = self.node(next, step.behind, captures) {
                return Some(route);
            }
            captures.count = count;
        }
        let route = node.catch_all.choose(self.wanted)?;
        captures.push(step.left);
        Some(route)
    }
}

impl Node {
    /// Every leaf that the path leads to, whatever the method.
    fn leaves<'t>(&'t self, path: &str, visit: &mut impl FnMut(&'t Leaf)) {
        visit(&self.catch_all);
        let Some(step) = View::Whole.next(path) else {
            visit(&self.here);
            return;
        };
        for next in self.literals.find(&step).into_iter().chain(self.capture.as_deref()) {
            next.leaves(step.behind, visit);
        }
    }

    fn leaf_for(&mut self, pattern: &Pattern) -> &mut Leaf {
        let mut node = self;
        for segment in &pattern.segments {
            node = match segment {
                PatternSegment::Capture => node.capture.get_or_insert_default(),
                PatternSegment::Literal(literal) => node.literals.find_or_insert(literal),
            };
        }
        if pattern.catch_all { &mut node.catch_all } else { &mut node.here }
    }
}

impl RouteTable {
    /// Builds the table. `path_options` judge paths that no route matches.
    ///
    /// # Errors
    /// Every fault of every route.
    pub fn build(specs: Vec<RouteSpec>, path_options: PathOptions) -> Result<Self, Vec<RouteFault>> {
        let mut table = Self { path_options, ..Self::default() };
        let mut faults = Vec::new();
        for (index, spec) in specs.into_iter().enumerate() {
            let before = faults.len();
            let mut report = |field: &'static str, problem: RouteProblem| {
                faults.push(RouteFault { route: index, name: spec.name.clone(), field, problem });
            };
            check_name(&spec, &table.routes, &mut report);
            check_host(&spec, &mut report);
            check_methods(&spec, &mut report);
            check_credential(&spec, &mut report);
            check_narrowing(&spec, &mut report);
            let pattern = match Pattern::parse(&spec.path, &spec.path_options) {
                Ok(pattern) => pattern,
                Err(fault) => {
                    report("path", fault.into());
                    Pattern { segments: Vec::new(), captures: Vec::new(), catch_all: false }
                }
            };
            let path_is_good = faults.len() == before || !faults.iter().skip(before).any(|fault| fault.field == "path");
            let mut report = |field: &'static str, problem: RouteProblem| {
                faults.push(RouteFault { route: index, name: spec.name.clone(), field, problem });
            };
            let mut requirement = Requirement::default();
            if path_is_good {
                requirement = resolve(&spec, &pattern, &mut report);
                check_prefix(&spec, &pattern, &mut report);
                match table.bits(&spec.methods) {
                    None => report("methods", RouteProblem::TooManyMethods),
                    Some(methods) => {
                        if let Some(other) = table.insert(&spec.host, &pattern, Entry { methods, route: index }) {
                            let other_name =
                                table.routes.get(other).map_or_else(String::new, |route| route.spec.name.clone());
                            report("path", RouteProblem::Tie { other, other_name });
                        }
                    }
                }
            }
            table.routes.push(Route { index, captures: pattern.captures.into(), requirement, spec });
        }
        if faults.is_empty() { Ok(table) } else { Err(faults) }
    }

    /// The bits of `methods`, which become known; no bits for any method. None where the table has
    /// no room for more.
    fn bits(&mut self, methods: &[Method]) -> Option<Option<u64>> {
        let mut bits = 0;
        for method in methods {
            let at = match self.methods.iter().position(|known| known == method) {
                Some(at) => at,
                None => {
                    self.methods.push(method.clone());
                    self.methods.len() - 1
                }
            };
            if at >= METHODS_MAX {
                return None;
            }
            bits |= 1 << at;
        }
        Some((!methods.is_empty()).then_some(bits))
    }

    /// Puts a route in its place; the other route where that is taken.
    fn insert(&mut self, host: &HostPattern, pattern: &Pattern, entry: Entry) -> Option<usize> {
        let tree = match host {
            HostPattern::Any => &mut self.any,
            HostPattern::Exact(name) => tree_of(&mut self.exact, name),
            HostPattern::Wildcard(suffix) => tree_of(&mut self.wildcard, suffix),
        };
        let leaf = tree.leaf_for(pattern);
        let tie = leaf.0.iter().find(|other| match (other.methods, entry.methods) {
            (None, None) => true,
            (Some(one), Some(another)) => one & another != 0,
            (None, Some(_)) | (Some(_), None) => false,
        });
        let tie = tie.map(|other| other.route);
        leaf.0.push(entry);
        tie
    }

    /// The routes, in the order of configuration.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Whether the method is one of the usual, or one that a route lists.
    #[must_use]
    pub fn knows_method(&self, method: &Method) -> bool {
        const USUAL: [Method; 7] =
            [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS];
        USUAL.contains(method) || self.methods.contains(method)
    }

    /// The route of a request. `host` is its authority, with or without port; none only where the
    /// request has none. Allocates nothing.
    #[must_use]
    pub fn find<'t, 'p>(&'t self, host: Option<&str>, method: &Method, path: &'p CanonicalPath<'_>) -> Found<'t, 'p> {
        let host = match host {
            None => None,
            Some(authority) => match host::bare_host(authority) {
                Some(bare) => Some(bare),
                None => return Found::NoRoute,
            },
        };
        let instead = if *method == Method::HEAD { self.bit(&Method::GET) } else { 0 };
        let wanted = Wanted { bit: self.bit(method), instead };
        let search = Search { wanted, view: View::Whole, table: self };
        let mut captures = Captures::NONE;
        let Some(route) = search.host(host, path.as_str(), &mut captures) else {
            return self.miss(host, path);
        };
        if let Err(fault) = path.check(&route.spec.path_options) {
            return Found::Ambiguous(fault);
        }
        if path.features().has(Feature::PathParameter) {
            let search = Search { view: View::BeforeParameters, ..search };
            let without = search.host(host, path.as_str(), &mut { Captures::NONE }).map(|found| found.index);
            if without != Some(route.index) {
                return Found::Ambiguous(PathFault::ParametersChangeRoute);
            }
        }
        Found::Route(RouteMatch { route, captures })
    }

    fn bit(&self, method: &Method) -> u64 {
        self.methods.iter().position(|known| known == method).map_or(0, |at| 1 << at)
    }

    /// The trees of a host, the most specific first: exact, wildcards from the longest on, any.
    fn trees(&self, host: Option<&str>) -> impl Iterator<Item = &Node> {
        let exact = host.and_then(|host| find_host(&self.exact, host));
        let suffixes = host
            .into_iter()
            .filter(|_| !self.wildcard.is_empty())
            .flat_map(|host| host.match_indices('.').map(move |(at, _)| host.split_at(at + 1).1));
        let wildcards = suffixes.filter_map(|suffix| find_host(&self.wildcard, suffix));
        exact.into_iter().chain(wildcards).chain(Some(&self.any))
    }

    /// What to say where no route matches. A path that neither the gateway's options let through
    /// nor those of a route that matches but for the method is ambiguous before it is anything.
    fn miss<'t>(&'t self, host: Option<&str>, path: &CanonicalPath<'_>) -> Found<'t, 'static> {
        let mut bits = 0;
        let mut fault = path.check(&self.path_options).err();
        for tree in self.trees(host) {
            tree.leaves(path.as_str(), &mut |leaf| {
                for entry in &leaf.0 {
                    bits |= entry.methods.unwrap_or(0);
                    let route = self.routes.get(entry.route);
                    if route.is_some_and(|route| path.check(&route.spec.path_options).is_ok()) {
                        fault = None;
                    }
                }
            });
        }
        match (fault, bits) {
            (Some(fault), _) => Found::Ambiguous(fault),
            (None, 0) => Found::NoRoute,
            (None, bits) => Found::WrongMethod(Allow { methods: &self.methods, bits }),
        }
    }
}

fn tree_of<'t>(trees: &'t mut Vec<(Box<str>, Node)>, name: &str) -> &'t mut Node {
    let at = match trees.binary_search_by(|(known, _)| (**known).cmp(name)) {
        Ok(at) => at,
        Err(at) => {
            trees.insert(at, (name.into(), Node::default()));
            at
        }
    };
    let (_, tree) = trees.get_mut(at).expect("found or inserted there");
    tree
}

fn find_host<'t>(trees: &'t [(Box<str>, Node)], host: &str) -> Option<&'t Node> {
    let at = trees.binary_search_by(|(known, _)| host::compare(known, host)).ok()?;
    trees.get(at).map(|(_, tree)| tree)
}

fn check_name(spec: &RouteSpec, others: &[Route], report: &mut impl FnMut(&'static str, RouteProblem)) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !(1..=64).contains(&spec.name.len()) || !spec.name.bytes().all(plain) {
        report("name", RouteProblem::Name(spec.name.clone()));
    } else if others.iter().any(|other| other.spec.name == spec.name) {
        report("name", RouteProblem::NameTaken(spec.name.clone()));
    }
}

fn check_host(spec: &RouteSpec, report: &mut impl FnMut(&'static str, RouteProblem)) {
    let text = spec.host.to_string();
    if spec.host != HostPattern::Any && text.parse().as_ref() != Ok(&spec.host) {
        report("host", RouteProblem::Host(text));
    }
}

fn check_methods(spec: &RouteSpec, report: &mut impl FnMut(&'static str, RouteProblem)) {
    for (at, method) in spec.methods.iter().enumerate() {
        if [Method::TRACE, Method::CONNECT].contains(method) {
            report("methods", RouteProblem::MethodRefused(method.clone()));
        }
        if spec.methods.iter().take(at).any(|earlier| earlier == method) {
            report("methods", RouteProblem::MethodRepeated(method.clone()));
        }
    }
}

fn check_credential(spec: &RouteSpec, report: &mut impl FnMut(&'static str, RouteProblem)) {
    if spec.credential.is_empty() && spec.access != Access::Public {
        report("credential", RouteProblem::NoCredential);
    }
    for (at, source) in spec.credential.iter().enumerate() {
        let field = source.field();
        if spec.credential.iter().take(at).any(|earlier| earlier.field() == field) {
            report("credential", RouteProblem::CredentialRepeated(field.to_string()));
        }
        if let CredentialSource::Header(name) = source
            && !holds_credentials(name)
        {
            report("credential", RouteProblem::CredentialField(name.to_string()));
        }
    }
}

/// Whether a field can be read and stripped as a credential without harm to the message.
fn holds_credentials(name: &HeaderName) -> bool {
    const FRAMING: [&str; 12] = [
        "host",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    let name = name.as_str();
    let ours = name.starts_with("keyward-") || name.starts_with("x-keyward-") || name.starts_with("x-forwarded-");
    !ours && !FRAMING.contains(&name)
}

fn check_narrowing(spec: &RouteSpec, report: &mut impl FnMut(&'static str, RouteProblem)) {
    if spec.projects.iter().any(crate::key::ProjectId::is_reserved) {
        report("projects", RouteProblem::ReservedProject);
    }
    if spec.access == Access::Public {
        for (field, given) in [
            ("projects", !spec.projects.is_empty()),
            ("environments", !spec.environments.is_empty()),
            ("shadow", spec.shadow.is_some()),
        ] {
            if given {
                report(field, RouteProblem::NotOnPublic);
            }
        }
    }
}

fn check_prefix(spec: &RouteSpec, pattern: &Pattern, report: &mut impl FnMut(&'static str, RouteProblem)) {
    let (field, from, to) = match &spec.forward.prefix {
        Prefix::Keep => return,
        Prefix::Strip(from) => ("strip_prefix", from, None),
        Prefix::Rewrite { from, to } => ("rewrite_prefix", from, Some(to)),
    };
    for prefix in std::iter::once(from).chain(to) {
        let canonical = canonicalize(prefix.as_str());
        let good = canonical.is_ok_and(|path| path.as_str() == prefix && path.check(&spec.path_options).is_ok());
        if !good {
            report(field, RouteProblem::Prefix(prefix.clone()));
        }
    }
    if !pattern.begins_with(from) {
        report(field, RouteProblem::PrefixNotInPath { prefix: from.clone(), path: spec.path.clone() });
    }
}

/// The requirement of a route with its captures resolved.
fn resolve(spec: &RouteSpec, pattern: &Pattern, report: &mut impl FnMut(&'static str, RouteProblem)) -> Requirement {
    let (any, all) = match &spec.access {
        Access::Public | Access::AnyKey => return Requirement::default(),
        Access::Flags { any, all } => (any, all),
    };
    if any.is_empty() && all.is_empty() {
        report("any_flags", RouteProblem::NoFlags);
    }
    // The catch-all's name is the last, and no flag may use it.
    let usable = pattern.captures.len() - usize::from(pattern.catch_all);
    let (usable, catch_all) = pattern.captures.split_at(usable);
    let mut resolved = |field: &'static str, templates: &[FlagTemplate]| -> Box<[Required]> {
        let required = templates.iter().filter_map(|template| {
            let flag = || template.to_string();
            Required::resolve(template, usable)
                .map_err(|capture| {
                    let capture = capture.to_owned();
                    let problem = if catch_all.iter().any(|name| **name == *capture) {
                        RouteProblem::CatchAllInFlag { flag: flag(), capture }
                    } else {
                        RouteProblem::UnknownCapture { flag: flag(), capture, path: spec.path.clone() }
                    };
                    report(field, problem);
                })
                .ok()
        });
        required.collect()
    };
    Requirement { any: resolved("any_flags", any), all: resolved("all_flags", all) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{any_of, look, route, table};
    use crate::policy::{EmptySegments, Forward, Pass, Shadow, StaleRule};
    use proptest::prelude::*;

    fn hosted(name: &str, host: &str, path: &str, methods: &[&str]) -> RouteSpec {
        let host = if host == "*" { HostPattern::Any } else { host.parse().expect("a host") };
        RouteSpec { host, ..route(name, path, methods) }
    }

    #[test]
    fn a_literal_segment_wins_over_a_capture_and_a_capture_over_the_rest() {
        let table = table(vec![
            route("rest", "/{*rest}", &[]),
            route("capture", "/rings/{ring}", &[]),
            route("literal", "/rings/comms", &[]),
            route("deep", "/{x}/comms/keys", &[]),
            route("root", "/", &[]),
        ]);
        for (path, found) in [
            ("/", "root"),
            ("/rings", "rest rings"),
            ("/rings/", "rest rings/"),
            ("/rings/comms", "literal"),
            ("/rings/comms/", "literal"),
            ("/rings/%63omms", "literal"),
            ("/rings/Comms", "capture Comms"),
            ("/rings/x", "capture x"),
            ("/rings/comms/keys", "deep rings"),
            ("/rings/x/keys", "rest rings/x/keys"),
        ] {
            assert_eq!(look(&table, None, "GET", path), found, "{path}");
        }
    }

    #[test]
    fn the_rest_also_takes_nothing() {
        let table = table(vec![route("files", "/files/{*rest}", &[])]);
        assert_eq!(look(&table, None, "GET", "/files"), "files ");
        assert_eq!(look(&table, None, "GET", "/files/"), "files ");
        assert_eq!(look(&table, None, "GET", "/files/a/b/"), "files a/b/");
        assert_eq!(look(&table, None, "GET", "/filesystem"), "no route");
        assert_eq!(look(&table, None, "GET", "/"), "no route");
    }

    #[test]
    fn a_literal_is_recognised_under_every_escape_an_upstream_would_decode() {
        let table = table(vec![route("me", "/users/a@b", &[]), route("user", "/users/{id}", &[])]);
        for path in ["/users/a@b", "/users/a%40b", "/users/%61%40b"] {
            assert_eq!(look(&table, None, "GET", path), "me", "{path}");
        }
        assert_eq!(look(&table, None, "GET", "/users/a%20b"), "user a%20b");
    }

    #[test]
    fn an_exact_host_wins_over_a_wildcard_and_a_wildcard_over_any() {
        let table = table(vec![
            hosted("any", "*", "/{*rest}", &[]),
            hosted("wild", "*.example.com", "/x", &[]),
            hosted("wilder", "*.eu.example.com", "/x", &[]),
            hosted("exact", "api.example.com", "/x", &[]),
            hosted("six", "[2001:db8::1]", "/x", &[]),
        ]);
        for (host, path, found) in [
            (Some("api.example.com"), "/x", "exact"),
            (Some("API.Example.com.:8443"), "/x", "exact"),
            (Some("www.example.com"), "/x", "wild"),
            (Some("a.b.example.com:1"), "/x", "wild"),
            (Some("a.EU.example.com"), "/x", "wilder"),
            (Some("eu.example.com"), "/x", "wild"),
            (Some("example.com"), "/x", "any x"),
            (Some("notexample.com"), "/x", "any x"),
            (Some("api.example.com"), "/y", "any y"),
            (Some("[2001:DB8::1]:443"), "/x", "six"),
            (None, "/x", "any x"),
            (Some("user@api.example.com"), "/x", "no route"),
            (Some(""), "/x", "no route"),
        ] {
            assert_eq!(look(&table, host, "GET", path), found, "{host:?} {path}");
        }
    }

    #[test]
    fn a_method_list_wins_over_any_method_and_head_follows_get() {
        let routes = table(vec![
            route("any", "/a", &[]),
            route("get", "/a", &["GET"]),
            route("head", "/b", &["HEAD"]),
            route("b", "/b", &["GET"]),
            route("post", "/c", &["POST", "PUT"]),
        ]);
        for (method, path, found) in [
            ("GET", "/a", "get"),
            ("HEAD", "/a", "get"),
            ("POST", "/a", "any"),
            ("HEAD", "/b", "head"),
            ("GET", "/b", "b"),
            ("GET", "/c", "allow POST,PUT"),
            ("DELETE", "/b", "allow GET,HEAD"),
            ("HEAD", "/c", "allow POST,PUT"),
            ("GET", "/d", "no route"),
        ] {
            assert_eq!(look(&routes, None, method, path), found, "{method} {path}");
        }
        let get = table(vec![route("get", "/a", &["GET"])]);
        assert_eq!(look(&get, None, "POST", "/a"), "allow GET,HEAD");
        let path = canonicalize("/a").expect("a path");
        let Found::WrongMethod(allow) = get.find(None, &Method::POST, &path) else { panic!("another method") };
        assert_eq!(allow.to_value(), "GET, HEAD");
    }

    #[test]
    fn a_less_specific_route_serves_what_no_more_specific_one_does() {
        let table = table(vec![
            hosted("read", "api.example.com", "/a/b", &["GET"]),
            hosted("write", "api.example.com", "/a/{x}", &["POST"]),
            hosted("all", "*", "/{*rest}", &["DELETE"]),
        ]);
        let host = Some("api.example.com");
        assert_eq!(look(&table, host, "GET", "/a/b"), "read");
        assert_eq!(look(&table, host, "POST", "/a/b"), "write b");
        assert_eq!(look(&table, host, "DELETE", "/a/b"), "all a/b");
        assert_eq!(look(&table, host, "PATCH", "/a/b"), "allow DELETE,GET,HEAD,POST");
        assert_eq!(look(&table, None, "GET", "/a/b"), "allow DELETE");
    }

    #[test]
    fn a_method_is_known_where_it_is_usual_or_listed() {
        let table = table(vec![route("dav", "/a", &["PROPFIND"])]);
        for (method, known) in [("GET", true), ("PATCH", true), ("PROPFIND", true), ("MKCOL", false), ("get", false)] {
            assert_eq!(table.knows_method(&method.parse().expect("a method")), known, "{method}");
        }
    }

    #[test]
    fn what_a_path_may_have_is_the_matched_route_s_business() {
        let options = PathOptions { encoded_slashes: Pass::Forward, ..PathOptions::default() };
        let merging = PathOptions { empty_segments: EmptySegments::Merge, ..PathOptions::default() };
        let table = table(vec![
            RouteSpec { path_options: options, ..route("open", "/open/{x}", &["GET"]) },
            RouteSpec { path_options: merging, ..route("merge", "/merge/{x}", &[]) },
            route("strict", "/strict/{x}", &[]),
        ]);
        assert_eq!(look(&table, None, "GET", "/open/a%2fb"), "open a%2Fb");
        assert_eq!(look(&table, None, "POST", "/open/a%2fb"), "allow GET,HEAD");
        assert_eq!(look(&table, None, "GET", "//merge///x"), "merge x");
        for path in ["/strict/a%2Fb", "/nowhere/a%2Fb", "//strict/x", "/merge/a%2Fb", "/open//x", "/open/..%2Fx"] {
            assert!(look(&table, None, "GET", path).starts_with("refused"), "{path}");
        }
        assert_eq!(look(&table, None, "GET", "/nowhere"), "no route");
    }

    #[test]
    fn a_path_that_leads_elsewhere_without_its_parameters_is_refused() {
        let options = PathOptions { path_parameters: Pass::Forward, ..PathOptions::default() };
        let open = |name, path| RouteSpec { path_options: options, ..route(name, path, &[]) };
        let table = table(vec![open("admin", "/admin"), open("item", "/items/{id}"), open("rest", "/{*rest}")]);
        assert_eq!(look(&table, None, "GET", "/items/1;v=2"), "item 1;v=2");
        assert_eq!(look(&table, None, "GET", "/x;v=2/y"), "rest x;v=2/y");
        for path in ["/admin;v=2", "/admin%3Bv=2", "/;x/admin", "/items;v/1"] {
            assert!(look(&table, None, "GET", path).starts_with("refused"), "{path}");
        }
    }

    #[test]
    fn many_captures_and_a_long_path_take_no_time() {
        // 2^12 ways to go through captures and literals, each of them a route that does not match.
        let specs = (0..4096u32).map(|number| {
            let segments: String =
                (0..12).map(|at| if number >> at & 1 == 1 { "/a".to_owned() } else { format!("/{{c{at}}}") }).collect();
            route(&format!("r{number}"), &format!("{segments}/end"), &["POST"])
        });
        let table = table(specs.collect());
        let path = "/a".repeat(12) + "/end";
        let mut visited = 0;
        table.any.leaves(&path, &mut |_| visited += 1);
        // A node is visited at most once, and shows at most two leaves.
        assert!(visited <= 2 * nodes(&table.any), "{visited}");
        assert_eq!(look(&table, None, "POST", &path), "r4095");
        assert_eq!(look(&table, None, "POST", &"/a".repeat(5_000)), "no route");
        assert_eq!(look(&table, None, "GET", &path), "allow POST");
    }

    fn nodes(node: &Node) -> usize {
        let below = node.literals.nodes.iter().map(|(_, next)| next).chain(node.capture.as_deref());
        1 + below.map(nodes).sum::<usize>()
    }

    fn problems(specs: Vec<RouteSpec>) -> Vec<(usize, &'static str, RouteProblem)> {
        let faults = RouteTable::build(specs, PathOptions::default()).expect_err("a fault");
        faults.into_iter().map(|fault| (fault.route, fault.field, fault.problem)).collect()
    }

    #[test]
    fn two_routes_that_could_tie_are_refused_naming_both() {
        let tie = |specs: Vec<RouteSpec>| {
            let faults = RouteTable::build(specs, PathOptions::default()).expect_err("a tie");
            let [fault] = &faults[..] else { panic!("one fault: {faults:?}") };
            let text = fault.to_string();
            assert!(text.contains("first") && text.contains("second"), "{text}");
            assert_eq!(fault.problem, RouteProblem::Tie { other: 0, other_name: "first".to_owned() });
        };
        tie(vec![route("first", "/a/{x}", &[]), route("second", "/a/{y}", &[])]);
        tie(vec![route("first", "/a", &["GET", "PUT"]), route("second", "/a", &["POST", "GET"])]);
        tie(vec![route("first", "/{*a}", &[]), route("second", "/{*b}", &[])]);
        tie(vec![route("first", "/a@b", &[]), route("second", "/a%40b", &[])]);
        tie(vec![hosted("first", "*.a.b", "/", &[]), hosted("second", "*.A.b", "/", &[])]);
        let _ =
            table(vec![route("first", "/a", &["GET"]), route("second", "/a", &["POST"]), route("third", "/a", &[])]);
    }

    #[test]
    fn every_fault_of_every_route_is_reported() {
        let header = |name: &'static str| CredentialSource::Header(HeaderName::from_static(name));
        let faults = problems(vec![
            RouteSpec { access: Access::Flags { any: vec![], all: vec![] }, ..route("one", "/%61", &["TRACE"]) },
            RouteSpec { access: any_of(&["a.{ring}", "a.{rest}"]), ..route("one", "/a/{*rest}", &["GET", "GET"]) },
            RouteSpec { credential: vec![], ..route("a b", "/b", &[]) },
            RouteSpec {
                credential: vec![header("x-api-key"), header("x-api-key"), header("host")],
                projects: vec!["all".parse().expect("an id")],
                host: HostPattern::Exact("API.example.com".to_owned()),
                ..route("three", "/c", &[])
            },
            RouteSpec {
                access: Access::Public,
                shadow: Some(Shadow { until: None }),
                on_stale: Some(StaleRule::Deny),
                forward: Forward { prefix: Prefix::Strip("/api".to_owned()), ..Forward::to("api") },
                ..route("four", "/{x}", &[])
            },
        ]);
        let found: Vec<_> = faults.iter().map(|(route, field, _)| (*route, *field)).collect();
        let expected = [
            (0, "methods"),
            (0, "path"),
            (1, "name"),
            (1, "methods"),
            (1, "any_flags"),
            (1, "any_flags"),
            (2, "name"),
            (2, "credential"),
            (3, "host"),
            (3, "credential"),
            (3, "credential"),
            (3, "projects"),
            (4, "shadow"),
            (4, "strip_prefix"),
        ];
        assert_eq!(found, expected, "{faults:#?}");
        assert!(matches!(faults[4].2, RouteProblem::UnknownCapture { .. }));
        assert!(matches!(faults[5].2, RouteProblem::CatchAllInFlag { .. }));
        let nothing = Access::Flags { any: vec![], all: vec![] };
        let faults = problems(vec![RouteSpec { access: nothing, ..route("one", "/", &[]) }]);
        assert_eq!(faults, [(0, "any_flags", RouteProblem::NoFlags)]);
    }

    /// What the rule says, written as slowly as it reads: of all routes that match, the one that is
    /// most specific by host, then segment by segment, then by method.
    fn by_the_rule<'s>(specs: &'s [RouteSpec], host: Option<&str>, method: &Method, path: &str) -> Option<&'s str> {
        let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let ranked = specs.iter().filter_map(|spec| {
            let by_host = match (&spec.host, host) {
                (HostPattern::Any, _) => 0,
                (HostPattern::Exact(name), Some(host)) if name == host => 1_000,
                (HostPattern::Wildcard(suffix), Some(host)) if host.ends_with(&format!(".{suffix}")) => suffix.len(),
                (HostPattern::Exact(_) | HostPattern::Wildcard(_), _) => return None,
            };
            let mut pattern = spec.path.split('/').filter(|segment| !segment.is_empty());
            let mut by_segment = Vec::new();
            for at in 0..=segments.len() {
                match (pattern.next(), segments.get(at)) {
                    (Some(wanted), _) if wanted.starts_with("{*") => {
                        by_segment.push(1);
                        break;
                    }
                    (None, None) => by_segment.push(2),
                    (Some(wanted), Some(_)) if wanted.starts_with('{') => by_segment.push(2),
                    (Some(wanted), Some(found)) if wanted == *found => by_segment.push(3),
                    (_, _) => return None,
                }
            }
            let lists = |method: &Method| spec.methods.contains(method);
            let by_method = match spec.methods.is_empty() {
                true => 0,
                false if lists(method) => 2,
                false if *method == Method::HEAD && lists(&Method::GET) => 1,
                false => return None,
            };
            Some(((by_host, by_segment, by_method), &*spec.name))
        });
        ranked.max().map(|(_, name)| name)
    }

    fn tied(one: &RouteSpec, other: &RouteSpec) -> bool {
        let shape = |spec: &RouteSpec| -> Vec<String> {
            let segments = spec.path.split('/').map(|segment| match segment {
                rest if rest.starts_with("{*") => "**".to_owned(),
                capture if capture.starts_with('{') => "*".to_owned(),
                literal => literal.to_owned(),
            });
            segments.collect()
        };
        let overlap = one.methods.iter().any(|method| other.methods.contains(method));
        one.host == other.host
            && shape(one) == shape(other)
            && (overlap || one.methods.is_empty() && other.methods.is_empty())
    }

    prop_compose! {
        fn some_route()(
            host in prop::sample::select(vec!["*", "*", "a.b", "x.a.b", "*.a.b", "*.x.a.b"]),
            segments in prop::collection::vec(prop::sample::select(vec!["a", "b", "{}"]), 0..4),
            rest in any::<bool>(),
            methods in prop::sample::select(vec![&[][..], &["GET"], &["HEAD"], &["POST"], &["GET", "POST"]]),
        ) -> RouteSpec {
            let mut path: String = segments.iter().enumerate()
                .map(|(at, segment)| if *segment == "{}" { format!("/{{c{at}}}") } else { format!("/{segment}") })
                .collect();
            if rest || path.is_empty() {
                path.push_str(if rest { "/{*rest}" } else { "/" });
            }
            hosted("", host, &path, methods)
        }
    }

    prop_compose! {
        fn some_request()(
            host in prop::sample::select(vec![None, Some("a.b"), Some("x.a.b"), Some("y.a.b"), Some("y.x.a.b"), Some("z")]),
            segments in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..5),
            slash in any::<bool>(),
            method in prop::sample::select(vec![Method::GET, Method::HEAD, Method::POST, Method::PUT]),
        ) -> (Option<&'static str>, Method, String) {
            let mut path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
            if slash || path.is_empty() {
                path.push('/');
            }
            (host, method, path)
        }
    }

    fn without_ties(specs: Vec<RouteSpec>) -> Vec<RouteSpec> {
        let mut kept: Vec<RouteSpec> = Vec::new();
        for (at, spec) in specs.into_iter().enumerate() {
            if !kept.iter().any(|other| tied(other, &spec)) {
                kept.push(RouteSpec { name: format!("r{at}"), ..spec });
            }
        }
        kept
    }

    fn found_name(table: &RouteTable, host: Option<&str>, method: &Method, path: &str) -> Option<String> {
        let path = canonicalize(path).expect("a plain path");
        match table.find(host, method, &path) {
            Found::Route(found) => Some(found.route.name().to_owned()),
            Found::NoRoute | Found::WrongMethod(_) | Found::Ambiguous(_) => None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn finding_follows_the_rule_whatever_the_order(
            (specs, shuffled) in prop::collection::vec(some_route(), 1..24).prop_map(without_ties)
                .prop_flat_map(|specs| (Just(specs.clone()), Just(specs).prop_shuffle())),
            requests in prop::collection::vec(some_request(), 32),
        ) {
            let (one, other) = (table(specs.clone()), table(shuffled));
            for (host, method, path) in requests {
                let expected = by_the_rule(&specs, host, &method, &path).map(str::to_owned);
                prop_assert_eq!(&found_name(&one, host, &method, &path), &expected, "{:?} {} {}", host, method, path);
                prop_assert_eq!(&found_name(&other, host, &method, &path), &expected, "shuffled");
            }
        }

        #[test]
        fn exactly_ties_are_refused(one in some_route(), other in some_route()) {
            let tie = tied(&one, &other);
            let specs = vec![RouteSpec { name: "one".to_owned(), ..one }, RouteSpec { name: "other".to_owned(), ..other }];
            prop_assert_eq!(RouteTable::build(specs, PathOptions::default()).is_err(), tie);
        }

        #[test]
        fn no_spelling_of_a_path_reaches_another_route_than_what_an_upstream_makes_of_it(
            parts in prop::collection::vec(prop::sample::select(vec![
                "/", "/", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "\\", ";", ";x", "%3b", "//", "admin", "%61dmin",
                "adm%49n", "Admin", "a@b", "a%40b", "%61%40b", "a", "%41", "%00", "%25", "%252e", "%c3%a9", "%20", "%",
            ]), 1..9),
        ) {
            let options = PathOptions {
                path_parameters: Pass::Forward,
                empty_segments: EmptySegments::Merge,
                ..PathOptions::default()
            };
            let open = |name, path| RouteSpec { path_options: options, ..route(name, path, &[]) };
            let routes = table(vec![
                open("admin", "/admin"), open("below", "/admin/{*rest}"), open("mail", "/a@b/{x}"), open("rest", "/{*rest}"),
            ]);
            let raw = format!("/{}", parts.concat());
            let Ok(path) = canonicalize(&raw) else { return Ok(()) };
            let Found::Route(found) = routes.find(None, &Method::GET, &path) else { return Ok(()) };
            let forwarded = path.forwarded(&options).expect("what was found passes");
            for strip in [false, true] {
                let resolved = resolve_like_an_upstream(&forwarded, strip);
                prop_assert_eq!(
                    naive(&resolved), found.route.name(), "{:?} went as {:?}, resolved as {:?}", raw, forwarded, resolved
                );
            }
        }
    }

    /// What an upstream may make of a path: parameters stripped or not, decoded, slashes merged,
    /// dot segments resolved.
    fn resolve_like_an_upstream(path: &str, strip_parameters: bool) -> Vec<Vec<u8>> {
        let mut resolved: Vec<Vec<u8>> = Vec::new();
        for segment in path.split('/') {
            let mut bytes: Vec<u8> = decode(segment).collect();
            if strip_parameters && let Some(at) = bytes.iter().position(|&byte| byte == b';') {
                bytes.truncate(at);
            }
            for segment in bytes.split(|&byte| byte == b'/' || byte == b'\\') {
                match segment {
                    b"" | b"." => {}
                    b".." => drop(resolved.pop()),
                    other => resolved.push(other.to_vec()),
                }
            }
        }
        resolved
    }

    fn naive(segments: &[Vec<u8>]) -> &'static str {
        let segments: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
        match segments[..] {
            [b"admin"] => "admin",
            [b"admin", ..] => "below",
            [b"a@b", _] => "mail",
            _ => "rest",
        }
    }
}
