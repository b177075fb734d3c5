//! Where something may be posted to: the URL of a receiver that somebody else names, and which
//! addresses it may lead to.
//!
//! Whoever names a URL makes this process connect to it, from inside the network where it runs. So a
//! URL is refused rather than guessed at, and what its name resolves to is held against the
//! registries of special-purpose addresses each time. Pure: resolving and connecting are others'.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Uri;
use rustls_pki_types::{DnsName, ServerName};

const URL_BYTES_MAX: usize = 2048;

/// Which receivers may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// Those with addresses of the public internet.
    #[default]
    Public,
    /// Private networks and this machine too.
    Private,
}

/// A receiver's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverUrl {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Its host.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Path and query, as sent.
    pub target: String,
}

/// A host as a URL names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name, in lower case.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// Why a URL is no receiver's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// It is no URL of the plain form that is taken.
    #[error("found {0}, expected https://host/path")]
    Form(&'static str),
    /// It is not encrypted.
    #[error("found http://, expected https://, which alone is taken but for this machine itself")]
    Cleartext,
    /// Its host is an address that may not be reached.
    #[error("{0}")]
    Address(#[from] Unreachable),
}

/// An address that nothing is posted to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// It is private, and only public ones may be reached.
    #[error("the address {0} is private: use a public one, or set [rotation] allow_private_webhooks")]
    Private(IpAddr),
    /// It may never be reached.
    #[error("the address {0} is reserved and never connected to")]
    Reserved(IpAddr),
    /// It is not this machine's, and TLS is not spoken.
    #[error("the address {0} is not this machine's, and only there may http:// lead")]
    Cleartext(IpAddr),
}

impl ReceiverUrl {
    /// Reads a URL: `https://`, a host name or a plain address, perhaps a port, path and query. No
    /// user, no fragment, no name with a final dot, no address in a form of its own.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, reach: Reach) -> Result<Self, UrlFault> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlFault::Form("more than 2048 bytes"));
        }
        if !text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'<' | b'>' | b'^' | b'`'))
        {
            return Err(UrlFault::Form("a character that must be percent-encoded"));
        }
        if text.contains('#') {
            return Err(UrlFault::Form("a fragment"));
        }
        let uri: Uri = text.parse().map_err(|_unhelpful| UrlFault::Form("text that is no URL"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(UrlFault::Form("another scheme")),
        };
        let authority = uri.authority().ok_or(UrlFault::Form("no host"))?;
        if authority.as_str().contains('@') {
            return Err(UrlFault::Form("a user or password"));
        }
        let host = Host::parse(authority.host())?;
        let after = authority.as_str().get(authority.host().len()..).unwrap_or_default();
        let port = match after.strip_prefix(':') {
            None if after.is_empty() => {
                if tls {
                    443
                } else {
                    80
                }
            }
            None => return Err(UrlFault::Form("a malformed host")),
            Some(digits) => {
                let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
                let port = digits.parse().ok().filter(|port| is_plain && *port > 0);
                port.ok_or(UrlFault::Form("a port that is none"))?
            }
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let url = Self {
            tls,
            host,
            port,
            target: if target.starts_with('/') { target.to_owned() } else { format!("/{target}") },
        };
        url.check_host(reach)?;
        Ok(url)
    }

    fn check_host(&self, reach: Reach) -> Result<(), UrlFault> {
        let is_local = match &self.host {
            Host::Address(address) => {
                self.check(*address, reach)?;
                address.is_loopback()
            }
            Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        };
        match (self.tls, reach) {
            (false, Reach::Private) if is_local => Ok(()),
            (false, _) => Err(UrlFault::Cleartext),
            (true, Reach::Public) if is_local => Err(Unreachable::Private(Ipv4Addr::LOCALHOST.into()).into()),
            (true, _) => Ok(()),
        }
    }

    /// Whether `address`, which the host was found to have, may be connected to.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, address: IpAddr, reach: Reach) -> Result<(), Unreachable> {
        match (Standing::of(address), reach) {
            (Standing::Reserved, _) => Err(Unreachable::Reserved(address)),
            (Standing::Private, Reach::Public) => Err(Unreachable::Private(address)),
            (Standing::Private, Reach::Private) | (Standing::Public, _) if !self.tls && !address.is_loopback() => {
                Err(Unreachable::Cleartext(address))
            }
            (Standing::Private, Reach::Private) | (Standing::Public, _) => Ok(()),
        }
    }

    /// The host and port as the Host field has them.
    #[must_use]
    pub fn authority(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        if self.port == default { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }

    /// The name that its certificate must be for.
    ///
    /// # Panics
    /// Never: a host was checked to be a name or is an address.
    #[must_use]
    pub fn server_name(&self) -> ServerName<'static> {
        match &self.host {
            Host::Name(name) => ServerName::try_from(name.clone()).expect("a host name was checked"),
            Host::Address(address) => ServerName::IpAddress((*address).into()),
        }
    }

    /// The one address that it names itself, if it does.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        match &self.host {
            Host::Name(_) => None,
            Host::Address(address) => Some(SocketAddr::new(*address, self.port)),
        }
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, UrlFault> {
        if let Some(inside) = text.strip_prefix('[') {
            let address = inside.strip_suffix(']').and_then(|inside| inside.parse::<Ipv6Addr>().ok());
            return address.map(|address| Self::Address(address.into())).ok_or(UrlFault::Form("a malformed address"));
        }
        if text.ends_with('.') {
            return Err(UrlFault::Form("a host with a final dot"));
        }
        // The last part of a name begins with a letter (RFC 1123 section 2.1), and what resolvers take for an address
        // does not: `127.1`, `0x7f.1`, `2130706433`, `0177.0.0.1`.
        let last = text.rsplit('.').next().unwrap_or_default();
        if last.starts_with(|first: char| first.is_ascii_digit()) {
            let address = text.parse::<Ipv4Addr>();
            let neither = "a host whose last part begins with a digit, and that is no address of four decimal numbers";
            return address.map(|address| Self::Address(address.into())).map_err(|_other| UrlFault::Form(neither));
        }
        let name = text.to_ascii_lowercase();
        DnsName::try_from(name.as_str()).map_err(|_invalid| UrlFault::Form("a host that is no name"))?;
        Ok(Self::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Public,
    Private,
    Reserved,
}

impl Standing {
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    /// By the IANA IPv4 Special-Purpose Address Registry. What is neither public nor somebody's own
    /// network is reserved: link-local addresses with the metadata services on them, too.
    fn of_v4(address: Ipv4Addr) -> Self {
        const METADATA: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];
        if METADATA.contains(&address) {
            return Self::Reserved;
        }
        match address.octets() {
            [10 | 127, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Self::Private,
            [0, ..]
            | [169, 254, ..]
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [224..=255, ..] => Self::Reserved,
            _ => Self::Public,
        }
    }

    /// By the IANA IPv6 registries: only `2000::/3` is public, and of it not what carries an IPv4
    /// address inside (6to4, Teredo, ISATAP) nor what is for documentation and protocols.
    fn of_v6(address: Ipv6Addr) -> Self {
        /// The metadata services of two clouds, within their private range.
        const METADATA: [Ipv6Addr; 2] =
            [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
        if METADATA.contains(&address) {
            return Self::Reserved;
        }
        match address.segments() {
            [0, 0, 0, 0, 0, 0, 0, 1] | [0xfc00..=0xfdff, ..] => Self::Private,
            [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => Self::Reserved,
            [_, _, _, _, 0 | 0x200, 0x5efe, ..] => Self::Reserved,
            [0x2000..=0x3fff, ..] => Self::Public,
            _ => Self::Reserved,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str, reach: Reach) -> Result<ReceiverUrl, UrlFault> {
        ReceiverUrl::parse(&format!("https://{text}/hook"), reach)
    }

    #[test]
    fn a_plain_url_is_taken() {
        let url = ReceiverUrl::parse("https://Hooks.Example.com:8443/a/b?c=d", Reach::Public).expect("a URL");
        assert_eq!((url.tls, url.port, url.target.as_str()), (true, 8443, "/a/b?c=d"));
        assert_eq!(
            (url.host.clone(), url.authority()),
            (Host::Name("hooks.example.com".into()), "hooks.example.com:8443".into())
        );
        let bare = ReceiverUrl::parse("https://example.com", Reach::Public).expect("a URL");
        assert_eq!((bare.target.as_str(), bare.authority().as_str(), bare.port), ("/", "example.com", 443));
        let query = ReceiverUrl::parse("https://example.com?a=b", Reach::Public).expect("a URL");
        assert_eq!(query.target, "/?a=b");
        let six = ReceiverUrl::parse("https://[2606:4700::1111]/x", Reach::Public).expect("a URL");
        assert_eq!((six.authority().as_str(), six.address().is_some()), ("[2606:4700::1111]", true));
        assert!(host("93.184.216.34", Reach::Public).is_ok());
        assert!(host("xn--bcher-kva.example", Reach::Public).is_ok());
    }

    #[test]
    fn what_could_be_read_two_ways_is_refused() {
        for text in [
            "",
            "/hook",
            "//example.com/hook",
            "example.com/hook",
            "ftp://example.com/",
            "gopher://example.com/",
            "file:///etc/passwd",
            "https:///x",
            "https://user@example.com/",
            "https://user:pass@example.com/",
            "https://example.com@127.0.0.1/",
            "https://example.com./",
            "https://127.0.0.1./",
            "https://example.com#@127.0.0.1/",
            "https://example.com/#x",
            "https://example.com\\@127.0.0.1/",
            "https://example.com:/",
            "https://example.com:0/",
            "https://example.com:65536/",
            "https://example.com:+443/",
            "https://example.3com/",
            "https://exa mple.com/",
            "https://example.com/a b",
            "https://example.com/\r\nx: y",
            "https://bücher.example/",
            "https://[::1/",
            "https://[fe80::1%25eth0]/",
            "https://[fe80::1%eth0]/",
            "https://a..b/",
            "https://-/",
            "https://%31%32%37.0.0.1/",
        ] {
            let refused = ReceiverUrl::parse(text, Reach::Private);
            assert!(refused.is_err(), "{text}: {refused:?}");
        }
        assert!(ReceiverUrl::parse(&format!("https://example.com/{}", "a".repeat(2048)), Reach::Private).is_err());
    }

    #[test]
    fn an_address_in_another_form_is_refused_whatever_may_be_reached() {
        for text in [
            "0x7f.1",
            "0x7f.0.0.1",
            "0x7f000001",
            "0X7F000001",
            "2130706433",
            "0177.0.0.1",
            "017700000001",
            "127.1",
            "127.0.1",
            "1.2.3.4.5",
            "256.0.0.1",
            "127.0.0.01",
            "example.0x1",
            "1",
            "0",
        ] {
            for reach in [Reach::Public, Reach::Private] {
                assert!(matches!(host(text, reach), Err(UrlFault::Form(_))), "{text}");
            }
        }
    }

    #[test]
    fn what_is_reserved_is_never_reached() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:8.8.8.8]",
            "[::127.0.0.1]",
            "[::8.8.8.8]",
            "[::ffff:0:127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::7f00:1]",
            "[2002:7f00:1::]",
            "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
            "[2001:10::1]",
            "[2001:20::1]",
            "[2001:db8::1]",
            "[3fff::1]",
            "[5f00::1]",
            "[100::1]",
            "[fe80::1]",
            "[febf::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[fd00:ec2::254]",
            "[fd20:ce::254]",
            "[2606:4700::5efe:7f00:1]",
            "[2606:4700::200:5efe:7f00:1]",
        ] {
            for reach in [Reach::Public, Reach::Private] {
                let refused = host(text, reach);
                assert!(matches!(refused, Err(UrlFault::Address(Unreachable::Reserved(_)))), "{text}: {refused:?}");
            }
        }
    }

    #[test]
    fn what_is_private_is_reached_only_where_that_is_allowed() {
        for text in [
            "127.0.0.1",
            "127.255.255.254",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "[::1]",
            "[fc00::1]",
            "[fd12:3456::1]",
            "localhost",
            "a.localhost",
        ] {
            let refused = host(text, Reach::Public);
            assert!(matches!(refused, Err(UrlFault::Address(Unreachable::Private(_)))), "{text}: {refused:?}");
            assert!(host(text, Reach::Private).is_ok(), "{text}");
        }
        for text in [
            "172.15.255.255",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "11.0.0.1",
            "192.167.0.1",
            "223.255.255.255",
            "[2600::1]",
        ] {
            assert!(host(text, Reach::Public).is_ok(), "{text}");
        }
    }

    #[test]
    fn clear_text_leads_nowhere_but_to_this_machine() {
        let parse = |text, reach| ReceiverUrl::parse(text, reach);
        assert_eq!(parse("http://example.com/", Reach::Public), Err(UrlFault::Cleartext));
        assert_eq!(parse("http://example.com/", Reach::Private), Err(UrlFault::Cleartext));
        assert!(parse("http://10.0.0.1/", Reach::Private).is_err());
        assert!(parse("http://127.0.0.1:8080/", Reach::Public).is_err());
        assert!(parse("http://127.0.0.1:8080/", Reach::Private).is_ok());
        let local = parse("http://localhost/", Reach::Private).expect("this machine");
        assert!(local.check(Ipv4Addr::LOCALHOST.into(), Reach::Private).is_ok());
        let elsewhere = local.check(Ipv4Addr::new(10, 0, 0, 1).into(), Reach::Private);
        assert!(matches!(elsewhere, Err(Unreachable::Cleartext(_))), "{elsewhere:?}");
        assert!(matches!(
            local.check(Ipv4Addr::new(9, 9, 9, 9).into(), Reach::Private),
            Err(Unreachable::Cleartext(_))
        ));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*", rest in "[ -~]{0,40}") {
            let _ = ReceiverUrl::parse(&text, Reach::Private);
            let _ = ReceiverUrl::parse(&format!("https://{rest}"), Reach::Private).map(|url| url.server_name());
        }
    }
}
