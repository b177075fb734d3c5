//! The addresses of a target's name: asked for beside the requests, every so often, and the last good
//! ones kept where the resolver fails.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::link::Dial;
use crate::proxy::settings::Target;

/// What one worker knows of one name.
#[derive(Debug)]
pub(super) struct Resolver {
    known: RefCell<Option<Rc<[SocketAddr]>>>,
    asked: Cell<Option<Instant>>,
    turn: Cell<usize>,
    asking: Mutex<()>,
}

impl Resolver {
    /// Nothing known yet. Each begins with another of the addresses.
    pub(super) fn new() -> Self {
        let somewhere = RandomState::new().build_hasher().finish();
        let turn = Cell::new(usize::try_from(somewhere >> 40).unwrap_or(0));
        Self { known: RefCell::default(), asked: Cell::default(), turn, asking: Mutex::default() }
    }

    /// The known addresses, beginning with the one whose turn it is; asks where none is known.
    pub(super) async fn addresses(
        &self,
        dial: &impl Dial,
        target: &Target,
        now: Instant,
    ) -> io::Result<Vec<SocketAddr>> {
        let known = match self.known() {
            Some(known) => known,
            None => {
                // One at a time: a resolver that does not answer is not asked by every request.
                let _turn = self.asking.lock().await;
                match self.known() {
                    Some(known) => known,
                    None => {
                        self.asked.set(Some(now));
                        self.ask(dial, target).await?
                    }
                }
            }
        };
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let (before, from) = known.split_at(turn.checked_rem(known.len()).unwrap_or(0));
        Ok(from.iter().chain(before).copied().collect())
    }

    fn known(&self) -> Option<Rc<[SocketAddr]>> {
        self.known.borrow().clone()
    }

    /// Whether it is time to ask again; whoever is told so asks.
    pub(super) fn is_due(&self, every: Duration, now: Instant) -> bool {
        let due = self.asked.get().is_some_and(|asked| now.saturating_duration_since(asked) >= every);
        if due {
            self.asked.set(Some(now));
        }
        due
    }

    /// Asks anew beside the requests, unless somebody is waiting for an answer already.
    pub(super) async fn refresh(&self, dial: &impl Dial, target: &Target) -> io::Result<()> {
        let Ok(_turn) = self.asking.try_lock() else { return Ok(()) };
        self.ask(dial, target).await?;
        Ok(())
    }

    /// Asks anew. An answer without addresses is none.
    async fn ask(&self, dial: &impl Dial, target: &Target) -> io::Result<Rc<[SocketAddr]>> {
        let found: Rc<[SocketAddr]> = dial.look_up(&target.host, target.port).await?.into();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        *self.known.borrow_mut() = Some(Rc::clone(&found));
        Ok(found)
    }
}
