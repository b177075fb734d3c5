//! What is wrong with a configuration, and where.
//!
//! A fault says file and line, the key, what was found, what was expected and what to do. It never
//! holds a secret: values are shown only where a key cannot carry one.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// One thing wrong with a configuration, as one line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    file: String,
    line: Option<usize>,
    key: String,
    what: String,
}

impl Fault {
    /// A fault of `file` as a whole, or of something that is no line of it.
    pub(super) fn of_file(file: &str, key: &str, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, key: key.to_owned(), what: what.into() }
    }

    /// A fault on one line of `file`.
    pub(super) fn of_line(file: &str, line: Option<usize>, key: &str, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, key: key.to_owned(), what: what.into() }
    }

    /// The file at fault, as it was named; or the environment variable.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line at fault, from 1, where there is one.
    #[must_use]
    pub const fn line(&self) -> Option<usize> {
        self.line
    }

    /// The dotted path of the key at fault, for instance `routes[2].upstream`.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What was found, what was expected, and what to do.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for Fault {}

/// The faults of one file, gathered while it is read.
#[derive(Debug)]
pub(super) struct Faults {
    file: String,
    /// The offset at which each line starts.
    starts: Vec<usize>,
    found: RefCell<Vec<(usize, Fault)>>,
    /// Lines whose syntax is broken: what was read from them means nothing.
    broken: RefCell<BTreeSet<usize>>,
    /// The other files that this one names.
    named: RefCell<Vec<NamedFile>>,
}

/// A file that a configuration names, and where: whoever reads that file later can say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedFile {
    pub(super) path: PathBuf,
    pub(super) line: usize,
    pub(super) key: String,
}

impl Faults {
    pub(super) fn new(file: String, text: &str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file, starts, found: RefCell::default(), broken: RefCell::default(), named: RefCell::default() }
    }

    /// The line, from 1, that holds the byte at `at`.
    pub(super) fn line_of(&self, at: usize) -> usize {
        self.starts.partition_point(|&start| start <= at).max(1)
    }

    /// Text that is not TOML. Whatever else is said of that line is not believed.
    pub(super) fn syntax(&self, at: usize, what: String) {
        self.broken.borrow_mut().insert(self.line_of(at));
        self.push(at, "", what);
    }

    /// What follows `at` was read as part of something else: nothing said of it is believed.
    pub(super) fn distrust_from(&self, at: usize) {
        self.broken.borrow_mut().extend(self.line_of(at)..=self.starts.len());
    }

    pub(super) fn add(&self, at: usize, key: &str, what: impl Into<String>) {
        if !self.broken.borrow().contains(&self.line_of(at)) {
            self.push(at, key, what.into());
        }
    }

    /// A fault of something that is not there. Not believed in a file whose syntax is broken: the
    /// missing thing may be on the broken line.
    pub(super) fn add_missing(&self, at: usize, key: &str, what: impl Into<String>) {
        if self.broken.borrow().is_empty() {
            self.push(at, key, what.into());
        }
    }

    fn push(&self, at: usize, key: &str, what: String) {
        let fault = Fault::of_line(&self.file, Some(self.line_of(at)), key, what);
        let mut found = self.found.borrow_mut();
        if !found.iter().any(|(_, known)| *known == fault) {
            found.push((at, fault));
        }
    }

    /// Notes that `path` is named at `at`.
    pub(super) fn name_file(&self, at: usize, key: &str, path: &Path) {
        let named = NamedFile { path: path.to_owned(), line: self.line_of(at), key: key.to_owned() };
        self.named.borrow_mut().push(named);
    }

    /// The files that are named, in the order in which they were read.
    pub(super) fn named_files(&self) -> Vec<NamedFile> {
        self.named.borrow().clone()
    }

    /// Every fault, in file order.
    pub(super) fn into_sorted(self) -> Vec<Fault> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().map(|(_, fault)| fault).collect()
    }
}

/// A value as it may stand in a fault: quoted, on one line, and not endless.
pub(super) fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 80;
    if text.chars().count() <= SHOWN_MAX {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(SHOWN_MAX).collect();
    format!("{start:?}…")
}

/// The known name that `found` was meant to be, where one is near: a few letters away, or longer by
/// whole words.
pub(super) fn nearest<'k>(found: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    const FOUND_MAX: usize = 64;
    if found.len() > FOUND_MAX {
        return None;
    }
    let distance = |name: &str| {
        let is_part = found.len() > 2
            && (name.strip_prefix(found).is_some_and(|rest| rest.starts_with('_'))
                || name.strip_suffix(found).is_some_and(|rest| rest.ends_with('_')));
        match strsim::damerau_levenshtein(found, name) {
            distance if distance <= (name.len() / 3).max(1) => Some(distance),
            _ if is_part => Some(name.len()),
            _ => None,
        }
    };
    known
        .into_iter()
        .filter_map(|name| Some((distance(name)?, name)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
