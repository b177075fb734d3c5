//! Hosts: what a request's authority is compared as, and what a route says of it.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

const HOST_BYTES_MAX: usize = 255;

/// The hosts that a route answers for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum HostPattern {
    /// Every host, and requests without one.
    #[default]
    Any,
    /// This host, in lower case and without port.
    Exact(String),
    /// Every host that ends in this suffix after one or more labels: `example.com` for
    /// `*.example.com`.
    Wildcard(String),
}

/// Text that is no host pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    /// Not a host name, an address or a wildcard.
    #[error("{0:?} is no host: expected a name, an address, or a name after *.")]
    Malformed(String),
    /// A port stands behind the host; ports take no part in matching.
    #[error("{found:?} names a port, and ports take no part in matching: write {without:?}")]
    Port {
        /// As found.
        found: String,
        /// Without the port.
        without: String,
    },
}

impl FromStr for HostPattern {
    type Err = HostFault;

    fn from_str(text: &str) -> Result<Self, HostFault> {
        let malformed = || HostFault::Malformed(text.to_owned());
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let bare = bare_host(name).ok_or_else(malformed)?;
        if bare.len() + 1 < name.len() || name.ends_with(':') {
            let star = if wildcard { "*." } else { "" };
            return Err(HostFault::Port { found: text.to_owned(), without: format!("{star}{bare}") });
        }
        let bare = bare.to_ascii_lowercase();
        match wildcard {
            true if bare.starts_with('[') => Err(malformed()),
            true => Ok(Self::Wildcard(bare)),
            false => Ok(Self::Exact(bare)),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// The host of an authority as it is compared: lower case, without port and without one trailing
/// dot. None where it is no `host[:port]`, for instance with user information. Allocates only
/// where there are capitals.
#[must_use]
pub fn normalize_host(authority: &str) -> Option<Cow<'_, str>> {
    let bare = bare_host(authority)?;
    if bare.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(Cow::Owned(bare.to_ascii_lowercase()));
    }
    Some(Cow::Borrowed(bare))
}

/// The host of an authority without port and without one trailing dot, capitals kept.
pub(super) fn bare_host(authority: &str) -> Option<&str> {
    if authority.starts_with('[') {
        let (inner, port) = authority.strip_prefix('[')?.split_once(']')?;
        inner.parse::<Ipv6Addr>().ok()?;
        if !is_port(port) {
            return None;
        }
        return Some(authority.split_at(inner.len() + 2).0);
    }
    let mut end = authority.len();
    let mut after_dot = true;
    for (at, byte) in authority.bytes().enumerate() {
        match KINDS.get(usize::from(byte)) {
            Some(Kind::Letter) => after_dot = false,
            Some(Kind::Dot) if !after_dot => after_dot = true,
            Some(Kind::Colon) => {
                end = at;
                break;
            }
            Some(Kind::Dot | Kind::Other) | None => return None,
        }
    }
    let (host, port) = authority.split_at(end);
    let host = host.strip_suffix('.').unwrap_or(host);
    ((1..=HOST_BYTES_MAX).contains(&host.len()) && is_port(port)).then_some(host)
}

/// What a byte is in the name of a host.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A letter, a digit, a dash or an underscore.
    Letter,
    Dot,
    Colon,
    Other,
}

/// By byte, for the host of each request is looked at.
static KINDS: [Kind; 256] = {
    let mut kinds = [Kind::Other; 256];
    let mut byte = 0u8;
    while byte < 128 {
        #[expect(clippy::indexing_slicing, reason = "a byte is below 256; checked when compiled")]
        {
            kinds[byte as usize] = match byte {
                b':' => Kind::Colon,
                b'.' => Kind::Dot,
                b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => Kind::Letter,
                _ => Kind::Other,
            };
        }
        byte += 1;
    }
    kinds
};

/// Whether `text` is nothing, or a colon and a port that may be empty (RFC 3986, 3.2.3).
fn is_port(text: &str) -> bool {
    let Some(digits) = text.strip_prefix(':') else { return text.is_empty() };
    digits.is_empty() || (digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok())
}

/// Compares a name in lower case with a host in any case.
pub(super) fn compare(lower: &str, host: &str) -> Ordering {
    lower.bytes().cmp(host.bytes().map(|byte| byte.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_case_and_one_trailing_dot_are_left_out() {
        for (authority, host) in [
            ("example.com", Some("example.com")),
            ("Example.COM:8443", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("example.com.:443", Some("example.com")),
            ("example.com:", Some("example.com")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("[::1]", Some("[::1]")),
            ("[2001:DB8::1]:8443", Some("[2001:db8::1]")),
            ("my_host", Some("my_host")),
            ("example.com..", None),
            ("", None),
            (".", None),
            (":80", None),
            ("a..b", None),
            ("user@example.com", None),
            ("example.com:80:80", None),
            ("example.com:http", None),
            ("example.com:99999", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[example.com]", None),
            ("::1", None),
            ("exa mple.com", None),
            ("example.com/", None),
            ("ex%61mple.com", None),
        ] {
            assert_eq!(normalize_host(authority).as_deref(), host, "{authority:?}");
        }
        assert!(matches!(normalize_host("example.com:1"), Some(Cow::Borrowed(_))));
    }

    #[test]
    fn a_pattern_is_a_name_or_a_wildcard() {
        assert_eq!("API.example.com".parse(), Ok(HostPattern::Exact("api.example.com".to_owned())));
        assert_eq!("*.Example.com".parse(), Ok(HostPattern::Wildcard("example.com".to_owned())));
        assert_eq!("[::1]".parse(), Ok(HostPattern::Exact("[::1]".to_owned())));
        let port = HostFault::Port { found: "*.a.b:80".to_owned(), without: "*.a.b".to_owned() };
        assert_eq!("*.a.b:80".parse::<HostPattern>(), Err(port));
        for text in ["", "*", "*.", "a.*.b", "*a.b", "http://a.b", "a/b", "*.[::1]"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text:?}");
        }
    }
}
