//! `keyward keys inspect`: what a token says about itself, with no store and no network. Never
//! prints the token.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::failure::Failure;
use crate::cli::output::{Output, unreadable};
use crate::clock::Timestamp;
use crate::key::{EnvironmentId, Form, Jwks, JwtParts, Signature, TOKEN_BYTES_MAX, Token, TokenHash, TokenPrefix};

/// Say what a token is, without asking anybody
///
/// A token in an argument can be seen by everybody on the machine who can run `ps`: leave it out and
/// give it on standard input.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward keys inspect < token.txt
  wl-paste | keyward keys inspect --json
  keyward keys inspect --jwks jwks.json < token.txt

Exits 1 where the text is no token, or its checksum or signature is wrong.")]
pub(in crate::cli) struct Args {
    /// The token; better left out and given on standard input
    #[arg(value_name = "TOKEN")]
    token: Option<String>,
    /// What tokens of the installation begin with
    #[arg(long, value_name = "WORD", default_value = "kw")]
    prefix: TokenPrefix,
    /// The public keys to verify a JWT with, as /.well-known/jwks.json serves them
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The most bytes that are read of a line: a token, and a little more to see that it is none.
const LINE_BYTES_MAX: u64 = TOKEN_BYTES_MAX as u64 + 4;

/// What can be said of a token by looking at it.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Looks {
    /// `keyward`, `jwt`, `assertion` or `foreign`.
    form: &'static str,
    environment: Option<EnvironmentId>,
    /// `ok` or `bad`; none where the form has none.
    checksum: Option<&'static str>,
    key_prefix: Option<String>,
    length: usize,
    hash: String,
    /// As a key that was imported by it is known, and as a deny list may name it.
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<Jwt>,
}

/// What a JWT claims, and whether that was verified.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Jwt {
    /// `good`, `bad` or `unknown key`; none where there were no keys to verify it with.
    signature: Option<&'static str>,
    kid: Option<Value>,
    #[serde(rename = "typ")]
    media_type: Option<Value>,
    /// All but what makes the token one that nobody can guess.
    claims: Map<String, Value>,
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let token = match args.token {
        Some(text) => Token::from_text(&text),
        None => read_token()?,
    };
    check(&token)?;
    let jwks = args.jwks.as_deref().map(read_jwks).transpose()?;
    let looks = look(&token, &args.prefix, jwks.as_ref());
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
    match looks.jwt.as_ref().and_then(|jwt| jwt.signature) {
        Some(BAD) => {
            output.flush()?;
            Err(Failure::failed("the signature is wrong: what the token claims was changed, or is somebody else's"))
        }
        Some(UNKNOWN_KEY) => {
            output.flush()?;
            Err(Failure::failed("the token was signed by none of these keys: they are another's, or older"))
        }
        Some(_) | None => Ok(()),
    }
}

const GOOD: &str = "good";
const BAD: &str = "bad";
const UNKNOWN_KEY: &str = "unknown key";

fn read_jwks(path: &Path) -> Result<Jwks, Failure> {
    let text = std::fs::read(path).map_err(|error| unreadable(path.display(), &error))?;
    Jwks::parse(&text).map_err(|fault| Failure::of(path.display(), &fault))
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
    say("sha-512", &looks.hash)?;
    say("sha-256", &looks.sha256)?;
    let Some(jwt) = &looks.jwt else { return Ok(()) };
    say("signature", jwt.signature.unwrap_or("not verified: give --jwks"))?;
    for (name, value) in [("typ", &jwt.media_type), ("kid", &jwt.kid)] {
        if let Some(value) = value {
            say(name, &shown(name, value))?;
        }
    }
    for (name, value) in &jwt.claims {
        say(&printable(name), &shown(name, value))?;
    }
    Ok(())
}

/// A claim for people. It may say anything: what is no plain text is escaped.
fn shown(name: &str, value: &Value) -> String {
    let is_time = matches!(name, "iat" | "exp" | "nbf");
    match value.as_i64().filter(|_| is_time) {
        Some(seconds) => Timestamp::from_seconds(seconds).to_rfc3339(),
        None => value.as_str().map_or_else(|| printable(&value.to_string()), printable),
    }
}

fn printable(text: &str) -> String {
    text.chars().flat_map(|char| if char.is_control() { char.escape_default().collect() } else { vec![char] }).collect()
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

fn look(token: &Token, prefix: &TokenPrefix, jwks: Option<&Jwks>) -> Looks {
    let text = token.expose();
    let environment = text.split('_').nth(1).and_then(|word| word.parse::<EnvironmentId>().ok());
    let jwt = JwtParts::of(text);
    let (form, environment, checksum) = match Form::of(text.as_bytes(), prefix) {
        Form::Own(environment) => ("keyward", Some(environment), Some("ok")),
        Form::Malformed => ("keyward", environment, Some("bad")),
        Form::Assertion => ("assertion", None, None),
        Form::Foreign if jwt.is_some() => ("jwt", None, None),
        Form::Foreign => ("foreign", None, None),
    };
    let key_prefix = environment.as_ref().map(|environment| token.shown_prefix(prefix, environment));
    let jwt = jwt.map(|parts| Jwt {
        signature: jwks.map(|jwks| match jwks.verify(&parts) {
            Signature::Good => GOOD,
            Signature::Bad => BAD,
            Signature::UnknownKey => UNKNOWN_KEY,
        }),
        kid: parts.head.get("kid").cloned(),
        media_type: parts.head.get("typ").cloned(),
        claims: parts.claims.into_iter().filter(|(name, _)| name != "rnd").collect(),
    });
    // As other programs write it: what the store keeps of one is filled up to the length of a SHA-512.
    let mut sha256 = TokenHash::sha256_of(text.as_bytes()).to_hex();
    sha256.truncate(SHA256_DIGITS);
    Looks { form, environment, checksum, key_prefix, length: text.len(), hash: token.hash().to_hex(), sha256, jwt }
}

const SHA256_DIGITS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Looks {
        look(&Token::from_text(text), &TokenPrefix::default(), None)
    }

    #[test]
    fn a_minted_token_shows_its_environment_and_a_right_checksum() {
        let token = Token::mint(&TokenPrefix::default(), &EnvironmentId::live(), [9; 32]);
        let looks = seen(token.expose());
        assert_eq!((looks.form, looks.checksum), ("keyward", Some("ok")));
        assert_eq!(looks.environment, Some(EnvironmentId::live()));
        assert!(looks.key_prefix.is_some_and(|prefix| prefix.len() == "kw_live_".len() + 6));
        assert_eq!(looks.hash, token.hash().to_hex());
        // printf %s abc | sha256sum
        assert_eq!(seen("abc").sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_mistyped_token_has_a_bad_checksum_and_any_other_text_is_foreign() {
        let looks = seen(&format!("kw_live_{}", "0".repeat(49)));
        assert_eq!((looks.form, looks.checksum), ("keyward", Some("bad")));
        assert_eq!(looks.environment, Some(EnvironmentId::live()));
        let looks = seen("sk_live_something");
        assert_eq!((looks.form, looks.checksum, looks.key_prefix), ("foreign", None, None));
        let jwt = seen("eyJhbGciOiJFZERTQSJ9.e30.c2ln");
        assert_eq!((jwt.form, jwt.jwt.map(|jwt| jwt.signature)), ("jwt", Some(None)));
        assert_eq!(seen("a.b.c").form, "foreign");
    }

    #[test]
    fn a_claim_cannot_write_on_the_terminal_what_it_likes() {
        assert_eq!(shown("sub", &Value::from("a\u{1b}[2Jb\n")), "a\\u{1b}[2Jb\\n");
        assert_eq!(shown("iat", &Value::from(1_800_000_000)), "2027-01-15T08:00:00Z");
        assert_eq!(shown("flags", &serde_json::json!(["a", "b"])), r#"["a","b"]"#);
    }

    #[test]
    fn a_text_that_no_header_could_carry_is_no_token() {
        assert!(check(&Token::from_text("a b")).is_err());
        assert!(check(&Token::from_text("")).is_err());
        assert!(check(&Token::from_text(&"a".repeat(4097))).is_err());
        assert!(check(&Token::from_text(&"a".repeat(4096))).is_ok());
    }
}
