//! A store whose later pages were overwritten: it opens, and is damaged where nobody has looked yet.

use std::fmt::Write as _;
use std::fs;

use crate::harness::{Config, Gateway, Site, Upstream, get, until};

const PAGE: usize = 4096;

/// A token of no shape of ours, and one that nobody guesses.
fn token(number: usize) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha512::digest(format!("token {number}"));
    digest.iter().take(24).fold("old-".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes whatever is written to it");
        text
    })
}

/// A site with keys on many pages.
fn site_of(upstream: &Upstream) -> Site {
    let site = Site::new(&Config::in_front_of(upstream).sync("poll = '200ms'"));
    let tokens: String = (0..300).map(|number| token(number) + "\n").collect();
    site.replace("tokens.txt", &tokens);
    site.run(["keys", "import", "-c", "keyward.toml", "--project", "acme", "--tokens", "tokens.txt"]);
    site
}

/// Overwrites every page but the first few on which the hash of `token` stands: the row's, and its index's.
fn damage(site: &Site, token: &str) {
    use sha2::Digest as _;
    let hash = sha2::Sha512::digest(token);
    let file = site.path("data/keyward.db");
    let mut bytes = fs::read(&file).expect("a file");
    let mut damaged = 0;
    for page in bytes.chunks_mut(PAGE).skip(1) {
        if page.windows(hash.len()).any(|window| window == hash.as_slice()) {
            page.fill(0xa5);
            damaged += 1;
        }
    }
    assert!(damaged > 0, "the hash stands nowhere");
    fs::write(&file, bytes).expect("a file");
}

fn status(gateway: &Gateway, token: &str) -> u16 {
    gateway.send(get("/any/x").bearer(token)).status
}

#[test]
fn a_store_with_a_damaged_page_grants_nothing_and_says_so() {
    let upstream = Upstream::start();
    let site = site_of(&upstream);
    damage(&site, &token(150));
    let ran = site.try_run(["check", "-c", "keyward.toml"]);
    assert!(ran.code == Some(64) && ran.stderr.contains("keyward.db is damaged"), "{ran:?}");
    let gateway = site.start_unready();
    let logged = gateway.until_logged(0, "keyward.db is damaged");
    assert!(logged.contains("restore it from a backup"), "{logged}");
    for number in [0, 150, 299] {
        assert_eq!(status(&gateway, &token(number)), 503, "{number}");
    }
    assert_eq!((status(&gateway, "nobody's"), gateway.ops("/readyz").status), (503, 503));
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_gateway_that_knew_its_keys_goes_on_with_a_damaged_store_and_says_so() {
    let upstream = Upstream::start();
    let site = site_of(&upstream);
    let revoked = site.key(&[]);
    site.revoke(&revoked);
    let mut gateway = site.start();
    assert_eq!((status(&gateway, &token(150)), status(&gateway, &revoked.token)), (200, 401));
    gateway.terminate();
    assert!(gateway.ended().success());

    damage(&site, &token(150));
    let gateway = site.start();
    // Nothing has changed, so nothing of it is read by following alone.
    gateway.until_logged(0, "keyward.db is damaged");
    let alarms = "keyward_divergence_alarms_total{kind=\"damaged\"} ";
    until("the alarm", || !gateway.metrics().contains(&format!("{alarms}0")));
    for number in [0, 150, 299] {
        assert_eq!(status(&gateway, &token(number)), 200, "{number}");
    }
    assert_eq!(status(&gateway, &revoked.token), 401);
    let stranger = status(&gateway, "a-token-of-some-other-shape-that-nobody-has-imported");
    assert!([401, 503].contains(&stranger), "{stranger}");
}
