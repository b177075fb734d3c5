//! Setting up: what init makes, what check says, and which rights a gateway needs.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Care, Cluster, Config, Site, Upstream, get};

#[test]
fn init_makes_the_tables_once_and_the_secret_beside_the_configuration() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Fast));
    let site = Site::bare(&Config::in_front_of(&upstream).postgres(&cluster.url(), ""));
    let text = fs::read_to_string(site.path("keyward.toml")).expect("the configuration");
    site.replace("keyward.toml", &text.replace("[secrets]\nmaster_file = 'data/master.secret'\n", ""));
    let refused = site.try_run(["serve", "-c", "keyward.toml"]);
    assert_eq!(refused.code, Some(64), "{refused:?}");
    let checked = site.run(["check", "-c", "keyward.toml"]).stdout;
    assert!(checked.contains("not made yet") && checked.contains("/keyward"), "{checked}");

    let made = site.run(["init", "-c", "keyward.toml"]).stdout;
    assert!(made.contains("postgres://127.0.0.1") && made.contains("kw_live_"), "{made}");
    assert!(site.path("master.secret").exists());
    let again = site.run(["init", "-c", "keyward.toml"]).stdout;
    assert!(!again.contains("kw_live_"), "{again}");
    let checked = site.run(["check", "-c", "keyward.toml", "--json"]).json();
    assert!(checked.to_string().contains("\"exists\":true"), "{checked}");
    assert_eq!(cluster.sql("SELECT count(*) FROM keyward.keys"), "1");

    fs::remove_file(site.path("master.secret")).expect("it was made");
    let refused = site.try_run(["init", "-c", "keyward.toml"]);
    assert_eq!(refused.code, Some(64), "no second secret: {refused:?}");
}

#[test]
fn the_password_is_taken_from_a_file_or_the_environment_and_shown_nowhere() {
    const PASSWORD: &str = "hunter2-hunter2";
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Fast));
    // Version 13 would still keep it as MD5.
    cluster.sql(&format!("SET password_encryption = 'scram-sha-256'; ALTER ROLE keyward PASSWORD '{PASSWORD}'"));
    let rules = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    fs::write(cluster.data().join("pg_hba.conf"), rules).expect("the server's rules");
    cluster.sql("SELECT pg_reload_conf()");
    let url = |password: &str| cluster.url().replace("keyward@", &format!("keyward:{password}@"));
    let config = Config::in_front_of(&upstream).postgres("postgres://u@127.0.0.1:1/d", "");
    let site = Site::bare(&config);
    let text = fs::read_to_string(site.path("keyward.toml")).expect("the configuration");
    site.replace("keyward.toml", &text.replace("url = 'postgres://u@127.0.0.1:1/d'", "url_file = 'data/url'"));
    let put = |password: &str, mode| {
        fs::write(site.path("data/url"), url(password) + "\n").expect("a file");
        fs::set_permissions(site.path("data/url"), fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    put(PASSWORD, 0o644);
    let open = site.try_run(["init", "-c", "keyward.toml"]);
    assert!(open.code == Some(64) && open.stderr.contains("0600"), "{open:?}");
    put("wrong-wrong", 0o600);
    let wrong = site.try_run(["init", "-c", "keyward.toml"]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("password authentication failed"), "{wrong:?}");
    assert!(!wrong.stderr.contains("wrong-wrong"), "{wrong:?}");
    put(PASSWORD, 0o600);
    site.run(["init", "-c", "keyward.toml"]);

    // The environment goes before the file.
    put("wrong-wrong", 0o600);
    let right = url(PASSWORD);
    let environment = [("KEYWARD_POSTGRES_URL", right.as_str()), ("KEYWARD_LOG", "trace")];
    let gateway = site.start_with(&environment);
    assert_eq!(gateway.send(get("/any/x").bearer("nobody-knows-this-token-at-all-here")).status, 401);
    let log = gateway.log();
    assert!(!log.contains(PASSWORD) && !log.contains("wrong-wrong"), "{log}");
}

#[test]
fn a_gateway_needs_no_right_but_to_read_and_write_rows() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Fast));
    let config = |url: &str| Config::in_front_of(&upstream).postgres(url, "");
    let site = Site::new(&config(&cluster.url()));
    // As docs/OPERATIONS.md says.
    cluster.sql(
        "CREATE ROLE gateway LOGIN; GRANT USAGE ON SCHEMA keyward TO gateway; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA keyward TO gateway",
    );
    site.write_config(&config(&cluster.url().replace("keyward@", "gateway@")));
    let gateway = site.start();
    let key = site.key(&[]);
    assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200);
    site.revoke(&key);
}

#[test]
fn a_reload_does_not_change_the_store() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(Care::Fast));
    let config = |lines: &str| Config::in_front_of(&upstream).postgres(&cluster.url(), lines);
    let site = Site::new(&config(""));
    let gateway = site.start();
    site.write_config(&config("pool_max = 20"));
    gateway.hang_up();
    crate::harness::until("the refusal", || gateway.log().contains("store.postgres"));
}
