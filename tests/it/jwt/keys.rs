//! Keys in JWT form.

use keyward::key::{MintJwt as _, Signers};
use keyward::secret::{MasterSecret, MasterSecrets};
use keyward::store::{SqliteStore, Store as _};

use super::{ASSERTION, KEY, forged, jwt_key, public_keys, verified};
use crate::harness::{Config, Site, Upstream, get, until};

#[test]
fn a_key_in_jwt_form_opens_what_it_may_and_another_library_verifies_it() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).gateway("issuer = 'https://api.example.com'"));
    let key = jwt_key(&site, &["--flag", "keyring.read", "--expires-in", "1d", "--environment", "test"]);
    let gateway = site.start();
    assert_eq!(gateway.send(get("/keyrings/a").bearer(&key.token)).status, 200);

    let jwks = public_keys(&site);
    let [seen, as_assertion] = verified([[&jwks, KEY, "-", &key.token], [&jwks, ASSERTION, "service", &key.token]]);
    let claims = &seen["claims"];
    assert_eq!(claims["iss"], "https://api.example.com", "{seen}");
    assert_eq!((&claims["jti"], &claims["sub"]), (&key.id.as_str().into(), &key.id.as_str().into()));
    assert_eq!((&claims["project"], &claims["environment"]), (&"acme".into(), &"test".into()));
    let shown = site.keys(&["show", &key.id, "--json"]).json();
    assert_eq!((&shown["key_prefix"], &shown["format"]), (&"jwt".into(), &"jwt".into()));
    let ends = claims["exp"].as_i64().expect("an end") - claims["iat"].as_i64().expect("a beginning");
    assert_eq!(ends, 86_400, "its end is the key's");
    assert_eq!(as_assertion["refused"], "InvalidTokenError");
}

#[test]
fn a_revoked_key_in_jwt_form_is_refused_at_once_however_well_it_is_signed() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = jwt_key(&site, &[]);
    let gateway = site.start();
    let status = |token: &str| gateway.send(get("/any/x").bearer(token)).status;
    assert_eq!(status(&key.token), 200);
    let successor = site.rotate(&key, "1h");
    assert_ne!(successor.token, key.token);
    until("the successor", || status(&successor.token) == 200);
    assert_eq!(status(&key.token), 200, "within its grace");
    site.revoke(&key);
    until("the revocation", || status(&key.token) == 401);
    let jwks = public_keys(&site);
    let [new, old] = verified([[&jwks, KEY, "-", &successor.token], [&jwks, KEY, "-", &key.token]]);
    assert_eq!(new["claims"]["jti"], successor.id.as_str(), "a successor has its predecessor's form");
    assert!(old["claims"].is_object(), "what is signed stays signed, and opens nothing");
}

#[test]
fn a_forged_key_is_one_that_nobody_knows() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = jwt_key(&site, &["--flag", "keyring.read"]);
    let gateway = site.start();
    let forgeries = forged(&public_keys(&site), &key.token);
    assert!(forgeries.len() > 10);
    for token in forgeries {
        let answer = gateway.send(get("/any/x").bearer(&token));
        assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_key"), "{token}");
    }
    assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200);
}

#[test]
fn whoever_has_the_database_and_the_signing_key_cannot_make_a_token_again() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = jwt_key(&site, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let clock = std::sync::Arc::new(keyward::clock::SystemClock::default());
    let store = SqliteStore::open(&site.path("data/keyward.db"), clock).expect("a store");
    let request = keyward::store::ReadRequest { keys: vec![key.id.parse().expect("an id")], ..Default::default() };
    let stored = runtime.block_on(store.read(request)).expect("a reading").keys.remove(0);
    let secret = MasterSecret::parse(&std::fs::read(site.path("data/master.secret")).expect("a file"));
    let secrets = MasterSecrets::first(secret.expect("a secret"));
    let made = Signers::derive(&secrets, store.id().0, "keyward").mint(&stored).expect("randomness");
    drop(store);

    let [seen] = verified([[&public_keys(&site), KEY, "-", made.expose()]]);
    assert_eq!(seen["claims"]["jti"], key.id.as_str(), "the signature is right: {seen}");
    let gateway = site.start();
    assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200);
    assert_eq!(gateway.send(get("/any/x").bearer(made.expose())).status, 401);
}

#[test]
fn inspect_tells_what_a_key_claims_and_whether_that_is_so() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream));
    let key = jwt_key(&site, &[]);
    let jwks = public_keys(&site);
    let seen = site.run(["keys", "inspect", "--json", "--jwks", &jwks, &key.token]);
    let json = seen.json();
    assert_eq!((&json["form"], &json["jwt"]["signature"]), (&"jwt".into(), &"good".into()));
    assert_eq!(json["jwt"]["claims"]["jti"], key.id.as_str());
    assert!(json["jwt"]["claims"]["rnd"].is_null(), "what nobody may guess is not shown");
    let plain = site.run(["keys", "inspect", &key.token]).stdout;
    assert!(plain.contains("signature    not verified"), "{plain}");
    let forgery = forged(&jwks, &key.token).swap_remove(2);
    let refused = site.try_run(["keys", "inspect", "--jwks", &jwks, &forgery]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("the signature is wrong"), "{refused:?}");
}
