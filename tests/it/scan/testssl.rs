//! `testssl.sh` against a gateway whose TLS settings are the defaults: it finds nothing above LOW.
//!
//! Versions, ciphers and their order; with `KEYWARD_TESTSSL=1` everything it knows, which takes minutes.

use std::fs;
use std::process::{Command, Stdio};

use keyward::clock::{Clock, SystemClock};
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use serde_json::Value;

use crate::harness::{Config, Site, Upstream, times};

/// What an authority of the real world gives out: for three months, with a list of what was revoked.
fn issue(site: &Site) {
    let day = |days: i64| {
        let now = SystemClock::default().now().seconds() + days * 86_400;
        let date = jiff::Timestamp::from_second(now).expect("a time").to_zoned(jiff::tz::TimeZone::UTC).date();
        let of_date = |part: i8| u8::try_from(part).expect("counted from 1");
        rcgen::date_time_ymd(i32::from(date.year()), of_date(date.month()), of_date(date.day()))
    };
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.distinguished_name.push(rcgen::DnType::CommonName, "the authority of a test");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key");
    let root = authority.self_signed(&authority_key).expect("a certificate");
    let mut leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    leaf.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.crl_distribution_points = vec![CrlDistributionPoint { uris: vec!["http://localhost/list.crl".to_owned()] }];
    (leaf.not_before, leaf.not_after) = (day(-1), day(90));
    let key = KeyPair::generate().expect("a key");
    let signed = leaf.signed_by(&key, &Issuer::new(authority, authority_key)).expect("a certificate");
    site.replace("tls/key.pem", &key.serialize_pem());
    site.replace("tls/chain.pem", &(signed.pem() + &root.pem()));
    site.replace("tls/authority.pem", &root.pem());
}

#[test]
fn with_the_default_settings_it_finds_nothing_above_low() {
    let upstream = Upstream::start();
    let site = Site::new(&Config::in_front_of(&upstream).tls().gateway("access_log = false"));
    issue(&site);
    let gateway = site.start();
    let all = times("KEYWARD_TESTSSL", 0) > 0;
    // Without -S the certificate is not looked at, which is the operator's.
    let checks: &[&str] = if all { &[] } else { &["-p", "-P"] };
    let output = Command::new("testssl")
        .args(["--quiet", "--color", "0", "--fast", "--warnings", "off", "--nodns", "none"])
        .args(["--add-ca", "tls/authority.pem", "--jsonfile", "found.json"])
        .args(checks)
        .arg(format!("https://localhost:{}/public/x", gateway.address().port()))
        .current_dir(site.path(""))
        .stdin(Stdio::null())
        .output()
        .expect("testssl.sh is installed: `make tools`");
    let said = String::from_utf8_lossy(&output.stdout);
    let found = fs::read_to_string(site.path("found.json")).unwrap_or_else(|fault| panic!("{fault}:\n{said}"));
    let found: Vec<Value> = serde_json::from_str(&found).expect("JSON");
    // Fields of an answer such as Content-Security-Policy are the service's to send.
    let ours = || found.iter().filter(|it| it["id"] != "security_headers");
    let of = |severity: &str| ours().filter(|it| it["severity"] == severity).cloned().collect::<Vec<_>>();
    for severity in ["CRITICAL", "HIGH", "MEDIUM", "FATAL"] {
        assert!(of(severity).is_empty(), "{:#?}\n{said}", of(severity));
    }
    let is_there = |id: &str, word: &str| {
        let it = found.iter().find(|it| it["id"] == id).unwrap_or_else(|| panic!("nothing of {id}:\n{said}"));
        assert!(it["finding"].as_str().is_some_and(|text| text.contains(word)), "{it}");
    };
    is_there("TLS1_3", "offered");
    is_there("TLS1", "not offered");
    is_there("cipher_order", "server");
}
