//! The floors of the house: a module imports strictly lower floors only.
//!
//! Every file under `src/` is read as tokens, so that comments, strings and imports over several
//! lines fool nobody. What is compiled for tests alone is left out.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

/// Who lives where. A module that is not named here has no place in the house.
const FLOORS: &[(u8, &[&str])] = &[
    (0, &["background", "clock", "secret", "report", "ready", "telemetry"]),
    (1, &["key", "wire", "tls"]),
    (2, &["policy", "store", "table"]),
    (3, &["sync", "listen", "manage"]),
    (4, &["proxy", "ops", "admin", "rotation"]),
    (5, &["config"]),
    (6, &["app"]),
    (7, &["cli"]),
];

/// Roads between the planes that stay closed although they would go down.
const CLOSED: &[(&str, &str)] = &[("proxy", "store"), ("proxy", "sync"), ("admin", "table")];

#[test]
fn every_import_goes_down() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let faults = faults_of_tree(&source);
    assert!(faults.is_empty(), "\n{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
}

/// One import that may not be.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// One path that was found in a file, from the crate's root on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Import {
    line: usize,
    path: Vec<String>,
}

/// What a file holds that matters here.
#[derive(Debug, Default)]
struct Found {
    imports: Vec<Import>,
    /// `mod name;` for tests alone, as paths from the root: their files are not read.
    test_modules: Vec<Vec<String>>,
    /// `mod name;` and `mod name { … }` at the top of the file.
    modules: Vec<(usize, String)>,
}

fn faults_of_tree(source: &Path) -> Vec<Fault> {
    let mut files = Vec::new();
    collect(source, &mut files);
    files.sort();
    let mut read = Vec::new();
    let mut test_modules = BTreeSet::new();
    for file in files {
        let name = file.strip_prefix(source).expect("every file was found under src").to_owned();
        let text = fs::read_to_string(&file).expect("every source file is UTF-8");
        let module = module_of(&name);
        let found = found_in(&text, &module);
        test_modules.extend(found.test_modules.iter().cloned());
        read.push((name, module, found));
    }
    let for_tests = |module: &[String]| (1..=module.len()).any(|upto| test_modules.contains(&module[..upto]));
    read.iter()
        .filter(|(_, module, _)| !for_tests(module))
        .flat_map(|(name, module, found)| faults_of_file(&name.display().to_string(), module, found))
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src can be listed") {
        let path = entry.expect("src can be listed").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// `key/token.rs` is `key::token`; `key/mod.rs` is `key`; `lib.rs` and `main.rs` are the root.
fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_str().expect("file names are UTF-8").to_owned()).collect();
    if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        module.pop();
    }
    module
}

fn faults_of_file(file: &str, module: &[String], found: &Found) -> Vec<Fault> {
    let fault = |line: usize, what: String| Fault { file: file.to_owned(), line, what };
    let Some(from) = module.first() else {
        // The root: it only declares, and stands above every floor.
        let homeless = found.modules.iter().filter(|(_, name)| floor(name).is_none());
        return homeless.map(|(line, name)| fault(*line, format!("module {name} has no floor"))).collect();
    };
    let Some(from_floor) = floor(from) else {
        return vec![fault(1, format!("module {from} has no floor"))];
    };
    let mut faults = Vec::new();
    for Import { line, path } in &found.imports {
        let shown = path.join("::");
        let Some(to) = path.first() else {
            faults.push(fault(*line, format!("{from} imports the whole crate")));
            continue;
        };
        if to == from {
            continue;
        }
        match floor(to) {
            None => faults.push(fault(*line, format!("{from} imports {shown}, which has no floor"))),
            Some(floor) if floor > from_floor => {
                faults.push(fault(*line, format!("{from} (floor {from_floor}) imports {shown} from above ({floor})")));
            }
            Some(floor) if floor == from_floor => {
                faults.push(fault(*line, format!("{from} imports {shown} sideways, on floor {floor}")));
            }
            Some(_below) if CLOSED.contains(&(from.as_str(), to.as_str())) => {
                faults.push(fault(*line, format!("{from} imports {shown}: that road is closed")));
            }
            Some(_below) => {}
        }
    }
    faults
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, modules)| modules.contains(&module)).map(|(floor, _)| *floor)
}

fn found_in(source: &str, module: &[String]) -> Found {
    let tokens: TokenStream = source.parse().unwrap_or_else(|fault| panic!("{}: {fault}", module.join("::")));
    let mut found = Found::default();
    walk(tokens, &mut module.to_vec(), 0, &mut found);
    found
}

fn walk(tokens: TokenStream, module: &mut Vec<String>, depth: usize, found: &mut Found) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                let inner = is_punct(tokens.get(at + 1), '!');
                let Some(TokenTree::Group(attribute)) = tokens.get(at + 1 + usize::from(inner)) else {
                    at += 1;
                    continue;
                };
                at += 2 + usize::from(inner);
                if is_for_tests(attribute.stream()) {
                    if inner {
                        return;
                    }
                    at = skip_item(&tokens, at, module, found);
                }
            }
            TokenTree::Ident(word) if word == "use" && !is_punct(tokens.get(at + 1), '<') => {
                let end = (at..tokens.len()).find(|&end| is_punct(tokens.get(end), ';')).unwrap_or(tokens.len());
                use_tree(&tokens[at + 1..end], &mut Vec::new(), module, found);
                at = end + 1;
            }
            TokenTree::Ident(word) if word == "mod" => {
                at += 1;
                let Some(TokenTree::Ident(name)) = tokens.get(at) else { continue };
                if depth == 0 {
                    found.modules.push((name.span().start().line, name.to_string()));
                }
                at += 1;
                if let Some(TokenTree::Group(body)) = tokens.get(at) {
                    module.push(name.to_string());
                    walk(body.stream(), module, depth + 1, found);
                    module.pop();
                    at += 1;
                }
            }
            TokenTree::Ident(word) if starts_at_a_root(word) && follows_separator(&tokens, at + 1) => {
                let mut path = vec![word.to_string()];
                let line = word.span().start().line;
                at += 1;
                while follows_separator(&tokens, at) {
                    let Some(TokenTree::Ident(segment)) = tokens.get(at + 2) else { break };
                    path.push(segment.to_string());
                    at += 3;
                }
                record(&path, line, module, found);
            }
            TokenTree::Group(group) => {
                walk(group.stream(), module, depth + 1, found);
                at += 1;
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
        }
    }
}

/// The tree after `use`: a path that ends in a name, a star, or a group of such trees.
fn use_tree(tokens: &[TokenTree], prefix: &mut Vec<String>, module: &[String], found: &mut Found) {
    let before = prefix.len();
    let mut line = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(word) if word == "as" => break,
            TokenTree::Ident(word) => {
                line = word.span().start().line;
                prefix.push(word.to_string());
            }
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for branch in inner.split(|token| is_punct(Some(token), ',')) {
                    use_tree(branch, prefix, module, found);
                }
                prefix.truncate(before);
                return;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' && at == 0 => {
                // `use ::name`: another crate, whatever it is called.
                return;
            }
            TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    if prefix.len() > before || tokens.iter().any(|token| is_punct(Some(token), '*')) {
        record(prefix, line, module, found);
    }
    prefix.truncate(before);
}

/// Takes a path as written, where it is one into this crate.
fn record(path: &[String], line: usize, module: &[String], found: &mut Found) {
    let mut resolved = match path.first().map(String::as_str) {
        Some("crate" | "keyward") => Vec::new(),
        Some("self") => module.to_vec(),
        Some("super") => parent(module),
        _ => return,
    };
    for segment in &path[1..] {
        match segment.as_str() {
            "super" => resolved = parent(&resolved),
            "self" => {}
            _ => resolved.push(segment.clone()),
        }
    }
    found.imports.push(Import { line, path: resolved });
}

fn parent(module: &[String]) -> Vec<String> {
    module[..module.len().saturating_sub(1)].to_vec()
}

/// Past the item that an attribute for tests alone stands on.
fn skip_item(tokens: &[TokenTree], mut at: usize, module: &[String], found: &mut Found) -> usize {
    let mut declared = None;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            TokenTree::Ident(word) if word == "mod" => {
                declared = tokens.get(at).map(ToString::to_string);
            }
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => break,
            TokenTree::Punct(punct) if punct.as_char() == ';' => {
                if let Some(name) = declared {
                    found.test_modules.push([module, &[name]].concat());
                }
                break;
            }
            TokenTree::Ident(_) | TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    at
}

/// `cfg(test)` and `cfg(all(test, …))`, but not `cfg(not(test))` nor `cfg(any(test, …))`.
fn is_for_tests(attribute: TokenStream) -> bool {
    let words: Vec<TokenTree> = attribute.into_iter().collect();
    let [TokenTree::Ident(name), TokenTree::Group(condition)] = words.as_slice() else { return false };
    let holds = |word: &str| mentions(condition.stream(), word);
    name == "cfg" && holds("test") && !holds("not") && !holds("any")
}

fn mentions(tokens: TokenStream, wanted: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == wanted,
        TokenTree::Group(group) => mentions(group.stream(), wanted),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

fn starts_at_a_root(word: &Ident) -> bool {
    ["crate", "super", "self", "keyward"].iter().any(|root| word == root)
}

fn follows_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

fn is_punct(token: Option<&TokenTree>, character: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == character)
}

mod planted {
    //! Sources that must be refused, and some that must not.

    use super::*;

    fn faults(module: &str, source: &str) -> Vec<String> {
        let module: Vec<String> = module.split("::").map(str::to_owned).collect();
        let found = found_in(source, &module);
        faults_of_file("planted.rs", &module, &found).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_import_that_goes_up_is_refused() {
        assert_eq!(
            faults("key::token", "//! x\nuse crate::policy::decide;"),
            ["planted.rs:2: key (floor 1) imports policy::decide from above (2)"]
        );
    }

    #[test]
    fn an_import_that_goes_sideways_is_refused() {
        assert_eq!(
            faults("table", "use crate::store::Row;"),
            ["planted.rs:1: table imports store::Row sideways, on floor 2"]
        );
    }

    #[test]
    fn every_branch_of_a_nested_import_is_seen() {
        let source =
            "use crate::{\n  clock::Clock,\n  key::{Key, flag::{self, FlagSet}},\n  config::{Config as C},\n};";
        assert_eq!(faults("policy", source), ["planted.rs:4: policy (floor 2) imports config::Config from above (5)"]);
        let module = vec!["policy".to_owned()];
        let paths: Vec<String> = found_in(source, &module).imports.iter().map(|it| it.path.join("::")).collect();
        assert_eq!(paths, ["clock::Clock", "key::Key", "key::flag", "key::flag::FlagSet", "config::Config"]);
    }

    #[test]
    fn a_path_inside_an_expression_is_seen() {
        let source = "fn f() { let x = vec![g(crate::app::start::<u8>)]; }";
        assert_eq!(faults("wire", source), ["planted.rs:1: wire (floor 1) imports app::start from above (6)"]);
        assert_eq!(faults("wire", "type T = &'static crate::cli::Out;").len(), 1);
        assert_eq!(faults("wire", "impl crate::cli::Out for T {}").len(), 1);
        assert_eq!(faults("wire", "macro_rules! m { () => { $crate::cli::go() }; }").len(), 1);
    }

    #[test]
    fn super_is_followed_to_where_it_leads() {
        assert_eq!(faults("store::sqlite::feed", "use super::super::Store; use super::Connection;"), [""; 0]);
        assert_eq!(
            faults("store::sqlite", "fn f() { super::super::sync::go() }"),
            ["planted.rs:1: store (floor 2) imports sync::go from above (3)"]
        );
        assert_eq!(faults("store", "mod inner { use super::super::manage::M; }").len(), 1);
        assert_eq!(faults("store", "use self::inner::X; use super::key::Key;"), [""; 0]);
    }

    #[test]
    fn closed_roads_are_refused_though_they_go_down() {
        assert_eq!(
            faults("proxy::handle", "use crate::store::Store;"),
            ["planted.rs:1: proxy imports store::Store: that road is closed"]
        );
        assert_eq!(faults("proxy", "fn f(x: crate::sync::Misses) {}").len(), 1);
        assert_eq!(faults("admin", "use crate::{table::Table, key};").len(), 1);
        assert_eq!(faults("app", "use crate::{table::Table, store, sync};"), [""; 0]);
    }

    #[test]
    fn a_module_without_a_floor_is_refused() {
        assert_eq!(faults("helpers", "fn f() {}"), ["planted.rs:1: module helpers has no floor"]);
        assert_eq!(
            faults("cli", "use crate::helpers::f;"),
            ["planted.rs:1: cli imports helpers::f, which has no floor"]
        );
        let root = found_in("//! x\npub mod key;\nmod util;", &[]);
        let shown: Vec<_> = faults_of_file("lib.rs", &[], &root).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["lib.rs:3: module util has no floor"]);
    }

    #[test]
    fn a_star_over_the_whole_crate_is_refused() {
        assert_eq!(faults("cli", "use crate::*;"), ["planted.rs:1: cli imports the whole crate"]);
    }

    #[test]
    fn comments_strings_and_tests_count_for_nothing() {
        let source = r##"
            //! use crate::cli::Out;
            /* use crate::cli::Out; */
            const TEXT: &str = "use crate::cli::Out;";
            const RAW: &str = r#"crate::cli::Out"#;
            use ::keyward::cli::other_crate;
            fn f() -> impl Iterator<Item = u8> + use<> { [].into_iter() }
            #[cfg(test)]
            use crate::cli::Out;
            #[cfg(test)]
            #[expect(missing_docs, reason = "x")]
            mod tests { use crate::cli::Out; }
            #[cfg(all(test, unix))]
            fn g() { crate::cli::go() }
        "##;
        assert_eq!(faults("key", source), [""; 0]);
        assert_eq!(faults("key", "#![cfg(test)] use crate::cli::Out;"), [""; 0]);
        assert_eq!(faults("key", "#[cfg(not(test))] use crate::cli::Out;").len(), 1);
        assert_eq!(faults("key", "#[cfg(any(test, unix))] use crate::cli::Out;").len(), 1);
    }

    #[test]
    fn a_file_that_is_a_test_module_is_known_by_its_declaration() {
        let found = found_in("#[cfg(test)]\nmod tests;\nmod real;", &["policy".to_owned()]);
        assert_eq!(found.test_modules, [["policy".to_owned(), "tests".to_owned()]]);
    }
}
