//! Why TLS with a server failed, in words for whoever has to mend it.

use std::io;

use rustls::CertificateError;

/// What is wrong with the certificate that a server showed, and how the verifier puts it; none where that is not the
/// reason for `error`.
#[must_use]
pub fn certificate_fault(error: &io::Error) -> Option<String> {
    let fault = of_certificate(error)?;
    let words = match fault {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for other names than this"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or the clock here is wrong"
        }
        fault if is_unknown_authority(fault) => "its certificate is not signed by an authority that is trusted here",
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "its certificate is an authority's own, and no server may show that: issue one with basicConstraints CA:FALSE"
        }
        _ => return None,
    };
    Some(format!("{words} ({fault})"))
}

/// Whether all that is wrong with it is that nobody who is trusted here has signed it.
#[must_use]
pub fn is_of_unknown_authority(error: &io::Error) -> bool {
    of_certificate(error).is_some_and(is_unknown_authority)
}

const fn is_unknown_authority(fault: &CertificateError) -> bool {
    matches!(
        fault,
        CertificateError::UnknownIssuer | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
    )
}

fn of_certificate(error: &io::Error) -> Option<&CertificateError> {
    match error.get_ref()?.downcast_ref() {
        Some(rustls::Error::InvalidCertificate(fault)) => Some(fault),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_certificate_is_said_in_words() {
        let told = |fault| certificate_fault(&io::Error::other(rustls::Error::InvalidCertificate(fault)));
        let expired = told(CertificateError::Expired).expect("words");
        assert!(expired.starts_with("its certificate has expired ("), "{expired}");
        let presented = vec!["DnsName(\"other.test\")".to_owned()];
        let expected = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        let named = told(CertificateError::NotValidForNameContext { expected, presented }).expect("words");
        assert!(named.starts_with("its certificate is for other names") && named.contains("other.test"), "{named}");
        assert_eq!(told(CertificateError::BadSignature), None);
        let is_unknown = |fault| is_of_unknown_authority(&io::Error::other(rustls::Error::InvalidCertificate(fault)));
        assert_eq!([CertificateError::UnknownIssuer, CertificateError::Expired].map(is_unknown), [true, false]);
        assert_eq!(certificate_fault(&io::Error::other("else")), None);
        assert_eq!(certificate_fault(&io::ErrorKind::UnexpectedEof.into()), None);
    }
}
