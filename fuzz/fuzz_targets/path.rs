//! There is one canonical path: to make it again changes nothing, and it holds nothing that a
//! backend resolves to another place.
#![no_main]

use keyward::policy::{PathOptions, canonicalize};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(path) = canonicalize(data) else { return };
    let text = path.as_str();
    assert!(text.starts_with('/'), "{text}");
    let again = canonicalize(text).unwrap_or_else(|fault| panic!("{text} is canonical and refused: {fault}"));
    assert_eq!(again.as_str(), text);
    assert!(!text.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | ".."))), "{text}");
    assert!(!text.contains('\\') && !text.contains('\0'), "{text}");

    if path.check(&PathOptions::default()).is_ok() {
        // What is let through by default reads the same decoded twice, and merged, and cut at `;`.
        assert!(!text.contains("//") && !text.contains(';'), "{text}");
        for escape in ["%2F", "%5C", "%25", "%00", "%3B", "%23", "%3F", "%2E"] {
            assert!(!text.contains(escape), "{text}");
        }
        assert_eq!(path.forwarded(&PathOptions::default()).as_deref(), Ok(text));
    }
});
