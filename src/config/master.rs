//! Where the master secrets come from: a file that only its owner can read, or
//! `KEYWARD_MASTER_SECRET`, and how they are written there.
//!
//! One secret stands for itself: 64 hexadecimal digits or 43 of base64url. Several, while one takes
//! another's place, are written one a line as `NUMBER:SECRET`, with `@TIME` behind the one that is not
//! in use before then. Lines that begin with `#` say something to people. A variable may have commas in
//! the place of line ends.

use std::fmt::Write as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::fault::Fault;
use super::{Config, private};
use crate::clock::Timestamp;
use crate::secret::{MasterSecret, MasterSecrets, NoMasterSecret, NumberedMaster, Secret};

/// The environment variable that takes the file's place.
pub const MASTER_SECRET_VARIABLE: &str = "KEYWARD_MASTER_SECRET";
/// How many secrets there may be at a time. One, and a second for a while, is what is needed.
pub const MASTER_SECRETS_MAX: usize = 8;
const NUMBER_MAX: u32 = 1_000_000;

/// The master secrets that `config` names: from the environment variable where it is set, else from
/// the file.
///
/// # Errors
/// A fault that names the variable or the file and says what is wrong and what to do: not there,
/// readable by others, no 32 bytes.
pub fn master_secrets(config: &Config) -> Result<MasterSecrets, Fault> {
    if let Some(text) = &config.environment.master_secret {
        return parse(text.expose()).map_err(|fault| Fault::of_file(MASTER_SECRET_VARIABLE, "", fault.to_string()));
    }
    from_file(&config.master_file).map_err(|what| {
        let line = config.master_file_line;
        Fault::of_line(&config.path.display().to_string(), line, "secrets.master_file", what)
    })
}

/// The text of a file with these secrets, which [`master_secrets`] reads.
#[must_use]
pub fn master_file_text(secrets: &MasterSecrets) -> Secret {
    let mut text = Zeroizing::new(String::with_capacity(4096));
    let _never = writeln!(
        text,
        "# Keyward's master secrets, one a line: NUMBER:SECRET, or NUMBER:SECRET@TIME for one that is used only from\n\
         # then on. The greatest number makes what is made anew; what the others made stays good while they are here."
    );
    for one in secrets.iter() {
        let digits = one.secret.to_text();
        let _never = write!(text, "{}:{}", one.number, String::from_utf8_lossy(digits.expose()));
        if one.used_from_seconds > i64::MIN {
            let _never = write!(text, "@{}", Timestamp::from_seconds(one.used_from_seconds).to_rfc3339_with(0));
        }
        text.push('\n');
    }
    Secret::new(text.as_bytes())
}

fn from_file(path: &Path) -> Result<MasterSecrets, String> {
    let remedy =
        format!("put it back, or make a new store with `keyward init`; {MASTER_SECRET_VARIABLE} takes its place");
    let text = private::read(path, &remedy)?;
    parse(&text).map_err(|fault| format!("{}: {fault}", path.display()))
}

/// Text that holds no master secrets. Shows nothing of it but numbers and times.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum NoMasterSecrets {
    #[error(transparent)]
    One(NoMasterSecret),
    #[error("secret {at}: {fault}")]
    OneOfSeveral { at: usize, fault: NoMasterSecret },
    #[error("secret {at} has no number from 1 on before its `:`")]
    Number { at: usize },
    #[error("secret {at} has no time such as 2027-01-31T00:00:00Z behind its `@`")]
    Time { at: usize },
    #[error("number {number} is there twice: each secret has a number of its own")]
    Twice { number: u32 },
    #[error("it holds {found} secrets, and at most {MASTER_SECRETS_MAX} can be used at a time: remove the oldest")]
    TooMany { found: usize },
}

fn parse(text: &[u8]) -> Result<MasterSecrets, NoMasterSecrets> {
    let lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.starts_with(b"#"));
    let entries = lines.flat_map(|line| line.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    let entries: Vec<&[u8]> = entries.filter(|entry| !entry.is_empty()).collect();
    match entries.as_slice() {
        // A text of other things than secrets, too: it is told how long it is as a whole.
        [] => MasterSecret::parse(text).map(MasterSecrets::first).map_err(NoMasterSecrets::One),
        [one] if !one.contains(&b':') => {
            MasterSecret::parse(one).map(MasterSecrets::first).map_err(NoMasterSecrets::One)
        }
        several if several.len() > MASTER_SECRETS_MAX => Err(NoMasterSecrets::TooMany { found: several.len() }),
        several => {
            let secrets = (1..).zip(several).map(|(at, entry)| numbered(at, entry)).collect::<Result<Vec<_>, _>>()?;
            let twice = secrets.iter().find(|one| secrets.iter().filter(|it| it.number == one.number).count() > 1);
            let number = twice.map_or(0, |one| one.number);
            MasterSecrets::of(secrets).ok_or(NoMasterSecrets::Twice { number })
        }
    }
}

/// One entry, the `at`th.
fn numbered(at: usize, entry: &[u8]) -> Result<NumberedMaster, NoMasterSecrets> {
    let as_text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::trim).map(str::to_owned);
    let (number, rest) = match cut(entry, b':') {
        // A lone secret from before there were others is the first.
        None => (1, entry),
        Some((number, rest)) => {
            let number = as_text(number).and_then(|text| text.parse().ok());
            let number = number.filter(|number| (1..=NUMBER_MAX).contains(number));
            (number.ok_or(NoMasterSecrets::Number { at })?, rest)
        }
    };
    // A time has colons of its own, and stands last.
    let (digits, used_from_seconds) = match cut(rest, b'@') {
        None => (rest, i64::MIN),
        Some((digits, time)) => {
            let time = as_text(time).and_then(|text| text.parse::<Timestamp>().ok());
            (digits, time.ok_or(NoMasterSecrets::Time { at })?.seconds())
        }
    };
    let secret = MasterSecret::parse(digits).map_err(|fault| NoMasterSecrets::OneOfSeveral { at, fault })?;
    Ok(NumberedMaster { number, secret, used_from_seconds })
}

/// What comes before the first `by`, and what comes after it.
fn cut(text: &[u8], by: u8) -> Option<(&[u8], &[u8])> {
    let mut parts = text.splitn(2, |&byte| byte == by);
    parts.next().zip(parts.next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const TWO: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

    fn read(text: &str) -> Result<Vec<(u32, MasterSecret, i64)>, String> {
        let secrets = parse(text.as_bytes()).map_err(|fault| fault.to_string())?;
        Ok(secrets.iter().map(|one| (one.number, one.secret.clone(), one.used_from_seconds)).collect())
    }

    fn secret(text: &str) -> MasterSecret {
        MasterSecret::parse(text.as_bytes()).expect("a secret")
    }

    #[test]
    fn a_lone_secret_is_the_first() {
        let first = Ok(vec![(1, secret(ONE), i64::MIN)]);
        assert_eq!(read(&format!("{ONE}\n")), first);
        assert_eq!(read(&format!("# made by init\n\n  {ONE}  \n")), first);
        assert_eq!(read(&format!("1:{ONE}")), first);
    }

    #[test]
    fn several_secrets_have_numbers_and_the_newest_comes_first() {
        let both = Ok(vec![(2, secret(TWO), 1_800_000_000), (1, secret(ONE), i64::MIN)]);
        assert_eq!(read(&format!("1:{ONE}\n2:{TWO}@2027-01-15T08:00:00Z\n")), both);
        assert_eq!(read(&format!("2:{TWO}@2027-01-15T08:00:00Z,{ONE}")), both, "as a variable holds them");
    }

    #[test]
    fn what_is_written_is_read_back() -> Result<(), NoMasterSecrets> {
        let secrets = parse(format!("7:{TWO}@2027-01-15T08:00:00Z\n3:{ONE}").as_bytes())?;
        assert_eq!(parse(master_file_text(&secrets).expose())?, secrets);
        Ok(())
    }

    #[test]
    fn a_fault_names_its_place_and_shows_nothing_of_a_secret() {
        let fault = |text: &str| read(text).expect_err(text);
        assert_eq!(fault(&format!("{ONE}\nx:{TWO}")), "secret 2 has no number from 1 on before its `:`");
        assert_eq!(fault(&format!("0:{TWO}")), "secret 1 has no number from 1 on before its `:`");
        assert_eq!(fault(&format!("1:{ONE}\n1:{TWO}")), "number 1 is there twice: each secret has a number of its own");
        assert_eq!(fault(&format!("{ONE}\n{TWO}")), "number 1 is there twice: each secret has a number of its own");
        assert_eq!(fault(&format!("1:{ONE}@soon")), "secret 1 has no time such as 2027-01-31T00:00:00Z behind its `@`");
        assert!(fault("1:hunter2").starts_with("secret 1: found 7 characters that are no 32 bytes"));
        assert!(fault("correct: horse battery").starts_with("secret 1 has no number"));
        assert!(fault("").starts_with("found 0 characters"));
        let many: Vec<String> = (1..=9).map(|number| format!("{number}:{ONE}")).collect();
        assert_eq!(
            fault(&many.join("\n")),
            "it holds 9 secrets, and at most 8 can be used at a time: remove the oldest"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
