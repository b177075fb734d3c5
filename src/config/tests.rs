//! What a configuration says when it is right, and every line it says when it is wrong.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::schema::{Default as KeyDefault, KEYS, Kind, SECTIONS};
use super::*;

/// A configuration without faults, to which the tests add theirs.
const BASE: &str = r#"[gateway]
listen = ["127.0.0.1:8080"]
[upstreams.api]
targets = ["http://127.0.0.1:9000"]
[[routes]]
name = "all"
path = "/{*rest}"
any_key = true
upstream = "api"
"#;

fn parse(text: &str) -> Result<Config, Vec<Fault>> {
    Config::parse(Path::new("keyward.toml"), text, &Environment::default())
}

fn parse_well(text: &str) -> Config {
    parse(text).unwrap_or_else(|faults| panic!("{}", lines(&faults).join("\n")))
}

fn lines(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(Fault::to_string).collect()
}

fn faults_of(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(faults) => lines(&faults),
    }
}

/// `BASE` with `added` behind its line `line`.
fn base_with(line: usize, added: &str) -> String {
    let mut text = String::new();
    for (index, base) in BASE.lines().enumerate() {
        text += &format!("{base}\n");
        if index + 1 == line {
            text += &format!("{added}\n");
        }
    }
    text
}

/// `BASE` with `replacement` in place of its line `line`.
fn base_but(line: usize, replacement: &str) -> String {
    let lines = BASE.lines().enumerate();
    lines.map(|(index, base)| format!("{}\n", if index + 1 == line { replacement } else { base })).collect()
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_least_configuration_has_the_documented_defaults() {
    let config = parse_well(BASE);
    assert_eq!(config.gateway.listen, [SocketAddr::from(([127, 0, 0, 1], 8080))]);
    assert_eq!((config.gateway.workers, config.gateway.tls.is_none()), (0, true));
    assert_eq!(config.gateway.limits, listen::Limits::default());
    assert_eq!(config.gateway.timeouts, listen::Timeouts::default());
    assert_eq!((config.ops, config.admin.is_none()), (None, true));
    assert_eq!(config.store, store::Settings::Sqlite { path: "keyward.db".into() });
    assert_eq!(config.master_file, Path::new("master.secret"));
    assert_eq!(config.sync.state_dir, Path::new("keyward.state"));
    assert_eq!(config.log, LogSettings { level: "info".to_owned(), format: LogFormat::Json });
    assert_eq!(config.proxy.expiry_notice, Duration::from_secs(14 * 86_400));
    assert_eq!(config.proxy.realm, "keyward");
    assert_eq!(config.proxy.upstreams.keys().collect::<Vec<_>>(), ["api"]);
    assert_eq!(config.proxy.routes.routes().len(), 1);
}

#[test]
fn paths_are_relative_to_the_file() {
    let text = format!("{BASE}[store.sqlite]\npath = \"data/keys.db\"\n[sync]\nstate_dir = \"/var/lib/k\"\n");
    let config = Config::parse(Path::new("/etc/keyward/a.toml"), &text, &Environment::default()).expect("no faults");
    assert_eq!(config.store, store::Settings::Sqlite { path: "/etc/keyward/data/keys.db".into() });
    assert_eq!(config.master_file, Path::new("/etc/keyward/data/master.secret"));
    assert_eq!(config.sync.state_dir, Path::new("/var/lib/k"));
    let config = Config::parse(Path::new("/etc/keyward/a.toml"), BASE, &Environment::default()).expect("no faults");
    assert_eq!(config.sync.state_dir, Path::new("/etc/keyward/a.state"));
}

#[test]
fn a_route_says_all_that_the_design_has() {
    let text = base_with(
        9,
        r#"[[routes]]
name = "one"
host = "*.Example.com"
path = "/api/{ring}/keys"
methods = ["GET", "PURGE"]
any_flags = ["keyring.read", "keyring.{ring}.read"]
all_flags = ["use"]
projects = ["acme"]
environments = ["test"]
credential = ["bearer", { header = "X-API-Key" }]
shadow = true
shadow_until = 2027-01-31T00:00:00Z
denied_status = 401
upstream = "api"
strip_prefix = "/api"
rewrite_prefix = "/v2"
host_rewrite = "target"
forward_credential = true
upgrades = ["websocket"]
body_max = "10MiB"
shared_cache = true
on_stale = "deny"
keep_override_headers = ["X-HTTP-Method-Override"]
encoded_slashes = "forward"
path_parameters = "forward"
encoded_percent = "forward"
non_ascii = "forward"
empty_segments = "merge""#,
    );
    use crate::policy::{
        Access, CredentialSource, DeniedStatus, EmptySegments, FlagTemplate, Forward, HostForward, HostPattern, Pass,
        PathOptions, Prefix, RouteSpec, Shadow, StaleRule,
    };
    let config = parse_well(&text);
    let flag = |text| FlagTemplate::parse(text).expect("a flag");
    let field = |name: &'static str| http::HeaderName::from_static(name);
    let expected = RouteSpec {
        name: "one".to_owned(),
        host: HostPattern::Wildcard("example.com".to_owned()),
        path: "/api/{ring}/keys".to_owned(),
        methods: vec![http::Method::GET, "PURGE".parse().expect("a method")],
        access: Access::Flags {
            any: vec![flag("keyring.read"), flag("keyring.{ring}.read")],
            all: vec![flag("use")],
        },
        credential: vec![CredentialSource::Bearer, CredentialSource::Header(field("x-api-key"))],
        projects: vec!["acme".parse().expect("a project")],
        environments: vec!["test".parse().expect("an environment")],
        shadow: Some(Shadow { until: Some("2027-01-31T00:00:00Z".parse().expect("a time")) }),
        denied_status: DeniedStatus::Unauthorized401,
        path_options: PathOptions {
            encoded_slashes: Pass::Forward,
            path_parameters: Pass::Forward,
            encoded_percent: Pass::Forward,
            non_ascii: Pass::Forward,
            empty_segments: EmptySegments::Merge,
        },
        on_stale: Some(StaleRule::Deny),
        forward: Forward {
            upstream: "api".to_owned(),
            prefix: Prefix::Rewrite { from: "/api".to_owned(), to: "/v2".to_owned() },
            host: HostForward::Target,
            forward_credential: true,
            websocket: true,
            request_body_max: Some(10 << 20),
            shared_cache: true,
            keep_override_fields: vec![field("x-http-method-override")],
        },
    };
    assert_eq!(config.proxy.routes.routes()[1].spec(), &expected);
}

#[test]
fn a_route_takes_from_the_gateway_what_it_leaves_out() {
    let text = base_with(
        2,
        "denied_status = 401\ncredential = [{ header = \"x-key\" }]\nnon_ascii = \"forward\"\nlimits = { body = 0 }",
    );
    let config = parse_well(&text);
    let spec = config.proxy.routes.routes()[0].spec();
    assert_eq!(spec.denied_status, crate::policy::DeniedStatus::Unauthorized401);
    assert_eq!(spec.credential[0].field(), "x-key");
    assert_eq!(spec.path_options.non_ascii, crate::policy::Pass::Forward);
    assert_eq!(spec.forward.request_body_max, None);
}

/// Each fault, alone in a configuration that is otherwise right: where it is added, what is added,
/// and the line that is printed.
#[test]
fn each_fault_has_its_line() {
    let cases: &[(usize, &str, &str)] = &[
FAULT_CASES
    ];
    for (line, added, expected) in cases {
        assert_eq!(faults_of(&base_with(*line, added)), [*expected], "{added}");
    }
}

#[test]
fn what_is_left_out_is_named_with_a_remedy() {
    let cases: &[(usize, &str)] = &[
MISSING_CASES
    ];
    for (line, expected) in cases {
        assert_eq!(faults_of(&base_but(*line, "")), [*expected], "line {line}");
    }
    assert_eq!(
        faults_of(""),
        [
EMPTY_CASES
        ]
    );
}

#[test]
fn ten_faults_are_ten_lines_in_file_order() {
    let text = r#"[gateway]
listen = ["0.0.0.0:8443", "nowhere"]
worker = 4
expiry_notice = "a fortnight"

[gateway.limits]
head = "64KB"

[upstreams.billing]
targets = ["ftp://billing"]

[[routes]]
name = "one"
path = "/a/{x}"
any_flags = ["a.{y}"]
upstream = "bill"

[[routes]]
name = "two"
path = "/b"
upstream = "billing"

[sync]
poll = "1s"
on_stale = "panic"

[store.postgres]
url = "postgres://keyward:hunter2@db/keyward"
"#;
    assert_eq!(
        faults_of(text),
        [
TEN_CASES
        ]
    );
}

#[test]
fn broken_toml_is_reported_beside_other_faults() {
    let text = base_but(6, "name = all").replace("\"127.0.0.1:8080\"", "\"127.0.0.1\"");
    assert_eq!(
        faults_of(&text),
        [
SYNTAX_CASES
        ]
    );
}

#[test]
fn two_routes_that_tie_name_each_other() {
    let text = base_with(9, "[[routes]]\nname = \"other\"\npath = \"/{*all}\"\npublic = true\nupstream = \"api\"");
    assert_eq!(
        faults_of(&text),
        [
TIE_CASES
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keyward.toml");
    let load = |path: &Path| Config::load(path, &Environment::default()).map_err(|faults| lines(&faults));
    let fault = load(&path).expect_err("no file");
    assert_eq!(fault, [format!("{}: cannot be read: No such file or directory (os error 2)", path.display())]);
    std::fs::write(&path, b"\xff\xfe").expect("written");
    let fault = load(&path).expect_err("no text");
    assert_eq!(fault, [format!("{}: is not UTF-8 text, expected TOML", path.display())]);
    std::fs::write(&path, BASE).expect("written");
    assert!(load(&path).is_ok());
}

#[test]
fn the_environment_goes_before_the_file() {
    let parse = |level: &str| {
        let environment = Environment { log: Some(level.to_owned()), ..Environment::default() };
        Config::parse(Path::new("keyward.toml"), BASE, &environment).map(|config| config.log.level)
    };
    assert_eq!(parse("warn,keyward::sync=debug").as_deref(), Ok("warn,keyward::sync=debug"));
    let faults = parse("loud").expect_err("no level");
    assert_eq!(
        lines(&faults),
        [
            "KEYWARD_LOG: found \"loud\", expected one of error, warn, info, debug, trace, off; \
             or target=level, joined by commas"
        ]
    );
}

const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn config_in(folder: &Path, text: &str, secret: Option<&str>) -> Config {
    let environment = Environment { master_secret: secret.map(Secret::new), ..Environment::default() };
    Config::parse(&folder.join("keyward.toml"), text, &environment).expect("no faults")
}

#[test]
fn the_master_secret_comes_from_the_variable_or_from_a_private_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!("{BASE}[secrets]\nmaster_file = \"m\"\n");
    let at = folder.path().join("m");
    let place = format!("{}:11: secrets.master_file", folder.path().join("keyward.toml").display());
    let shown = at.display();
    let read = || master_secret(&config_in(folder.path(), &text, None)).map_err(|fault| fault.to_string());
    assert_eq!(
        read(),
        Err(format!(
            "{place}: no file {shown}: make it with `keyward init`, or put the secret into KEYWARD_MASTER_SECRET"
        ))
    );
    std::fs::write(&at, SECRET).expect("written");
    let mode = |mode| std::fs::set_permissions(&at, std::fs::Permissions::from_mode(mode)).expect("changed");
    mode(0o640);
    assert_eq!(read(), Err(format!("{place}: {shown} has mode 0640, expected 0600 or stricter: chmod 600 {shown}")));
    for private in [0o600, 0o400] {
        mode(private);
        assert_eq!(read().map(|secret| secret.fingerprint()), Ok(fingerprint()));
    }
    mode(0o600);
    std::fs::write(&at, "hunter2").expect("written");
    let fault = read().expect_err("a passphrase");
    assert!(fault.starts_with(&format!("{place}: {shown}: found 7 characters that are no 32 bytes")), "{fault}");
    assert!(!fault.contains("hunter2"));
    let from_variable = master_secret(&config_in(folder.path(), &text, Some(SECRET)));
    assert_eq!(from_variable.map(|secret| secret.fingerprint()), Ok(fingerprint()));
    let fault = master_secret(&config_in(folder.path(), &text, Some("hunter2"))).expect_err("a passphrase").to_string();
    assert!(fault.starts_with("KEYWARD_MASTER_SECRET: found 7 characters"), "{fault}");
}

fn fingerprint() -> [u8; 32] {
    MasterSecret::parse(SECRET.as_bytes()).expect("a secret").fingerprint()
}

#[test]
fn files_that_are_named_and_not_there_are_faults_of_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = base_with(2, "deny_file = \"deny.txt\"");
    let file = folder.path().join("keyward.toml");
    let faults = lines(&config_in(folder.path(), &text, Some(SECRET)).file_faults());
    let deny = folder.path().join("deny.txt");
    assert_eq!(
        faults,
        [format!(
            "{}:3: gateway.deny_file: cannot open {}: No such file or directory (os error 2); an empty file will do",
            file.display(),
            deny.display()
        )]
    );
    assert_eq!(config_in(folder.path(), &text, None).file_faults().len(), 2);
    std::fs::write(&deny, "").expect("written");
    assert_eq!(config_in(folder.path(), &text, Some(SECRET)).file_faults(), []);
}

#[test]
fn a_secret_is_in_no_debug_text_and_in_no_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path(), BASE, Some(SECRET));
    let secret = master_secret(&config).expect("a secret");
    assert!(!format!("{config:?} {secret:?}").contains("00112233"));
    for text in [
        format!("{BASE}[secrets]\nmaster_file = \"{SECRET}\"\n"),
        format!("{BASE}[secrets]\nmaster_secret = \"{SECRET}\"\n"),
        format!("{BASE}[secrets]\nmaster_file = [\"{SECRET}\"]\n"),
        format!("{BASE}[secrets]\nmaster_file = {{ hex = \"{SECRET}\" }}\n"),
        format!("{BASE}[store.postgres]\nurl = \"postgres://me:{SECRET}@host\"\n"),
        base_but(4, &format!("targets = [\"http://me:{SECRET}@host\"]")),
        format!("{BASE}[secrets]\nmaster_file = \"{SECRET}\n"),
        format!("{BASE}[secrets]\nmaster_file = {SECRET}\n"),
    ] {
        let faults = faults_of(&text);
        assert!(!faults.is_empty());
        assert!(!faults.join("\n").contains("00112233"), "{faults:?}");
    }
}

#[test]
fn a_reload_names_what_only_a_restart_can_change() {
    let old = parse_well(BASE);
    assert_eq!(old.restart_needed(&parse_well(BASE)), [""; 0]);
    let harmless = base_with(2, "denied_status = 401\naccess_log = false") + "[log]\nlevel = \"warn\"\n";
    assert_eq!(old.restart_needed(&parse_well(&harmless)), [""; 0]);
    let new = base_with(2, "workers = 2").replace(":8080", ":8081")
        + "[gateway.tls]\ncertificates = [{ chain = \"c\", key = \"k\" }]\n[admin]\n[ops]\n[store.sqlite]\npath = \"x\"\n\
           [secrets]\nmaster_file = \"m\"\n[sync]\nstate_dir = \"s\"\n";
    assert_eq!(
        old.restart_needed(&parse_well(&new)),
        [
            "gateway.listen",
            "gateway.workers",
            "gateway.tls (turned on or off)",
            "admin.listen",
            "ops.listen",
            "secrets.master_file",
            "store.sqlite.path",
            "sync.state_dir",
        ]
    );
}

/// The header line of a schema table, as a file has it.
fn header_of(section: &str) -> String {
    match section.strip_suffix("[]") {
        Some(list) => format!("[[{list}]]"),
        None => format!("[{}]", section.replace("NAME", "x")),
    }
}

fn section_and_name(key: &schema::Key) -> (&'static str, &'static str) {
    key.path.rsplit_once('.').expect("every key is in a table")
}

#[test]
fn every_key_is_read_by_its_kind() {
    for key in KEYS {
        let (section, name) = section_and_name(key);
        // Nothing is a time of day.
        let text = match section.strip_suffix(".certificates[]") {
            Some(table) => format!("[{table}]\ncertificates = [{{ {name} = 07:32:00 }}]\n"),
            None => format!("{}\n{name} = 07:32:00\n", header_of(section)),
        };
        let line = format!(":2: {}: found the time 07:32:00, expected ", {
            let place = key.path.replace("NAME", "x").replace("[]", "[0]");
            place
        });
        let faults = faults_of(&text);
        assert!(faults.iter().any(|fault| fault.contains(&line)), "{} gives\n{}", key.path, faults.join("\n"));
    }
}

#[test]
fn every_key_is_in_a_documented_table_and_there_once() {
    for (index, key) in KEYS.iter().enumerate() {
        let (section, _) = section_and_name(key);
        assert!(SECTIONS.iter().any(|(known, _)| *known == section), "{}", key.path);
        assert!(KEYS.iter().skip(index + 1).all(|other| other.path != key.path), "{} is there twice", key.path);
        assert!(key.meaning.ends_with('.') && !key.meaning.contains('|'), "{}", key.path);
    }
}

#[test]
fn ranges_end_where_the_schema_says() {
    for key in KEYS {
        let (section, name) = section_and_name(key);
        let at = |value: String| {
            let faults = faults_of(&format!("{}\n{name} = {value}\n", header_of(section)));
            faults.iter().any(|fault| fault.contains(&format!("{name}: found ")))
        };
        let quoted = |span: Duration| format!("\"{}\"", format_duration(span));
        let milli = Duration::from_millis(1);
        match key.kind {
            Kind::Count { min, max } => {
                assert!(!at(min.to_string()) && !at(max.to_string()) && at((max + 1).to_string()), "{}", key.path);
                assert!(at("-1".to_owned()) && (min == 0 || at((min - 1).to_string())), "{}", key.path);
            }
            Kind::Size { min, max } => {
                assert!(!at(min.to_string()) && !at(max.to_string()) && at((max + 1).to_string()), "{}", key.path);
                assert!(at("-1".to_owned()) && (min == 0 || at((min - 1).to_string())), "{}", key.path);
            }
            Kind::Duration { min, max } => {
                assert!(!at(quoted(min)) && !at(quoted(max)) && at(quoted(max + milli)), "{}", key.path);
                assert!(min.is_zero() || at(quoted(min - milli)), "{}", key.path);
            }
            Kind::Switch
            | Kind::Text(_)
            | Kind::Choice(_)
            | Kind::Status
            | Kind::Time
            | Kind::Path
            | Kind::Address
            | Kind::List(_) => {}
        }
    }
}

/// One `key = value` line of a file, live or commented out.
struct Line<'t> {
    section: String,
    name: &'t str,
    value: &'t str,
    is_live: bool,
}

/// The lines of a configuration that set a key, commented-out ones included.
fn settings_of(text: &str) -> Vec<Line<'_>> {
    let mut section = String::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        if bare.starts_with('[') {
            let name = bare.trim_matches(['[', ']']);
            let is_list = bare.starts_with("[[");
            let named = name.split_once("upstreams.").map_or(name, |_| "upstreams.NAME");
            section = format!("{named}{}", if is_list { "[]" } else { "" });
            continue;
        }
        let Some((name, rest)) = bare.split_once(" = ") else { continue };
        if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
            let value = rest.split(" #").next().unwrap_or(rest).trim();
            lines.push(Line { section: section.clone(), name, value, is_live: bare == line });
        }
    }
    lines
}

#[test]
fn the_full_example_has_every_key_with_its_default() {
    let text = std::fs::read_to_string(repository().join("config/keyward.toml")).expect("the example");
    let lines = settings_of(&text);
    for key in KEYS {
        let (section, name) = section_and_name(key);
        if let Some(table) = section.strip_suffix(".certificates[]") {
            let pair = lines.iter().find(|line| line.section == table && line.name == "certificates");
            assert!(pair.is_some_and(|line| line.value.contains(&format!("{name} = "))), "{}", key.path);
            continue;
        }
        let line = lines.iter().find(|line| line.section == section && line.name == name);
        let line = line.unwrap_or_else(|| panic!("config/keyward.toml has no {}", key.path));
        if let KeyDefault::Is(default) = key.default {
            assert!(line.is_live || line.value == default, "{} = {}, not {default}", key.path, line.value);
        }
    }
    for line in lines {
        let path = format!("{}.{}", line.section, line.name);
        assert!(schema::key_at(&path).is_some(), "config/keyward.toml has {path}, which is no key");
    }
}

#[test]
fn writing_every_default_out_changes_nothing() {
    let text = std::fs::read_to_string(repository().join("config/keyward.toml")).expect("the example");
    let mut spelled = String::new();
    let mut section = String::new();
    for line in text.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        if bare.starts_with('[') {
            section = settings_of(&format!("{bare}\nx = 0"))[0].section.clone();
            // Without its listener there is no table to spell out.
            let is_absent = section.starts_with("admin");
            spelled += if is_absent { line } else { bare };
        } else {
            let has_default = settings_of(bare).first().is_some_and(|setting| {
                let key = schema::key_at(&format!("{section}.{}", setting.name));
                key.is_some_and(|key| matches!(key.default, KeyDefault::Is(_)))
                    // A route is one of the three.
                    && !section.starts_with("admin")
            });
            spelled += if has_default { bare } else { line };
        }
        spelled.push('\n');
    }
    let count = |text: &str| settings_of(text).iter().filter(|line| line.is_live).count();
    assert!(count(&spelled) > count(&text) + 50, "{spelled}");
    assert_eq!(format!("{:?}", parse_well(&spelled)), {
        // Lines moved by nothing: both texts have the same number of them.
        format!("{:?}", parse_well(&text))
    });
}

#[test]
fn every_example_is_without_faults() {
    let mut count = 0;
    for entry in std::fs::read_dir(repository().join("config")).expect("the folder") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("text").replace("{upstream}", "http://127.0.0.1:9000");
        let faults = Config::parse(&path, &text, &Environment::default()).err().unwrap_or_default();
        assert_eq!(lines(&faults), [""; 0]);
        count += 1;
    }
    assert!(count >= 5, "{count} examples");
}

#[test]
fn the_documentation_lists_every_key() {
    const MARK: &str = "<!-- the rest is rendered from src/config/schema.rs: \
                        KEYWARD_BLESS=1 cargo nextest run -p keyward config -->\n";
    let path = repository().join("docs/CONFIG.md");
    let found = std::fs::read_to_string(&path).expect("docs/CONFIG.md");
    let (head, _) = found.split_once(MARK).expect("the mark before the tables");
    let rendered = format!("{head}{MARK}{}", tables());
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    if std::env::var_os("KEYWARD_BLESS").is_some() {
        std::fs::write(&path, &rendered).expect("written");
        return;
    }
    assert_eq!(found, rendered, "docs/CONFIG.md is not what the schema says: KEYWARD_BLESS=1 writes it");
}

fn tables() -> String {
    let mut text = String::new();
    for (section, title) in SECTIONS {
        text += &format!("\n### {title}\n\n| key | value | default | meaning |\n|---|---|---|---|\n");
        for key in KEYS {
            let (its_section, name) = section_and_name(key);
            if its_section != *section {
                continue;
            }
            let default = match key.default {
                KeyDefault::Required => "required".to_owned(),
                KeyDefault::Is(value) => format!("`{value}`"),
                KeyDefault::Says(words) => words.to_owned(),
            };
            text += &format!("| `{name}` | {} | {default} | {} |\n", key.kind.words(), key.meaning);
        }
    }
    text
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        if let Err(faults) = parse(&text) {
            prop_assert!(!faults.is_empty());
        }
    }

    #[test]
    fn any_lines_of_toml_are_read_or_refused(
        lines in proptest::collection::vec((0usize..KEYS.len(), any::<bool>(), "[\\[\\]{}\"'=,.#a-z0-9 \n]{0,12}"), 0..12)
    ) {
        let mut text = String::new();
        for (index, has_header, value) in lines {
            let (section, name) = section_and_name(&KEYS[index]);
            if has_header {
                text += &header_of(section);
                text.push('\n');
            }
            text += &format!("{name} = {value}\n");
        }
        if let Err(faults) = parse(&text) {
            let found: Vec<_> = faults.iter().filter_map(Fault::line).collect();
            prop_assert!(found.is_sorted());
            prop_assert!(found.iter().all(|line| *line <= text.lines().count().max(1) + 1));
            prop_assert!(faults.iter().all(|fault| !fault.to_string().contains('\n')));
        }
    }
}
