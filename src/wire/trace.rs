//! W3C Trace Context, level 1: the `traceparent` field.

use http::{HeaderMap, HeaderName};

use super::request_id::{IdSource, hex};

const LENGTH: usize = 55;
const NAME: HeaderName = HeaderName::from_static("traceparent");

/// The place of a request in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    flags: u8,
}

impl TraceParent {
    /// A new trace. Marked as sampled: those behind us that sample by their parent would otherwise
    /// never record a trace that begins here.
    #[must_use]
    pub fn fresh(source: &IdSource) -> Self {
        Self { trace: source.bits(), span: source.half(), flags: 1 }
    }

    /// The one valid `traceparent` of `headers`; none where it is absent, repeated or malformed.
    #[must_use]
    pub fn find(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(NAME).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        Self::parse(value.as_bytes())
    }

    /// The same trace, from a span of our own.
    #[must_use]
    pub fn continued(self, source: &IdSource) -> Self {
        Self { span: source.half(), ..self }
    }

    /// The trace id, 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> [u8; 32] {
        let mut digits = [0; 32];
        hex(self.trace, &mut digits);
        digits
    }

    /// The field's value, of version 00.
    #[must_use]
    pub fn text(&self) -> [u8; LENGTH] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        for (place, bits) in [(3..35, self.trace), (36..52, u128::from(self.span)), (53..55, u128::from(self.flags))] {
            if let Some(digits) = text.get_mut(place) {
                hex(bits, digits);
            }
        }
        text
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (version, rest) = (text.get(..2)?, text.get(2..)?);
        let version = number(version)?;
        // 00 is exactly this long; a later version may go on after another dash.
        let known = text.len() == LENGTH;
        if version == 0xff || !(known || (version > 0 && text.get(LENGTH) == Some(&b'-'))) {
            return None;
        }
        let dash = |at: usize| (text.get(at) == Some(&b'-')).then_some(());
        dash(2)?;
        dash(35)?;
        dash(52)?;
        let trace = number(rest.get(1..33)?)?;
        let span = u64::try_from(number(rest.get(34..50)?)?).ok()?;
        let flags = u8::try_from(number(rest.get(51..53)?)?).ok()?;
        (trace != 0 && span != 0).then_some(Self { trace, span, flags: flags & 1 })
    }
}

/// A number in lower-case hexadecimal digits, and nothing else.
fn number(digits: &[u8]) -> Option<u128> {
    let mut value = 0u128;
    for digit in digits {
        let four = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u128::from(four);
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parse(text: &str) -> Option<TraceParent> {
        TraceParent::parse(text.as_bytes())
    }

    #[test]
    fn a_valid_trace_goes_on_with_a_span_of_ours() {
        let source = IdSource::new([1; 16]);
        let parent = parse(VALID).expect("the example of the recommendation");
        assert_eq!(parent.text(), VALID.as_bytes());
        let ours = parent.continued(&source);
        assert_eq!(ours.trace_id(), *b"4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(ours.span, parent.span);
        assert_eq!(parse(std::str::from_utf8(&ours.text()).expect("text")), Some(ours));
    }

    #[test]
    fn a_later_version_is_read_as_the_first() {
        assert!(parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more").is_some());
        assert!(parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more").is_none());
    }

    #[test]
    fn an_invalid_trace_is_replaced() {
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let mut headers = HeaderMap::new();
        headers.append("traceparent", HeaderValue::from_static(VALID));
        assert!(TraceParent::find(&headers).is_some());
        headers.append("traceparent", HeaderValue::from_static(VALID));
        assert_eq!(TraceParent::find(&headers), None);
    }
}
