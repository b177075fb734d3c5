//! The only file that prints. Answers go to standard output, complaints to standard error.
//!
//! Text for people is stripped of control characters, so that a name in the store cannot steer a
//! terminal. A reader that goes away, as `head` does, ends the command without a word.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::failure::Failure;

/// In the order that `comfy_table` documents: only the line between header and rows, and its crossings.
const RULE_BELOW_HEADER: &str = "     ──            ";

/// Where a command's answer goes.
pub(super) struct Output {
    writer: Box<dyn Write>,
    terminal: bool,
}

impl Output {
    /// Standard output.
    pub(super) fn stdout() -> Self {
        let stdout = io::stdout();
        Self { terminal: stdout.is_terminal(), writer: Box::new(BufWriter::new(stdout)) }
    }

    /// One line for people.
    pub(super) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        let text = text.to_string();
        self.write(|writer| writeln!(writer, "{}", printable(&text)))
    }

    /// A table for people: aligned by spaces, with a rule below the header on a terminal. Cells are never
    /// broken into lines: an id that cannot be copied is worth nothing.
    pub(super) fn table(&mut self, header: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        let mut table = Table::new();
        let preset = if self.terminal { RULE_BELOW_HEADER } else { presets::NOTHING };
        table.load_preset(preset).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
        for row in rows {
            table.add_row(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
        }
        // Only cells on the left have a margin on the left.
        let text = table.trim_fmt();
        self.write(|writer| {
            for line in text.lines() {
                writeln!(writer, "{}", line.strip_prefix(' ').unwrap_or(line).trim_end())?;
            }
            Ok(())
        })
    }

    /// One JSON document, indented on a terminal and on one line elsewhere.
    pub(super) fn json(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        if !self.terminal {
            return self.json_line(document);
        }
        let text = serde_json::to_string_pretty(document).map_err(|error| Failure::because(&error))?;
        self.write(|writer| writeln!(writer, "{text}"))
    }

    /// One JSON document on one line.
    pub(super) fn json_line(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(document).map_err(|error| Failure::because(&error))?;
        self.write(|writer| writeln!(writer, "{text}"))
    }

    /// Bytes for another program, as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.write(|writer| writer.write_all(bytes))
    }

    /// Hands over what was printed so far.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.write(|writer| writer.flush())
    }

    fn write(&mut self, print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
        print(&mut *self.writer).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::PipeClosed,
            _ => Failure::of("cannot write to standard output", &error),
        })
    }
}

/// Says on standard error why the command did not succeed, a line for each reason.
pub(super) fn complain(failure: &Failure) {
    for line in failure.lines() {
        note(line);
    }
}

/// A remark beside the answer, on standard error.
pub(super) fn note(line: &str) {
    // Nobody is left to be told when standard error is closed.
    let _closed = writeln!(io::stderr(), "keyward: {}", printable(line));
}

/// How far a long command has come, on standard error where that is a terminal.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Starts counting rows.
    pub(super) fn start() -> Self {
        // Hidden by itself where standard error is no terminal.
        let bar = ProgressBar::new_spinner().with_style(
            ProgressStyle::with_template("{spinner} {human_pos} rows read, {elapsed} {msg}")
                .unwrap_or_else(|_template| ProgressStyle::default_spinner()),
        );
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        Self(bar)
    }

    /// One more row.
    pub(super) fn step(&self) {
        self.0.inc(1);
    }

    /// What happens now.
    pub(super) fn say(&self, what: &'static str) {
        self.0.set_message(what);
    }

    /// Clears it away.
    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// How far a command has come of which it is known how long it is, on standard error where that is a terminal.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Nothing yet.
    pub(super) fn start() -> Self {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} rows, {eta} left")
            .unwrap_or_else(|_template| ProgressStyle::default_bar());
        Self(ProgressBar::new(0).with_style(style))
    }

    /// `what` begins, with so many rows.
    pub(super) fn begin(&self, what: &'static str, rows: u64) {
        self.0.reset();
        self.0.set_length(rows);
        self.0.set_message(what);
    }

    /// So many rows more.
    pub(super) fn advance(&self, rows: u64) {
        self.0.inc(rows);
    }

    /// Clears it away.
    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// `text` on one line, with control characters spelt out.
fn printable(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
    }
    plain
}

/// An I/O error of reading `what`, as a failure.
pub(super) fn unreadable(what: impl Display, error: &io::Error) -> Failure {
    Failure::of(format_args!("cannot read {what}"), error)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no test panics while writing").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printed(print: impl FnOnce(&mut Output) -> Result<(), Failure>) -> String {
        let page = Page::default();
        print(&mut Output { writer: Box::new(page.clone()), terminal: false }).expect("a page takes everything");
        let bytes = page.0.lock().expect("no test panics while writing").clone();
        String::from_utf8(bytes).expect("output is text")
    }

    #[test]
    fn a_table_off_a_terminal_is_aligned_text_without_borders() {
        let rows = vec![vec!["key_1".to_owned(), "a".to_owned()], vec!["key_22".to_owned(), "b c".to_owned()]];
        let text = printed(|output| output.table(&["ID", "NAME"], rows));
        assert_eq!(text, "ID      NAME\nkey_1   a\nkey_22  b c\n");
    }

    #[test]
    fn a_control_character_is_spelt_out() {
        assert_eq!(printed(|output| output.line("a\u{1b}[31mb\nc")), "a\\u{1b}[31mb\\nc\n");
    }

    #[test]
    fn json_off_a_terminal_is_one_line() {
        assert_eq!(printed(|output| output.json(&serde_json::json!({"a": [1]}))), "{\"a\":[1]}\n");
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let mut output = Output { writer: Box::new(Gone), terminal: false };
        assert_eq!(output.line("x"), Err(Failure::PipeClosed));
        assert!(Failure::PipeClosed.lines().is_empty());
    }
}
