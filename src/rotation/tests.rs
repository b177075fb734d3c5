//! Announcing by a clock that is set by hand, to receivers that answer as they are told, and to real ones.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use rustls::ServerConfig;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::key::{FlagSet, Grants, Key, KeyId, TokenPrefix, WebhookSecrets};
use crate::manage::{Caller, Expiry, KeyChange, Manager, NewKey, RevokeScope, Webhooks};
use crate::secret::{MasterSecret, MasterSecrets};
use crate::store::{BoxFuture, Delivery, DeliveryState, NoticeKind, SharedStore, SqliteStore};
use crate::wire::{Reach, ReceiverUrl};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const URL: &str = "https://hooks.example.com/rotate?for=acme";

/// What was posted.
#[derive(Debug, Clone)]
struct Posted {
    url: ReceiverUrl,
    fields: HeaderMap,
    body: Bytes,
}

impl Posted {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap_or_default().to_owned()
    }

    fn field(&self, name: &str) -> String {
        self.fields[name].to_str().expect("text").to_owned()
    }
}

/// A receiver that answers as it is told, and then always 200.
#[derive(Debug, Default)]
struct Receiver {
    answers: Mutex<VecDeque<u16>>,
    retry_after: Mutex<Option<Duration>>,
    posted: Mutex<Vec<Posted>>,
}

impl Post for Receiver {
    fn post<'a>(
        &'a self,
        url: &'a ReceiverUrl,
        fields: HeaderMap,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Receipt, PostFault>> {
        self.posted.lock().push(Posted { url: url.clone(), fields, body });
        let answer = self.answers.lock().pop_front().unwrap_or(200);
        let retry_after = *self.retry_after.lock();
        Box::pin(async move {
            let status = StatusCode::from_u16(answer);
            let status = status.map_err(|_told_to| PostFault::TimedOut(Duration::from_secs(1)))?;
            Ok(Receipt { status, retry_after })
        })
    }
}

struct House {
    store: SharedStore,
    manager: Manager,
    clock: Arc<ManualClock>,
    secrets: WebhookSecrets,
    receiver: Arc<Receiver>,
    metrics: RotationMetrics,
    _folder: TempDir,
}

fn secrets() -> WebhookSecrets {
    let master = MasterSecret::parse("5a".repeat(32).as_bytes()).expect("a secret");
    WebhookSecrets::derive(&MasterSecrets::first(master), 7)
}

fn house() -> House {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1_800_000_000)));
    let path = folder.path().join("keyward.db");
    let store = SqliteStore::create(&path, Arc::<ManualClock>::clone(&clock) as _).expect("a new store");
    let store: SharedStore = Arc::new(store);
    let manager = Manager::new(Arc::clone(&store), TokenPrefix::default())
        .with_webhooks(Webhooks { secrets: secrets(), reach: Reach::Public });
    let (receiver, metrics) = (Arc::default(), RotationMetrics::new());
    House { store, manager, clock, secrets: secrets(), receiver, metrics, _folder: folder }
}

fn local() -> Caller {
    Caller::Local { login: "ann".to_owned() }
}

fn every_day() -> NewKey {
    NewKey {
        grants: Grants::Only(FlagSet::parse(["jobs:read"]).expect("flags")),
        rotation_interval_days: Some(1),
        rotation_webhook_url: Some(URL.to_owned()),
        ..NewKey::named("build", "acme".parse().ok())
    }
}

impl House {
    fn rotator(&self) -> Rotator {
        let settings = Settings { public_url: Some("https://keys.example.com".to_owned()), ..Settings::default() };
        self.rotator_with(settings, Arc::<Receiver>::clone(&self.receiver) as _)
    }

    fn rotator_with(&self, settings: Settings, post: Arc<dyn Post>) -> Rotator {
        let parts = Parts {
            settings,
            store: Arc::clone(&self.store),
            manager: self.manager.clone(),
            secrets: self.secrets.clone(),
            clock: Arc::<ManualClock>::clone(&self.clock) as _,
            metrics: self.metrics.clone(),
            post,
        };
        Rotator::new(parts).expect("randomness")
    }

    async fn create(&self, new: NewKey) -> Key {
        self.create_told(new).await.0
    }

    async fn create_told(&self, new: NewKey) -> (Key, Option<crate::secret::Secret>) {
        let made = self.manager.create_key(&local(), new).await.expect("a key");
        (made.key, made.webhook_secret)
    }

    async fn rotate(&self, id: KeyId) -> Key {
        self.manager.rotate_key(&local(), id, HOUR).await.expect("a rotation").new
    }

    async fn key(&self, id: KeyId) -> Key {
        self.manager.key(&local(), id).await.expect("a key").key
    }

    async fn deliveries(&self, key: &Key) -> Vec<Delivery> {
        self.store.rotation().expect("announcements").deliveries(key.lineage, 100).await.expect("an answer")
    }

    fn posted(&self) -> Vec<Posted> {
        std::mem::take(&mut *self.receiver.posted.lock())
    }

    fn kinds(&self) -> Vec<String> {
        self.posted().iter().map(Posted::kind).collect()
    }

    fn will_answer(&self, answers: &[u16]) {
        self.receiver.answers.lock().extend(answers);
    }

    fn verifies(&self, posted: &Posted, key: &Key, version: u32) -> bool {
        let at = Timestamp::from_seconds(posted.field("webhook-timestamp").parse().expect("seconds"));
        let signature =
            self.secrets.newest(key.lineage, version, at).sign(&posted.field("webhook-id"), at, &posted.body);
        posted.field("webhook-signature").split(' ').any(|it| it == signature)
    }
}

#[tokio::test]
async fn a_rotation_that_comes_due_is_announced_once_thin_and_signed() {
    let house = house();
    let rotator = house.rotator();
    let key = house.create(every_day()).await;
    rotator.round().await.expect("a round");
    assert!(house.posted().is_empty());
    house.clock.advance(DAY);
    rotator.round().await.expect("a round");
    rotator.round().await.expect("a round");
    let posted = house.posted();
    assert_eq!(posted.len(), 1);
    let due = &posted[0];
    assert_eq!((due.url.target.as_str(), due.field("content-type").as_str()), ("/rotate?for=acme", "application/json"));
    assert_eq!(
        due.json(),
        serde_json::json!({
            "type": "api_key.rotation_due",
            "timestamp": house.clock.now().to_string(),
            "data": {
                "id": key.id.to_string(),
                "project_id": "acme",
                "name": "build",
                "key_prefix": key.shown_prefix,
                "next_rotation_at": key.rotation.next_at.map(Timestamp::to_rfc3339),
                "rotate_url": format!("https://keys.example.com/v1/api-keys/{}/rotate", key.id),
            }
        })
    );
    assert!(house.verifies(due, &key, 1) && !house.verifies(due, &key, 2));
    assert!(due.field("webhook-id").starts_with("msg_"));
    assert_eq!(house.metrics.gauges()[..3], [1, 0, 0], "it stays due until somebody rotates it");
    house.clock.advance(DAY);
    rotator.round().await.expect("a round");
    assert_eq!((house.metrics.gauges()[..2].to_vec(), house.posted().len()), (vec![1, 1], 0), "overdue, told once");
    let next = house.rotate(key.id).await;
    rotator.round().await.expect("a round");
    assert_eq!((house.kinds(), house.metrics.gauges()[0]), (vec!["api_key.rotated".to_owned()], 0));
    house.clock.advance(DAY);
    rotator.round().await.expect("a round");
    let second = house.posted();
    assert_eq!(second[0].json()["data"]["id"], next.id.to_string());
    assert!(house.verifies(&second[0], &key, 1), "the secret survives a rotation of the key");
}

#[tokio::test]
async fn both_secrets_sign_for_a_day_after_one_is_changed() {
    let house = house();
    let rotator = house.rotator();
    let (key, told) = house.create_told(every_day()).await;
    let newest = |version| house.secrets.newest(key.lineage, version, Timestamp::EPOCH).to_text();
    assert_eq!(told, Some(newest(1)));
    let again = KeyChange { rotation_webhook_url: Some(Some(URL.to_owned())), ..KeyChange::default() };
    let changed = house.manager.update_key(&local(), key.id, again).await.expect("nothing to change");
    assert_eq!(changed.webhook_secret, told);
    let renamed = KeyChange { name: Some("farm".to_owned()), ..KeyChange::default() };
    let renamed = house.manager.update_key(&local(), key.id, renamed).await.expect("a change");
    assert_eq!(renamed.webhook_secret, None, "it is told when a webhook is set");
    house.clock.advance(DAY);
    let changed = house.manager.rotate_webhook_secret(&local(), key.id).await.expect("another secret");
    assert_eq!(changed.secret, newest(2));
    assert_eq!((changed.key.rotation.secret_version, changed.old_until), (2, house.clock.now().plus(DAY)));
    rotator.round().await.expect("a round");
    let both = house.posted().remove(0);
    assert!(house.verifies(&both, &key, 1) && house.verifies(&both, &key, 2));
    let next = house.rotate(key.id).await;
    house.clock.advance(DAY);
    rotator.round().await.expect("a round");
    for posted in house.posted() {
        assert!(!house.verifies(&posted, &next, 1) && house.verifies(&posted, &next, 2), "{posted:?}");
    }
    let (plain, none) = house.create_told(NewKey { rotation_webhook_url: None, ..every_day() }).await;
    assert!(none.is_none());
    let refused = house.manager.rotate_webhook_secret(&local(), plain.id).await.expect_err("it has no webhook");
    assert_eq!(refused.as_code(), "conflicting_field");
}

#[tokio::test]
async fn what_fails_is_sent_again_over_days_and_then_given_up() {
    let house = house();
    let key = house.create(every_day()).await;
    house.clock.advance(DAY);
    house.will_answer(&[500, 302, 429, 404, 0, 503, 500, 500, 500, 500]);
    let mut ids = Vec::new();
    for attempt in 0..20 {
        // Each round is another process: all that is known lies in the store.
        house.rotator().round().await.expect("a round");
        ids.extend(house.posted().iter().map(|posted| posted.field("webhook-id")));
        let stands = house.deliveries(&key).await.remove(0);
        if stands.state != DeliveryState::Pending {
            break;
        }
        assert_eq!(stands.attempts, attempt + 1);
        house.clock.set(stands.next_attempt_at.minus(Duration::from_millis(1)));
        house.rotator().round().await.expect("a round");
        assert!(house.posted().is_empty(), "not before its time");
        house.clock.set(stands.next_attempt_at);
    }
    assert_eq!((ids.len(), ids.iter().collect::<std::collections::BTreeSet<_>>().len()), (10, 1), "{ids:?}");
    let given_up = house.deliveries(&key).await.remove(0);
    assert_eq!((given_up.state, given_up.told.as_str()), (DeliveryState::GivenUp, "answered 500"));
    assert_eq!((house.metrics.count("failed"), house.metrics.count("given_up")), (9, 1));
    assert!(house.clock.now().since(key.created_at) > 3 * DAY);
}

#[tokio::test]
async fn a_receiver_is_left_alone_for_as_long_as_it_asks_within_bounds() {
    let house = house();
    let key = house.create(every_day()).await;
    house.clock.advance(DAY);
    let waits = [(Some(Duration::from_secs(3600)), 3600), (Some(100 * DAY), 86_400)];
    for (retry_after, seconds) in waits {
        house.will_answer(&[503]);
        *house.receiver.retry_after.lock() = retry_after;
        house.rotator().round().await.expect("a round");
        let stands = house.deliveries(&key).await.remove(0);
        assert_eq!(stands.next_attempt_at, house.clock.now().plus(Duration::from_secs(seconds)));
        house.clock.set(stands.next_attempt_at);
    }
    // The schedule has come to half an hour, and is not shortened.
    house.will_answer(&[429]);
    *house.receiver.retry_after.lock() = Some(Duration::from_secs(1));
    house.rotator().round().await.expect("a round");
    let stands = house.deliveries(&key).await.remove(0);
    assert!(stands.next_attempt_at.since(house.clock.now()) > Duration::from_secs(1000), "{stands:?}");
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_told_nothing_more() {
    let house = house();
    let key = house.create(every_day()).await;
    house.clock.advance(DAY);
    house.will_answer(&[410]);
    house.rotator().round().await.expect("a round");
    assert_eq!(house.deliveries(&key).await[0].state, DeliveryState::Gone);
    let after = house.key(key.id).await;
    assert_eq!((after.rotation.webhook_url, after.rotation.next_at), (None, key.rotation.next_at), "a reminder stays");
    house.rotate(key.id).await;
    house.clock.advance(10 * DAY);
    house.rotator().round().await.expect("a round");
    assert_eq!(house.posted().len(), 1);
    let events = house.manager.events(&local(), crate::store::EventQuery::default()).await.expect("events");
    let told = events.iter().find(|event| event.actor == crate::key::Actor::System).expect("it is told of");
    assert_eq!(told.changes["rotation_webhook"], "hooks.example.com -> none");
}

#[tokio::test]
async fn an_announcement_that_is_of_no_use_any_more_is_not_sent() {
    let house = house();
    let keys = [house.create(every_day()).await, house.create(every_day()).await, house.create(every_day()).await];
    house.clock.advance(DAY);
    house.will_answer(&[500, 500, 500]);
    house.rotator().round().await.expect("a round");
    assert_eq!(house.posted().len(), 3);
    let rotated = house.rotate(keys[0].id).await;
    let moved = KeyChange { rotation_interval_days: Some(Some(7)), ..KeyChange::default() };
    house.manager.update_key(&local(), keys[1].id, moved).await.expect("a change");
    let none = KeyChange { rotation_webhook_url: Some(None), ..KeyChange::default() };
    house.manager.update_key(&local(), keys[2].id, none).await.expect("a change");
    house.clock.advance(HOUR);
    house.rotator().round().await.expect("a round");
    assert_eq!(house.kinds(), ["api_key.rotated"]);
    assert_eq!(house.metrics.count("moot"), 3);
    assert_eq!(rotated.lineage, keys[0].lineage);
}

#[tokio::test]
async fn expiry_rotation_and_revocation_are_announced_too() {
    let house = house();
    let rotator = house.rotator();
    let new = NewKey { rotation_interval_days: None, expires: Expiry::In(20 * DAY), ..every_day() };
    let key = house.create(new).await;
    rotator.round().await.expect("a round");
    assert!(house.posted().is_empty());
    house.clock.advance(6 * DAY);
    rotator.round().await.expect("a round");
    rotator.round().await.expect("a round");
    let told = house.posted();
    assert_eq!((told.len(), told[0].kind()), (1, "api_key.expiring".to_owned()));
    assert_eq!(told[0].json()["data"]["expires_at"], key.expires_at.expect("an end").to_rfc3339());
    let next = house.rotate(key.id).await;
    rotator.round().await.expect("a round");
    let mut told = house.posted();
    told.sort_by_key(|posted| std::cmp::Reverse(posted.kind()));
    assert_eq!(told.iter().map(Posted::kind).collect::<Vec<_>>(), ["api_key.rotated", "api_key.expiring"]);
    assert_eq!(told[0].json()["data"]["replaced_by_key_id"], next.id.to_string());
    assert_eq!(told[0].json()["data"]["rotate_url"], Value::Null);
    house.manager.revoke_key(&local(), next.id, RevokeScope::Key).await.expect("a revocation");
    rotator.round().await.expect("a round");
    let told = house.posted();
    assert_eq!((told[0].kind(), told.len()), ("api_key.revoked".to_owned(), 1));
    assert!(told[0].json()["data"]["revoked_at"].is_string());
}

#[tokio::test]
async fn a_url_that_could_lead_inside_is_refused_when_it_is_set() {
    let house = house();
    for (url, code) in [
        ("http://example.com/", "conflicting_field"),
        ("https://127.0.0.1/", "conflicting_field"),
        ("https://[::ffff:10.0.0.1]/", "conflicting_field"),
        ("https://0x7f.1/", "invalid_field"),
        ("nonsense", "invalid_field"),
    ] {
        let new = NewKey { rotation_webhook_url: Some(url.to_owned()), ..every_day() };
        let refused = house.manager.create_key(&local(), new).await.expect_err("refused");
        assert_eq!(refused.as_code(), code, "{url}");
        assert!(refused.to_string().starts_with("rotation_webhook_url: "), "{refused}");
    }
    let without = Manager::new(Arc::clone(&house.store), TokenPrefix::default());
    let refused = without.create_key(&local(), every_day()).await.expect_err("refused");
    assert_eq!(refused.as_code(), "webhooks_not_available");
    assert!(refused.to_string().contains("[admin] public_url"));
}

#[tokio::test]
async fn without_a_public_url_or_a_webhook_an_interval_is_a_reminder() {
    let house = house();
    house.create(every_day()).await;
    house.create(NewKey { rotation_webhook_url: None, ..every_day() }).await;
    house.clock.advance(DAY);
    house
        .rotator_with(Settings::default(), Arc::<Receiver>::clone(&house.receiver) as _)
        .round()
        .await
        .expect("a round");
    assert_eq!((house.metrics.gauges(), house.posted().len()), ([2, 0, 0, 0], 0));
    house.rotator().round().await.expect("a round");
    assert_eq!((house.metrics.gauges()[0], house.kinds()), (2, vec!["api_key.rotation_due".to_owned()]));
}

#[tokio::test]
async fn two_gateways_announce_each_date_once() {
    let house = house();
    for _ in 0..20 {
        house.create(every_day()).await;
    }
    house.clock.advance(DAY);
    let (one, other) = (house.rotator(), house.rotator());
    let (one, other) = tokio::join!(one.round(), other.round());
    one.and(other).expect("two rounds");
    let ids: std::collections::BTreeSet<_> =
        house.posted().iter().map(|posted| posted.json()["data"]["id"].to_string()).collect();
    assert_eq!((ids.len(), house.metrics.count("delivered")), (20, 20));
}

#[tokio::test]
async fn the_task_announces_until_it_is_stopped() {
    let house = house();
    house.create(every_day()).await;
    house.clock.advance(DAY);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(house.rotator().run(stopped));
    while house.receiver.posted.lock().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stop.send_replace(true);
    tasks.join_all().await;
    assert_eq!(house.kinds(), ["api_key.rotation_due"]);
}

/// A resolver that answers from a list, one answer each time.
#[derive(Debug)]
struct Listed(Mutex<VecDeque<Vec<SocketAddr>>>);

impl Listed {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |addresses: &&[&str]| addresses.iter().map(|it| it.parse().expect("an address")).collect();
        Arc::new(Self(Mutex::new(answers.iter().map(parse).collect())))
    }
}

impl Resolve for Listed {
    fn resolve<'a>(&'a self, name: &'a str, _port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        assert_eq!(name, "localhost.example");
        let answer = self.0.lock().pop_front().expect("it is asked no more than that");
        Box::pin(async move { Ok(answer) })
    }
}

/// A receiver over TLS: answers each connection with the next of these bytes, and tells what it read.
async fn real_receiver(folder: &TempDir, answers: Vec<&'static str>) -> (SocketAddr, JoinSet<Vec<String>>) {
    let pair = rcgen::generate_simple_self_signed(vec!["localhost.example".to_owned()]).expect("a certificate");
    std::fs::write(folder.path().join("ca.pem"), pair.cert.pem()).expect("a file");
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key.into())
        .expect("a pair");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut read = Vec::new();
        for answer in answers {
            let (stream, _) = listener.accept().await.expect("a connection");
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = vec![0; 8192];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let name = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
            read.push(format!("{name}\n{}", String::from_utf8_lossy(&request[..length])));
            // A reader that has enough may be gone.
            let _gone = stream.write_all(answer.as_bytes()).await;
            let _gone = stream.shutdown().await;
        }
        read
    });
    (address, tasks)
}

async fn post_to(outbound: &Outbound, url: &str) -> Result<u16, String> {
    let url = ReceiverUrl::parse(url, Reach::Private).expect("a URL");
    let mut fields = HeaderMap::new();
    fields.insert("x-own", "1".parse().expect("a value"));
    let answered = outbound.post(&url, fields, Bytes::from_static(b"{}")).await;
    answered.map(|receipt| receipt.status.as_u16()).map_err(|fault| fault.to_string())
}

#[tokio::test]
async fn the_checked_address_is_connected_to_under_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (address, receiver) = real_receiver(
        &folder,
        vec![
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 302 Found\r\nlocation: https://localhost.example/x\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 503 Later\r\nretry-after: 120\r\ncontent-length: 0\r\n\r\n",
        ],
    )
    .await;
    let shown = address.to_string();
    // Asked again it would lead elsewhere: it is asked once a request.
    let resolver = Listed::new(&[&[&shown], &[&shown], &[&shown]]);
    let outbound = Outbound::new(Reach::Private, Duration::from_secs(20), Some(folder.path().join("ca.pem")), resolver);
    let url = format!("https://localhost.example:{}/a?b=c", address.port());
    assert_eq!(post_to(&outbound, &url).await, Ok(204));
    assert_eq!(post_to(&outbound, &url).await, Ok(302), "a redirect is an answer, and not followed");
    let parsed = ReceiverUrl::parse(&url, Reach::Private).expect("a URL");
    let receipt = outbound.post(&parsed, HeaderMap::new(), Bytes::new()).await.expect("an answer");
    assert_eq!((receipt.status.as_u16(), receipt.retry_after), (503, Some(Duration::from_secs(120))));
    let read = receiver.join_all().await.concat();
    assert!(read[0].starts_with("localhost.example\nPOST /a?b=c HTTP/1.1\r\n"), "{}", read[0]);
    assert!(read[0].contains(&format!("\r\nhost: localhost.example:{}\r\n", address.port())), "{}", read[0]);
    assert!(read[0].contains("\r\ncontent-length: 2\r\n") && read[0].ends_with("\r\n\r\n{}"), "{}", read[0]);
}

#[tokio::test]
async fn a_name_with_one_address_inside_is_not_connected_to() {
    for addresses in [
        &["127.0.0.1:443"][..],
        &["93.184.216.34:443", "10.0.0.1:443"],
        &["[::1]:443"],
        &["[::ffff:127.0.0.1]:443"],
        &["[64:ff9b::a00:1]:443"],
        &["169.254.169.254:443"],
        &["0.0.0.0:443"],
        &["100.64.0.1:443"],
        &["224.0.0.1:443"],
        &["[2002:a00:1::]:443"],
        &["[fe80::1]:443"],
    ] {
        let outbound = Outbound::new(Reach::Public, Duration::from_secs(20), None, Listed::new(&[addresses]));
        let refused = post_to(&outbound, "https://localhost.example/").await.expect_err("refused");
        assert!(refused.starts_with("the address "), "{addresses:?}: {refused}");
    }
    let outbound = Outbound::new(Reach::Public, Duration::from_secs(20), None, Listed::new(&[&[]]));
    assert!(post_to(&outbound, "https://localhost.example/").await.is_err_and(|fault| fault.contains("no address")));
}

#[tokio::test]
async fn a_name_that_leads_inside_the_second_time_is_refused_then() {
    let folder = tempfile::tempdir().expect("a folder");
    let (address, receiver) = real_receiver(&folder, vec!["HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"]).await;
    let shown = address.to_string();
    let resolver = Listed::new(&[&[&shown], &["169.254.169.254:443"]]);
    let outbound = Outbound::new(Reach::Private, Duration::from_secs(20), Some(folder.path().join("ca.pem")), resolver);
    let url = format!("https://localhost.example:{}/", address.port());
    assert_eq!(post_to(&outbound, &url).await, Ok(500));
    let refused = post_to(&outbound, &url).await.expect_err("refused");
    assert_eq!(refused, "the address 169.254.169.254 is reserved and never connected to");
    assert_eq!(receiver.join_all().await.concat().len(), 1);
}

#[tokio::test]
async fn a_receiver_that_is_slow_endless_or_nobody_we_trust_costs_little() {
    let folder = tempfile::tempdir().expect("a folder");
    let endless = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
    let huge = "HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\nx";
    let nonsense = "SSH-2.0-x\r\n";
    let (address, receiver) = real_receiver(&folder, vec![endless, huge, nonsense]).await;
    let shown = address.to_string();
    let url = format!("https://localhost.example:{}/", address.port());
    let resolver = Listed::new(&[&[&shown], &[&shown], &[&shown]]);
    let ca = folder.path().join("ca.pem");
    let outbound = Outbound::new(Reach::Private, Duration::from_secs(20), Some(ca.clone()), resolver);
    assert_eq!(post_to(&outbound, &url).await, Ok(200));
    assert_eq!(post_to(&outbound, &url).await, Ok(200));
    assert!(post_to(&outbound, &url).await.is_err());
    drop(receiver);

    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let shown = silent.local_addr().expect("an address").to_string();
    let outbound = Outbound::new(Reach::Private, Duration::from_millis(50), Some(ca), Listed::new(&[&[&shown]]));
    assert_eq!(post_to(&outbound, &url).await, Err("no answer within 50 ms".to_owned()));

    let (address, _receiver) = real_receiver(&folder, vec![endless]).await;
    let (shown, other) = (address.to_string(), tempfile::tempdir().expect("a folder"));
    let (_unused, _) = real_receiver(&other, vec![]).await;
    let ca = Some(other.path().join("ca.pem"));
    let outbound = Outbound::new(Reach::Private, Duration::from_secs(20), ca, Listed::new(&[&[&shown]]));
    let refused = post_to(&outbound, &url).await.expect_err("another authority");
    assert!(refused.contains("TLS with"), "{refused}");
}

#[test]
fn an_announcement_shows_what_its_kind_is_called() {
    let names: Vec<_> = NoticeKind::ALL.into_iter().map(NoticeKind::as_str).collect();
    assert_eq!(names, ["api_key.rotation_due", "api_key.expiring", "api_key.rotated", "api_key.revoked"]);
}
