//! `[rotation]`.

use std::path::Path;
use std::time::Duration;

use super::fault::shown;
use super::reader::{Section, set};
use super::units::{UnitFault, parse_duration};
use crate::rotation::Settings;
use crate::wire::Reach;

const RETRIES_MAX: usize = 32;
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Reads `[rotation]`, for receivers that are told to come to `public_url`.
pub(super) fn read(section: &Section<'_>, public_url: Option<String>, base: &Path) -> Settings {
    let mut settings = Settings { public_url, ca: section.file("ca", base), ..Settings::default() };
    set(&mut settings.poll, section.duration("poll"));
    set(&mut settings.timeout, section.duration("timeout"));
    set(&mut settings.expiry_notice, section.duration("expiry_notice"));
    set(&mut settings.in_flight, section.count("in_flight"));
    set(&mut settings.retries, read_retries(section));
    if section.switch("allow_private_webhooks").unwrap_or(false) {
        settings.reach = Reach::Private;
    }
    settings
}

fn read_retries(section: &Section<'_>) -> Option<Vec<Duration>> {
    let items = section.list("retries")?;
    if items.len() > RETRIES_MAX {
        section.fault_of("retries", format!("found {} durations, expected at most {RETRIES_MAX}", items.len()));
    }
    let read = items.iter().filter_map(|item| {
        let text = item.text()?;
        let span = parse_duration(text).ok().filter(|span| (Duration::from_millis(1)..=RETRY_AFTER_MAX).contains(span));
        if span.is_none() {
            item.fault(format!("found {}, {}, and at most 30d", shown(text), UnitFault::Duration));
        }
        span
    });
    Some(read.collect())
}
