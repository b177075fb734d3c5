//! The PROXY protocol, versions 1 and 2: a balancer that passes bytes on says before them whom it
//! speaks for (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).
//!
//! Read strictly: what is not exactly a header ends the connection. Whoever calls this must know
//! that the peer is one to be believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, its line end included.
const V1_BYTES_MAX: usize = 107;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;
/// Addresses take 36 bytes at most; what is more is extensions, of which balancers send few.
const V2_REST_BYTES_MAX: usize = 2048;

/// A header as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProxyHeader {
    bytes: Vec<u8>,
}

/// What a whole header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyTold {
    /// The connection is on behalf of this client.
    Client(SocketAddr),
    /// It is the balancer's own, for instance to see whether we live, or it cannot tell.
    Nobody,
}

/// The bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection does not begin with a PROXY header")]
pub struct NoProxyHeader;

impl ProxyHeader {
    /// How many of `next`, the bytes that come now, belong to the header. At least one while it is
    /// not whole.
    ///
    /// # Errors
    /// When what has come is not the beginning of a header.
    pub fn wants(&self, next: &[u8]) -> Result<usize, NoProxyHeader> {
        let have = self.bytes.len();
        let start: Vec<u8> = self.bytes.iter().chain(next).copied().take(V2_FIXED_BYTES).collect();
        let limit = if b"PROXY ".starts_with(start.get(..start.len().min(6)).unwrap_or_default()) {
            match next.iter().position(|byte| *byte == b'\n') {
                Some(at) => have + at + 1,
                None => have + next.len(),
            }
        } else if V2_SIGNATURE.starts_with(start.get(..start.len().min(12)).unwrap_or_default()) {
            V2_FIXED_BYTES + rest_bytes(&start).unwrap_or(0)
        } else {
            return Err(NoProxyHeader);
        };
        let is_v1 = start.first() == Some(&b'P');
        let most = if is_v1 { V1_BYTES_MAX } else { V2_FIXED_BYTES + V2_REST_BYTES_MAX };
        if limit > most {
            return Err(NoProxyHeader);
        }
        Ok(limit.saturating_sub(have).min(next.len()))
    }

    /// Takes over bytes that belong to the header.
    pub fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What the header says, or none while it is not whole.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn told(&self) -> Result<Option<ProxyTold>, NoProxyHeader> {
        let bytes = self.bytes.as_slice();
        if bytes.first() == Some(&b'P') {
            let Some(line) = bytes.strip_suffix(b"\n") else { return Ok(None) };
            return version_1(line.strip_suffix(b"\r").ok_or(NoProxyHeader)?).map(Some);
        }
        match rest_bytes(bytes) {
            Some(rest) if bytes.len() == V2_FIXED_BYTES + rest => version_2(bytes).map(Some),
            Some(_) | None => Ok(None),
        }
    }
}

/// How many bytes come after the fixed ones of version 2, where these are all there.
fn rest_bytes(bytes: &[u8]) -> Option<usize> {
    let (&[.., high, low], _) = bytes.split_first_chunk::<V2_FIXED_BYTES>()?;
    Some(usize::from(u16::from_be_bytes([high, low])))
}

fn version_1(line: &[u8]) -> Result<ProxyTold, NoProxyHeader> {
    let text = std::str::from_utf8(line).map_err(|_no_text| NoProxyHeader)?;
    let mut words = text.split(' ');
    if words.next() != Some("PROXY") {
        return Err(NoProxyHeader);
    }
    let family = words.next().ok_or(NoProxyHeader)?;
    if family == "UNKNOWN" {
        // Whatever follows is to be ignored.
        return Ok(ProxyTold::Nobody);
    }
    let mut address = || -> Result<IpAddr, NoProxyHeader> {
        let word = words.next().ok_or(NoProxyHeader)?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_no_address| NoProxyHeader),
            "TCP6" => word.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_no_address| NoProxyHeader),
            _ => Err(NoProxyHeader),
        }
    };
    let (source, _destination) = (address()?, address()?);
    let mut port = || words.next().and_then(port).ok_or(NoProxyHeader);
    let (source_port, _destination_port) = (port()?, port()?);
    if words.next().is_some() {
        return Err(NoProxyHeader);
    }
    Ok(ProxyTold::Client(SocketAddr::new(source.to_canonical(), source_port)))
}

/// Decimal digits without a leading zero, up to 65535.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| plain)
}

fn version_2(bytes: &[u8]) -> Result<ProxyTold, NoProxyHeader> {
    let rest = bytes.strip_prefix(V2_SIGNATURE).ok_or(NoProxyHeader)?;
    let (&[command, family, _, _], rest) = rest.split_first_chunk::<4>().ok_or(NoProxyHeader)?;
    match command {
        0x20 => return Ok(ProxyTold::Nobody),
        0x21 => {}
        _ => return Err(NoProxyHeader),
    }
    match family {
        0x00 => Ok(ProxyTold::Nobody),
        0x11 => {
            let (&[a, b, c, d, _, _, _, _, high, low, ..], _) = rest.split_first_chunk::<12>().ok_or(NoProxyHeader)?;
            let source = IpAddr::from([a, b, c, d]);
            Ok(ProxyTold::Client(SocketAddr::new(source, u16::from_be_bytes([high, low]))))
        }
        0x21 => {
            let (addresses, _extensions) = rest.split_first_chunk::<36>().ok_or(NoProxyHeader)?;
            let (source, ports) = addresses.split_first_chunk::<16>().ok_or(NoProxyHeader)?;
            let (_destination, ports) = ports.split_first_chunk::<16>().ok_or(NoProxyHeader)?;
            let (port, _) = ports.split_first_chunk::<2>().ok_or(NoProxyHeader)?;
            Ok(ProxyTold::Client(SocketAddr::new(IpAddr::from(*source).to_canonical(), u16::from_be_bytes(*port))))
        }
        // Datagrams and local sockets are nothing that a gateway's balancer speaks for.
        _ => Err(NoProxyHeader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces; what the header says and how much of them it is.
    fn read(bytes: &[u8], piece: usize) -> Result<Option<(ProxyTold, usize)>, NoProxyHeader> {
        let mut header = ProxyHeader::default();
        let mut at = 0;
        while at < bytes.len() {
            let next = &bytes[at..bytes.len().min(at + piece)];
            let count = header.wants(next)?;
            assert!(count > 0);
            header.take(&next[..count]);
            at += count;
            if let Some(told) = header.told()? {
                return Ok(Some((told, at)));
            }
        }
        Ok(None)
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [V2_SIGNATURE.as_slice(), &[command, family], &length, rest].concat()
    }

    const TCP4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x1f, 0x90, 0x01, 0xbb];

    #[test]
    fn a_header_is_read_whole_and_nothing_after_it() {
        let client = |text: &str| ProxyTold::Client(text.parse().expect("an address"));
        let mut tcp6 = [0; 36];
        tcp6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        tcp6[15] = 7;
        tcp6[33] = 80;
        let mut mapped = [0; 36];
        mapped[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
        mapped[33] = 80;
        for (header, told) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 8080 443\r\n".to_vec(), client("192.0.2.1:8080")),
            (b"PROXY TCP6 2001:db8::7 ::1 1 0\r\n".to_vec(), client("[2001:db8::7]:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), ProxyTold::Nobody),
            (b"PROXY UNKNOWN ffff::1 x y z\r\n".to_vec(), ProxyTold::Nobody),
            (v2(0x21, 0x11, &TCP4), client("192.0.2.1:8080")),
            (v2(0x21, 0x11, &[&TCP4[..], &[4, 0, 1, 0]].concat()), client("192.0.2.1:8080")),
            (v2(0x21, 0x21, &tcp6), client("[2001:db8::7]:80")),
            (v2(0x21, 0x21, &mapped), client("192.0.2.1:80")),
            (v2(0x20, 0x00, &[]), ProxyTold::Nobody),
            (v2(0x20, 0x11, &TCP4), ProxyTold::Nobody),
            (v2(0x21, 0x00, &[1, 2, 3]), ProxyTold::Nobody),
        ] {
            for after in ["", "GET / HTTP/1.1\r\n", "\r\n\n"] {
                let bytes = [header.as_slice(), after.as_bytes()].concat();
                for piece in [1, 2, 7, 16, bytes.len()] {
                    assert_eq!(read(&bytes, piece), Ok(Some((told, header.len()))), "{header:?} {after:?} {piece}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "a".repeat(100));
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\n".to_vec(),
            b"proxy TCP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2 3\r\n".to_vec(),
            b"PROXY TCP4  192.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2 \r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 01 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 +1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 65536 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.01 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP6 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY \r\n".to_vec(),
            b"PROXY UNKNOWN \xff\r\n".to_vec(),
            long.into_bytes(),
            v2(0x21, 0x11, &TCP4[..11]),
            v2(0x21, 0x21, &TCP4),
            v2(0x11, 0x11, &TCP4),
            v2(0x22, 0x11, &TCP4),
            v2(0x21, 0x12, &TCP4),
            v2(0x21, 0x31, &[0; 216]),
            v2(0x21, 0x11, &[0; 4096]),
            b"\r\n\r\n\0\r\nQUIT\r".to_vec(),
            b"\x16\x03\x01".to_vec(),
        ] {
            for piece in [1, 5, bytes.len()] {
                assert_eq!(read(&bytes, piece), Err(NoProxyHeader), "{bytes:?}");
            }
        }
    }

    #[test]
    fn a_beginning_is_waited_for() {
        for whole in [b"PROXY TCP4 192.0.2.1 10.0.0.1 8080 443\r\n".to_vec(), v2(0x21, 0x11, &TCP4)] {
            for length in 1..whole.len() {
                assert_eq!(read(&whole[..length], length), Ok(None));
            }
        }
    }
}
