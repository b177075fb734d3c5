//! The commands through a running gateway's management API: the same answers as from the store.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use crate::harness::{Config, Gateway, Ran, Site, Upstream};

/// A gateway with its management API, and the operator's token in a file.
struct Place {
    site: Site,
    gateway: Gateway,
    _upstream: Upstream,
}

impl Place {
    fn new() -> Self {
        let upstream = Upstream::start();
        let site = Site::new(&Config::in_front_of(&upstream).admin().sync("usage_flush = '10m'"));
        let gateway = site.start();
        let place = Self { site, gateway, _upstream: upstream };
        place.token_file("operator.token", place.site.operator());
        place
    }

    fn token_file(&self, name: &str, token: &str) {
        let file = self.site.path(name);
        fs::write(&file, format!("{token}\n")).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("our own file");
    }

    fn url(&self) -> String {
        format!("http://{}", self.gateway.listener("admin"))
    }

    /// The command over the API, whatever comes of it.
    fn try_over(&self, url: &str, arguments: &[&str]) -> Ran {
        let road = ["--admin", url, "--token-file", "operator.token"];
        self.site.try_run(arguments.iter().chain(&road))
    }

    fn over(&self, arguments: &[&str]) -> Ran {
        let ran = self.try_over(&self.url(), arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
        ran
    }

    /// The same command on the store.
    fn on(&self, arguments: &[&str]) -> Ran {
        self.site.run(arguments.iter().chain(&["-c", "keyward.toml"]))
    }

    /// That both roads print the same, which is not nothing. Not for the operator's own key, which is used
    /// by asking.
    fn same(&self, arguments: &[&str]) -> Ran {
        let (over, on) = (self.over(arguments), self.on(arguments));
        assert!(!on.stdout.is_empty());
        assert_eq!((over.stdout.as_str(), over.stderr.as_str()), (on.stdout.as_str(), on.stderr.as_str()));
        over
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no text {name} in {value}")).to_owned()
}

fn assert_one_line(ran: &Ran, code: i32, told: &str) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert!(ran.stderr.starts_with("keyward: ") && ran.stderr.lines().count() == 1, "{ran:?}");
    assert!(ran.stderr.contains(told) && ran.stdout.is_empty(), "no {told:?} in {ran:?}");
}

#[test]
fn a_key_lives_its_life_over_the_api_as_on_the_store() {
    let place = Place::new();
    let create = ["keys", "create", "--project", "acme", "--name", "build", "--flag", "jobs:read", "--prop", "a=b"];
    let made = place.over(&[&create[..], &["--expires-in", "30d", "--rotate-every", "90d", "--json"]].concat()).json();
    let on_store =
        place.on(&[&create[..], &["--expires-in", "30d", "--rotate-every", "90d", "--json"]].concat()).json();
    let fields = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&made), fields(&on_store));
    let id = text(&made, "id");
    let (token, status) =
        (text(&made, "key"), |token: &str| place.gateway.send(crate::harness::get("/any/x").bearer(token)).status);
    assert_eq!(status(&token), 200, "it works once the command has ended");

    place.same(&["keys", "show", &id]);
    place.same(&["keys", "show", &id, "--json"]);
    let changed = place.over(&["keys", "update", &id, "--name", "farm", "--disable", "--json"]).json();
    assert_eq!((&changed["name"], &changed["status"]), (&Value::from("farm"), &Value::from("disabled")));
    assert_eq!(status(&token), 401);
    let told = place.over(&["keys", "update", &id, "--enable", "--never-expires", "--no-rotation"]).stdout;
    assert!(told.starts_with(&format!("changed key {id} (farm), revision ")), "{told}");

    let rotated = place.over(&["keys", "rotate", &id, "--grace", "60m", "--json"]).json();
    assert_eq!(text(&rotated, "old_key_id"), id);
    assert_eq!((status(&token), status(&text(&rotated, "key"))), (200, 200));
    place.same(&["keys", "show", &id]);
    assert_one_line(&place.try_over(&place.url(), &["keys", "rotate", &id, "--grace", "90s"]), 2, "whole minutes");

    let revoked = place.over(&["keys", "revoke", &id, "--scope", "lineage"]).stdout;
    assert_eq!(
        revoked.lines().filter(|line| line.starts_with("revoked key ") && line.contains(" (farm), ")).count(),
        2
    );
    assert_eq!((status(&token), status(&text(&rotated, "key"))), (401, 401));
    let again = place.over(&["keys", "revoke", &id]).stdout;
    assert!(again.starts_with(&format!("key {id} was revoked already")), "{again}");
    let told = place.over(&["keys", "create", "--project", "acme", "--name", "short", "--expires-in", "90s"]).stdout;
    let lines: Vec<_> = told.lines().collect();
    assert!(lines[0].starts_with("made key key_") && lines.last().is_some_and(|line| line.starts_with("kw_live_")));
    place.same(&["keys", "list", "--project", "acme"]);
    place.same(&["keys", "export", "--project", "acme"]);
    place.same(&["keys", "export", "--json", "--status", "revoked"]);
}

#[test]
fn lists_of_many_pages_are_followed_to_their_end() {
    let place = Place::new();
    let tokens: String = (0..450).map(|number| format!("a-token-of-another-house-{number:020}\n")).collect();
    fs::write(place.site.path("tokens"), tokens).expect("a file");
    place.site.keys(&["import", "--tokens", "tokens", "--project", "acme", "--allow-weak"]);
    let ran = place.same(&["keys", "list", "--project", "acme", "--json"]);
    assert_eq!(ran.json().as_array().map(Vec::len), Some(450));
    let ran = place.same(&["keys", "list", "--limit", "201", "--json"]);
    assert_eq!(ran.json().as_array().map(Vec::len), Some(201));
    place.same(&["keys", "list", "--query", "imported-4", "--environment", "live"]);
    assert_eq!(place.same(&["keys", "export", "--project", "acme"]).stdout.lines().count(), 451);
    assert_eq!(place.same(&["events"]).stdout.lines().count(), 451);
    assert_eq!(place.same(&["events", "--after", "1", "--json"]).stdout.lines().count(), 450);
}

#[test]
fn users_are_made_changed_and_deleted_over_the_api() {
    let place = Place::new();
    let told = place.over(&["users", "set", "ann@x", "--project", "acme", "--flag", "jobs:read"]).stdout;
    assert!(told.starts_with("made user ann@x, revision "), "{told}");
    let key =
        place.over(&["keys", "create", "--project", "acme", "--name", "a", "--user", "ann@x", "--inherit", "--json"]);
    let id = text(&key.json(), "id");
    assert!(place.same(&["keys", "show", &id]).stdout.contains("user's flags   jobs:read"));
    let set = place.over(&["users", "set", "ann@x", "--disabled", "--wait", "20s", "--json"]).json();
    assert_eq!((&set["active"], &set["flags"]), (&Value::from(false), &serde_json::json!(["jobs:read"])));
    assert_eq!(text(&set, "project_id"), "acme", "what is not named stays");
    place.same(&["users", "list"]);
    place.same(&["users", "show", "ann@x", "--json"]);
    let told = place.over(&["users", "set", "ann@x", "--enabled", "--wait", "20s"]).stdout;
    assert!(told.ends_with("in force on the only gateway\n"), "{told}");
    let deleted = place.over(&["users", "delete", "ann@x", "--wait", "20s", "--json"]).json();
    assert_eq!((&deleted["id"], &deleted["revoked"]), (&Value::from("ann@x"), &serde_json::json!([id])));
    assert_eq!(deleted["confirmation"]["confirmed"], true);
    assert_one_line(&place.try_over(&place.url(), &["users", "show", "ann@x"]), 1, "404 user_not_found");
    assert_one_line(&place.try_over(&place.url(), &["users", "set", "ann@x"]), 1, "409 user_deleted");
}

/// Two who change different things of one user at once both get what they asked for.
#[test]
fn changes_of_a_user_by_several_at_once_do_not_undo_each_other() {
    let place = Place::new();
    place.over(&["users", "set", "ann", "--project", "acme"]);
    let url = place.url();
    let set = |arguments: &[&str]| {
        let words = ["users", "set", "ann"].iter().chain(arguments);
        let mut command = place.site.command(words.chain(&["--admin", &url, "--token-file", "operator.token"]));
        command.stdout(Stdio::null()).spawn().expect("the program starts")
    };
    for round in 0..5 {
        let flag = format!("round.{round}");
        let state = if round % 2 == 0 { "--disabled" } else { "--enabled" };
        for mut child in [set(&["--flag", &flag]), set(&[state])] {
            assert!(child.wait().expect("a child").success());
        }
        let ann = place.over(&["users", "show", "ann", "--json"]).json();
        assert_eq!((&ann["flags"], &ann["active"]), (&serde_json::json!([flag]), &Value::from(round % 2 == 1)));
    }
}

#[test]
fn whoever_may_not_is_told_what_to_do() {
    let place = Place::new();
    let list = ["keys", "list"];
    let with = |environment: &[(&str, &str)], arguments: &[&str]| {
        let mut command = place.site.command(arguments);
        let output = command.envs(environment.iter().copied()).output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    };
    let url = place.url();
    let admin = ["keys", "list", "--admin", &url];
    assert_one_line(&with(&[], &admin), 2, "KEYWARD_TOKEN");
    assert_eq!(with(&[("KEYWARD_TOKEN", place.site.operator())], &admin).code, Some(0));
    let nobody = format!("kw_live_{}", "a".repeat(49));
    let refused = with(&[("KEYWARD_TOKEN", &nobody)], &admin);
    assert_one_line(&refused, 1, "401 invalid_key: The key does not work");
    assert!(refused.stderr.contains("--token-file") && !refused.stderr.contains(&nobody));

    let operate = ["--operate-project", "acme", "--operate-environment", "all", "--json"];
    let reader = ["keys", "create", "--project", "acme", "--name", "reader", "--flag", "keyward.keys.read"];
    let reader = text(&place.on(&[&reader[..], &operate[..]].concat()).json(), "key");
    let create = ["keys", "create", "--project", "acme", "--name", "x", "--admin", &url];
    let refused = with(&[("KEYWARD_TOKEN", &reader)], &create);
    assert_one_line(&refused, 1, "403 lacks_permission");
    assert!(refused.stderr.contains("keyward.keys.create") && refused.stderr.contains("holds that flag"));
    assert_eq!(with(&[("KEYWARD_TOKEN", &reader)], &admin).code, Some(0));

    fs::set_permissions(place.site.path("operator.token"), fs::Permissions::from_mode(0o644)).expect("our own file");
    assert_one_line(&place.try_over(&url, &list), 1, "chmod 600");
    place.token_file("operator.token", place.site.operator());
    let id = format!("key_{}", "0".repeat(32));
    assert_one_line(&place.try_over(&url, &["keys", "show", &id]), 1, "404 not_found: There is no such key");
    assert_one_line(&place.try_over(&url, &["keys", "export", "--hashes"]), 2, "-c FILE");
    assert_one_line(&place.try_over(&url, &["keys", "import", "--csv", "x"]), 2, "keys import");
    assert_one_line(&place.try_over(&url, &["keys", "list", "-c", "keyward.toml"]), 2, "cannot be used with");
    assert_one_line(&place.try_over("http://192.0.2.1:9443", &list), 2, "https://");
    assert_one_line(&place.try_over("http://127.0.0.1:1", &list), 1, "cannot connect to http://127.0.0.1:1");
    assert_one_line(&place.try_over(&format!("http://{}", place.gateway.address()), &list), 1, "[admin]");
    let tls = format!("https://{}", place.gateway.listener("admin"));
    assert_one_line(&place.try_over(&tls, &list), 1, "no TLS with https://");
}

#[test]
fn an_api_behind_tls_is_asked_by_whoever_trusts_it() {
    let upstream = Upstream::start();
    let config = |tls: &str| Config::in_front_of(&upstream).tls().admin().admin_line(tls);
    let site = Site::new(&config("tls = { certificates = [{ chain = 'tls/chain.pem', key = 'tls/key.pem' }] }"));
    let gateway = site.start();
    let url = format!("https://localhost:{}", gateway.listener("admin").port());
    let ask = |arguments: &[&str]| {
        let mut command = site.command(["users", "list", "--admin", &url].iter().chain(arguments));
        command.env("KEYWARD_TOKEN", site.operator()).output().expect("the program starts")
    };
    assert_eq!(ask(&["--ca", "tls/chain.pem"]).status.code(), Some(0));
    let refused = ask(&[]);
    let told = String::from_utf8(refused.stderr).expect("text");
    assert_eq!(refused.status.code(), Some(1));
    assert!(told.contains("no TLS with https://localhost") && told.contains("--ca FILE"), "{told}");
    assert_eq!(ask(&["--ca", "tls/key.pem"]).status.code(), Some(64));
}

/// Passes connections on to `target`; of the first `lost` of them, the answer is swallowed.
fn losing(target: SocketAddr, lost: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    thread::Builder::new()
        .name("losing".to_owned())
        .spawn(move || {
            while let Ok((caller, _)) = listener.accept() {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let service = TcpStream::connect(target).expect("the gateway accepts connections");
                let (mut up, mut from) =
                    (service.try_clone().expect("a socket"), caller.try_clone().expect("a socket"));
                let upward = thread::spawn(move || std::io::copy(&mut from, &mut up));
                let (mut down, mut to) = (service, caller);
                if number < lost {
                    let mut some = [0; 1024];
                    // The gateway has done it: the answer is on its way.
                    let _read = down.read(&mut some);
                    let _closed = to.shutdown(std::net::Shutdown::Both);
                    let _closed = down.shutdown(std::net::Shutdown::Both);
                } else {
                    let _ended = std::io::copy(&mut down, &mut to);
                    let _closed = to.shutdown(std::net::Shutdown::Both);
                }
                let _ended = upward.join();
            }
        })
        .expect("a thread");
    (address, seen)
}

#[test]
fn an_answer_that_is_lost_on_the_way_mints_no_second_key() {
    let place = Place::new();
    let (address, seen) = losing(place.gateway.listener("admin"), 2);
    let url = format!("http://{address}");
    let made = place.try_over(&url, &["keys", "create", "--project", "acme", "--name", "once", "--json"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert_eq!(seen.load(Ordering::SeqCst), 3);
    let token = text(&made.json(), "key");
    assert_eq!(place.gateway.send(crate::harness::get("/any/x").bearer(&token)).status, 200);
    let listed = place.over(&["keys", "list", "--project", "acme", "--json"]).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");

    let id = text(&made.json(), "id");
    let (address, _) = losing(place.gateway.listener("admin"), 1);
    let url = format!("http://{address}");
    let rotated = place.try_over(&url, &["keys", "rotate", &id, "--json"]);
    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    let listed = place.over(&["keys", "list", "--project", "acme", "--json"]).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
}

#[test]
fn events_are_followed_over_the_api() {
    let place = Place::new();
    let url = place.url();
    let mut child = place
        .site
        .command(["events", "--follow", "--json", "--token-file", "operator.token", "--admin", &url])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let first = lines.next().expect("the operator's key").expect("text");
    assert!(first.contains("key.created"), "{first}");
    let key = place.site.key(&[]);
    let next = lines.next().expect("the new key").expect("text");
    assert!(next.contains(&key.id), "{next}");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

#[test]
fn a_token_is_taken_from_a_pipe() {
    let place = Place::new();
    let mut child = place
        .site
        .command(["users", "list", "--token-file", "/dev/stdin", "--admin", &place.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    writeln!(child.stdin.take().expect("a pipe"), "{}", place.site.operator()).expect("the program reads");
    assert!(child.wait_with_output().expect("it ends").status.success());
}

#[test]
fn gateways_and_where_a_change_is_in_force_are_told_over_the_api() {
    let place = Place::new();
    let made = place.over(&["keys", "create", "--project", "acme", "--name", "build", "--json"]).json();
    let id = text(&made, "id");
    let told = place.over(&["keys", "update", &id, "--name", "farm", "--wait", "20s"]).stdout;
    assert!(told.ends_with("in force on the only gateway\n"), "{told}");
    let revoked = place.over(&["keys", "revoke", &id, "--wait", "20s", "--json"]).json();
    assert_eq!(revoked["confirmation"]["confirmed"], true, "{revoked}");
    let (over, on) = (place.over(&["gateways", "--json"]).json(), place.on(&["gateways", "list", "--json"]).json());
    assert_eq!((over.as_array().map(Vec::len), &over[0]["id"]), (Some(1), &on[0]["id"]));
    assert_eq!((&over[0]["applied_revision"], &over[0]["pid"]), (&on[0]["applied_revision"], &on[0]["pid"]));
    let table = place.over(&["gateways", "list"]).stdout;
    assert!(table.starts_with("GATEWAY ") && table.contains("The newest revision is 4."), "{table}");
    let gateway = text(&over[0], "id");
    let forgotten = place.over(&["gateways", "forget", &gateway, "--json"]).json();
    assert_eq!(forgotten, serde_json::json!({ "id": gateway, "processes": 1 }));
    let nobody = format!("gw_{}", "0".repeat(32));
    assert_one_line(&place.try_over(&place.url(), &["gateways", "forget", &nobody]), 1, "404 gateway_not_found");
    assert_one_line(&place.site.try_run(["gateways"]), 2, "--config");
}
