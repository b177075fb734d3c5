//! Whatever fields a request has, at most one credential is found in them, and what was found is
//! gone after stripping.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use keyward::policy::{Credential, CredentialSource, find_credential, strip_credential};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let sources = [CredentialSource::Bearer, CredentialSource::Header(HeaderName::from_static("x-api-key"))];
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some((name, value)) = line.split_first() else { continue };
        let name = if name % 2 == 0 { "authorization" } else { "x-api-key" };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let found = find_credential(&headers, &sources);
    if let Credential::One(token) = found {
        assert!((1..=4096).contains(&token.len()));
        assert!(token.iter().all(u8::is_ascii_graphic));
    }
    strip_credential(&mut headers, &sources);
    for (name, value) in &headers {
        // Another scheme in Authorization is no credential, and stays.
        let alone = HeaderMap::from_iter([(name.clone(), value.clone())]);
        assert_eq!(find_credential(&alone, &sources), Credential::None);
    }
});
