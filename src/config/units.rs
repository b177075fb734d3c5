//! Durations and sizes as people write them: `250ms 30s 5m 2h 30d`, `512 64KiB 10MiB 1GiB`.
//!
//! One number and one unit, no fractions and no sums, so that a value reads only one way.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 4] = [("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Text that is no duration or no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitFault {
    /// No duration.
    #[error("expected a duration: a whole number and one of ms s m h d, such as \"30s\"")]
    Duration,
    /// No size.
    #[error("expected a size: a whole number of bytes, or one with KiB MiB GiB, such as \"64KiB\"")]
    Size,
}

/// Reads a duration: `250ms`, `30s`, `5m`, `2h`, `30d`.
///
/// # Errors
/// Anything else, and what is longer than 584 million years.
pub fn parse_duration(text: &str) -> Result<Duration, UnitFault> {
    amount(text, &DURATIONS).map(Duration::from_millis).ok_or(UnitFault::Duration)
}

/// Reads a size in bytes: `512`, `64KiB`, `10MiB`, `1GiB`.
///
/// # Errors
/// Anything else, and what does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64, UnitFault> {
    amount(text, &SIZES).ok_or(UnitFault::Size)
}

/// A duration in the largest unit that shows it exactly, to the millisecond.
#[must_use]
pub fn format_duration(span: Duration) -> String {
    format_amount(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), "0s", &DURATIONS)
}

/// A size in the largest unit that shows it exactly.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    format_amount(bytes, "0", &SIZES)
}

fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(*factor)
}

fn format_amount(amount: u64, zero: &str, units: &[(&str, u64)]) -> String {
    let whole = units.iter().rev().find(|(_, factor)| amount.is_multiple_of(*factor));
    match whole {
        Some((unit, factor)) if amount > 0 => format!("{}{unit}", amount / factor),
        _ => zero.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_unit_is_read() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("30d", 2_592_000_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
        for (text, bytes) in [("0", 0), ("512", 512), ("64KiB", 65_536), ("10MiB", 10_485_760), ("1GiB", 1_073_741_824)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn a_value_that_could_be_read_two_ways_is_refused() {
        for text in
            ["", "30", "s", "1.5h", "1h30m", "-1s", "+1s", " 1s", "1 s", "1S", "1w", "18446744073709551615d", "٣s"]
        {
            assert_eq!(parse_duration(text), Err(UnitFault::Duration), "{text:?}");
        }
        for text in ["", "KiB", "64K", "64kb", "64 KiB", "1.5GiB", "-1", "1TiB", "18446744073709551615GiB"] {
            assert_eq!(parse_size(text), Err(UnitFault::Size), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_reads_back_as_written(millis in any::<u64>()) {
            let span = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(span)), Ok(span));
        }

        #[test]
        fn a_size_reads_back_as_written(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
