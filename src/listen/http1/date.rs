//! The Date of answers.

use std::cell::{Cell, RefCell};

use jiff::fmt::rfc2822::DateTimePrinter;

use crate::listen::ticker::{NEVER, Tick, Ticker};

/// The time as answers have it, written anew four times a second.
#[derive(Debug)]
pub(in crate::listen) struct Date {
    text: RefCell<String>,
    until: Cell<Tick>,
}

impl Default for Date {
    fn default() -> Self {
        Self { text: RefCell::default(), until: Cell::new(NEVER) }
    }
}

impl Date {
    /// Writes the present time as a field's value.
    pub(super) fn write(&self, ticker: &Ticker, into: &mut Vec<u8>) {
        let now = ticker.coarse().now();
        let until = self.until.get();
        if until == NEVER || now >= until {
            self.until.set(now + VALID_FOR);
            let seconds = ticker.wall().seconds();
            let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
            *self.text.borrow_mut() = DateTimePrinter::new().timestamp_to_rfc9110_string(&time).unwrap_or_default();
        }
        into.extend_from_slice(self.text.borrow().as_bytes());
    }
}

/// How long the text holds, in ticks.
const VALID_FOR: Tick = 250;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    #[test]
    fn the_date_is_of_the_second_and_in_its_one_form() {
        let clock = ManualClock::at(Timestamp::from_seconds(784_111_777));
        let ticker = Ticker::new(Arc::new(clock));
        let mut text = Vec::new();
        Date::default().write(&ticker, &mut text);
        assert_eq!(String::from_utf8_lossy(&text), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
