//! How a key comes by its token.

use std::sync::Arc;

use super::ManageError;
use crate::key::{Format, Key, MintJwt, Token, TokenHash, TokenPrefix};
use crate::secret;

/// Makes tokens.
#[derive(Debug, Clone)]
pub(super) struct Minter {
    pub(super) prefix: TokenPrefix,
    pub(super) jwt: Option<Arc<dyn MintJwt>>,
}

impl Minter {
    /// What stands in a key for the hash until it has its token.
    pub(super) const fn no_hash() -> TokenHash {
        TokenHash::from_bytes([0; 64])
    }

    /// Gives `key` a new token of its format.
    pub(super) fn mint(&self, key: &mut Key) -> Result<Token, ManageError> {
        let token = match key.format {
            Format::Opaque => {
                let token = Token::mint(&self.prefix, &key.environment, secret::random()?);
                key.shown_prefix = Some(token.shown_prefix(&self.prefix, &key.environment));
                token
            }
            Format::Jwt => {
                let minter =
                    self.jwt.as_ref().ok_or(ManageError::FormatNotAvailable { format: key.format.as_str() })?;
                key.shown_prefix = Some(Format::Jwt.as_str().to_owned());
                minter.mint(key)?
            }
            Format::Imported => return Err(ManageError::FormatNotAvailable { format: key.format.as_str() }),
        };
        key.hash = token.hash();
        key.last_four = Some(token.last_four().to_owned());
        Ok(token)
    }
}
