//! What the proxy asks when the table does not know a token. Defined here, so that the proxy needs
//! to know neither store nor feed; [`crate::sync`] implements it.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::key::{Record, TokenHash};

/// A boxed future, so that the trait can be an object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Finds out about tokens that the table does not know, within bounds.
pub trait MissResolver: Send + Sync + fmt::Debug {
    /// What is known of `hash`, which `client` sent. What has to be waited for may be dropped at any await:
    /// another caller that waits for the same hash then goes on with it.
    fn resolve(&self, hash: TokenHash, client: IpAddr, now: Timestamp) -> Resolving<'_>;
}

/// What is known of a token, or will be. A flood of junk is mostly answered at once: it waits for nothing, and
/// nothing is made for it to wait with.
#[must_use]
pub enum Resolving<'a> {
    /// This much is known.
    Now(MissAnswer),
    /// The store is asked.
    Later(BoxFuture<'a, MissAnswer>),
}

impl Resolving<'_> {
    /// The answer, waited for if need be. Cancel-safe.
    pub async fn answer(self) -> MissAnswer {
        match self {
            Self::Now(answer) => answer,
            Self::Later(answer) => answer.await,
        }
    }
}

impl fmt::Debug for Resolving<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(answer) => f.debug_tuple("Now").field(answer).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

/// What came of a miss.
#[derive(Debug, Clone)]
pub enum MissAnswer {
    /// The store knows the key. It may still be refused by its status.
    Found(Record),
    /// No such key.
    Unknown,
    /// The store cannot be asked now, and the key may be new: 503.
    UnknownYet,
    /// This client has failed too often: 429.
    TooManyFailures {
        /// When one more try will be allowed.
        retry_after: Duration,
    },
    /// Too many unknown tokens from all clients together: 503.
    Overloaded,
}
