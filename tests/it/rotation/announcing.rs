//! What is announced, to whom, how often, and what it takes to stop it.

use std::collections::BTreeSet;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::receiver::Receiver;
use crate::harness::{Call, Config, Gateway, Site, Upstream, get, post, until};

const ROTATION: &str = "[rotation]\npoll = '20ms'\nallow_private_webhooks = true\nca = 'receiver.pem'";

fn config(upstream: &Upstream) -> Config {
    Config::in_front_of(upstream).admin_line("public_url = 'https://keys.example.com'").section(ROTATION)
}

/// A key that is announced to `receiver`, as the command that made it printed it.
fn hooked(site: &Site, receiver: &Receiver) -> Value {
    let fixed = ["keys", "create", "-c", "keyward.toml", "--project", "acme", "--name", "farm", "--json"];
    site.run(fixed.iter().chain(&["--rotate-every", "30d", "--webhook", &receiver.url()])).json()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// Lets the next rotation of these keys come due now: a rotation is planned in days.
fn make_due(site: &Site, ids: &[&str]) {
    let store = Connection::open(site.path("data/keyward.db")).expect("the store");
    store.busy_timeout(std::time::Duration::from_secs(10)).expect("a timeout");
    for id in ids {
        let bits = u128::from_str_radix(id.trim_start_matches("key_"), 16).expect("an id");
        let changed = store.execute(
            "UPDATE keys SET rotation_next_at = rotation_next_at - 2592000000000000 WHERE id = ?1",
            [bits.to_be_bytes()],
        );
        assert_eq!(changed.expect("a change"), 1);
    }
}

fn gauge(gateway: &Gateway, name: &str) -> String {
    let page = gateway.metrics();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).to_owned()
}

#[test]
fn a_receiver_verifies_what_is_due_and_rotates_the_key() {
    let upstream = Upstream::start();
    let site = Site::new(&config(&upstream));
    let receiver = Receiver::start(&site, 204);
    let gateway = site.start();
    let operator = |call: Call| gateway.api(call.bearer(site.operator())).json();
    let fields = json!({ "project_id": "acme", "name": "farm", "rotation_interval_days": 30, "rotation_webhook_url": receiver.url() });
    let made = operator(post("/v1/api-keys").json(&fields));
    let (id, token, secret) = (text(&made, "id"), text(&made, "key"), text(&made, "rotation_webhook_secret"));
    Receiver::knows(&site, &["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAAAAAAAAAA=", secret]);
    let send = |token: &str| gateway.send(get("/any/x").bearer(token)).status;
    assert_eq!(send(token), 200);

    make_due(&site, &[id]);
    let due = receiver.next();
    assert_eq!((&due["verified_by"], &due["signatures"]), (&2.into(), &1.into()), "{due}");
    assert_eq!(due["message"]["type"], "api_key.rotation_due");
    assert_eq!(text(&due["message"]["data"], "id"), id);
    assert_eq!(due["message"]["data"]["rotate_url"], format!("https://keys.example.com/v1/api-keys/{id}/rotate"));
    assert!(!due.to_string().contains(token));
    until("the due rotation in the metrics", || gauge(&gateway, "keyward_rotations_due") == "1");
    assert!(site.keys(&["list"]).stdout.contains("due since "));

    // The receiver rotates where it is configured to, with the token that it has.
    let rotate = |token: &str| gateway.api(post("/v1/api-keys/self/rotate").bearer(token)).json();
    let rotated = rotate(token);
    assert_eq!(send(text(&rotated, "key")), 200, "the new token works once it was told");
    assert_eq!(send(token), 200, "the old one is in its grace");
    let told = receiver.next();
    assert_eq!(
        (told["message"]["type"].as_str(), &told["verified_by"]),
        (Some("api_key.rotated"), &2.into()),
        "{told}"
    );
    assert_eq!(told["message"]["data"]["replaced_by_key_id"], rotated["new_key_id"]);
    until("nothing due in the metrics", || gauge(&gateway, "keyward_rotations_due") == "0");

    // While the secret is being changed both are signed with, for the next key of the lineage too.
    let next = text(&rotated, "new_key_id");
    let changed = operator(post(&format!("/v1/api-keys/{next}/webhook-secret/rotate")));
    let newer = text(&changed, "rotation_webhook_secret");
    assert_ne!(newer, secret);
    for known in [secret, newer] {
        Receiver::knows(&site, &[known]);
        make_due(&site, &[next]);
        let due = receiver.next();
        assert_eq!((&due["verified_by"], &due["signatures"]), (&1.into(), &2.into()), "{due}");
    }
    let again = rotate(text(&rotated, "key"));
    assert_eq!(receiver.next()["verified_by"], 1);
    assert_eq!(send(text(&again, "key")), 200);
    let announced = || {
        let shown = site.keys(&["show", text(&again, "new_key_id"), "--json"]).json();
        let told = shown["announcements"].as_array().expect("announcements");
        let is_told = told.len() == 5 && told.iter().all(|it| it["state"] == "delivered");
        (is_told && shown["lineage"].as_array().map(Vec::len) == Some(3)).then_some(shown)
    };
    until("five announcements", || announced().is_some());
    for told in [gateway.log(), format!("{:?}", announced()), site.keys(&["show", next]).stdout] {
        assert!(!told.contains("whsec_") && !told.contains(token), "{told}");
    }
    assert_eq!(receiver.rest(), [Value::Null; 0]);
}

#[test]
fn secrets_of_webhooks_follow_the_master_secret_while_the_gateway_serves() {
    let upstream = Upstream::start();
    let site = Site::new(&config(&upstream));
    let receiver = Receiver::start(&site, 204);
    let gateway = site.start();
    let operator = |call: Call| gateway.api(call.bearer(site.operator())).json();
    let hooked = || {
        let fields = json!({
            "project_id": "acme", "name": "farm", "rotation_interval_days": 30, "rotation_webhook_url": receiver.url(),
        });
        operator(post("/v1/api-keys").json(&fields))
    };
    let secrets = |arguments: &[&str]| {
        let mark = gateway.log_mark();
        site.run(["secrets"].iter().chain(arguments).chain(&["-c", "keyward.toml"]));
        gateway.until_logged(mark, "master secrets taken over");
    };
    let signed = |id: &str, known: &[&str]| {
        Receiver::knows(&site, known);
        make_due(&site, &[id]);
        let due = receiver.next();
        (due["verified_by"].clone(), due["signatures"].clone())
    };
    let keys: Vec<Value> = (0..6).map(|_| hooked()).collect();
    let told: Vec<&str> = keys.iter().map(|made| text(made, "rotation_webhook_secret")).collect();
    Receiver::knows(&site, &told);
    // What is sent while the secret is changed verifies, before, in the middle and after.
    std::thread::scope(|scope| {
        scope.spawn(|| keys.iter().for_each(|made| make_due(&site, &[text(made, "id")])));
        secrets(&["rotate"]);
    });
    for _ in &keys {
        let due = receiver.next();
        assert!(due["verified_by"].is_number(), "{due}");
    }

    let old = text(&keys[0], "id");
    assert_eq!(signed(old, &[told[0]]), (1.into(), 2.into()));
    // Who is told now is told what the new master secret makes, and that alone verifies it.
    let made = hooked();
    assert_eq!(signed(text(&made, "id"), &[text(&made, "rotation_webhook_secret")]), (1.into(), 2.into()));
    let changed = operator(post(&format!("/v1/api-keys/{old}/webhook-secret/rotate")));
    let newer = text(&changed, "rotation_webhook_secret");
    for known in [told[0], newer] {
        assert_eq!(signed(old, &[known]), (1.into(), 4.into()), "two of each master secret");
    }
    secrets(&["forget", "1"]);
    assert_eq!(signed(old, &[newer]), (1.into(), 2.into()));
    assert_eq!(signed(old, &[told[0]]), (Value::Null, 2.into()), "what is forgotten signs nothing");
    assert_eq!(signed(text(&made, "id"), &[text(&made, "rotation_webhook_secret")]), (1.into(), 1.into()));
}

#[test]
fn what_failed_is_sent_again_by_whoever_comes_after_a_killed_process() {
    let upstream = Upstream::start();
    // Whoever is killed while sending holds what it sends for twice the timeout.
    let patience = format!("{ROTATION}\ntimeout = '300ms'\nretries = {:?}", ["200ms"; 32]);
    let config =
        Config::in_front_of(&upstream).admin_line("public_url = 'https://keys.example.com'").section(&patience);
    let site = Site::new(&config);
    let receiver = Receiver::start(&site, 500);
    let made = hooked(&site, &receiver);
    Receiver::knows(&site, &[text(&made, "rotation_webhook_secret")]);
    make_due(&site, &[text(&made, "id")]);
    let mut ids = BTreeSet::new();
    for status in [500, 302, 503] {
        Receiver::answers(&site, status);
        let mut gateway = site.start();
        // What the process before sent last may not have been looked at.
        let tried = std::iter::repeat_with(|| receiver.next()).find(|tried| tried["status"] == status);
        let tried = tried.expect("it is sent until it is heard");
        assert_eq!((&tried["path"], &tried["verified_by"]), (&"/hook".into(), &1.into()), "{tried}");
        ids.insert(text(&tried, "id").to_owned());
        gateway.kill();
    }
    Receiver::answers(&site, 204);
    let gateway = site.start();
    let shown = || site.keys(&["show", text(&made, "id"), "--json"]).json();
    until("the delivery", || shown()["announcements"][0]["state"] == "delivered");
    ids.extend(receiver.rest().iter().map(|tried| text(tried, "id").to_owned()));
    assert_eq!(ids.len(), 1, "one announcement, however often it is sent");
    assert_eq!(shown()["announcements"].as_array().map(Vec::len), Some(1));
    drop(gateway);
}

#[test]
fn a_receiver_that_is_gone_is_told_nothing_more() {
    let upstream = Upstream::start();
    let site = Site::new(&config(&upstream));
    let receiver = Receiver::start(&site, 410);
    let made = hooked(&site, &receiver);
    let id = text(&made, "id");
    make_due(&site, &[id]);
    let gateway = site.start();
    assert_eq!(receiver.next()["status"], 410);
    until("the webhook taken off the key", || {
        site.keys(&["show", id, "--json"]).json()["rotation_webhook_url"] == Value::Null
    });
    until("the due rotation in the metrics", || gauge(&gateway, "keyward_rotations_due") == "1");
    site.keys(&["revoke", id]);
    until("nothing due in the metrics", || gauge(&gateway, "keyward_rotations_due") == "0");
    assert_eq!(receiver.rest(), [Value::Null; 0]);
}

#[test]
fn two_gateways_on_one_store_announce_each_key_once() {
    let upstream = Upstream::start();
    let site = Site::new(&config(&upstream));
    let receiver = Receiver::start(&site, 204);
    let keys: Vec<_> = (0..8).map(|_| hooked(&site, &receiver)).collect();
    let ids: Vec<_> = keys.iter().map(|made| text(made, "id")).collect();
    site.replace("second.toml", &config(&upstream).sync("state_dir = 'second.state'").to_toml());
    let first = site.start();
    let second = Gateway::start_by(&site, site.command(["serve", "-c", "second.toml"]));
    make_due(&site, &ids);
    let announced: BTreeSet<_> = (0..8).map(|_| text(&receiver.next()["message"]["data"], "id").to_owned()).collect();
    assert_eq!(announced, ids.iter().map(|id| (*id).to_owned()).collect());
    let delivered = |gateway: &Gateway| {
        gauge(gateway, "keyward_webhook_deliveries_total{outcome=\"delivered\"}").parse::<u32>().expect("a number")
    };
    until("all of them in the metrics", || delivered(&first) + delivered(&second) == 8);
    assert_eq!(receiver.rest(), [Value::Null; 0]);
}

#[test]
fn a_webhook_that_leads_inside_is_refused() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).admin_line("public_url = 'https://keys.example.com/'"));
    let create = |url: &str| {
        site.try_run(["keys", "create", "-c", "keyward.toml", "--project", "acme", "--name", "x", "--webhook", url])
    };
    for url in [
        "https://127.0.0.1/",
        "https://0x7f.1/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/",
        "http://example.com/",
    ] {
        let refused = create(url);
        assert!(refused.code == Some(1) && refused.stderr.contains("rotation_webhook_url: "), "{url}: {refused:?}");
    }
    assert_eq!(create("https://hooks.example.com/").code, Some(0));
    let without = Site::new(&Config::in_front_of(&upstream));
    let refused = without.try_run([
        "keys",
        "create",
        "-c",
        "keyward.toml",
        "--project",
        "acme",
        "--name",
        "x",
        "--webhook",
        "https://hooks.example.com/",
    ]);
    assert!(refused.stderr.contains("[admin] public_url"), "{refused:?}");
}
