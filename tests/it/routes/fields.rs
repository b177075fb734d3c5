//! Fields that a route changes, and the credential that the gateway shows a service.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Config, Http, Reply, Site, Upstream, get, until};

const SECRET: &str = "s3cr3t-of-the-service-0001";

fn config(upstream: &Upstream) -> Config {
    Config::bare(upstream).route(
        "name = 'fields'\npath = '/f/{*rest}'\nany_key = true\n\
         [routes.request_headers]\n\
         set = { x-tenant = 'acme', x-env = { env = 'KEYWARD_IT_VALUE' }, x-filed = { file = 'filed.secret' } }\n\
         add = { accept-language = 'de' }\n\
         remove = ['cookie', 'x-secret']\n\
         [routes.response_headers]\n\
         set = { x-frame-options = 'DENY' }\n\
         add = { link = '</help>' }\n\
         remove = ['server']\n\
         [routes.upstream_credential]\n\
         file = 'service.secret'",
    )
}

fn write_private(site: &Site, name: &str, text: &str) {
    site.replace(name, text);
    fs::set_permissions(site.path(name), Permissions::from_mode(0o600)).expect("a file");
}

/// A folder with the configuration and its secrets. `init` reads the configuration too, so it is
/// given the secrets first.
fn site(upstream: &Upstream) -> Site {
    let site = Site::new(&Config::in_front_of(upstream));
    write_private(&site, "service.secret", &format!("{SECRET}\n"));
    write_private(&site, "filed.secret", "filed-value");
    site
}

#[test]
fn fields_are_set_added_and_removed_both_ways_and_the_service_sees_the_gateways_own_credential() {
    let upstream = Upstream::answering(|_| {
        Reply::text("x").header("server", "old/1.0").header("x-frame-options", "ALLOW").header("link", "</a>")
    });
    let site = site(&upstream);
    let key = site.key(&[]);
    let environment = [("KEYWARD_IT_VALUE", "from-the-environment")];
    site.write_config(&config(&upstream));
    let gateway = site.start_with(&environment);
    for http in [Http::One, Http::Two] {
        let answer = gateway.connect(http).send(
            get("/f/x")
                .bearer(&key.token)
                .header("x-tenant", "evil")
                .header("x_tenant", "evil")
                .header("X.Tenant", "evil")
                .header("accept-language", "en")
                .header("cookie", "a=b")
                .header("x-secret", "1"),
        );
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-frame-options"), Some("DENY"));
        assert_eq!(answer.header("server"), None);
        assert_eq!(answer.headers.get_all("link").iter().count(), 2);
        let saw = upstream.requests().pop().expect("a request");
        assert_eq!(saw.header("authorization"), Some(format!("Bearer {SECRET}").as_str()));
        assert_eq!(saw.header("x-tenant"), Some("acme"));
        assert_eq!(saw.header("x-env"), Some("from-the-environment"));
        assert_eq!(saw.header("x-filed"), Some("filed-value"));
        let languages: Vec<_> = saw.headers.get_all("accept-language").iter().collect();
        assert_eq!(languages, ["en", "de"]);
        for gone in ["cookie", "x-secret", "x_tenant", "x.tenant"] {
            assert!(!saw.headers.contains_key(gone), "{gone}");
        }
        assert!(saw.header("keyward-key-id").is_some());
    }
    // A key that is refused is not shown it, and nobody is told it.
    assert_eq!(gateway.send(get("/f/x")).status, 401);
    assert_eq!(upstream.count(), 2);

    // The file's change is enough.
    write_private(&site, "service.secret", "another-secret");
    until("the new secret", || {
        gateway.send(get("/f/x").bearer(&key.token));
        upstream.requests().pop().expect("a request").header("authorization") == Some("Bearer another-secret")
    });
    let said = format!("{}{}{}", gateway.log(), gateway.stdout(), gateway.metrics());
    for secret in [SECRET, "another-secret", "from-the-environment", "filed-value"] {
        assert!(!said.contains(secret), "{secret} was told");
    }
}

#[test]
fn a_secret_that_others_may_read_or_that_is_not_there_is_refused() {
    let upstream = Upstream::start();
    let site = site(&upstream);
    site.write_config(&config(&upstream));
    let check = || {
        let ran = site.try_run(["check", "-c", "keyward.toml"]);
        (ran.code, format!("{}{}", ran.stdout, ran.stderr))
    };
    let (code, said) = check();
    assert!(code != Some(0) && said.contains("the environment has no \"KEYWARD_IT_VALUE\""), "{said}");
    fs::set_permissions(site.path("service.secret"), Permissions::from_mode(0o644)).expect("a file");
    fs::remove_file(site.path("filed.secret")).expect("a file");
    let (_, said) = check();
    assert!(said.contains("has mode 0644, expected 0600 or stricter"), "{said}");
    assert!(said.contains("filed.secret: put the secret there"), "{said}");
    assert!(!said.contains(SECRET), "{said}");
}
