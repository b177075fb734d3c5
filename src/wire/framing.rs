//! What a head says of where its message ends.

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};

/// Whether the body is in chunks and nothing else. Another coding was not asked for, and is lost where the field is
/// taken off.
#[must_use]
pub fn is_chunked_alone(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let only = codings.next().filter(|_| codings.next().is_none());
    only.is_some_and(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// The one length that all fields and their members say; none where they do not, or say no number.
#[must_use]
pub fn one_length(headers: &HeaderMap) -> Option<u64> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for member in value.as_bytes().split(|byte| *byte == b',') {
            let said = number(member.trim_ascii())?;
            if length.is_some_and(|other| other != said) {
                return None;
            }
            length = Some(said);
        }
    }
    length
}

/// What these digits, and nothing else, say.
#[must_use]
pub fn number(digits: &[u8]) -> Option<u64> {
    let begun = if digits.is_empty() { None } else { Some(0u64) };
    digits.iter().fold(begun, |so_far, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        so_far?.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn fields(name: &HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_length_is_one_number_however_often_it_is_said() {
        for values in [&["5"][..], &["05"], &["5, 5"], &["5", "5"], &["5,5", " 5 "]] {
            assert_eq!(one_length(&fields(&CONTENT_LENGTH, values)), Some(5), "{values:?}");
        }
        for values in [&[][..], &[""], &["5,"], &["5", "6"], &["5, 6"], &["+5"], &["-1"], &["0x5"], &["5 5"]] {
            assert_eq!(one_length(&fields(&CONTENT_LENGTH, values)), None, "{values:?}");
        }
        assert_eq!(one_length(&fields(&CONTENT_LENGTH, &["18446744073709551615"])), Some(u64::MAX));
        assert_eq!(one_length(&fields(&CONTENT_LENGTH, &["18446744073709551616"])), None);
    }

    #[test]
    fn chunks_are_the_only_coding() {
        for values in [&["chunked"][..], &["Chunked"], &[" chunked "]] {
            assert!(is_chunked_alone(&fields(&TRANSFER_ENCODING, values)), "{values:?}");
        }
        for values in [&[][..], &[""], &["gzip"], &["gzip, chunked"], &["chunked", "chunked"], &["chunked,"]] {
            assert!(!is_chunked_alone(&fields(&TRANSFER_ENCODING, values)), "{values:?}");
        }
    }
}
