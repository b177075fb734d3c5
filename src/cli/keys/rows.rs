//! Rows of keys in files: what an import reads and an export writes. A fault names its line and
//! never quotes a token or hash.

use std::fmt;
use std::io::BufRead;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::cli::documents::Key;
use crate::clock::Timestamp;
use crate::key::{EnvironmentId, FlagSet, Grants, ProjectId, Status, Token, TokenHash, UserId, check_key_name};
use crate::manage::{Expiry, ImportedKey, ImportedSecret};

/// Columns that an import reads.
const READ: [&str; 9] = ["token", "hash", "name", "flags", "inherit", "project", "environment", "user", "expires_at"];
/// Columns that an export adds for people. An import looks at `status` alone.
const TOLD: [&str; 5] = ["id", "key_prefix", "status", "created_at", "last_used_at"];

/// What a line of the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A token.
    Tokens,
    /// The SHA-512 of a token, as 128 hexadecimal digits.
    Hashes,
    /// Cells under a header.
    Csv,
}

/// What holds for a row that does not say.
#[derive(Debug, Clone)]
pub(super) struct Defaults {
    pub(super) project: Option<ProjectId>,
    pub(super) environment: EnvironmentId,
    pub(super) user: Option<UserId>,
    pub(super) flags: FlagSet,
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LineFault {
    /// Which, from 1.
    pub(super) line: usize,
    /// What is wrong with it.
    pub(super) cause: String,
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.cause)
    }
}

/// Reads every row; `read` is told after each.
///
/// # Errors
/// Every line at fault.
pub(super) fn read(
    kind: Kind,
    file: impl BufRead,
    defaults: &Defaults,
    read: impl FnMut(),
) -> Result<Vec<ImportedKey>, Vec<LineFault>> {
    let rows = match kind {
        Kind::Tokens | Kind::Hashes => read_lines(kind, file, defaults, read),
        Kind::Csv => read_csv(file, defaults, read)?,
    };
    let mut keys = Vec::with_capacity(rows.len());
    let mut faults = Vec::new();
    for row in rows {
        match row {
            Ok(key) => keys.push(key),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(keys) } else { Err(faults) }
}

type Row = Result<ImportedKey, LineFault>;

/// One token or hash a line. Empty lines are left out, and so is what follows `# `, which no token
/// can begin with.
fn read_lines(kind: Kind, mut file: impl BufRead, defaults: &Defaults, mut read: impl FnMut()) -> Vec<Row> {
    let mut rows = Vec::new();
    for line in 1.. {
        let mut bytes = Zeroizing::new(Vec::with_capacity(256));
        match file.read_until(b'\n', &mut bytes) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                rows.push(Err(LineFault { line, cause: format!("cannot be read: {error}") }));
                break;
            }
        }
        let bytes = bytes.trim_ascii();
        if bytes.is_empty() || bytes.starts_with(b"# ") {
            continue;
        }
        let secret = match std::str::from_utf8(bytes) {
            Ok(text) if kind == Kind::Hashes => hash(text),
            Ok(text) => Ok(ImportedSecret::Token(Token::from_text(text))),
            Err(_) => Err("is not text".to_owned()),
        };
        let key = secret.and_then(|secret| from_defaults(line, secret, defaults));
        rows.push(key.map_err(|cause| LineFault { line, cause }));
        read();
    }
    rows
}

/// A key of which only its secret is known.
pub(super) fn from_defaults(line: usize, secret: ImportedSecret, defaults: &Defaults) -> Result<ImportedKey, String> {
    Ok(ImportedKey {
        line,
        secret,
        name: format!("imported-{line}"),
        project: defaults.project.clone().ok_or("no project: give --project")?,
        environment: defaults.environment.clone(),
        user: defaults.user.clone(),
        grants: Grants::Only(defaults.flags.clone()),
        props: std::collections::BTreeMap::new(),
        expires: Expiry::Never,
    })
}

fn hash(text: &str) -> Result<ImportedSecret, String> {
    let hash = TokenHash::from_hex(text).ok_or_else(|| {
        format!("no SHA-512: found {} characters, expected 128 hexadecimal digits", text.chars().count())
    })?;
    Ok(ImportedSecret::Hash(hash))
}

fn read_csv(file: impl BufRead, defaults: &Defaults, mut read: impl FnMut()) -> Result<Vec<Row>, Vec<LineFault>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
    let at_header = |cause: String| vec![LineFault { line: 1, cause }];
    let header = reader.headers().map_err(|error| at_header(csv_cause(&error)))?.clone();
    let faults: Vec<_> = header_faults(&header).into_iter().map(|cause| LineFault { line: 1, cause }).collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let row = match record {
            Err(error) => {
                let line = error.position().map_or(0, |position| line_of(Some(position)));
                Err(LineFault { line, cause: csv_cause(&error) })
            }
            Ok(record) => {
                let line = line_of(record.position());
                from_cells(line, &Cells { header: &header, record: &record }, defaults)
                    .map_err(|cause| LineFault { line, cause })
            }
        };
        rows.push(row);
        read();
    }
    Ok(rows)
}

fn line_of(position: Option<&csv::Position>) -> usize {
    position.map_or(0, |position| usize::try_from(position.line()).unwrap_or(usize::MAX))
}

/// What is wrong with the file's form, without quoting it.
fn csv_cause(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} cells where the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "is not text".to_owned(),
        csv::ErrorKind::Io(error) => format!("cannot be read: {error}"),
        _ => "is no CSV".to_owned(),
    }
}

fn header_faults(header: &csv::StringRecord) -> Vec<String> {
    let mut faults = Vec::new();
    let known = || READ.iter().chain(&TOLD).copied();
    for (at, column) in header.iter().enumerate() {
        if !known().any(|name| name == column) {
            // Without a header the first row is taken for one, and it may hold a token.
            let shown: String = column.chars().take(12).collect();
            let nearest = known().min_by_key(|name| strsim::levenshtein(&shown, name)).unwrap_or_default();
            faults.push(format!(
                "the header has an unknown column {shown:?}, nearest {nearest:?}; known: {}",
                READ.join(", ")
            ));
        } else if header.iter().take(at).any(|earlier| earlier == column) {
            faults.push(format!("the header has the column {column:?} twice"));
        }
    }
    if !header.iter().any(|column| matches!(column, "token" | "hash")) {
        faults.push("the header has neither the column token nor hash".to_owned());
    }
    faults
}

struct Cells<'a> {
    header: &'a csv::StringRecord,
    record: &'a csv::StringRecord,
}

impl Cells<'_> {
    /// The cell under `column`; none where there is no such column or the cell is empty.
    fn text(&self, column: &str) -> Option<&str> {
        let at = self.header.iter().position(|name| name == column)?;
        self.record.get(at).filter(|cell| !cell.is_empty())
    }

    fn read<T: FromStr<Err: fmt::Display>>(&self, column: &str) -> Result<Option<T>, String> {
        let cell = self.text(column).map(str::parse);
        cell.transpose().map_err(|fault| format!("{column}: {fault}"))
    }
}

fn from_cells(line: usize, cells: &Cells<'_>, defaults: &Defaults) -> Result<ImportedKey, String> {
    let secret = match (cells.text("token"), cells.text("hash")) {
        (Some(token), None) => ImportedSecret::Token(Token::from_text(token)),
        (None, Some(text)) => hash(text)?,
        (Some(_), Some(_)) => return Err("has a token and a hash, expected one of them".to_owned()),
        (None, None) => return Err("has neither a token nor a hash".to_owned()),
    };
    refuse_ended(cells)?;
    let defaults = Defaults {
        project: cells.read("project")?.or_else(|| defaults.project.clone()),
        environment: cells.read("environment")?.unwrap_or_else(|| defaults.environment.clone()),
        user: cells.read("user")?.or_else(|| defaults.user.clone()),
        flags: match cells.text("flags") {
            Some(flags) => FlagSet::parse(flags.split_whitespace()).map_err(|fault| format!("flags: {fault}"))?,
            None => defaults.flags.clone(),
        },
    };
    let mut key = from_defaults(line, secret, &defaults)?;
    if let Some(name) = cells.text("name") {
        check_key_name(name).map_err(|fault| format!("name: {fault}"))?;
        name.clone_into(&mut key.name);
    }
    match cells.text("inherit") {
        Some("true") if cells.text("flags").is_some() => return Err("has flags and inherits, expected one".to_owned()),
        Some("true") => key.grants = Grants::Inherit,
        Some("false") | None => {}
        Some(other) => return Err(format!("inherit: found {other:?}, expected true or false")),
    }
    if let Some(end) = cells.read::<Timestamp>("expires_at")? {
        key.expires = Expiry::At(end);
    }
    Ok(key)
}

/// A key that had ended when it was exported must not come to life by an import.
fn refuse_ended(cells: &Cells<'_>) -> Result<(), String> {
    let live = [Status::Active.as_str(), Status::Grace.as_str()];
    match cells.text("status") {
        Some(status) if !live.contains(&status) => {
            Err(format!("status: found {status:?}, and only active keys can be imported; leave the row out"))
        }
        _ => Ok(()),
    }
}

/// Which columns an export has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Columns {
    /// With the SHA-512 of each token: what an import can read.
    WithHash,
    /// Without.
    WithoutHash,
}

impl Columns {
    /// Their names.
    pub(super) fn header(self) -> Vec<&'static str> {
        let all = ["id", "hash", "name", "flags", "inherit", "project", "environment", "user", "expires_at"];
        let told = ["key_prefix", "status", "created_at", "last_used_at"];
        all.into_iter().filter(|name| self == Self::WithHash || *name != "hash").chain(told).collect()
    }

    /// One key's cells.
    pub(super) fn cells(self, key: &Key) -> Vec<String> {
        self.header().into_iter().map(|column| cell(key, column)).collect()
    }
}

fn cell(key: &Key, column: &str) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let time = |time: Option<Timestamp>| time.map(Timestamp::to_rfc3339).unwrap_or_default();
    match column {
        "id" => key.id.to_string(),
        "hash" => text(&key.hash),
        "name" => key.name.clone(),
        "flags" => key.scopes.join(" "),
        "inherit" => key.inherit.to_string(),
        "project" => text(&key.project_id),
        "environment" => key.environment_id.clone(),
        "user" => text(&key.user_id),
        // A key in grace ends with its grace, wherever it is imported.
        "expires_at" => time(key.ends_at()),
        "key_prefix" => text(&key.key_prefix),
        "status" => key.status.clone(),
        "created_at" => key.created_at.to_rfc3339(),
        "last_used_at" => time(key.last_used_at),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Defaults {
        Defaults {
            project: Some("acme".parse().expect("a project")),
            environment: EnvironmentId::live(),
            user: None,
            flags: FlagSet::parse(["a.b"]).expect("flags"),
        }
    }

    fn read_text(kind: Kind, text: &str) -> Result<Vec<ImportedKey>, Vec<String>> {
        read(kind, text.as_bytes(), &defaults(), || {})
            .map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_line_is_a_token_and_keeps_its_number() {
        let keys = read_text(Kind::Tokens, "# from the old gateway\r\n\r\ntoken-one\r\n#two\n").expect("rows");
        let lines: Vec<_> = keys.iter().map(|key| (key.line, key.name.as_str())).collect();
        assert_eq!(lines, [(3, "imported-3"), (4, "imported-4")]);
        let texts = keys.iter().filter_map(|key| match &key.secret {
            ImportedSecret::Token(token) => Some(token.expose()),
            ImportedSecret::Hash(_) => None,
        });
        assert_eq!(texts.collect::<Vec<_>>(), ["token-one", "#two"]);
    }

    #[test]
    fn every_line_that_is_no_hash_is_named_and_not_quoted() {
        let good = TokenHash::of(b"x").to_hex();
        let faults = read_text(Kind::Hashes, &format!("{good}\nsecret\n{good}0\n")).expect_err("two bad lines");
        assert_eq!(faults.len(), 2);
        assert_eq!(faults[0], "2: no SHA-512: found 6 characters, expected 128 hexadecimal digits");
        assert!(faults[1].starts_with("3: no SHA-512: found 129"));
    }

    #[test]
    fn cells_override_what_holds_for_all() {
        let text = "token,name,flags,project,environment,user,expires_at\n\
                    t1,one,c.d e:f,other,test,ann,2027-01-31T00:00:00Z\n\
                    t2,,,,,,\n";
        let keys = read_text(Kind::Csv, text).expect("rows");
        assert_eq!((keys[0].line, keys[1].line), (2, 3));
        assert_eq!(keys[0].name, "one");
        assert_eq!(keys[0].project.as_str(), "other");
        assert_eq!(keys[0].environment.as_str(), "test");
        assert!(matches!(&keys[0].grants, Grants::Only(flags) if flags.to_string() == "c.d e:f"));
        assert!(matches!(keys[0].expires, Expiry::At(_)));
        assert_eq!(keys[1].project.as_str(), "acme");
        assert!(matches!(&keys[1].grants, Grants::Only(flags) if flags.to_string() == "a.b"));
        assert_eq!(keys[1].expires, Expiry::Never);
    }

    #[test]
    fn a_bad_header_or_cell_is_named_with_its_line() {
        let fault = |text: &str| read_text(Kind::Csv, text).expect_err("a fault").join(" | ");
        assert!(fault("token,flag\nt,a\n").contains("1: the header has an unknown column \"flag\", nearest \"flags\""));
        assert!(fault("name\nn\n").contains("neither the column token nor hash"));
        assert!(fault("token,token\nt,t\n").contains("twice"));
        assert!(fault("token,hash\nt,\n,\n").contains("3: has neither a token nor a hash"));
        assert!(fault("token,flags\nt,a..b\n").contains("2: flags:"));
        assert!(fault("token,expires_at\nt,soon\n").contains("2: expires_at:"));
        assert!(fault("token,name\nt\n").contains("2: 1 cells where the header has 2"));
        assert!(fault("token,inherit,flags\nt,true,a\n").contains("inherits"));
        let secret = "kw_live_abcdefghijklmnopqrstuvwxyz";
        assert!(!fault(&format!("{secret},x\n")).contains(secret));
    }

    #[test]
    fn a_revoked_key_does_not_come_to_life_by_an_import() {
        let fault = read_text(Kind::Csv, "token,status\na,active\nb,revoked\n").expect_err("a fault");
        assert_eq!(fault.len(), 1);
        assert!(fault[0].starts_with("3: status: found \"revoked\""));
    }

    #[test]
    fn an_import_reads_every_column_that_an_export_writes() {
        let header = csv::StringRecord::from(Columns::WithHash.header());
        assert_eq!(header_faults(&header), Vec::<String>::new());
        assert!(!Columns::WithoutHash.header().contains(&"hash"));
    }
}
