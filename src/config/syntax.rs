//! Text that is not TOML: the parser's many messages as few faults, without the text itself, which
//! may hold anything.

use toml::de::{DeTable, DeValue, Error};

use super::fault::{Faults, shown};

/// Reports what the parser found, the first of each line. A list that is never closed swallows the
/// rest of the file; then only where it begins is worth a line.
pub(super) fn report(errors: &[Error], document: &DeTable<'_>, text: &str, faults: &Faults) {
    let end = text.len();
    let opened = errors.iter().find(|error| is_unclosed(error)).and_then(|error| {
        let at = error.span().map_or(end, |span| span.start);
        covering(document, at)
    });
    let mut last_line = 0;
    for error in errors {
        let span = error.span().unwrap_or(end..end);
        let line = faults.line_of(span.start);
        if line == last_line || opened.is_some_and(|opened| span.start > opened) {
            continue;
        }
        last_line = line;
        faults.syntax(span.start, describe(error.message(), text.get(span).unwrap_or_default()));
    }
    if let Some(opened) = opened {
        let closing = if text.as_bytes().get(opened) == Some(&b'{') { '}' } else { ']' };
        faults.syntax(opened, format!("not TOML: what begins here is never closed: add {closing}"));
        faults.distrust_from(opened);
    }
}

fn is_unclosed(error: &Error) -> bool {
    error.message().starts_with("unclosed array,") || error.message().starts_with("unclosed inline table")
}

/// A parser's message as one of ours. `found` is the text it is about; only a key is shown.
fn describe(message: &str, found: &str) -> String {
    if message == "duplicate key" {
        return format!("{} is there twice: keep one", shown(found));
    }
    format!("not TOML: {message}")
}

/// Where the outermost list or inline table begins that reaches as far as `at`.
fn covering(table: &DeTable<'_>, at: usize) -> Option<usize> {
    table.values().find_map(|value| {
        let span = value.span();
        match value.get_ref() {
            DeValue::Table(_) | DeValue::Array(_) if span.start < at && span.end >= at => Some(span.start),
            DeValue::Table(inner) => covering(inner, at),
            DeValue::Array(items) => items.iter().find_map(|item| match item.get_ref() {
                DeValue::Table(inner) => covering(inner, at),
                _ => None,
            }),
            _ => None,
        }
    })
}
