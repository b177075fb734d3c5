//! `keyward keys inspect`: what a token says about itself, with no store and no network. Never
//! prints the token.

use std::io::{BufRead, Read};

use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::output::{Output, unreadable};
use crate::key::{EnvironmentId, Form, TOKEN_BYTES_MAX, Token, TokenPrefix};

/// Say what a token is, without asking anybody
///
/// A token in an argument can be seen by everybody on the machine who can run `ps`: leave it out and
/// give it on standard input.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward keys inspect < token.txt
  wl-paste | keyward keys inspect --json

Exits 1 where the text is no token, or has a wrong checksum.")]
pub(in crate::cli) struct Args {
    /// The token; better left out and given on standard input
    #[arg(value_name = "TOKEN")]
    token: Option<String>,
    /// What tokens of the installation begin with
    #[arg(long, value_name = "WORD", default_value = "kw")]
    prefix: TokenPrefix,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The most bytes that are read of a line: a token, and a little more to see that it is none.
const LINE_BYTES_MAX: u64 = TOKEN_BYTES_MAX as u64 + 4;

/// What can be said of a token by looking at it.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Looks {
    /// `keyward`, `jwt` or `foreign`.
    form: &'static str,
    environment: Option<EnvironmentId>,
    /// `ok` or `bad`; none where the form has none.
    checksum: Option<&'static str>,
    key_prefix: Option<String>,
    length: usize,
    hash: String,
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let token = match args.token {
        Some(text) => Token::from_text(&text),
        None => read_token()?,
    };
    check(&token)?;
    let looks = look(&token, &args.prefix);
    if args.json {
        output.json(&looks)?;
    } else {
        print(&looks, output)?;
        if looks.form == "foreign" && token.expose().starts_with(&format!("{}_", args.prefix.as_str())) {
            output.line("note         it begins as Keyward's own tokens do, and has not their length or alphabet")?;
        }
    }
    if looks.checksum == Some("bad") {
        output.flush()?;
        return Err(Failure::failed(
            "the token's checksum is wrong: it was mistyped or cut, and is refused everywhere",
        ));
    }
    Ok(())
}

fn print(looks: &Looks, output: &mut Output) -> Result<(), Failure> {
    let mut say = |name: &str, value: &str| output.line(format_args!("{name:<12} {value}"));
    say("form", looks.form)?;
    say("length", &looks.length.to_string())?;
    if let Some(environment) = &looks.environment {
        say("environment", environment.as_str())?;
    }
    if let Some(checksum) = looks.checksum {
        say("checksum", checksum)?;
    }
    if let Some(prefix) = &looks.key_prefix {
        say("prefix", prefix)?;
    }
    say("sha-512", &looks.hash)
}

fn read_token() -> Result<Token, Failure> {
    let mut text = zeroize::Zeroizing::new(String::with_capacity(TOKEN_BYTES_MAX + 8));
    // Enough to see that a line is too long, however long it is.
    let read = std::io::stdin().lock().take(LINE_BYTES_MAX).read_line(&mut text);
    read.map_err(|error| unreadable("standard input", &error))?;
    Ok(Token::from_text(text.trim_end_matches(['\r', '\n'])))
}

fn check(token: &Token) -> Result<(), Failure> {
    let text = token.expose();
    if text.is_empty() {
        return Err(Failure::failed("no token: give one on standard input"));
    }
    if text.len() > TOKEN_BYTES_MAX {
        return Err(Failure::failed(format_args!("no token: longer than {TOKEN_BYTES_MAX} bytes")));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::failed("no token: it has a character outside ! to ~, a space for instance"));
    }
    Ok(())
}

fn look(token: &Token, prefix: &TokenPrefix) -> Looks {
    let text = token.expose();
    let environment = text.split('_').nth(1).and_then(|word| word.parse::<EnvironmentId>().ok());
    let (form, environment, checksum) = match Form::of(text.as_bytes(), prefix) {
        Form::Own(environment) => ("keyward", Some(environment), Some("ok")),
        Form::Malformed => ("keyward", environment, Some("bad")),
        Form::Foreign if is_jwt(text) => ("jwt", None, None),
        Form::Foreign => ("foreign", None, None),
    };
    let key_prefix = environment.as_ref().map(|environment| token.shown_prefix(prefix, environment));
    Looks { form, environment, checksum, key_prefix, length: text.len(), hash: token.hash().to_hex() }
}

/// Whether `text` has the compact form of a signed JWT, with a header that is a JSON object.
fn is_jwt(text: &str) -> bool {
    let parts: Vec<_> = text.split('.').collect();
    let decoded = |part: &&str| data_encoding::BASE64URL_NOPAD.decode(part.as_bytes()).ok();
    let Some(bytes) = parts.iter().map(decoded).collect::<Option<Vec<_>>>() else { return false };
    let header = bytes.first().and_then(|header| serde_json::from_slice::<serde_json::Value>(header).ok());
    bytes.len() == 3 && header.is_some_and(|header| header.is_object())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Looks {
        look(&Token::from_text(text), &TokenPrefix::default())
    }

    #[test]
    fn a_minted_token_shows_its_environment_and_a_right_checksum() {
        let token = Token::mint(&TokenPrefix::default(), &EnvironmentId::live(), [9; 32]);
        let looks = seen(token.expose());
        assert_eq!((looks.form, looks.checksum), ("keyward", Some("ok")));
        assert_eq!(looks.environment, Some(EnvironmentId::live()));
        assert!(looks.key_prefix.is_some_and(|prefix| prefix.len() == "kw_live_".len() + 6));
        assert_eq!(looks.hash, token.hash().to_hex());
    }

    #[test]
    fn a_mistyped_token_has_a_bad_checksum_and_any_other_text_is_foreign() {
        let looks = seen(&format!("kw_live_{}", "0".repeat(49)));
        assert_eq!((looks.form, looks.checksum), ("keyward", Some("bad")));
        assert_eq!(looks.environment, Some(EnvironmentId::live()));
        let looks = seen("sk_live_something");
        assert_eq!((looks.form, looks.checksum, looks.key_prefix), ("foreign", None, None));
        assert_eq!(seen("eyJhbGciOiJFZERTQSJ9.e30.c2ln").form, "jwt");
        assert_eq!(seen("a.b.c").form, "foreign");
    }

    #[test]
    fn a_text_that_no_header_could_carry_is_no_token() {
        assert!(check(&Token::from_text("a b")).is_err());
        assert!(check(&Token::from_text("")).is_err());
        assert!(check(&Token::from_text(&"a".repeat(4097))).is_err());
        assert!(check(&Token::from_text(&"a".repeat(4096))).is_ok());
    }
}
