//! Files of secrets: small, and readable by their owner alone.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

/// More than any secret needs, and little enough to read a wrong file by mistake.
const FILE_BYTES_MAX: u64 = 4096;

/// Reads the file at `path`. `remedy` says what to do where there is none.
///
/// # Errors
/// When it cannot be read, is too large, or others may read it.
pub(super) fn read(path: &Path, remedy: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let shown = path.display();
    let mut file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("no file {shown}: {remedy}"),
        _ => format!("cannot open {shown}: {error}"),
    })?;
    let metadata = file.metadata().map_err(|error| format!("cannot read {shown}: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("{shown} is no file"));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o177 != 0 {
        return Err(format!("{shown} has mode {mode:04o}, expected 0600 or stricter: chmod 600 {shown}"));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(4096));
    file.by_ref()
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    Ok(text)
}
