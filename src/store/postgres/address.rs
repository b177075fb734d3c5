//! Where a database is: a `postgres://` URL, taken apart. It may hold a password, and so is never
//! shown.

use std::fmt;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// Where a PostgreSQL database is, and as whom to ask it.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    config: Config,
    name: String,
    tls: Option<TlsMode>,
}

/// Whether a server is spoken to by TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// In clear text.
    Disable,
    /// By TLS, with a certificate that an authority of ours has issued for the name that was asked for.
    VerifyFull,
}

impl TlsMode {
    /// Both, as they are written.
    pub const WORDS: [&'static str; 2] = ["disable", "verify-full"];

    /// What `word` stands for; `require` is no less than `verify-full`, for without a look at its
    /// certificate nobody knows whom the password is told.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn of(word: &str) -> Result<Self, AddressFault> {
        match word {
            "disable" => Ok(Self::Disable),
            "verify-full" | "require" => Ok(Self::VerifyFull),
            "allow" | "prefer" => Err(AddressFault::MayFallBack),
            "verify-ca" => Err(AddressFault::AnyName),
            _ => Err(AddressFault::UnknownMode),
        }
    }
}

/// What is wrong with a URL. Says nothing of what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// It is none.
    #[error("is no URL such as postgres://user:password@host:5432/database")]
    NoUrl,
    /// A part of it cannot be read.
    #[error(
        "cannot be read as postgres://user:password@host:5432/database?option=value: look for characters of the \
         password that need %-encoding, and for options that are not PostgreSQL's"
    )]
    Unreadable,
    /// It names no server.
    #[error("names no host")]
    NoHost,
    /// It names nobody.
    #[error("names no user: postgres://USER@host/database")]
    NoUser,
    /// A mode that falls back to clear text.
    #[error(
        "sslmode falls back to clear text where somebody is in the way: expected \"verify-full\", or \"disable\" for clear text"
    )]
    MayFallBack,
    /// A mode that takes any name.
    #[error("sslmode takes a certificate for any name: expected \"verify-full\"")]
    AnyName,
    /// No mode at all.
    #[error("sslmode is unknown: expected \"verify-full\" or \"disable\"")]
    UnknownMode,
    /// Files belong beside the URL.
    #[error("names files of TLS, which belong beside it as ca, certificate and key")]
    Files,
}

impl Address {
    /// Reads a `postgres://` or `postgresql://` URL.
    ///
    /// # Errors
    /// When it is none, or asks for what is not done.
    pub fn parse(url: &str) -> Result<Self, AddressFault> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(AddressFault::NoUrl);
        }
        // What concerns TLS is ours: the library knows fewer words for it.
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let mut tls = None;
        let mut others = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("sslmode", word)) => tls = Some(TlsMode::of(word)?),
                Some(("sslrootcert" | "sslcert" | "sslkey" | "sslcrl" | "sslpassword", _)) => {
                    return Err(AddressFault::Files);
                }
                _ => others.push(option),
            }
        }
        let url = if others.is_empty() { place.to_owned() } else { format!("{place}?{}", others.join("&")) };
        let config: Config = url.parse().map_err(|_may_quote_it| AddressFault::Unreadable)?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(AddressFault::NoHost);
        }
        let Some(user) = config.get_user() else { return Err(AddressFault::NoUser) };
        let name = format!("postgres://{}/{}", hosts(&config), config.get_dbname().unwrap_or(user));
        Ok(Self { config, name, tls })
    }

    /// What it is called in messages: hosts and database.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its own `sslmode` says.
    #[must_use]
    pub const fn tls(&self) -> Option<TlsMode> {
        self.tls
    }

    /// Whether a password is in it.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.config.get_password().is_some()
    }

    /// Whether no network lies between: sockets in the file system, and addresses of this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let is_local = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                name == "localhost" || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
            }
        };
        self.config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
            && self.config.get_hosts().iter().all(is_local)
    }

    /// How to ask it.
    pub(super) fn config(&self) -> Config {
        self.config.clone()
    }
}

fn hosts(config: &Config) -> String {
    let ports = config.get_ports();
    let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
    let hosts = config.get_hosts().iter().enumerate().map(|(at, host)| match host {
        Host::Tcp(name) => format!("{name}:{}", port(at)),
        Host::Unix(path) => format!("{}:{}", path.display(), port(at)),
    });
    let hosts: Vec<_> = hosts.collect();
    if hosts.is_empty() {
        let addresses = config.get_hostaddrs().iter().enumerate();
        return addresses.map(|(at, ip)| format!("{ip}:{}", port(at))).collect::<Vec<_>>().join(",");
    }
    hosts.join(",")
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        let url = "postgres://keyward:hun%3Ater2@db.example.com:6432/keys?sslmode=verify-full&application_name=x";
        let address = Address::parse(url).expect("a good URL");
        assert_eq!(address.name(), "postgres://db.example.com:6432/keys");
        assert_eq!(address.tls(), Some(TlsMode::VerifyFull));
        assert!(!address.is_local());
        assert!(!format!("{address:?}").contains("hun"));
        assert_eq!(address.config().get_password(), Some(b"hun:ter2".as_slice()));
        let many = Address::parse("postgresql://u@a,b:7000/d").expect("a good URL");
        assert_eq!(many.name(), "postgres://a:5432,b:7000/d");
    }

    #[test]
    fn what_is_no_address_or_asks_for_less_than_a_look_is_refused() {
        for (url, fault) in [
            ("host=x user=y", AddressFault::NoUrl),
            ("postgres://u:p@h:port/d", AddressFault::Unreadable),
            ("postgres://u@h/d?nothing=1", AddressFault::Unreadable),
            ("postgres:///d?user=u", AddressFault::NoHost),
            ("postgres://h/d", AddressFault::NoUser),
            ("postgres://u@h/d?sslmode=prefer", AddressFault::MayFallBack),
            ("postgres://u@h/d?sslmode=verify-ca", AddressFault::AnyName),
            ("postgres://u@h/d?sslmode=maybe", AddressFault::UnknownMode),
            ("postgres://u@h/d?sslrootcert=x", AddressFault::Files),
        ] {
            assert_eq!(Address::parse(url).expect_err(url), fault, "{url}");
            assert!(!fault.to_string().contains('\n'));
        }
        let required = Address::parse("postgres://u@h/d?sslmode=require").expect("a good URL");
        assert_eq!(required.tls(), Some(TlsMode::VerifyFull));
    }

    #[test]
    fn only_this_machine_is_local() {
        for (host, is_local) in
            [("127.0.0.1", true), ("[::1]", true), ("localhost", true), ("10.0.0.1", false), ("localhost,db", false)]
        {
            let address = Address::parse(&format!("postgres://u@{host}/d")).expect(host);
            assert_eq!(address.is_local(), is_local, "{host}");
        }
        assert!(Address::parse("postgres://u@%2Frun%2Fpostgresql/d").expect("a socket").is_local());
    }
}
