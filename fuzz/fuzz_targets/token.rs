//! A token that was minted is one of ours, one changed character makes it none, and any bytes at
//! all have a form.
#![no_main]

use keyward::key::{EnvironmentId, Form, Shape, Token, TokenPrefix};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let prefix = TokenPrefix::default();
    let (form, shape) = (Form::of(data, &prefix), Shape::of(data, &prefix));
    assert_eq!(matches!(form, Form::Malformed | Form::Assertion), shape == Shape::NoKey);
    assert!(!matches!(form, Form::Own(_)) || shape == Shape::Own);

    let Some((random, rest)) = data.split_first_chunk::<32>() else { return };
    let environment = std::str::from_utf8(rest).ok().and_then(|word| word.parse::<EnvironmentId>().ok());
    let environment = environment.unwrap_or_else(EnvironmentId::live);
    let token = Token::mint(&prefix, &environment, *random);
    assert_eq!(Form::of(token.expose().as_bytes(), &prefix), Form::Own(environment));
    assert_eq!(Shape::of(token.expose().as_bytes(), &prefix), Shape::Own);
    assert_eq!(token.hash(), Token::from_text(token.expose()).hash());

    let mut changed = token.expose().as_bytes().to_vec();
    let at = usize::from(random[0]) % changed.len();
    changed[at] ^= 1;
    assert!(!matches!(Form::of(&changed, &prefix), Form::Own(_)));
});
