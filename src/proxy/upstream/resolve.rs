//! The addresses of a target's name: asked for beside the requests, every so often, and the last good
//! ones kept where the resolver fails.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::proxy::settings::Target;

/// What one worker knows of one name.
#[derive(Debug)]
pub(super) struct Resolver {
    known: RefCell<Option<Rc<[SocketAddr]>>>,
    asked: Cell<Option<Instant>>,
    turn: Cell<usize>,
}

impl Resolver {
    /// Nothing known yet. Each begins with another of the addresses.
    pub(super) fn new() -> Self {
        let somewhere = RandomState::new().build_hasher().finish();
        let turn = Cell::new(usize::try_from(somewhere >> 40).unwrap_or(0));
        Self { known: RefCell::default(), asked: Cell::default(), turn }
    }

    /// The known addresses, beginning with the one whose turn it is; asks where none is known.
    pub(super) async fn addresses(&self, target: &Target, now: Instant) -> io::Result<Vec<SocketAddr>> {
        let known = self.known.borrow().clone();
        let known = match known {
            Some(known) => known,
            None => {
                self.asked.set(Some(now));
                self.ask(target).await?
            }
        };
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let (before, from) = known.split_at(turn.checked_rem(known.len()).unwrap_or(0));
        Ok(from.iter().chain(before).copied().collect())
    }

    /// Whether it is time to ask again; whoever is told so asks.
    pub(super) fn is_due(&self, every: Duration, now: Instant) -> bool {
        let due = self.asked.get().is_some_and(|asked| now.saturating_duration_since(asked) >= every);
        if due {
            self.asked.set(Some(now));
        }
        due
    }

    /// Asks the system's resolver. An answer without addresses is none.
    pub(super) async fn ask(&self, target: &Target) -> io::Result<Rc<[SocketAddr]>> {
        let found: Rc<[SocketAddr]> = tokio::net::lookup_host((target.host.as_str(), target.port)).await?.collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        *self.known.borrow_mut() = Some(Rc::clone(&found));
        Ok(found)
    }
}
