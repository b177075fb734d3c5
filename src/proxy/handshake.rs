//! Whether a request asks for a WebSocket, and asks well (RFC 6455, 4.1).

use data_encoding::BASE64;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderName, Method, Version};

/// What a request says about a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handshake {
    /// Nothing, or something else than a WebSocket.
    None,
    /// It asks for one.
    Asked,
    /// It asks for one in a way that two programs may read differently.
    Wrong,
}

/// Reads the handshake of a request.
pub(super) fn handshake(method: &Method, version: Version, headers: &HeaderMap) -> Handshake {
    let names_websocket = list(headers, &UPGRADE).any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
    if !names_websocket {
        return Handshake::None;
    }
    let asks = list(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"));
    let well = method == Method::GET
        && version == Version::HTTP_11
        && asks
        && list(headers, &UPGRADE).count() == 1
        && one(headers, &SEC_WEBSOCKET_VERSION) == Some(b"13")
        && one(headers, &SEC_WEBSOCKET_KEY).is_some_and(is_key)
        && !has_body(headers);
    if well { Handshake::Asked } else { Handshake::Wrong }
}

/// A key is 16 bytes in base64.
fn is_key(value: &[u8]) -> bool {
    BASE64.decode(value).is_ok_and(|key| key.len() == 16)
}

/// What comes after the head is the WebSocket's: a request that has a body besides is read in more
/// than one way.
fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || one(headers, &CONTENT_LENGTH).is_some_and(|length| length != b"0")
}

fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes().trim_ascii())
}

fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    let values = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    values.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn of(fields: &[(&str, &'static str)]) -> HeaderMap {
        let name = |name: &str| HeaderName::from_bytes(name.as_bytes()).expect("a name");
        fields.iter().map(|(field, value)| (name(field), HeaderValue::from_static(value))).fold(
            HeaderMap::new(),
            |mut map, (name, value)| {
                map.append(name, value);
                map
            },
        )
    }

    fn read(headers: &HeaderMap) -> Handshake {
        handshake(&Method::GET, Version::HTTP_11, headers)
    }

    #[test]
    fn a_websocket_is_asked_for_by_all_its_fields() {
        assert_eq!(read(&of(&GOOD)), Handshake::Asked);
        assert_eq!(handshake(&Method::POST, Version::HTTP_11, &of(&GOOD)), Handshake::Wrong);
        assert_eq!(handshake(&Method::GET, Version::HTTP_10, &of(&GOOD)), Handshake::Wrong);
        for (at, (name, _)) in GOOD.iter().enumerate().filter(|(_, (name, _))| *name != "upgrade") {
            let mut fields = GOOD.to_vec();
            fields.remove(at);
            assert_eq!(read(&of(&fields)), Handshake::Wrong, "without {name}");
        }
    }

    #[test]
    fn what_is_twice_or_misshapen_is_wrong() {
        let wrong = [
            ("upgrade", "h2c"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("content-length", "1"),
            ("transfer-encoding", "chunked"),
        ];
        for extra in wrong {
            let mut fields = GOOD.to_vec();
            fields.push(extra);
            assert_eq!(read(&of(&fields)), Handshake::Wrong, "{extra:?}");
        }
        for (name, value) in [
            ("sec-websocket-version", "8"),
            ("sec-websocket-version", "13, 8"),
            ("sec-websocket-key", "short"),
            ("sec-websocket-key", "AAAA"),
        ] {
            let fields: Vec<_> =
                GOOD.iter().map(|&(have, was)| (have, if have == name { value } else { was })).collect();
            assert_eq!(read(&of(&fields)), Handshake::Wrong, "{name}: {value}");
        }
    }

    #[test]
    fn other_upgrades_are_none() {
        assert_eq!(read(&of(&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")])), Handshake::None);
        assert_eq!(read(&of(&[])), Handshake::None);
    }
}
