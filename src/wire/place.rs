//! The parts of a head, which is one piece of memory.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

/// Where a part lies in a head.
///
/// A parser lends its parts out of what was read, which is cut off as one piece of memory only once all of them are
/// known: what is remembered in between.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place([u32; 2]);

impl Place {
    /// Where `part` lies in `read`, of which it is one. What is empty may lie anywhere.
    #[must_use]
    pub fn of(read: &[u8], part: &[u8]) -> Self {
        if part.is_empty() {
            return Self::default();
        }
        let begin = part.as_ptr().addr().wrapping_sub(read.as_ptr().addr());
        let at = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        Self([at(begin), at(begin.wrapping_add(part.len()))])
    }

    /// The part itself; none where `head` has none there.
    #[must_use]
    pub fn part(self, head: &Bytes) -> Option<Bytes> {
        let range = self.range();
        (range.start <= range.end && range.end <= head.len()).then(|| head.slice(range))
    }

    const fn range(self) -> Range<usize> {
        let Self([begin, end]) = self;
        // Widened: no address space here is smaller.
        begin as usize..end as usize
    }
}

/// Where a field lies in a head.
#[derive(Debug, Clone, Copy, Default)]
pub struct FieldPlace {
    name: Place,
    value: Place,
}

impl FieldPlace {
    /// Where `field` lies, which was parsed out of `read`.
    #[must_use]
    pub fn of(read: &[u8], field: &httparse::Header<'_>) -> Self {
        Self { name: Place::of(read, field.name.as_bytes()), value: Place::of(read, field.value) }
    }

    /// The field, where `head` is what it was parsed out of. Its value is a part of that.
    ///
    /// # Errors
    /// When there is no such field.
    #[inline]
    pub fn field(self, head: &Bytes) -> Result<(HeaderName, HeaderValue), http::Error> {
        let name = head.get(self.name.range()).unwrap_or_default();
        // No value has such a byte.
        let value = self.value.part(head).unwrap_or_else(|| Bytes::from_static(b"\0"));
        Ok((HeaderName::from_bytes(name)?, HeaderValue::from_maybe_shared(value)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_again_where_it_was_parsed() {
        let read = b"a: b\r\nEmpty:\r\nLast-One: \xfcber \r\n\r\n";
        let mut fields = [httparse::EMPTY_HEADER; 3];
        let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(read, &mut fields) else {
            panic!("fields")
        };
        let places: Vec<_> = fields.iter().map(|field| FieldPlace::of(read, field)).collect();
        let head = Bytes::copy_from_slice(read);
        let found: Vec<_> = places.iter().map(|place| place.field(&head).expect("a field")).collect();
        let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(found, [("a", &b"b"[..]), ("empty", b""), ("last-one", b"\xfcber")]);
    }

    #[test]
    fn a_place_outside_of_the_head_is_no_field() {
        let place = FieldPlace { name: Place([0, 1]), value: Place([2, 9]) };
        assert!(place.field(&Bytes::from_static(b"a:b")).is_err());
        let place = FieldPlace { name: Place([0, 9]), value: Place([2, 3]) };
        assert!(place.field(&Bytes::from_static(b"a:b")).is_err());
    }
}
