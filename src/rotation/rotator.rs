//! The task that announces: looks for what came due, takes it on, and sends what is to be sent. All that
//! it knows lies in the store, so it may be killed at any moment and go on elsewhere.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::message::body;
use super::metrics::RotationMetrics;
use super::outbound::{Post, Receipt};
use super::schedule::wait_after;
use super::settings::Settings;
use crate::clock::{Clock, Timestamp};
use crate::key::WebhookSecrets;
use crate::manage::Manager;
use crate::secret;
use crate::store::{
    Claim, Claimed, DeliveryId, DeliveryState, NewDelivery, Notice, NoticeKind, RotationStore, Settlement, SharedStore,
    StoreError,
};
use crate::wire::{Reach, ReceiverUrl};

/// How many dates are taken on at a time.
const TAKEN_ON_MAX: usize = 256;
/// How many announcements go to one host at a time, over all gateways.
const PER_HOST: usize = 4;
/// How far the reading of events may be ahead of what the store knows of it, in revisions.
const UNNOTED_MAX: u64 = 1000;
/// How long a finished announcement is kept, to tell what became of it.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long a stop waits for what is being sent.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// The longest that a receiver puts an attempt off by `Retry-After`.
const PUT_OFF_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The most bytes that are kept of what an attempt came to.
const TOLD_BYTES_MAX: usize = 200;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What announcing needs.
#[derive(Debug)]
pub struct Parts {
    /// How.
    pub settings: Settings,
    /// Where keys and announcements are kept.
    pub store: SharedStore,
    /// Takes the URL off a key whose receiver wants no more.
    pub manager: Manager,
    /// Whose signatures receivers know.
    pub secrets: WebhookSecrets,
    /// What tells the time.
    pub clock: Arc<dyn Clock>,
    /// What counts.
    pub metrics: RotationMetrics,
    /// What sends.
    pub post: Arc<dyn Post>,
}

/// Announces. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rotator {
    parts: Arc<Parts>,
    owner: u128,
}

/// Why a round was cut short.
type Cut = StoreError;

impl Rotator {
    /// Nothing is looked at before [`Rotator::run`].
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn new(parts: Parts) -> Result<Self, secret::NoRandomness> {
        Ok(Self { parts: Arc::new(parts), owner: u128::from_be_bytes(secret::random()?) })
    }

    /// Announces until `stop` is true. What is being sent then has two seconds to end; what does not is
    /// sent again by whoever comes next.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut ticks = interval(self.parts.settings.poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sending = JoinSet::new();
        let mut is_failing = false;
        loop {
            let looked = tokio::select! {
                biased;
                () = is_told(&mut stop) => break,
                _tick = ticks.tick() => self.look().await,
                Some(sent) = sending.join_next(), if !sending.is_empty() => {
                    if let Err(panicked) = sent {
                        tracing::error!(error = %panicked, "sending an announcement broke off");
                    }
                    Ok(())
                }
            };
            let looked = match looked {
                Ok(()) => self.take_up(&mut sending).await,
                Err(cut) => Err(cut),
            };
            match looked {
                Ok(()) => is_failing = false,
                Err(error) => {
                    self.parts.metrics.store_failed();
                    // One line for each time that the store goes away.
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "rotations cannot be looked after now");
                    }
                }
            }
        }
        let rest = async { while sending.join_next().await.is_some() {} };
        let _cut_short = timeout(STOP_PATIENCE, rest).await;
    }

    /// One look at the dates and everything that follows from it, to its end.
    #[cfg(test)]
    pub(super) async fn round(&self) -> Result<(), Cut> {
        self.look().await?;
        let mut sending = JoinSet::new();
        loop {
            self.take_up(&mut sending).await?;
            if sending.join_next().await.is_none() {
                // What was sent last may have changed how things stand.
                return self.count().await;
            }
        }
    }

    fn store(&self) -> Result<&dyn RotationStore, Cut> {
        let store = &self.parts.store;
        let none = || StoreError::Unavailable {
            store: store.name().to_owned(),
            cause: "it keeps no announcements".to_owned(),
        };
        store.rotation().ok_or_else(none)
    }

    /// Takes on what came due, and tells how things stand.
    async fn look(&self) -> Result<(), Cut> {
        if let Some(public_url) = &self.parts.settings.public_url {
            while self.take_on(public_url).await? {}
            let before = self.parts.clock.now().minus(KEPT);
            self.store()?.forget_deliveries(before).await?;
        }
        self.count().await
    }

    async fn count(&self) -> Result<(), Cut> {
        self.parts.metrics.show(&self.store()?.rotation_counts().await?);
        Ok(())
    }

    /// Takes some of it on. Answers whether there may be more.
    async fn take_on(&self, public_url: &str) -> Result<bool, Cut> {
        let store = self.store()?;
        let found = store.unannounced(self.parts.settings.expiry_notice, TAKEN_ON_MAX).await?;
        let mut deliveries = Vec::with_capacity(found.notices.len());
        for notice in &found.notices {
            deliveries.push(announcement(notice, public_url, found.now)?);
        }
        let (from, to) = found.read;
        let is_far = to.revision.saturating_sub(from.revision) > UNNOTED_MAX;
        if deliveries.is_empty() && !is_far && !(found.more && from != to) {
            return Ok(false);
        }
        let count = store.announce(deliveries, found.read).await?;
        if count > 0 {
            tracing::info!(count, "announcements taken on");
        }
        // Where somebody else was faster, the next look shows what is left.
        Ok(found.more && (count > 0 || from != to))
    }

    /// Begins to send what can be sent now.
    async fn take_up(&self, sending: &mut JoinSet<()>) -> Result<(), Cut> {
        let settings = &self.parts.settings;
        let room = settings.in_flight.saturating_sub(sending.len());
        if room == 0 || settings.public_url.is_none() {
            return Ok(());
        }
        // Long enough that nobody else sends what is still being sent.
        let lease = settings.timeout * 2;
        let per_project = settings.in_flight.div_ceil(2);
        let claim = Claim { owner: self.owner, lease, limit: room, per_host: PER_HOST, per_project };
        for claimed in self.store()?.claim(claim).await? {
            let this = self.clone();
            sending.spawn(async move { this.send(claimed).await });
        }
        Ok(())
    }

    async fn send(&self, claimed: Claimed) {
        let attempt = self.attempt(&claimed).await;
        let Claimed { delivery, key, .. } = claimed;
        self.parts.metrics.attempted(attempt.state);
        let (kind, id) = (delivery.kind.as_str(), delivery.id);
        match attempt.state {
            DeliveryState::Delivered => tracing::info!(%id, key_id = %key.id, kind, "announced"),
            DeliveryState::Moot => tracing::info!(%id, key_id = %key.id, kind, why = attempt.told, "not announced"),
            DeliveryState::Pending => {
                let (why, again) = (&attempt.told, attempt.again_at.to_rfc3339());
                tracing::warn!(%id, key_id = %key.id, kind, attempts = delivery.attempts + 1, why, again, "announcement failed");
            }
            DeliveryState::GivenUp => {
                let why = &attempt.told;
                tracing::error!(%id, key_id = %key.id, kind, attempts = delivery.attempts + 1, why, "announcement given up");
            }
            DeliveryState::Gone => {
                tracing::warn!(%id, key_id = %key.id, kind, "the receiver wants no more announcements");
                let url = key.rotation.webhook_url.as_deref().unwrap_or_default();
                if let Err(error) = self.parts.manager.forget_webhook(key.id, url).await {
                    tracing::error!(key_id = %key.id, %error, "the URL of a receiver that wants no more stays");
                }
            }
        }
        let Attempt { state, again_at, told } = attempt;
        let settlement = Settlement { id, owner: self.owner, state, next_attempt_at: again_at, told };
        let settled = match self.store() {
            Ok(store) => store.settle(settlement).await,
            Err(cut) => Err(cut),
        };
        if let Err(error) = settled {
            // Its lease ends, and it is sent once more.
            self.parts.metrics.store_failed();
            tracing::warn!(%id, %error, "what an announcement came to could not be noted");
        }
    }

    async fn attempt(&self, claimed: &Claimed) -> Attempt {
        let Claimed { delivery, key, .. } = claimed;
        if let Some(why) = is_moot(claimed) {
            return Attempt::ended(DeliveryState::Moot, why);
        }
        let text = key.rotation.webhook_url.as_deref().unwrap_or_default();
        let url = match ReceiverUrl::parse(text, self.parts.settings.reach) {
            Ok(url) => url,
            Err(fault) => return self.failed(delivery.attempts, &fault.to_string()),
        };
        let now = self.parts.clock.now();
        let signatures = self.parts.secrets.signing(key.lineage, &key.rotation, now);
        let signed =
            signatures.iter().map(|secret| secret.sign(&delivery.id.to_string(), now, delivery.body.as_bytes()));
        let fields = match fields(delivery.id, now, &signed.collect::<Vec<_>>().join(" ")) {
            Ok(fields) => fields,
            Err(fault) => return self.failed(delivery.attempts, &fault.to_string()),
        };
        match self.parts.post.post(&url, fields, Bytes::from(delivery.body.clone())).await {
            Ok(Receipt { status, .. }) if status.is_success() => {
                Attempt::ended(DeliveryState::Delivered, &format!("answered {}", status.as_u16()))
            }
            Ok(Receipt { status: StatusCode::GONE, .. }) => Attempt::ended(DeliveryState::Gone, "answered 410"),
            Ok(Receipt { status, retry_after }) => {
                let failed = self.failed(delivery.attempts, &format!("answered {}", status.as_u16()));
                self.put_off(failed, retry_after)
            }
            Err(fault) => self.failed(delivery.attempts, &fault.to_string()),
        }
    }

    fn failed(&self, attempts: u32, why: &str) -> Attempt {
        // Without randomness the wait is as short as it can be.
        let random = secret::random().unwrap_or_default();
        match wait_after(&self.parts.settings.retries, attempts.saturating_add(1), random) {
            Some(wait) => {
                let again_at = self.parts.clock.now().plus(wait);
                Attempt { again_at, ..Attempt::ended(DeliveryState::Pending, why) }
            }
            None => Attempt::ended(DeliveryState::GivenUp, why),
        }
    }

    /// A receiver that asks to be left alone for longer than the schedule would is, within bounds.
    fn put_off(&self, mut failed: Attempt, retry_after: Option<Duration>) -> Attempt {
        if let (DeliveryState::Pending, Some(wait)) = (failed.state, retry_after) {
            failed.again_at = failed.again_at.max(self.parts.clock.now().plus(wait.min(PUT_OFF_MAX)));
        }
        failed
    }
}

/// Waits until `stop` is true, or can never become so. Cancel-safe.
async fn is_told(stop: &mut watch::Receiver<bool>) {
    let _told = stop.wait_for(|stop| *stop).await.is_ok();
}

/// What an attempt came to.
#[derive(Debug)]
struct Attempt {
    state: DeliveryState,
    again_at: Timestamp,
    told: String,
}

impl Attempt {
    fn ended(state: DeliveryState, told: &str) -> Self {
        let told = told.chars().filter(|letter| !letter.is_control()).take(TOLD_BYTES_MAX).collect();
        Self { state, again_at: Timestamp::EPOCH, told }
    }
}

/// Why an announcement is of no use any more, if it is of none.
fn is_moot(Claimed { delivery, key, .. }: &Claimed) -> Option<&'static str> {
    if key.rotation.webhook_url.is_none() {
        return Some("the key has no webhook");
    }
    let has_ended = key.states.revoked || key.replaced_by.is_some();
    let date = match delivery.kind {
        NoticeKind::RotationDue => key.rotation.next_at,
        NoticeKind::Expiring => key.expires_at,
        NoticeKind::Rotated | NoticeKind::Revoked => return None,
    };
    if has_ended {
        return Some("the key was replaced or revoked");
    }
    (date != Some(delivery.at)).then_some("the date was moved")
}

fn announcement(notice: &Notice, public_url: &str, now: Timestamp) -> Result<NewDelivery, Cut> {
    let random = secret::random().map_err(|error| StoreError::Unavailable {
        store: "the operating system".to_owned(),
        cause: error.to_string(),
    })?;
    let url = notice.key.rotation.webhook_url.as_deref().unwrap_or_default();
    let host = ReceiverUrl::parse(url, Reach::Private).map(|url| url.authority());
    Ok(NewDelivery {
        id: DeliveryId::mint(now, random),
        key: notice.key.id,
        lineage: notice.key.lineage,
        kind: notice.kind,
        at: notice.at,
        // A URL that can no longer be used is found wanting when it is.
        host: host.unwrap_or_else(|_fault| "-".to_owned()),
        body: body(notice, public_url, now),
    })
}

fn fields(id: DeliveryId, now: Timestamp, signatures: &str) -> Result<HeaderMap, http::header::InvalidHeaderValue> {
    let mut fields = HeaderMap::new();
    fields.insert(WEBHOOK_ID, HeaderValue::try_from(id.to_string())?);
    fields.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(now.seconds()));
    fields.insert(WEBHOOK_SIGNATURE, HeaderValue::try_from(signatures)?);
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(USER_AGENT, HeaderValue::from_static(concat!("keyward/", env!("CARGO_PKG_VERSION"))));
    Ok(fields)
}
