//! Where a gateway's management API is: `https://HOST[:PORT][/PATH]`, or `http://` on this machine.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use rustls_pki_types::ServerName;

/// Where a management API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiUrl {
    /// Whether TLS is spoken.
    pub(super) tls: bool,
    /// The host: a name, or an address without brackets.
    pub(super) host: String,
    /// The port.
    pub(super) port: u16,
    /// The host and port as the Host field has them.
    pub(super) authority: String,
    /// What comes before `/v1`; empty, or with a slash at its beginning and none at its end.
    pub(super) base: String,
}

impl ApiUrl {
    /// Reads a URL. The fault does not repeat it: somebody may have put a password there.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text.parse().map_err(|_unhelpful| "expected https://HOST:PORT")?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err("expected https://HOST:PORT"),
        };
        let authority = uri.authority().ok_or("expected https://HOST:PORT")?;
        if authority.as_str().contains('@') {
            return Err("has a user or password; the token is given by KEYWARD_TOKEN or --token-file");
        }
        if uri.query().is_some() {
            return Err("has a query; expected https://HOST:PORT");
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|inside| inside.strip_suffix(']')).unwrap_or(host);
        if ServerName::try_from(host).is_err() {
            return Err("has no host that could be called; expected https://HOST:PORT");
        }
        let url = Self {
            tls,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            base: uri.path().trim_end_matches('/').to_owned(),
        };
        if !tls && !url.is_local() {
            return Err("a token may go over http:// to this machine alone; use https://");
        }
        Ok(url)
    }

    /// Whether only this machine can be meant.
    fn is_local(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_name) => self.host == "localhost" || self.host.ends_with(".localhost"),
        }
    }

    /// Whether `address`, which the host was found to have, may be sent a token.
    pub(super) fn allows(&self, address: IpAddr) -> bool {
        self.tls || address.is_loopback()
    }
}

impl fmt::Display for ApiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.authority, self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_how() {
        let url = ApiUrl::parse("https://gw.example.com:9443/").expect("a URL");
        assert_eq!((url.tls, url.host.as_str(), url.port, url.base.as_str()), (true, "gw.example.com", 9443, ""));
        assert_eq!(url.to_string(), "https://gw.example.com:9443");
        let url = ApiUrl::parse("https://[2001:db8::1]/keyward/").expect("a URL");
        assert_eq!((url.host.as_str(), url.port, url.base.as_str()), ("2001:db8::1", 443, "/keyward"));
        assert_eq!(url.authority, "[2001:db8::1]");
    }

    #[test]
    fn a_token_goes_in_clear_to_this_machine_alone() {
        for here in ["http://127.0.0.1:9443", "http://[::1]:1", "http://localhost:9443", "http://a.localhost"] {
            let url = ApiUrl::parse(here).expect("a URL of this machine");
            assert!(url.allows([127, 0, 0, 1].into()) && !url.allows([192, 0, 2, 1].into()));
        }
        for elsewhere in ["http://10.0.0.1:9443", "http://gw.example.com", "http://localhost.example.com"] {
            assert!(ApiUrl::parse(elsewhere).is_err_and(|fault| fault.contains("https://")), "{elsewhere}");
        }
    }

    #[test]
    fn what_is_no_url_of_an_api_is_refused_and_not_repeated() {
        for wrong in ["", "gw:9443", "ftp://gw", "https://", "https://ann:secret@gw", "https://gw/?a=b", "/v1"] {
            assert!(ApiUrl::parse(wrong).is_err_and(|fault| !fault.contains("secret")), "{wrong}");
        }
    }
}
