//! How an error is told: one line, from what failed down to why.

use std::error::Error;
use std::fmt;

/// An error and all its sources as one line, `what: why: why`. A source whose text its parent
/// already ends in is not told twice.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'e>(pub &'e dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        write_line(f, &told)?;
        let mut next = self.0.source();
        while let Some(source) = next {
            let text = source.to_string();
            if !told.ends_with(&text) {
                f.write_str(": ")?;
                write_line(f, &text)?;
            }
            told = text;
            next = source.source();
        }
        Ok(())
    }
}

/// Writes `text` with line breaks folded to spaces: what a library says may hold some.
fn write_line(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for (at, line) in text.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        if at > 0 {
            f.write_str(" ")?;
        }
        f.write_str(line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the store")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("disk\n  full")]
    struct Inner;

    #[test]
    fn an_error_is_one_line_with_its_sources() {
        assert_eq!(Chain(&Outer(Inner)).to_string(), "cannot open the store: disk full");
    }
}
