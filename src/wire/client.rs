//! Who the client is: the peer, or what a trusted proxy in front of us says.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

/// Addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The address.
    pub address: IpAddr,
    /// How many leading bits count.
    pub bits: u8,
}

impl Network {
    /// Whether `address` lies in the network. An IPv4 address mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        use IpAddr::{V4, V6};
        match (self.address.to_canonical(), address.to_canonical()) {
            (V4(net), V4(it)) => {
                let mask = u32::MAX.checked_shl(32u32.saturating_sub(u32::from(self.bits))).unwrap_or(0);
                net.to_bits() & mask == it.to_bits() & mask
            }
            (V6(net), V6(it)) => {
                let mask = u128::MAX.checked_shl(128u32.saturating_sub(u32::from(self.bits))).unwrap_or(0);
                net.to_bits() & mask == it.to_bits() & mask
            }
            (V4(_), V6(_)) | (V6(_), V4(_)) => false,
        }
    }
}

/// How many leading bits of an address make a client: the rest it chooses itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientPrefix {
    /// Of an IPv4 address.
    pub v4: u8,
    /// Of an IPv6 address.
    pub v6: u8,
}

impl Default for ClientPrefix {
    fn default() -> Self {
        Self { v4: 32, v6: 56 }
    }
}

impl ClientPrefix {
    /// The client behind `address`, as a number. The two families never meet: an IPv4 prefix keeps the mapped
    /// form's leading bits.
    #[must_use]
    pub fn of(self, address: IpAddr) -> u128 {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.v4.min(32))).unwrap_or(0);
                (0xffff << 32) | u128::from(u32::from(v4) & mask)
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.v6.min(128))).unwrap_or(0);
                u128::from(v6) & mask
            }
        }
    }
}

/// The address a request came from: the peer's, or where the peer is trusted, the rightmost address
/// of `X-Forwarded-For` that is not a trusted proxy's own. Text that is no address ends the walk, for
/// what stands left of it was written by nobody we trust.
#[must_use]
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    if !is_trusted(client) {
        return client;
    }
    for value in headers.get_all("x-forwarded-for").iter().rev() {
        for entry in value.as_bytes().rsplit(|byte| *byte == b',') {
            let Some(address) = parse(entry) else { return client };
            client = address;
            if !is_trusted(client) {
                return client;
            }
        }
    }
    client
}

/// An address as proxies write them: `1.2.3.4`, `1.2.3.4:5678`, `::1`, `[::1]`, `[::1]:5678`.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip().to_canonical());
    }
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address in a test")
    }

    fn seen_from(peer: &str, fields: &[&'static str]) -> IpAddr {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append("x-forwarded-for", HeaderValue::from_static(field));
        }
        let trusted = [Network { address: ip("10.0.0.0"), bits: 8 }, Network { address: ip("fd00::"), bits: 8 }];
        client_address(ip(peer), &headers, &trusted)
    }

    #[test]
    fn a_stranger_is_not_believed() {
        assert_eq!(seen_from("192.0.2.1", &["198.51.100.7"]), ip("192.0.2.1"));
        assert_eq!(seen_from("::ffff:192.0.2.1", &[]), ip("192.0.2.1"));
    }

    #[test]
    fn the_rightmost_stranger_behind_trusted_proxies_is_the_client() {
        assert_eq!(seen_from("10.0.0.1", &["6.6.6.6, 198.51.100.7, 10.9.9.9"]), ip("198.51.100.7"));
        assert_eq!(seen_from("10.0.0.1", &["6.6.6.6", "198.51.100.7:4711"]), ip("198.51.100.7"));
        assert_eq!(seen_from("fd00::1", &["[2001:db8::7]:80"]), ip("2001:db8::7"));
        assert_eq!(seen_from("10.0.0.1", &[]), ip("10.0.0.1"));
    }

    #[test]
    fn nonsense_ends_the_walk() {
        assert_eq!(seen_from("10.0.0.1", &["198.51.100.7, unknown, 10.2.2.2"]), ip("10.2.2.2"));
    }

    #[test]
    fn a_network_holds_what_shares_its_bits() {
        let all = Network { address: ip("0.0.0.0"), bits: 0 };
        assert!(all.contains(ip("255.1.2.3")) && !all.contains(ip("::1")));
        let one = Network { address: ip("2001:db8::1"), bits: 128 };
        assert!(one.contains(ip("2001:db8::1")) && !one.contains(ip("2001:db8::2")));
    }
}
