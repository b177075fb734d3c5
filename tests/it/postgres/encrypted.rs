//! TLS to the server: whom it is, and who asks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::harness::{Care, Cluster, Config, Ran, Site, Upstream, get, programs};

/// An authority that issues certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Writes a certificate of this name and its key, as `NAME.pem` and `NAME.key`.
    fn issue(&self, name: &str, folder: &Path) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).expect("a file");
        let file = folder.join(format!("{name}.key"));
        fs::write(&file, key.serialize_pem()).expect("a file");
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("it is ours");
    }

    fn write(&self, file: &Path) {
        fs::write(file, self.0.pem()).expect("a file");
    }
}

#[test]
fn the_servers_certificate_is_held_against_its_name_and_our_authority() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let cluster = Cluster::start_with(Care::Fast, &programs(), |data| {
        authority.issue("localhost", data);
        authority.write(&data.join("ca.pem"));
        // Only by TLS, and only whoever shows a certificate of the authority for that user.
        let rules = "local all all trust\nhostssl all all 127.0.0.1/32 cert\nhostnossl all all 127.0.0.1/32 reject\n";
        fs::write(data.join("pg_hba.conf"), rules).expect("the server's rules");
        let settings = ["ssl=on", "ssl_cert_file=localhost.pem", "ssl_key_file=localhost.key", "ssl_ca_file=ca.pem"];
        settings.map(str::to_owned).to_vec()
    });
    let by_name = cluster.url().replace("127.0.0.1", "localhost");
    let all = "ca = 'ca.pem'\ncertificate = 'keyward.pem'\nkey = 'keyward.key'";
    let config = |url: &str, lines: &str| Config::in_front_of(&upstream).postgres(url, lines);
    let site = Site::bare(&config(&by_name, all));
    authority.issue("keyward", &site.path(""));
    authority.write(&site.path("ca.pem"));
    Authority::new().write(&site.path("other.pem"));
    let init = |url: &str, lines: &str| -> Ran {
        site.write_config(&config(url, lines));
        site.try_run(["init", "-c", "keyward.toml"])
    };
    let refused = |ran: Ran, wanted: &str| assert!(ran.code == Some(1) && ran.stderr.contains(wanted), "{ran:?}");
    refused(init(&by_name, &all.replace("ca.pem", "other.pem")), "certificate");
    refused(init(&cluster.url(), all), "certificate");
    refused(init(&by_name, "ca = 'ca.pem'"), "certificate");
    refused(init(&by_name, "sslmode = 'disable'"), "pg_hba.conf");
    let made = init(&by_name, all);
    assert_eq!(made.code, Some(0), "{made:?}");
    let key = site.key(&[]);
    let gateway = site.start();
    assert_eq!(gateway.send(get("/any/x").bearer(&key.token)).status, 200);
    let used =
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'keyward'";
    assert_eq!(cluster.sql(used), "t");
}
