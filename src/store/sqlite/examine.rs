//! Looking at a store's file page by page, without changing anything.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::fault::Fault;
use crate::store::StoreError;

/// Reads every page of the store in the file at `path` and holds them against each other: damage that reading
/// a few keys does not meet. Blocks on the disk, about a second for 300 MB.
///
/// # Errors
/// When it is damaged, or cannot be read.
pub fn examine(path: &Path) -> Result<(), StoreError> {
    let name = path.display().to_string();
    let read = || {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
    };
    match read() {
        Ok(verdict) if verdict == "ok" => Ok(()),
        // What it says fills several lines.
        Ok(verdict) => {
            Err(StoreError::Damaged { store: name, cause: verdict.lines().last().unwrap_or_default().to_owned() })
        }
        Err(error) => Err(Fault::from(error).told(&name)),
    }
}
