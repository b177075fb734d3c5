//! What a configuration says when it is right.

mod examples;
mod faults;

use std::path::{Path, PathBuf};
use std::time::Duration;

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
    assert_eq!(config.log, LogSettings::default());
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
assertion = true
upgrades = ["websocket"]
upgrade_idle = "90s"
stream_idle = "2h"
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
        access: Access::Flags { any: vec![flag("keyring.read"), flag("keyring.{ring}.read")], all: vec![flag("use")] },
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
            assertion: true,
            websocket: true,
            websocket_idle: Duration::from_secs(90),
            stream_idle: Some(Duration::from_secs(7200)),
            request_body_max: Some(10 << 20),
            shared_cache: true,
            keep_override_fields: vec![field("x-http-method-override")],
            ..Forward::to("api")
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

#[test]
fn the_environment_goes_before_the_file() {
    let parse = |level: &str| {
        let environment = Environment { log: Some(level.to_owned()), ..Environment::default() };
        Config::parse(Path::new("keyward.toml"), BASE, &environment).map(|config| config.log.filter)
    };
    assert_eq!(parse("warn,keyward::sync=debug").as_deref(), Ok("warn,keyward::sync=debug"));
    let faults = parse("loud").expect_err("no level");
    assert_eq!(
        lines(&faults),
        ["KEYWARD_LOG: found \"loud\", expected one of error, warn, info, debug, trace, off; \
             or target=level, joined by commas"]
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
    let read = || master_secrets(&config_in(folder.path(), &text, None)).map_err(|fault| fault.to_string());
    assert_eq!(
        read(),
        Err(format!(
            "{place}: no file {shown}: put it back, or make a new store with `keyward init`; KEYWARD_MASTER_SECRET takes its place"
        ))
    );
    std::fs::write(&at, SECRET).expect("written");
    let mode = |mode| std::fs::set_permissions(&at, std::fs::Permissions::from_mode(mode)).expect("changed");
    mode(0o640);
    assert_eq!(read(), Err(format!("{place}: {shown} has mode 0640, expected 0600 or stricter: chmod 600 {shown}")));
    for private in [0o600, 0o400] {
        mode(private);
        assert_eq!(read().map(|secrets| secrets.newest().secret.fingerprint()), Ok(fingerprint()));
    }
    mode(0o600);
    std::fs::write(&at, "hunter2").expect("written");
    let fault = read().expect_err("a passphrase");
    assert!(fault.starts_with(&format!("{place}: {shown}: found 7 characters that are no 32 bytes")), "{fault}");
    assert!(!fault.contains("hunter2"));
    let from_variable = master_secrets(&config_in(folder.path(), &text, Some(SECRET)));
    assert_eq!(from_variable.map(|secrets| secrets.newest().secret.fingerprint()), Ok(fingerprint()));
    let fault =
        master_secrets(&config_in(folder.path(), &text, Some("hunter2"))).expect_err("a passphrase").to_string();
    assert!(fault.starts_with("KEYWARD_MASTER_SECRET: found 7 characters"), "{fault}");
}

fn fingerprint() -> [u8; 32] {
    MasterSecret::parse(SECRET.as_bytes()).expect("a secret").fingerprint()
}

#[test]
fn a_reload_names_what_only_a_restart_can_change() {
    let old = parse_well(BASE);
    assert_eq!(old.restart_needed(&parse_well(BASE)), [""; 0]);
    let harmless = base_with(2, "denied_status = 401\naccess_log = false") + "[log]\nlevel = \"warn\"\n";
    assert_eq!(old.restart_needed(&parse_well(&harmless)), [""; 0]);
    let new = base_with(2, "workers = 2\nlisten_cleartext = [\"127.0.0.1:8090\"]").replace(":8080", ":8081")
        + "[gateway.tls]\ncertificates = [{ chain = \"c\", key = \"k\" }]\n[admin]\n[ops]\n[store.sqlite]\npath = \"x\"\n\
           [secrets]\nmaster_file = \"m\"\n[sync]\nstate_dir = \"s\"\n";
    assert_eq!(
        old.restart_needed(&parse_well(&new)),
        [
            "gateway.listen",
            "gateway.listen_cleartext",
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

#[test]
fn what_a_reload_leaves_as_it_was_is_named() {
    let old = parse_well(BASE);
    assert_eq!(old.waits_for_restart(&parse_well(&base_with(2, "reveal_reason = true"))), [""; 0]);
    let new = base_with(2, "timeouts = { head = \"1s\" }\nconnections_max = 9")
        + "[sync]\npoll = \"2s\"\n[log]\nlevel = \"off\"\n";
    assert_eq!(old.waits_for_restart(&parse_well(&new)), ["[sync] or [gateway.failure_limit]", "[log]"]);
}
