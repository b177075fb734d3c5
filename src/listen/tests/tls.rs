//! TLS: protocols, names, client certificates, reload.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::harness::{House, Plan, SHORT, get, http1, http2, read_to_close, run, text};
use crate::clock::Timestamp;
use crate::listen::Timeouts;
use crate::tls::{CertificateFiles, CertificateProblem, Certificates, ServerSettings, generate};

/// An authority that issues into a fresh folder.
struct Authority {
    folder: tempfile::TempDir,
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let certificate = params.self_signed(&key).expect("a certificate");
        let folder = tempfile::tempdir().expect("a fresh folder");
        Self { folder, certificate, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, file: &str, names: &[&str]) -> CertificateFiles {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, file);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        CertificateFiles {
            chain: self.write(&format!("{file}.pem"), &certificate.pem()),
            key: self.write(&format!("{file}.key"), &key.serialize_pem()),
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file in a fresh folder");
        path
    }

    fn client(&self, protocol: &str, identity: Option<&CertificateFiles>) -> ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
                builder.with_client_auth_cert(vec![leaf(files)], key).expect("a pair")
            }
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        config
    }
}

fn leaf(files: &CertificateFiles) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(&files.chain).expect("a certificate")
}

fn settings(certificates: Vec<CertificateFiles>) -> ServerSettings {
    ServerSettings { certificates, tls12: true, client_ca: None }
}

fn over(certificates: &Certificates) -> Plan {
    Plan { tls: Some(certificates.config()), ..Plan::default() }
}

async fn secure(house: &House, config: &ClientConfig, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config.clone())).connect(name, house.connect().await).await
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("a chain")[0].clone().into_owned()
}

#[test]
fn alpn_chooses_the_protocol_and_the_handler_sees_what_was_agreed() {
    run(async {
        let authority = Authority::new();
        let certificates = Certificates::load(settings(vec![authority.issue("a", &["a.test"])])).expect("a pair");
        let house = House::open(over(&certificates));
        let stream = secure(&house, &authority.client("h2", None), "a.test").await.expect("agreed");
        let (mut sender, _connection) = http2(stream).await;
        let answer = sender.send_request(get("/who")).await.expect("answered");
        assert_eq!(answer.version(), http::Version::HTTP_2);
        let who = text(answer).await;
        assert!(who.contains("TLSv1.3") && who.contains("a.test"), "{who}");
        let stream = secure(&house, &authority.client("http/1.1", None), "a.test").await.expect("agreed");
        let (mut sender, _connection) = http1(stream).await;
        assert_eq!(text(sender.send_request(get("/")).await.expect("answered")).await, "hello");
        assert_eq!(house.metrics.handshakes.with_label_values(&["TLSv1.3", "false"]).get(), 2);
        let wrong = secure(&house, &authority.client("spdy/3", None), "a.test").await;
        assert!(wrong.is_err());
        while house.metrics.handshake_failures.with_label_values(&["no_protocol"]).get() == 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn tls12_is_spoken_only_where_allowed() {
    run(async {
        let authority = Authority::new();
        let files = authority.issue("a", &["a.test"]);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate.der().clone()).expect("an authority");
        let old = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .expect("a version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let both = Certificates::load(settings(vec![files.clone()])).expect("a pair");
        let house = House::open(over(&both));
        secure(&house, &old, "a.test").await.expect("TLS 1.2 is allowed");
        let modern = ServerSettings { tls12: false, ..settings(vec![files]) };
        let house = House::open(over(&Certificates::load(modern).expect("a pair")));
        assert!(secure(&house, &old, "a.test").await.is_err());
    });
}

#[test]
fn the_certificate_is_chosen_by_server_name() {
    run(async {
        let authority = Authority::new();
        let first = authority.issue("first", &["a.test", "*.c.test"]);
        let second = authority.issue("second", &["b.test", "*.b.test"]);
        let pairs = vec![first.clone(), second.clone()];
        let house = House::open(over(&Certificates::load(settings(pairs)).expect("pairs")));
        let client = authority.client("http/1.1", None);
        for (name, expected) in
            [("a.test", &first), ("b.test", &second), ("x.b.test", &second), ("x.c.test", &first), ("A.test", &first)]
        {
            let stream = secure(&house, &client, name).await.expect(name);
            assert_eq!(shown(&stream), leaf(expected), "{name}");
        }
        assert!(secure(&house, &client, "x.y.b.test").await.is_err(), "a wildcard is for one label");
    });
}

#[test]
fn a_client_certificate_is_required_where_an_authority_is_given() {
    run(async {
        let authority = Authority::new();
        let client_ca = Some(authority.write("ca.pem", &authority.certificate.pem()));
        let with_ca = ServerSettings { client_ca, ..settings(vec![authority.issue("a", &["a.test"])]) };
        let house = House::open(over(&Certificates::load(with_ca).expect("a pair")));
        let bare = secure(&house, &authority.client("http/1.1", None), "a.test").await.expect("TLS 1.3 tells later");
        assert_eq!(read_to_close(bare).await, "");
        assert_eq!(house.metrics.handshake_failures.with_label_values(&["no_client_certificate"]).get(), 1);
        let identity = authority.issue("robot", &["robot.test"]);
        let known = secure(&house, &authority.client("http/1.1", Some(&identity)), "a.test").await.expect("known");
        let (mut sender, _connection) = http1(known).await;
        let who = text(sender.send_request(get("/who")).await.expect("answered")).await;
        assert!(who.contains("CN=robot"), "{who}");
    });
}

#[test]
fn a_pair_is_replaced_under_open_connections_and_sessions_resume() {
    run(async {
        let authority = Authority::new();
        let files = authority.issue("a", &["a.test"]);
        let old = leaf(&files);
        let certificates = Certificates::load(settings(vec![files.clone()])).expect("a pair");
        let house = House::open(over(&certificates));
        let client = authority.client("http/1.1", None);
        let stream = secure(&house, &client, "a.test").await.expect("agreed");
        assert_eq!(shown(&stream), old);
        let (mut sender, _connection) = http1(stream).await;
        assert_eq!(text(sender.send_request(get("/")).await.expect("answered")).await, "hello");

        authority.issue("a", &["a.test"]);
        certificates.reload().expect("a matching pair");
        assert_eq!(text(sender.send_request(get("/")).await.expect("still open")).await, "hello");
        let fresh = authority.client("http/1.1", None);
        let stream = secure(&house, &fresh, "a.test").await.expect("agreed");
        assert_ne!(shown(&stream), old);
        drop(secure(&house, &client, "a.test").await.expect("resumed"));
        while house.metrics.handshakes.with_label_values(&["TLSv1.3", "true"]).get() == 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_pair_that_does_not_match_is_refused_and_the_old_one_kept() {
    run(async {
        let authority = Authority::new();
        let files = authority.issue("a", &["a.test"]);
        let old = leaf(&files);
        let certificates = Certificates::load(settings(vec![files.clone()])).expect("a pair");
        let house = House::open(over(&certificates));
        let other = authority.issue("other", &["a.test"]);
        std::fs::copy(&other.chain, &files.chain).expect("copied");
        let faults = certificates.reload().expect_err("the key is the old one");
        assert_eq!(faults[0].problem, CertificateProblem::Mismatch { chain: files.chain.clone() });
        let stream = secure(&house, &authority.client("http/1.1", None), "a.test").await.expect("agreed");
        assert_eq!(shown(&stream), old);
        std::fs::copy(&other.key, &files.key).expect("copied");
        certificates.reload().expect("now they match");
        let stream = secure(&house, &authority.client("http/1.1", None), "a.test").await.expect("agreed");
        assert_eq!(shown(&stream), leaf(&other));
    });
}

#[test]
fn a_generated_certificate_is_its_own_authority() {
    run(async {
        let authority = Authority::new();
        let now = Timestamp::from_seconds(seconds_now());
        let made = generate(now).expect("a certificate");
        let key = String::from_utf8(made.key.expose().to_vec()).expect("PEM");
        let files = CertificateFiles {
            chain: authority.write("made.pem", &made.chain),
            key: authority.write("made.key", &key),
        };
        let house = House::open(over(&Certificates::load(settings(vec![files.clone()])).expect("a pair")));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(leaf(&files)).expect("an authority");
        let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        for name in ["localhost", "127.0.0.1", "::1"] {
            secure(&house, &client, name).await.expect(name);
        }
    });
}

fn seconds_now() -> i64 {
    use crate::clock::Clock;
    crate::clock::SystemClock::default().now().seconds()
}

fn impatient(certificates: &Certificates, change: impl FnOnce(&mut Timeouts)) -> House {
    let mut timeouts = Timeouts::default();
    change(&mut timeouts);
    House::open(Plan { timeouts, ..over(certificates) })
}

#[test]
fn a_stalled_handshake_is_closed() {
    run(async {
        let authority = Authority::new();
        let certificates = Certificates::load(settings(vec![authority.issue("a", &["a.test"])])).expect("a pair");
        let house = impatient(&certificates, |it| it.handshake = SHORT);
        let mut stream = house.connect().await;
        stream.write_all(&[22, 3, 1, 2, 0, 1]).await.expect("taken");
        assert_eq!(read_to_close(stream).await, "");
        assert_eq!(house.timeouts("handshake"), 1);
        assert_eq!(house.metrics.handshake_failures.with_label_values(&["timeout"]).get(), 1);
    });
}

#[test]
fn silence_before_and_after_the_handshake_is_closed() {
    run(async {
        let authority = Authority::new();
        let certificates = Certificates::load(settings(vec![authority.issue("a", &["a.test"])])).expect("a pair");
        let house = impatient(&certificates, |it| it.first_byte = SHORT);
        read_to_close(house.connect().await).await;
        assert_eq!(house.timeouts("first_byte"), 1);
        for (count, protocol) in [(2, "h2"), (3, "http/1.1")] {
            let stream = secure(&house, &authority.client(protocol, None), "a.test").await.expect("agreed");
            read_to_close(stream).await;
            assert_eq!(house.timeouts("first_byte"), count);
        }
    });
}

#[test]
fn what_is_not_tls_is_counted_and_closed() {
    run(async {
        let authority = Authority::new();
        let certificates = Certificates::load(settings(vec![authority.issue("a", &["a.test"])])).expect("a pair");
        let house = House::open(over(&certificates));
        let mut stream = house.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("taken");
        read_to_close(stream).await;
        assert_eq!(house.metrics.handshake_failures.with_label_values(&["not_tls"]).get(), 1);
    });
}
