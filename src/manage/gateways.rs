//! The gateways that follow the store: how far each has come, and where a change is in force.
//!
//! A change is confirmed once every process that is known has confirmed it, those that cannot be heard
//! included: they may still be serving.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::manager::all_projects;
use super::may::{Acting, Operation};
use super::{Caller, ManageError, Manager};
use crate::clock::Timestamp;
use crate::store::{Fleet, FleetStore, Gateway, GatewayId, ReadRequest};

/// How a process of a gateway stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayState {
    /// It has confirmed the newest revision, and was heard lately.
    Current,
    /// It was heard lately, and has not confirmed the newest revision yet.
    Behind,
    /// It was not heard for a while: it may still be serving.
    Silent,
    /// It was not heard for so long that by its own configuration it refuses everything: nobody waits for
    /// it.
    Stale,
}

impl GatewayState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Current, Self::Behind, Self::Silent, Self::Stale];

    /// The name in output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Behind => "behind",
            Self::Silent => "silent",
            Self::Stale => "stale",
        }
    }
}

/// A process of a gateway, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayView {
    /// What is known of it.
    pub gateway: Gateway,
    /// How it stands.
    pub state: GatewayState,
    /// How many revisions it has not confirmed; none where it follows another history than the store's.
    pub lag_revisions: Option<u64>,
    /// For how long there has been one that it has not confirmed; none where that is not known.
    pub lag: Option<Duration>,
}

/// All gateways, of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetView {
    /// Every process, by gateway and start.
    pub gateways: Vec<GatewayView>,
    /// The newest revision.
    pub newest: u64,
    /// The store's clock.
    pub now: Timestamp,
}

/// Where a revision is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// The revision.
    pub revision: u64,
    /// The processes that have confirmed it.
    pub applied: Vec<GatewayView>,
    /// Those that have not, and may still be serving.
    pub unconfirmed: Vec<GatewayView>,
    /// The store's clock.
    pub now: Timestamp,
}

impl Confirmation {
    /// Whether it is in force everywhere.
    #[must_use]
    pub const fn is_of_all(&self) -> bool {
        self.unconfirmed.is_empty()
    }

    fn of(revision: u64, fleet: FleetView) -> Self {
        let counted = fleet.gateways.into_iter().filter(|view| view.state != GatewayState::Stale);
        let (applied, unconfirmed) =
            counted.partition(|view| view.gateway.confirmed().is_some_and(|confirmed| confirmed >= revision));
        Self { revision, applied, unconfirmed, now: fleet.now }
    }
}

/// A gateway that was not heard for this long is silent: some of its heartbeats are missing.
const SILENT_AFTER: Duration = Duration::from_secs(10);

impl FleetView {
    fn of(fleet: Fleet) -> Self {
        let (newest, now) = (fleet.newest.revision, fleet.now);
        let gateways = fleet.gateways.into_iter().map(|gateway| {
            let lag_revisions = gateway.confirmed().map(|confirmed| newest.saturating_sub(confirmed));
            let state = if gateway.denies_all(now) {
                GatewayState::Stale
            } else if now.since(gateway.last_seen) > SILENT_AFTER {
                GatewayState::Silent
            } else if lag_revisions == Some(0) {
                GatewayState::Current
            } else {
                GatewayState::Behind
            };
            let lag = match lag_revisions {
                Some(0) => Some(Duration::ZERO),
                _ => gateway.behind_since.map(|since| now.since(since)),
            };
            GatewayView { gateway, state, lag_revisions, lag }
        });
        Self { gateways: gateways.collect(), newest, now }
    }
}

/// The last look at the gateways, shared by all who wait for them.
#[derive(Debug, Default)]
pub(super) struct Glances {
    last: Mutex<Option<(Instant, Arc<Fleet>)>>,
}

/// How often somebody who waits for gateways looks at them.
const LOOK_EVERY: Duration = Duration::from_millis(25);

impl Glances {
    /// What is known of gateways, as of `since` or later.
    async fn look(&self, store: &dyn FleetStore, since: Instant) -> Result<Arc<Fleet>, ManageError> {
        let mut last = self.last.lock().await;
        if let Some((at, fleet)) = &*last
            && *at >= since
        {
            return Ok(Arc::clone(fleet));
        }
        let at = Instant::now();
        let fleet = Arc::new(store.gateways().await?);
        *last = Some((at, Arc::clone(&fleet)));
        Ok(fleet)
    }
}

impl Manager {
    fn fleet_store(&self) -> Result<&dyn FleetStore, ManageError> {
        self.store.fleet().ok_or_else(|| ManageError::GatewaysNotKnown { store: self.store.name().to_owned() })
    }

    /// Every process of every gateway. Needs `keyward.gateways.read`.
    ///
    /// # Errors
    /// When the caller may not, or the store fails.
    pub async fn gateways(&self, caller: &Caller) -> Result<FleetView, ManageError> {
        let reading = self.asked(caller, ReadRequest::default()).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::ReadGateways)?;
        acting.scope()?;
        Ok(FleetView::of(self.fleet_store()?.gateways().await?))
    }

    /// Where `revision` is in force. Needs `keyward.gateways.read`.
    ///
    /// # Errors
    /// When there is no such revision, the caller may not, or the store fails.
    pub async fn confirmation(&self, caller: &Caller, revision: u64) -> Result<Confirmation, ManageError> {
        let fleet = self.gateways(caller).await?;
        if revision > fleet.newest {
            return Err(ManageError::RevisionNotFound { found: revision, newest: fleet.newest });
        }
        Ok(Confirmation::of(revision, fleet))
    }

    /// Waits until `revision`, which is committed, is in force everywhere, or `until` has passed. Where it
    /// is then. For whoever made that revision: it tells only whether, and to nobody else where.
    ///
    /// # Errors
    /// When the store cannot be asked, `until` included.
    pub async fn wait_confirmed(&self, revision: u64, until: Instant) -> Result<Confirmation, ManageError> {
        let store = self.fleet_store()?;
        // Whoever began to serve before this looks is found by it.
        let mut since = Instant::now();
        loop {
            let looked = tokio::time::timeout_at(until.max(since + LOOK_PATIENCE), self.fleet.look(store, since)).await;
            let looked = looked.unwrap_or_else(|_elapsed| {
                let cause = "it gave no answer in time".to_owned();
                Err(crate::store::StoreError::Unavailable { store: self.store.name().to_owned(), cause }.into())
            });
            let now = Instant::now();
            match looked {
                Ok(fleet) => {
                    let confirmation = Confirmation::of(revision, FleetView::of(Fleet::clone(&fleet)));
                    if confirmation.is_of_all() || now >= until {
                        return Ok(confirmation);
                    }
                }
                Err(error) if now >= until => return Err(error),
                // It may answer before the time is over.
                Err(_) => {}
            }
            tokio::time::sleep_until((now + LOOK_EVERY).min(until)).await;
            since = now;
        }
    }

    /// Forgets a gateway that is gone: nobody waits for it any more, until it is heard again. Needs
    /// `keyward.operators.write` and all projects. How many processes of it were known.
    ///
    /// # Errors
    /// When it is not known, the caller may not, or the store fails.
    pub async fn forget_gateway(&self, caller: &Caller, id: GatewayId) -> Result<usize, ManageError> {
        let reading = self.asked(caller, ReadRequest::default()).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::ForgetGateway)?;
        all_projects(acting)?;
        let forgotten = self.fleet_store()?.forget(id.clone()).await?;
        if forgotten == 0 {
            return Err(ManageError::GatewayNotFound { id });
        }
        tracing::warn!(gateway = %id, actor = %caller.actor(), "a gateway was forgotten: nobody waits for it any more");
        Ok(forgotten)
    }
}

/// The least time that a look at the gateways is given.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
