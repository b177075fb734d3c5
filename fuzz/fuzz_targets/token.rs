//! A token that was minted is one of ours, one changed character makes it none, and any bytes at
//! all have a form.
#![no_main]

use keyward::key::{EnvironmentId, Form, Token, TokenPrefix};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let prefix = TokenPrefix::default();
    let is_no_key = matches!(Form::of(data, &prefix), Form::Malformed | Form::Assertion);
    assert_eq!(is_no_key, Form::is_malformed(data, &prefix));

    let Some((random, rest)) = data.split_first_chunk::<32>() else { return };
    let environment = std::str::from_utf8(rest).ok().and_then(|word| word.parse::<EnvironmentId>().ok());
    let environment = environment.unwrap_or_else(EnvironmentId::live);
    let token = Token::mint(&prefix, &environment, *random);
    assert_eq!(Form::of(token.expose().as_bytes(), &prefix), Form::Own(environment));
    assert_eq!(token.hash(), Token::from_text(token.expose()).hash());

    let mut changed = token.expose().as_bytes().to_vec();
    let at = usize::from(random[0]) % changed.len();
    changed[at] ^= 1;
    assert!(!matches!(Form::of(&changed, &prefix), Form::Own(_)));
});
