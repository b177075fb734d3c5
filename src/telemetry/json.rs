//! A log line as one JSON object, written in one pass into memory that the thread keeps: by default
//! every request writes one.

use std::cell::RefCell;
use std::fmt;
use std::io::Write;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde::{Serialize, Serializer};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;

/// Microseconds, however many zeros that ends in.
const TIME: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes each event as a line: when, how grave, what it says, and where it comes from.
#[derive(Debug)]
pub(super) struct JsonLines<W> {
    writer: W,
}

impl<W> JsonLines<W> {
    pub(super) const fn new(writer: W) -> Self {
        Self { writer }
    }
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let write = |line: &mut Vec<u8>| {
            line.clear();
            if object(line, event).is_ok() {
                // There is nobody to tell; what the queue has no room for it counts.
                let _written = self.writer.make_writer().write_all(line);
            }
        };
        LINE.with(|kept| match kept.try_borrow_mut() {
            Ok(mut line) => write(&mut line),
            // A value that logs while it is shown.
            Err(_) => write(&mut Vec::new()),
        });
    }
}

fn object(line: &mut Vec<u8>, event: &Event<'_>) -> serde_json::Result<()> {
    let metadata = event.metadata();
    line.extend_from_slice(br#"{"timestamp":""#);
    TIME.print_timestamp(&Timestamp::now(), &mut *line).map_err(serde::ser::Error::custom)?;
    line.extend_from_slice(br#"","level":""#);
    line.extend_from_slice(metadata.level().as_str().as_bytes());
    line.push(b'"');
    let mut fields = Fields { line, ended: Ok(()) };
    event.record(&mut fields);
    fields.ended?;
    line.extend_from_slice(br#","target":"#);
    serde_json::to_writer(&mut *line, metadata.target())?;
    line.extend_from_slice(b"}\n");
    Ok(())
}

/// What an event says, field by field.
struct Fields<'a> {
    line: &'a mut Vec<u8>,
    ended: serde_json::Result<()>,
}

impl Fields<'_> {
    fn add(&mut self, field: &Field, value: impl Serialize) {
        // The name of a field is one of Rust's, or words between dots: nothing to escape.
        self.line.extend_from_slice(b",\"");
        self.line.extend_from_slice(field.name().as_bytes());
        self.line.extend_from_slice(b"\":");
        if let Err(error) = serde_json::to_writer(&mut *self.line, &value) {
            self.ended = Err(error);
        }
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Shown(value));
    }
}

/// A value as text, without a string of its own.
struct Shown<'a>(&'a dyn fmt::Debug);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:?}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What is written, as one text.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("a lock in a test").write(piece)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `tell` logs.
    fn lines(tell: impl FnOnce()) -> Vec<String> {
        let written = Written::default();
        let maker = written.clone();
        let log = tracing_subscriber::registry().with(JsonLines::new(move || maker.clone()));
        tracing::subscriber::with_default(log, tell);
        let text = String::from_utf8(written.0.lock().expect("a lock in a test").clone()).expect("UTF-8");
        assert!(text.is_empty() || text.ends_with('\n'), "{text}");
        text.lines().map(str::to_owned).collect()
    }

    fn line(tell: impl FnOnce()) -> String {
        let mut lines = lines(tell);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }

    #[test]
    fn a_line_says_when_how_grave_what_and_where_from_in_this_order() {
        let line = line(|| tracing::warn!(target: "keyward::test", keys = 3, "loaded"));
        let (time, rest) = line.split_at(r#"{"timestamp":"2026-11-22T19:42:55.748327Z""#.len());
        assert_eq!(rest, r#","level":"WARN","message":"loaded","keys":3,"target":"keyward::test"}"#);
        let time = time.strip_prefix(r#"{"timestamp":""#).and_then(|time| time.strip_suffix('"')).expect(&line);
        let age = Timestamp::now().duration_since(time.parse().expect(time));
        assert!((0..600).contains(&age.as_secs()), "{time}");
    }

    #[test]
    fn each_kind_of_value_is_json_of_its_kind() {
        let error = io::Error::other("gone");
        let line = line(|| {
            tracing::info!(
                small = -7_i64,
                large = u64::MAX,
                huge = u128::MAX,
                half = 0.5,
                none = f64::NAN,
                yes = true,
                text = "a",
                absent = None::<&str>,
                shown = %std::net::Ipv4Addr::LOCALHOST,
                debug = ?Some("b"),
                error = &error as &dyn std::error::Error,
                dotted.name = 1,
            );
        });
        let told: Value = serde_json::from_str(&line).expect(&line);
        let told = told.as_object().expect("an object");
        let expected = serde_json::json!({
            "small": -7, "large": u64::MAX, "huge": u128::MAX.to_string(), "half": 0.5, "none": null, "yes": true,
            "text": "a", "shown": "127.0.0.1", "debug": "Some(\"b\")", "error": "gone", "dotted.name": 1,
        });
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(told.get(name), Some(value), "{name} of {line}");
        }
        assert_eq!(told.len(), expected.as_object().map_or(0, serde_json::Map::len) + 3, "{line}");
    }

    #[test]
    fn nothing_that_is_logged_ends_its_line_or_its_text() {
        for hostile in ["\n{\"level\":\"ERROR\"}", "\"", "\\", "\r\0\u{1b}[31m", "\u{2028}é", ""] {
            let line = line(|| tracing::info!(text = hostile, shown = %hostile, "{hostile}"));
            let told: Value = serde_json::from_str(&line).expect(&line);
            for name in ["text", "shown", "message"] {
                assert_eq!(told.get(name).and_then(Value::as_str), Some(hostile), "{name}");
            }
            assert!(!line.bytes().any(|byte| byte.is_ascii_control()), "{line:?}");
        }
    }

    #[test]
    fn a_value_that_logs_while_it_is_shown_has_a_line_of_its_own() {
        struct Talks;
        impl fmt::Display for Talks {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                tracing::info!("inner");
                formatter.write_str("outer")
            }
        }
        let lines = lines(|| tracing::info!(value = %Talks, "said"));
        let told: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect(line)).collect();
        assert!(told.iter().any(|line| line["value"] == "outer" && line["message"] == "said"), "{lines:?}");
    }
}
