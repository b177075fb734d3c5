//! Ids of requests, and the randomness of trace ids.

use std::cell::Cell;
use std::fmt;

use bytes::Bytes;
use http::HeaderValue;

/// The longest id that is taken over from a trusted proxy.
const FOREIGN_BYTES_MAX: usize = 128;

/// The id of one request: 32 hexadecimal digits, or what a trusted proxy sent.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// A fresh one.
    #[must_use]
    pub fn fresh(source: &IdSource) -> Self {
        let mut digits = [0; 32];
        hex(source.bits(), &mut digits);
        // With an owner: it is shared from the beginning, by request and answer, and not only made so by the first copy.
        let value = HeaderValue::from_maybe_shared(Bytes::from_owner(digits));
        Self::of(value.unwrap_or_else(|_impossible| HeaderValue::from_static("0")))
    }

    /// The id a trusted proxy sent, if it is 1 to 128 of `A-Z a-z 0-9 . _ : / + = @ -`.
    #[must_use]
    pub fn from_trusted(value: &HeaderValue) -> Option<Self> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:/+=@-".contains(byte);
        let bytes = value.as_bytes();
        ((1..=FOREIGN_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(plain)).then(|| Self::of(value.clone()))
    }

    /// It comes once and never again. As a sensitive value HTTP/2 writes it out (RFC 7541, 6.2.3); any other would take
    /// a place in the table of fields, and be compared with the ids of the last fifty requests before that.
    fn of(mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        Self(value)
    }

    /// The id as a field's value.
    #[must_use]
    pub const fn value(&self) -> &HeaderValue {
        &self.0
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where one worker's ids come from: unique, seeded by the operating system, one step each, with no
/// system call for a request. Ids are names, never secrets.
#[derive(Debug)]
pub struct IdSource {
    state: Cell<[u64; 2]>,
}

impl IdSource {
    /// A source that starts from `seed`, 16 random bytes.
    #[must_use]
    pub fn new(seed: [u8; 16]) -> Self {
        let seed = u128::from_le_bytes(seed);
        Self { state: Cell::new(halves(seed)) }
    }

    /// 128 bits, never all zero, that this source has not given before.
    #[must_use]
    pub fn bits(&self) -> u128 {
        let [high, low] = self.state.get();
        // Two SplitMix64 streams (Steele, Lea and Flood 2014); the first is a bijection of a counter,
        // so no value comes twice in 2^64.
        let high = high.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let low = low.wrapping_add(0xd1b5_4a32_d192_ed03);
        self.state.set([high, low]);
        (u128::from(mix(high)) << 64 | u128::from(mix(low))).max(1)
    }

    /// 64 bits, never all zero.
    #[must_use]
    pub fn half(&self) -> u64 {
        let [high, low] = halves(self.bits());
        (high ^ low).max(1)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits")]
const fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Writes the last digits of `bits` in lower-case hexadecimal, an even number of them.
pub(super) fn hex(bits: u128, out: &mut [u8]) {
    for (pair, byte) in out.rchunks_exact_mut(2).zip(bits.to_le_bytes()) {
        if let Some(digits) = PAIRS.get(usize::from(byte)) {
            pair.copy_from_slice(digits);
        }
    }
}

/// The two digits of each byte: a request has 41 such pairs.
#[expect(clippy::indexing_slicing, reason = "a byte is below 256, and four bits below 16; checked when compiled")]
static PAIRS: [[u8; 2]; 256] = {
    let digits = *b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_32_hexadecimal_digits_and_do_not_repeat() {
        let source = IdSource::new([7; 16]);
        let mut seen = HashSet::new();
        for _ in 0..10_000 {
            let id = RequestId::fresh(&source);
            assert_eq!(id.as_str().len(), 32);
            assert!(id.as_str().bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
            assert!(seen.insert(id.as_str().to_owned()));
        }
    }

    #[test]
    fn no_id_takes_a_place_in_the_tables_of_http_2() {
        let trusted = RequestId::from_trusted(&HeaderValue::from_static("a-1")).expect("a plain id");
        assert!(trusted.value().is_sensitive() && RequestId::fresh(&IdSource::new([7; 16])).value().is_sensitive());
    }

    #[test]
    fn a_strange_id_is_not_taken_over() {
        assert!(RequestId::from_trusted(&HeaderValue::from_static("a-1.b:2")).is_some());
        for bad in ["", "a b", "a\"b", "a,b", "<x>"] {
            assert!(RequestId::from_trusted(&HeaderValue::from_str(bad).expect("a value")).is_none(), "{bad}");
        }
        let long = HeaderValue::from_str(&"a".repeat(129)).expect("a value");
        assert!(RequestId::from_trusted(&long).is_none());
    }
}
