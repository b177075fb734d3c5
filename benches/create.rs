//! What it costs to make a key through the manager, beside a bare SQLite insert loop on the same
//! disk in the same run; what a flood of refused changes costs a revocation, and what an import by
//! another process costs it; and what a list of 200 of very many keys costs, by each filter. The goals: at
//! least 0.7 of the bare loop at 16 clients, a revocation within twice its time beside refusals and within
//! a second beside an import, a list under 20 ms at p99.
//!
//! `cargo bench --bench create`, or with a number of keys to import and list, and some of the parts:
//! `cargo bench --bench create -- 100000 import list`.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a measurement reads the clock, prints, and may panic"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyward::clock::{Clock, SystemClock, Timestamp};
use keyward::key::{
    Actor, EventKind, FlagSet, Format, Grants, Key, KeyId, OperatorScope, Rotation, Stamp, States, Status, TokenHash,
    TokenPrefix, User,
};
use keyward::manage::{Caller, Expiry, ImportOptions, ImportedKey, ImportedSecret, Manager, NewKey, RevokeScope};
use keyward::store::{
    Change, Changes, KeyQuery, NewEvent, ReadRequest, Reading, Row, SharedStore, SqliteStore, UsageUpdate,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const CLIENTS: usize = 16;
const SPAN: Duration = Duration::from_secs(3);
const LISTS: usize = 100;
const USERS: u32 = 5000;

fn main() -> Outcome<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let size = asked.iter().find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let parts = ["create", "flood", "import", "list"];
    let is_any = asked.iter().any(|argument| parts.contains(&argument.as_str()));
    let is_wanted = |part: &str| !is_any || asked.iter().any(|argument| argument == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let folder = tempfile::tempdir()?;
    runtime.block_on(async {
        if is_wanted("create") {
            create(folder.path()).await?;
        }
        if is_wanted("flood") {
            flood(folder.path()).await?;
        }
        if is_wanted("import") {
            import(folder.path(), size).await?;
        }
        if is_wanted("list") {
            list(folder.path(), size).await?;
        }
        Ok(())
    })
}

fn open(path: &Path) -> Outcome<(SharedStore, Manager)> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let store: SharedStore = Arc::new(SqliteStore::create(path, clock)?);
    let manager = Manager::new(Arc::clone(&store), TokenPrefix::default());
    Ok((store, manager))
}

async fn operator(manager: &Manager, may_grant: &str) -> Outcome<Caller> {
    let new = NewKey {
        grants: Grants::Only(FlagSet::parse(["keyward.**"])?),
        may_grant: FlagSet::parse([may_grant])?,
        operates_on: Some(OperatorScope { project: None, environment: None }),
        ..NewKey::named("operator", None)
    };
    let local = Caller::Local { login: "bench".to_owned() };
    let id = manager.create_key(&local, new).await?.key.id;
    Ok(Caller::Key { id, from: [127, 0, 0, 1].into() })
}

fn wanted() -> Outcome<NewKey> {
    let grants = Grants::Only(FlagSet::parse(["jobs:read", "keyring.*.read"])?);
    Ok(NewKey { grants, expires: Expiry::In(SPAN * 1000), ..NewKey::named("a key", Some("acme".parse()?)) })
}

/// One insert of a row of about a key's size after the other, each committed to the disk.
fn bare(path: &Path) -> Outcome<f64> {
    let file = rusqlite::Connection::open(path)?;
    file.pragma_update(None, "journal_mode", "WAL")?;
    file.pragma_update(None, "synchronous", "FULL")?;
    file.execute_batch("CREATE TABLE rows (number INTEGER PRIMARY KEY, hash BLOB UNIQUE, text TEXT)")?;
    let (text, begun, mut made) = ("x".repeat(300), Instant::now(), 0_u32);
    while begun.elapsed() < SPAN {
        let hash = TokenHash::of(&made.to_be_bytes());
        file.prepare_cached("INSERT INTO rows (hash, text) VALUES (?1, ?2)")?
            .execute(rusqlite::params![hash.as_bytes(), text])?;
        made += 1;
    }
    Ok(f64::from(made) / begun.elapsed().as_secs_f64())
}

async fn create(folder: &Path) -> Outcome<()> {
    let bare = bare(&folder.join("bare.db"))?;
    println!("bare insert loop          {bare:>9.0} a second");
    for clients in [1, CLIENTS] {
        let (_store, manager) = open(&folder.join(format!("create-{clients}.db")))?;
        let by = operator(&manager, "**").await?;
        let (begun, mut tasks) = (Instant::now(), tokio::task::JoinSet::new());
        for _ in 0..clients {
            let (manager, by, wanted) = (manager.clone(), by.clone(), wanted()?);
            tasks.spawn(async move {
                let mut made = 0_u32;
                while begun.elapsed() < SPAN {
                    manager.create_key(&by, wanted.clone()).await.expect("an operator may");
                    made += 1;
                }
                made
            });
        }
        let made: u32 = tasks.join_all().await.into_iter().sum();
        let rate = f64::from(made) / begun.elapsed().as_secs_f64();
        println!("keys by {clients:>2} clients        {rate:>9.0} a second, {:.2} of the bare loop", rate / bare);
    }
    Ok(())
}

/// The 50th and 99th of 100 of `times`.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

async fn flood(folder: &Path) -> Outcome<()> {
    let (_store, manager) = open(&folder.join("flood.db"))?;
    let (by, weak) = (operator(&manager, "**").await?, operator(&manager, "nothing").await?);
    for clients in [0, CLIENTS] {
        let going = Arc::new(AtomicBool::new(true));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..clients {
            let (manager, weak, wanted, going) = (manager.clone(), weak.clone(), wanted()?, Arc::clone(&going));
            tasks.spawn(async move {
                let mut refused = 0_u32;
                while going.load(Ordering::Relaxed) {
                    assert!(manager.create_key(&weak, wanted.clone()).await.is_err());
                    refused += 1;
                }
                refused
            });
        }
        let mut times = Vec::new();
        for _ in 0..300 {
            let id = manager.create_key(&by, wanted()?).await?.key.id;
            let begun = Instant::now();
            manager.revoke_key(&by, id, RevokeScope::Key).await?;
            times.push(begun.elapsed());
        }
        going.store(false, Ordering::Relaxed);
        let refused: u32 = tasks.join_all().await.into_iter().sum();
        let (half, most) = percentiles(times);
        println!("revocation beside {refused:>7} refusals: p50 {half:.1?}, p99 {most:.1?}");
    }
    Ok(())
}

/// Imports as the command line does, while a gateway with the same file goes on revoking.
async fn import(folder: &Path, size: u32) -> Outcome<()> {
    let path = folder.join("import.db");
    let (_store, importer) = open(&path)?;
    let (_other, gateway) = open(&path)?;
    let by = operator(&gateway, "**").await?;
    let row = |line: u32| -> Outcome<ImportedKey> {
        Ok(ImportedKey {
            line: line as usize,
            secret: ImportedSecret::Hash(TokenHash::of(&line.to_be_bytes())),
            name: format!("imported {line}"),
            project: "acme".parse()?,
            environment: "live".parse()?,
            user: None,
            grants: Grants::Only(FlagSet::parse(["jobs:read"])?),
            props: BTreeMap::new(),
            expires: Expiry::Never,
        })
    };
    let rows = (1..=size).map(row).collect::<Outcome<Vec<_>>>()?;
    for is_importing in [false, true] {
        let (begun, importer) = (Instant::now(), importer.clone());
        let rows = if is_importing { rows.clone() } else { Vec::new() };
        let imported = tokio::spawn(async move {
            if !is_importing {
                tokio::time::sleep(SPAN).await;
                return Ok(begun.elapsed());
            }
            let local = Caller::Local { login: "bench".to_owned() };
            importer.import_keys(&local, rows, ImportOptions::default()).await.map(|_imported| begun.elapsed())
        });
        let mut times = Vec::new();
        while !imported.is_finished() {
            let id = gateway.create_key(&by, wanted()?).await?.key.id;
            let begun = Instant::now();
            gateway.revoke_key(&by, id, RevokeScope::Key).await?;
            times.push(begun.elapsed());
        }
        let (took, count) = (imported.await??, times.len());
        let longest = times.iter().max().copied().unwrap_or_default();
        let (half, most) = percentiles(times);
        let beside = if is_importing { format!("an import of {size} ({took:.1?})") } else { "nothing".to_owned() };
        println!("{count} revocations beside {beside}: p50 {half:.1?}, p99 {most:.1?}, longest {longest:.1?}");
    }
    Ok(())
}

fn key(number: u32, now: Timestamp) -> Outcome<Key> {
    let id = KeyId::from_bits((1 << 96) + u128::from(number));
    let day = Duration::from_secs(24 * 60 * 60);
    let expires_at = match number % 100 {
        0 => Some(now.minus(day)),
        1..=5 => Some(now.plus(day * (number % 1000))),
        _ => None,
    };
    Ok(Key {
        id,
        lineage: id.lineage(),
        hash: TokenHash::of(&number.to_be_bytes()),
        format: Format::Opaque,
        shown_prefix: Some(format!("kw_live_{number:06}")),
        last_four: Some("wxyz".to_owned()),
        name: format!("key {number}{}", if number % 50_000 == 7 { " rare" } else { "" }),
        project: Some(format!("project-{}", number % 1000 % (1 + number % 7 * 150)).parse()?),
        environment: if number % 10_000 == 3 { "test" } else { "live" }.parse()?,
        user: (number % 50 == 13).then(|| format!("user-{}", number / 50 % USERS).parse()).transpose()?,
        grants: Grants::Only(FlagSet::parse(["jobs:read"])?),
        props: BTreeMap::new(),
        may_grant: FlagSet::default(),
        operates_on: None,
        self_rotate: false,
        minted_by: None,
        states: States { revoked: number % 20 == 9, disabled: number % 5000 == 11, superseded: false },
        revoked_at: None,
        replaced_by: None,
        expires_at,
        grace_expires_at: None,
        rotation: Rotation::default(),
        created_at: now.minus(day * (number % 365)),
        updated_at: now,
        stamp: Stamp::default(),
    })
}

/// Every tenth of them is off.
fn user(number: u32, now: Timestamp) -> Outcome<User> {
    Ok(User {
        id: format!("user-{number}").parse()?,
        project: None,
        flags: FlagSet::parse(["jobs:read"])?,
        active: !number.is_multiple_of(10),
        deleted: false,
        created_at: now,
        updated_at: now,
        stamp: Stamp::default(),
    })
}

async fn list(folder: &Path, size: u32) -> Outcome<()> {
    const BATCH: u32 = 5000;
    let (store, _manager) = open(&folder.join("list.db"))?;
    let now = SystemClock::default().now();
    let users = (0..USERS).map(|number| user(number, now)).collect::<Outcome<Vec<_>>>()?;
    let plan = move |_: &Reading| {
        let event = || NewEvent { kind: EventKind::UserCreated, changes: BTreeMap::new() };
        let row = |user: &User| Change { row: Row::User(user.clone()), event: event() };
        Ok(Changes::by(Actor::System, users.iter().map(row).collect()))
    };
    store.mutate(ReadRequest::default(), Box::new(plan)).await?.map_err(|_refusal| "the plan refuses nothing")?;
    for first in (0..size).step_by(BATCH as usize) {
        let keys = (first..(first + BATCH).min(size)).map(|number| key(number, now)).collect::<Outcome<Vec<_>>>()?;
        let used = keys.iter().filter(|key| key.id.bits() % 3 == 0);
        let used = used.map(|key| UsageUpdate { key: key.id, last_used_at: now, count: 1 }).collect();
        let plan = move |_: &Reading| {
            let event = || NewEvent { kind: EventKind::KeyImported, changes: BTreeMap::new() };
            let row = |key: &Key| Change { row: Row::Key(Box::new(key.clone())), event: event() };
            Ok(Changes::by(Actor::System, keys.iter().map(row).collect()))
        };
        store.mutate(ReadRequest::default(), Box::new(plan)).await?.map_err(|_refusal| "the plan refuses nothing")?;
        store.record_usage("bench".to_owned(), used).await?;
    }
    println!("lists of 200 of {size} keys");
    let all = || KeyQuery { limit: 200, ..KeyQuery::default() };
    let queries = [
        ("all", all()),
        ("project of few", KeyQuery { project: "project-999".parse().ok(), ..all() }),
        ("project of many", KeyQuery { project: "project-0".parse().ok(), ..all() }),
        ("environment of few", KeyQuery { environment: "test".parse().ok(), ..all() }),
        ("environment of many", KeyQuery { environment: "live".parse().ok(), ..all() }),
        (
            "project and environment",
            KeyQuery { project: "project-0".parse().ok(), environment: "test".parse().ok(), ..all() },
        ),
        ("active", KeyQuery { status: Some(Status::Active), ..all() }),
        ("revoked", KeyQuery { status: Some(Status::Revoked), ..all() }),
        ("disabled", KeyQuery { status: Some(Status::Disabled), ..all() }),
        ("expired", KeyQuery { status: Some(Status::Expired), ..all() }),
        (
            "expired, the oldest",
            KeyQuery { status: Some(Status::Expired), before: Some(KeyId::from_bits((1 << 96) + 5000)), ..all() },
        ),
        ("grace", KeyQuery { status: Some(Status::Grace), ..all() }),
        ("superseded", KeyQuery { status: Some(Status::Superseded), ..all() }),
        ("user disabled", KeyQuery { status: Some(Status::UserDisabled), ..all() }),
        ("text of many", KeyQuery { text: Some("EY 1".to_owned()), ..all() }),
        ("text of few", KeyQuery { text: Some("rare".to_owned()), ..all() }),
        ("text of none", KeyQuery { text: Some("nowhere".to_owned()), ..all() }),
        ("expires within 7 days", KeyQuery { expires_within_days: Some(7), ..all() }),
        ("expires within 900 days", KeyQuery { expires_within_days: Some(900), ..all() }),
        ("unused for 30 days", KeyQuery { unused_for_days: Some(30), ..all() }),
        ("unused for 3000 days", KeyQuery { unused_for_days: Some(3000), ..all() }),
        (
            "project, active, unused",
            KeyQuery {
                project: "project-0".parse().ok(),
                status: Some(Status::Active),
                unused_for_days: Some(30),
                ..all()
            },
        ),
        ("of another's user", KeyQuery { user: "nobody".parse().ok(), ..all() }),
        ("of a user", KeyQuery { user: "user-7".parse().ok(), ..all() }),
        ("project, revoked", KeyQuery { project: "project-0".parse().ok(), status: Some(Status::Revoked), ..all() }),
    ];
    for (what, query) in queries {
        let (mut times, mut shown, mut query) = (Vec::new(), 0, query);
        let begin = query.before;
        for _ in 0..LISTS {
            let begun = Instant::now();
            let page = store.list_keys(query.clone()).await?;
            times.push(begun.elapsed());
            shown = shown.max(page.keys.len());
            query.before = page.next.or(begin);
        }
        let (half, most) = percentiles(times);
        println!("  {what:<26} {shown:>3} keys: p50 {half:>9.1?}, p99 {most:>9.1?}");
    }
    Ok(())
}
