//! The operator's token: from a file or from the environment, never from an argument, which everybody on
//! the machine could read.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::cli::failure::Failure;
use crate::cli::output::unreadable;
use crate::key::Token;

/// The environment variable that holds a token where no file is named.
pub(super) const TOKEN_VARIABLE: &str = "KEYWARD_TOKEN";
/// More than any token has.
const FILE_BYTES_MAX: u64 = 8192;
/// The most bytes of a token that a listener reads.
const TOKEN_BYTES_MAX: usize = 4096;

/// The token in `file`, else the one of the environment.
pub(super) fn token(file: Option<&Path>) -> Result<Token, Failure> {
    let (text, source) = match file {
        Some(file) => (from_file(file)?, file.display().to_string()),
        None => (from_environment()?, TOKEN_VARIABLE.to_owned()),
    };
    let text = text.trim_ascii();
    let is_token = (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    // Not a byte of it is shown: it may be a token with something behind it.
    if !is_token {
        return Err(Failure::failed(format_args!("{source} holds no token: expected one line of printable ASCII")));
    }
    Ok(Token::from_text(text))
}

fn from_environment() -> Result<Zeroizing<String>, Failure> {
    #[expect(clippy::disallowed_methods, reason = "the command line is where an operator's environment is read")]
    let text = std::env::var(TOKEN_VARIABLE).map(Zeroizing::new);
    text.ok().filter(|text| !text.is_empty()).ok_or_else(|| {
        Failure::usage(format_args!("--admin asks as an operator: set {TOKEN_VARIABLE}, or give --token-file FILE"))
    })
}

fn from_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let shown = &path.display().to_string();
    let mut file = File::open(path).map_err(|error| unreadable(shown, &error))?;
    let metadata = file.metadata().map_err(|error| unreadable(shown, &error))?;
    let mode = metadata.permissions().mode() & 0o777;
    // A pipe, such as a shell's `<(…)`, is nobody else's.
    if metadata.is_file() && mode & 0o077 != 0 {
        let told = format_args!("{shown} has mode {mode:04o}, and others can read the token in it: chmod 600 {shown}");
        return Err(Failure::failed(told));
    }
    let mut text = Zeroizing::new(String::with_capacity(8192));
    file.by_ref().take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| unreadable(shown, &error))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_of_a_token_is_its_owners_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        fs::write(&file, "kw_live_x\n").expect("a file");
        let set = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("our own file");
        set(0o640);
        assert!(token(Some(&file)).is_err_and(|failure| failure.lines().concat().contains("chmod 600")));
        set(0o600);
        assert_eq!(token(Some(&file)).expect("a token").expose(), "kw_live_x");
        fs::write(&file, "kw_live_x secret\n").expect("a file");
        let told = token(Some(&file)).expect_err("two words").lines().concat();
        assert!(told.contains("holds no token") && !told.contains("secret"), "{told}");
    }
}
