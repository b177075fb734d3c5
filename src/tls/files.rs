//! Certificates and keys from PEM files. A fault names the file, what is wrong with it and what to do, in
//! one line, and never quotes the file: it may hold a key.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::x509::X509Version;
use zeroize::Zeroizing;

use super::settings::CertificateFiles;
use crate::clock::Timestamp;

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct CertificateFault {
    /// Which file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: CertificateProblem,
}

/// What is wrong with a PEM file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// There is no such file, often a path relative to the wrong folder.
    #[error("no such file: paths are relative to the configuration file")]
    Missing,
    /// The file may not be read, often because it belongs to root.
    #[error("may not be read: give the user that runs keyward the right to read it")]
    Forbidden,
    /// Reading failed otherwise.
    #[error("cannot be read ({0})")]
    Unreadable(String),
    /// A PEM section is cut off or not base64.
    #[error("is damaged: a PEM section is cut off or not base64; copy the file again")]
    Damaged,
    /// There is no certificate in it, often because chain and key were swapped.
    #[error("holds no certificate: expected PEM with BEGIN CERTIFICATE, leaf first{hint}", hint = swapped(*.holds_key, "key"))]
    NoCertificate {
        /// Whether it holds a private key instead.
        holds_key: bool,
    },
    /// What calls itself a certificate is none.
    #[error("certificate {0} in it is no X.509 certificate: issue it again")]
    NotX509(usize),
    /// The leaf is of X.509 version 1, often because `openssl x509 -req` was called without `-extfile`.
    #[error(
        "its certificate is of X.509 version {0}, which has no place for names and which no client takes: issue it as \
         version 3 with a subject alternative name"
    )]
    OldVersion(u32),
    /// There is no private key in it, often because chain and key were swapped.
    #[error("holds no private key: expected PEM with BEGIN PRIVATE KEY{hint}", hint = swapped(*.holds_certificate, "chain"))]
    NoKey {
        /// Whether it holds a certificate instead.
        holds_certificate: bool,
    },
    /// The private key is locked by a pass phrase.
    #[error("the private key is encrypted: decrypt it with `openssl pkey -in FILE -out FILE.plain` and name that")]
    EncryptedKey,
    /// The private key is of a kind that TLS here does not use.
    #[error(
        "the private key is damaged or of an unknown kind: use ECDSA P-256 or P-384, Ed25519, or RSA from 2048 bits"
    )]
    UnknownKey,
    /// The private key belongs to another certificate, often because only one file was renewed.
    #[error("the private key does not belong to the certificate in {}: renew both together", chain.display())]
    Mismatch {
        /// The chain it was to fit.
        chain: PathBuf,
    },
    /// No pair of files was given at all.
    #[error("no certificate is given: name at least one {{ chain, key }}")]
    NoneGiven,
    /// The machine trusts no authority, often because a container has no certificates installed.
    #[error("no authority is trusted by this machine: install ca-certificates, or name a file")]
    NoSystemRoots,
    /// The files are in order but rustls refuses what they make together.
    #[error("cannot be used for TLS ({0})")]
    Refused(String),
}

fn swapped(other: bool, what: &str) -> String {
    if other { format!("; it holds a {what}: are `chain` and `key` swapped?") } else { String::new() }
}

/// What a certificate in use says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The file it came from.
    pub chain: PathBuf,
    /// The file of its key.
    pub key: PathBuf,
    /// The DNS names and addresses it is for, lower case.
    pub names: Vec<String>,
    /// From when on it is valid.
    pub valid_from: Timestamp,
    /// Until when it is valid.
    pub expires_at: Timestamp,
    /// Whether every user of the machine may read the key.
    pub key_open_to_all: bool,
}

impl CertificateInfo {
    /// What is odd about it at `now`, though it can be used.
    #[must_use]
    pub fn warnings(&self, now: Timestamp) -> Vec<CertificateWarning> {
        let mut warnings = Vec::new();
        if now > self.expires_at {
            warnings.push(CertificateWarning::Expired(self.expires_at));
        }
        if now < self.valid_from {
            warnings.push(CertificateWarning::NotYetValid(self.valid_from));
        }
        if self.names.is_empty() {
            warnings.push(CertificateWarning::NoNames);
        }
        if self.key_open_to_all {
            warnings.push(CertificateWarning::KeyOpenToAll(self.key.clone()));
        }
        warnings
    }
}

/// What is odd about a certificate that can be used all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateWarning {
    /// It expired at this time.
    Expired(Timestamp),
    /// It is not valid before this time; often a wrong clock.
    NotYetValid(Timestamp),
    /// It has no subject alternative name, so no client of today accepts it.
    NoNames,
    /// Every user of the machine may read its key, which is in this file.
    KeyOpenToAll(PathBuf),
}

impl fmt::Display for CertificateWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(at) => write!(f, "the certificate expired at {at}: renew it"),
            Self::NotYetValid(from) => write!(f, "the certificate is not valid before {from}: check the clock"),
            Self::NoNames => {
                f.write_str("the certificate has no subject alternative name: clients will refuse it, issue it again")
            }
            Self::KeyOpenToAll(file) => {
                let file = file.display();
                write!(f, "every user may read its private key {file}: chmod 0600 {file}")
            }
        }
    }
}

/// A chain with its key, read and matched.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) info: CertificateInfo,
}

/// Reads both files of a pair and matches them.
///
/// # Errors
/// Every fault of the two files.
pub(super) fn load_pair(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Pair, Vec<CertificateFault>> {
    let (chain, key) = match (load_chain(&files.chain), load_key(&files.key)) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
    };
    let key_fault = |problem| vec![CertificateFault { file: files.key.clone(), problem }];
    let signing =
        provider.key_provider.load_private_key(key.der).map_err(|_opaque| key_fault(CertificateProblem::UnknownKey))?;
    let certified = CertifiedKey::new(chain.certificates, signing);
    match certified.keys_match() {
        Ok(()) => {}
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            return Err(key_fault(CertificateProblem::Mismatch { chain: files.chain.clone() }));
        }
        Err(other) => {
            let problem = CertificateProblem::Refused(other.to_string());
            return Err(vec![CertificateFault { file: files.chain.clone(), problem }]);
        }
    }
    let info = CertificateInfo {
        chain: files.chain.clone(),
        key: files.key.clone(),
        names: chain.leaf.names,
        valid_from: chain.leaf.valid_from,
        expires_at: chain.leaf.expires_at,
        key_open_to_all: key.open_to_all,
    };
    Ok(Pair { certified: Arc::new(certified), info })
}

/// The authorities in a PEM file.
///
/// # Errors
/// When the file cannot be read or holds none.
pub(super) fn load_authorities(file: &Path) -> Result<RootCertStore, CertificateFault> {
    let fault = |problem| CertificateFault { file: file.to_owned(), problem };
    let text = read(file)?;
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates(&text).map_err(fault)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|_opaque| fault(CertificateProblem::NotX509(index + 1)))?;
    }
    Ok(roots)
}

/// The subject of a certificate as RFC 4514 prints it, or none where it is no certificate.
#[must_use]
pub fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    parse_x509_certificate(certificate).ok().map(|(_rest, parsed)| parsed.subject().to_string())
}

struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    leaf: Leaf,
}

struct Leaf {
    names: Vec<String>,
    valid_from: Timestamp,
    expires_at: Timestamp,
}

fn load_chain(file: &Path) -> Result<Chain, CertificateFault> {
    let fault = |problem| CertificateFault { file: file.to_owned(), problem };
    let text = read(file)?;
    let certificates = certificates(&text).map_err(fault)?;
    let mut leaf = None;
    for (index, certificate) in certificates.iter().enumerate() {
        let not_x509 = || fault(CertificateProblem::NotX509(index + 1));
        let (_rest, parsed) = parse_x509_certificate(certificate).map_err(|_opaque| not_x509())?;
        if leaf.is_none() && parsed.version() != X509Version::V3 {
            return Err(fault(CertificateProblem::OldVersion(parsed.version().0.saturating_add(1))));
        }
        leaf.get_or_insert_with(|| Leaf {
            names: names(&parsed),
            valid_from: Timestamp::from_seconds(parsed.validity().not_before.timestamp()),
            expires_at: Timestamp::from_seconds(parsed.validity().not_after.timestamp()),
        });
    }
    let leaf = leaf.ok_or_else(|| fault(CertificateProblem::NoCertificate { holds_key: false }))?;
    Ok(Chain { certificates, leaf })
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateProblem> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|_quotes_the_file| CertificateProblem::Damaged)?;
    if found.is_empty() {
        return Err(CertificateProblem::NoCertificate { holds_key: contains(text, b"PRIVATE KEY-----") });
    }
    Ok(found)
}

fn names(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    };
    alternatives.value.general_names.iter().filter_map(name).collect()
}

struct Key {
    der: PrivateKeyDer<'static>,
    open_to_all: bool,
}

fn load_key(file: &Path) -> Result<Key, CertificateFault> {
    let fault = |problem| CertificateFault { file: file.to_owned(), problem };
    let text = read(file)?;
    if contains(&text, b"BEGIN ENCRYPTED PRIVATE KEY") || contains(&text, b"Proc-Type: 4,ENCRYPTED") {
        return Err(fault(CertificateProblem::EncryptedKey));
    }
    let der = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        fault(match error {
            rustls_pki_types::pem::Error::NoItemsFound => {
                CertificateProblem::NoKey { holds_certificate: contains(&text, b"BEGIN CERTIFICATE") }
            }
            _quotes_the_file => CertificateProblem::Damaged,
        })
    })?;
    let mode = std::fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
    Ok(Key { der, open_to_all: mode & 0o004 != 0 })
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, CertificateFault> {
    std::fs::read(file).map(Zeroizing::new).map_err(|error| CertificateFault {
        file: file.to_owned(),
        problem: match error.kind() {
            io::ErrorKind::NotFound => CertificateProblem::Missing,
            io::ErrorKind::PermissionDenied => CertificateProblem::Forbidden,
            kind => CertificateProblem::Unreadable(kind.to_string()),
        },
    })
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::generate;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a fresh folder"))
        }

        fn write(&self, name: &str, text: &[u8]) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).expect("a file in a fresh folder");
            path
        }

        fn pair(&self, name: &str) -> CertificateFiles {
            let made = generate(Timestamp::from_seconds(1_700_000_000)).expect("a certificate");
            CertificateFiles {
                chain: self.write(&format!("{name}.pem"), made.chain.as_bytes()),
                key: self.write(&format!("{name}.key"), made.key.expose()),
            }
        }
    }

    fn load(files: &CertificateFiles) -> Result<Pair, Vec<CertificateFault>> {
        load_pair(files, &rustls::crypto::aws_lc_rs::default_provider())
    }

    fn problems(files: &CertificateFiles) -> Vec<CertificateProblem> {
        load(files).expect_err("a bad pair").into_iter().map(|fault| fault.problem).collect()
    }

    #[test]
    fn a_pair_tells_its_names_and_its_end() {
        let pair = load(&Folder::new().pair("a")).expect("a pair");
        assert_eq!(pair.info.names, ["localhost", "127.0.0.1", "::1"]);
        assert!(pair.info.expires_at > pair.info.valid_from);
        let after = Timestamp::from_seconds(pair.info.expires_at.seconds() + 1);
        assert!(pair.info.warnings(after).contains(&CertificateWarning::Expired(pair.info.expires_at)));
    }

    #[test]
    fn both_files_that_are_missing_are_named() {
        let folder = Folder::new();
        let files = CertificateFiles { chain: folder.0.path().join("no.pem"), key: folder.0.path().join("no.key") };
        assert_eq!(problems(&files), [CertificateProblem::Missing, CertificateProblem::Missing]);
        let text = load(&files).expect_err("no files")[0].to_string();
        assert!(text.contains("no.pem: no such file") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = Folder::new();
        let (one, two) = (folder.pair("one"), folder.pair("two"));
        let mixed = CertificateFiles { chain: one.chain.clone(), key: two.key };
        assert_eq!(problems(&mixed), [CertificateProblem::Mismatch { chain: one.chain }]);
    }

    #[test]
    fn swapped_files_are_recognised() {
        let files = Folder::new();
        let pair = files.pair("a");
        let swapped = CertificateFiles { chain: pair.key, key: pair.chain };
        let expected = [
            CertificateProblem::NoCertificate { holds_key: true },
            CertificateProblem::NoKey { holds_certificate: true },
        ];
        assert_eq!(problems(&swapped), expected);
    }

    #[test]
    fn an_encrypted_key_is_refused_with_a_remedy() {
        let folder = Folder::new();
        let locked = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let files = CertificateFiles { chain: folder.pair("a").chain, key: folder.write("locked.key", locked) };
        assert_eq!(problems(&files), [CertificateProblem::EncryptedKey]);
    }

    #[test]
    fn a_certificate_of_version_1_is_told_apart() {
        let folder = Folder::new();
        let files = CertificateFiles { chain: folder.write("old.pem", VERSION_1), key: folder.pair("a").key };
        assert_eq!(problems(&files), [CertificateProblem::OldVersion(1)]);
    }

    /// As `openssl x509 -req` makes one where no extensions are named.
    const VERSION_1: &[u8] = b"-----BEGIN CERTIFICATE-----\n\
          MIIBFTCBuwIUCwVYyZB8Wxsbvo+QZ/GOA0xPJkswCgYIKoZIzj0EAwIwDTELMAkG\n\
          A1UEAwwCdjEwHhcNMjYxMTIyMDI1MDQ5WhcNMzYxMTE5MDI1MDQ5WjANMQswCQYD\n\
          VQQDDAJ2MTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABFAISwMPNqdERCh87Q+O\n\
          Oq/y2jfG5TeVon6nvVDWiO+ePtGxksdQH7D9NZ2zSf1sgWucj/LNvgA+Q6TGKz6Y\n\
          msowCgYIKoZIzj0EAwIDSQAwRgIhAPwlki69IlenJcNFO3khFM2OKFklXS4OOxt0\n\
          uyjxbVdUAiEAraoqCOb0Sb0BH8msDIHovP8c80JdM0GI/7q7PWizc+o=\n\
          -----END CERTIFICATE-----\n";

    #[test]
    fn a_damaged_file_is_not_quoted() {
        let folder = Folder::new();
        let pair = folder.pair("a");
        let cut = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0c2VjcmV0\n";
        let files = CertificateFiles { chain: pair.chain, key: folder.write("cut.key", cut) };
        let fault = load(&files).expect_err("a cut key")[0].to_string();
        assert!(!fault.contains("c2Vj"), "{fault}");
        let odd = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let files = CertificateFiles { chain: folder.write("odd.pem", odd), key: pair.key };
        assert_eq!(problems(&files), [CertificateProblem::NotX509(1)]);
    }
}
