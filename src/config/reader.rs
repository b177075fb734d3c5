//! A typed walk over a parsed file. It knows where everything stands, holds every key against the
//! schema (kind, range, name), and never stops at a fault: what cannot be read is `None`, and the
//! fault is in the list.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::fault::{Faults, nearest, shown};
use super::schema::{self, Kind};
use super::units::{UnitFault, format_duration, format_size, parse_duration, parse_size};

/// One table of the file, or the absence of one: then every key has its default.
#[derive(Debug, Clone)]
pub(super) struct Section<'a> {
    table: Option<&'a DeTable<'a>>,
    at: usize,
    path: String,
    schema: String,
    faults: &'a Faults,
}

/// One value of the file.
#[derive(Debug, Clone)]
pub(super) struct Item<'a> {
    value: &'a DeValue<'a>,
    at: usize,
    path: String,
    faults: &'a Faults,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(table: &'a DeTable<'a>, faults: &'a Faults) -> Self {
        let root = Self { table: Some(table), at: 0, path: String::new(), schema: String::new(), faults };
        root.refuse_unknown_keys();
        root
    }

    /// Whether the file has this table.
    pub(super) const fn is_there(&self) -> bool {
        self.table.is_some()
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The line it begins on, from 1.
    pub(super) fn line(&self) -> usize {
        self.faults.line_of(self.at)
    }

    /// A fault of this table as a whole.
    pub(super) fn fault(&self, what: impl Into<String>) {
        self.faults.add(self.at, &self.path, what);
    }

    /// A fault of the key `key`, where it stands, or of this table where it is left out.
    pub(super) fn fault_of(&self, key: &str, what: impl Into<String>) {
        let at = self.item(key).map_or(self.at, |item| item.at);
        self.faults.add(at, &join(&self.path, key), what);
    }

    /// A fault for a key that must be there and is not.
    pub(super) fn missing(&self, key: &str, remedy: &str) {
        self.faults.add_missing(self.at, &join(&self.path, key), format!("is missing: {remedy}"));
    }

    /// Whether the key is there, whatever it holds.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Whether an unknown key is there that was told to be this one, mistyped.
    pub(super) fn mistypes(&self, key: &str) -> bool {
        let known = schema::children(&self.schema);
        self.table.into_iter().flatten().any(|(name, _)| {
            let name: &str = name.get_ref();
            !known.contains(&name)
                && schema::homes_of(name).is_empty()
                && nearest(name, known.iter().copied()) == Some(key)
        })
    }

    pub(super) fn item(&self, key: &str) -> Option<Item<'a>> {
        let (name, value) = self.table?.get_key_value(key)?;
        let path = join(&self.path, key);
        Some(Item { value: value.get_ref(), at: name.span().start, path, faults: self.faults })
    }

    /// The table under `key`.
    pub(super) fn section(&self, key: &str) -> Self {
        let absent = Self {
            table: None,
            at: self.at,
            path: join(&self.path, key),
            schema: join_schema(&self.schema, key),
            faults: self.faults,
        };
        let Some(item) = self.item(key) else { return absent };
        let DeValue::Table(table) = item.value else {
            item.expected("a table");
            return absent;
        };
        let section = Self { table: Some(table), at: item.at, ..absent };
        section.refuse_unknown_keys();
        section
    }

    /// The tables under `key` whose names are the user's own, in file order.
    pub(super) fn named_sections(&self, key: &str) -> Vec<(&'a str, Self)> {
        let Some(item) = self.item(key) else { return Vec::new() };
        let DeValue::Table(table) = item.value else {
            item.expected("tables");
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (name, value) in table {
            let at = name.span().start;
            let name: &'a str = name.get_ref();
            let path = join(&item.path, name);
            let DeValue::Table(table) = value.get_ref() else {
                let item = Item { value: value.get_ref(), at, path, faults: self.faults };
                item.expected("a table");
                continue;
            };
            let schema = join_schema(&join_schema(&self.schema, key), "NAME");
            let section = Self { table: Some(table), at, path, schema, faults: self.faults };
            section.refuse_unknown_keys();
            sections.push((name, section));
        }
        sections.sort_by_key(|(_, section)| section.at);
        sections
    }

    /// The tables of the list under `key`, in file order.
    pub(super) fn sections(&self, key: &str) -> Option<Vec<Self>> {
        let items = self.items(key, &format!("a list of tables, [[{key}]] or [{{ … }}]"))?;
        let schema = format!("{}[]", join_schema(&self.schema, key));
        let sections = items.into_iter().filter_map(|item| {
            let DeValue::Table(table) = item.value else {
                item.expected("a table");
                return None;
            };
            let section =
                Self { table: Some(table), at: item.at, path: item.path, schema: schema.clone(), faults: self.faults };
            section.refuse_unknown_keys();
            Some(section)
        });
        Some(sections.collect())
    }

    fn items(&self, key: &str, expected: &str) -> Option<Vec<Item<'a>>> {
        let item = self.item(key)?;
        let DeValue::Array(values) = item.value else {
            item.expected(expected);
            return None;
        };
        let elements = values.iter().enumerate().map(|(index, value)| Item {
            value: value.get_ref(),
            at: value.span().start,
            path: format!("{}[{index}]", item.path),
            faults: self.faults,
        });
        Some(elements.collect())
    }

    /// The values of the list under `key`.
    pub(super) fn list(&self, key: &str) -> Option<Vec<Item<'a>>> {
        let Kind::List(of) = self.kind(key) else { return None };
        self.items(key, &format!("a list of {of}"))
    }

    /// Each text of the list under `key`, read; what cannot be read is a fault and left out.
    pub(super) fn list_of<T>(&self, key: &str) -> Option<Vec<T>>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        Some(self.list(key)?.iter().filter_map(Item::parsed).collect())
    }

    /// The names and values of the table under `key`, in file order.
    pub(super) fn entries(&self, key: &str) -> Option<Vec<(&'a str, Item<'a>)>> {
        let item = self.item(key)?;
        let entries = item.entries();
        if entries.is_none() {
            item.expected("a table of field names and values");
        }
        entries
    }

    pub(super) fn switch(&self, key: &str) -> Option<bool> {
        let item = self.item(key)?;
        let DeValue::Boolean(is_on) = item.value else {
            item.expected("true or false");
            return None;
        };
        Some(*is_on)
    }

    /// A whole number within the schema's range.
    pub(super) fn count<T: TryFrom<u64>>(&self, key: &str) -> Option<T> {
        let item = self.item(key)?;
        let Kind::Count { min, max } = self.kind(key) else { return None };
        let expected = format!("a whole number from {min} to {max}");
        let DeValue::Integer(number) = item.value else {
            item.expected(&expected);
            return None;
        };
        let number = u64::from_str_radix(number.as_str(), number.radix()).ok();
        let number = number.filter(|number| (min..=max).contains(number)).and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            item.expected(&expected);
        }
        number
    }

    /// A duration within the schema's range.
    pub(super) fn duration(&self, key: &str) -> Option<Duration> {
        let item = self.item(key)?;
        let Kind::Duration { min, max } = self.kind(key) else { return None };
        let DeValue::String(text) = item.value else {
            item.expected(UnitFault::Duration.to_string().trim_start_matches("expected "));
            return None;
        };
        match parse_duration(text) {
            Ok(span) if (min..=max).contains(&span) => Some(span),
            Ok(_outside) => {
                item.expected(&format!("a duration from {} to {}", format_duration(min), format_duration(max)));
                None
            }
            Err(fault) => {
                item.fault(format!("found {}, {fault}", shown(text)));
                None
            }
        }
    }

    /// A number of bytes within the schema's range.
    pub(super) fn size<T: TryFrom<u64>>(&self, key: &str) -> Option<T> {
        let item = self.item(key)?;
        let Kind::Size { min, max } = self.kind(key) else { return None };
        let bytes = match item.value {
            DeValue::String(text) => parse_size(text),
            DeValue::Integer(number) => {
                u64::from_str_radix(number.as_str(), number.radix()).map_err(|_| UnitFault::Size)
            }
            _ => Err(UnitFault::Size),
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(fault) => {
                item.fault(format!("found {}, {fault}", item.description()));
                return None;
            }
        };
        let fitting = Some(bytes).filter(|bytes| (min..=max).contains(bytes)).and_then(|bytes| T::try_from(bytes).ok());
        if fitting.is_none() {
            item.expected(&format!("a size from {} to {}", format_size(min), format_size(max)));
        }
        fitting
    }

    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.item(key)?.text()
    }

    /// A file or folder, relative to `base`.
    pub(super) fn file(&self, key: &str, base: &std::path::Path) -> Option<PathBuf> {
        let item = self.item(key)?;
        let text = item.text()?;
        if text.is_empty() || text.contains('\0') {
            item.expected("the path of a file");
            return None;
        }
        let path = base.join(text);
        self.faults.name_file(item.at, &item.path, &path);
        Some(path)
    }

    /// One of the schema's words, as what it stands for.
    pub(super) fn choice<T: Copy>(&self, key: &str, meanings: &[T]) -> Option<T> {
        let item = self.item(key)?;
        let Kind::Choice(words) = self.kind(key) else { return None };
        debug_assert_eq!(words.len(), meanings.len(), "{}", item.path);
        let text = item.text()?;
        let meaning = words.iter().zip(meanings).find(|(word, _)| **word == text).map(|(_, meaning)| *meaning);
        if meaning.is_none() {
            let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
            item.expected(&words.join(" or "));
        }
        meaning
    }

    /// Text that `T` reads.
    pub(super) fn parsed<T>(&self, key: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        self.item(key)?.parsed()
    }

    pub(super) fn address(&self, key: &str) -> Option<SocketAddr> {
        self.item(key)?.address()
    }

    fn kind(&self, key: &str) -> Kind {
        schema::key_at(&join_schema(&self.schema, key)).expect("every key that is read is in the schema").kind
    }

    fn refuse_unknown_keys(&self) {
        let known = schema::children(&self.schema);
        for (name, _) in self.table.into_iter().flatten() {
            let (name, at): (&str, usize) = (name.get_ref(), name.span().start);
            if known.contains(&name) {
                continue;
            }
            let path = join(&self.path, name);
            let homes = schema::homes_of(name);
            let remedy = match nearest(name, known.iter().copied()) {
                _ if (1..=3).contains(&homes.len()) => format!("it belongs in {}", homes.join(" or ")),
                Some(near) => format!("did you mean {near}?"),
                None => format!("known here: {}", known.join(", ")),
            };
            self.faults.add(at, &path, format!("unknown key; {remedy}"));
        }
    }
}

impl<'a> Item<'a> {
    pub(super) fn fault(&self, what: impl Into<String>) {
        self.faults.add(self.at, &self.path, what);
    }

    pub(super) const fn at(&self) -> usize {
        self.at
    }

    pub(super) const fn value(&self) -> &'a DeValue<'a> {
        self.value
    }

    /// Whether this is text.
    pub(super) const fn is_text(&self) -> bool {
        matches!(self.value, DeValue::String(_))
    }

    /// The names and values of a table, in file order; none where this is no table.
    pub(super) fn entries(&self) -> Option<Vec<(&'a str, Self)>> {
        let DeValue::Table(table) = self.value else { return None };
        let entries = table.iter().map(|(name, value)| {
            let at = name.span().start;
            let name: &'a str = name.get_ref();
            (name, Self { value: value.get_ref(), at, path: join(&self.path, name), faults: self.faults })
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by_key(|(_, item)| item.at);
        Some(entries)
    }

    /// A fault that says what is here and what should be.
    pub(super) fn expected(&self, expected: &str) {
        self.fault(format!("found {}, expected {expected}", self.description()));
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        let DeValue::String(text) = self.value else {
            self.expected("text in quotes");
            return None;
        };
        Some(text)
    }

    pub(super) fn parsed<T>(&self) -> Option<T>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        match self.text()?.parse() {
            Ok(value) => Some(value),
            Err(fault) => {
                self.fault(fault.to_string());
                None
            }
        }
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        let address = self.text()?.parse().ok();
        if address.is_none() {
            self.expected("an address and a port such as \"127.0.0.1:8443\" or \"[::]:8443\"");
        }
        address
    }

    /// The value as a fault may show it.
    fn description(&self) -> String {
        match self.value {
            DeValue::String(text) => shown(text),
            DeValue::Integer(number) => format!("the number {}", shorten(&number.to_string())),
            DeValue::Float(number) => format!("the number {}", shorten(number.as_str())),
            DeValue::Boolean(is_on) => is_on.to_string(),
            DeValue::Datetime(time) => format!("the time {time}"),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        }
    }
}

/// Puts a value that was read in place of the default.
pub(super) fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

fn shorten(digits: &str) -> String {
    digits.chars().take(24).collect()
}

fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let key = if bare { key.to_owned() } else { shown(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

fn join_schema(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
