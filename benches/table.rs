//! What the table costs: loading it from a real store, its memory, a look-up, a cold start from the
//! snapshot. The goals: 100,000 keys in under 1 s, 1,000,000 in under 10 s, at most 200 bytes
//! resident a key, a look-up under 200 ns.
//!
//! `cargo bench --bench table`, or with a number of keys: `cargo bench --bench table -- 100000`. With
//! `KEYWARD_BENCH_KEYS=10000000`, or `-- generated 10000000`, the rows are made up as they are read: what a
//! key set costs the gateway that no database here was filled with.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a measurement reads the clock, prints, and may panic"
)]

mod generated;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use keyward::clock::{Clock, SystemClock, Timestamp};
use keyward::key::{
    Actor, EnvironmentId, EventKind, FlagSet, Format, Grants, Key, KeyId, ProjectId, Rotation, Stamp, States, TokenHash,
};
use keyward::store::{Change, Changes, NewEvent, ReadRequest, Row, SharedStore, SqliteStore};
use keyward::sync::{MacKey, Parts, Settings, Sync, SyncMetrics};
use keyward::table::Table;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    // As `keyward serve` does, see `app::process`.
    rustix::thread::disable_transparent_huge_pages(true)?;
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["fill", path, size] => fill_file(Path::new(path), size.parse()?),
        ["generated", size] => measure_generated(size.parse()?),
        [size] => measure_stored(size.parse()?),
        _ => {
            ["100000", "1000000"].iter().try_for_each(|size| again(&[size]))?;
            match std::env::var("KEYWARD_BENCH_KEYS") {
                Ok(size) => again(&["generated", &size]),
                Err(_unset) => Ok(()),
            }
        }
    }
}

/// Runs this program with other arguments: memory that one part frees would count for the next.
fn again(arguments: &[&str]) -> Outcome<()> {
    let status = std::process::Command::new(std::env::current_exe()?).args(arguments).status()?;
    if status.success() { Ok(()) } else { Err(format!("{arguments:?} failed: {status}").into()) }
}

fn measure_stored(size: u32) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("keyward.db");
    again(&["fill", path.to_str().ok_or("the temporary folder has an odd name")?, &size.to_string()])?;
    let store: SharedStore = Arc::new(SqliteStore::open(&path, Arc::new(SystemClock::default()))?);
    measure(size, &store, u64::from(size.div_ceil(BATCH)), folder.path())
}

fn measure_generated(size: u32) -> Outcome<()> {
    static PARTS: LazyLock<(Vec<ProjectId>, [EnvironmentId; 2], Vec<FlagSet>)> = LazyLock::new(|| {
        let environments = ["live", "test"].map(|name| name.parse().expect("an environment"));
        (projects().expect("projects"), environments, flag_sets().expect("sets of flags"))
    });
    let make = |number: u32| {
        let (projects, environments, flags) = &*PARTS;
        Key { stamp: Stamp { revision: 1, ordinal: number }, ..key(number, projects, environments, flags) }
    };
    LazyLock::force(&PARTS);
    let begun = Instant::now();
    let bytes: usize = (0..size).map(|number| std::hint::black_box(make(number)).name.len()).sum();
    std::hint::black_box(bytes);
    println!("{size} keys: made up in {:.1} s, which is part of the loading below", begun.elapsed().as_secs_f64());
    let store: SharedStore = generated::Generated::new(size, make);
    measure(size, &store, 1, tempfile::tempdir()?.path())
}

fn measure(size: u32, store: &SharedStore, revision: u64, folder: &Path) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let state = folder.join("state");
    let (table, before) = (Arc::new(Table::new()), resident_bytes()?);
    let loading = Instant::now();
    let (sync, stop) = start(store, &table, &clock, &state)?;
    let running = runtime.spawn_blocking({
        let (runtime, stopped) = (runtime.handle().clone(), stop.subscribe());
        move || runtime.block_on(sync.runner.run(stopped))
    });
    if !runtime.block_on(sync.handle.wait_applied(revision, Duration::from_secs(600))) {
        return Err("the table was not loaded in time".into());
    }
    let loaded = loading.elapsed().as_secs_f64();
    let bytes = resident_bytes()?.saturating_sub(before);
    println!("{size} keys: loaded in {loaded:.2} s, {} bytes resident a key", bytes / u64::from(size));

    // The first snapshot is written meanwhile, and the allocator gives back what loading needed.
    let written = Instant::now();
    while !has_snapshot(&state)? && written.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{size} keys: snapshot written {:.1} s after the load", written.elapsed().as_secs_f64());
    std::thread::sleep(Duration::from_secs(3));
    let bytes = resident_bytes()?.saturating_sub(before);
    println!(
        "{size} keys: {} bytes resident a key once the snapshot is written; {} KiB the whole process",
        bytes / u64::from(size),
        resident_bytes()? / 1024
    );
    println!(
        "{size} keys: look-up of a known key {:.0} ns where all are asked for, {:.0} ns where {HOT} are; of an unknown \
         one {:.0} ns",
        lookups(&table, 0, size),
        lookups(&table, 0, HOT),
        lookups(&table, size, size)
    );
    stop.send_replace(true);
    runtime.block_on(running)?;
    drop(table);

    let table = Arc::new(Table::new());
    let starting = Instant::now();
    let (sync, _stop) = start(store, &table, &clock, &state)?;
    println!("{size} keys: read back from the snapshot in {:.2} s", starting.elapsed().as_secs_f64());
    drop(sync);
    if table.keys() != usize::try_from(size)? {
        return Err("the snapshot does not hold all keys".into());
    }
    Ok(())
}

fn start(
    store: &SharedStore,
    table: &Arc<Table>,
    clock: &Arc<dyn Clock>,
    state: &Path,
) -> Outcome<(Sync, tokio::sync::watch::Sender<bool>)> {
    let sync = Sync::start(Parts {
        settings: Settings::new(state.to_owned()),
        store: Arc::clone(store),
        table: Arc::clone(table),
        clock: Arc::clone(clock),
        mac_key: MacKey::new(&[7; 32]),
        metrics: Arc::new(SyncMetrics::new()),
        reassert: None,
        stale_policy: Arc::new(keyward::table::OnStale::Serve),
        lent_lock: None,
    })?;
    Ok((sync, tokio::sync::watch::Sender::new(false)))
}

fn has_snapshot(state: &Path) -> Outcome<bool> {
    let mut names = std::fs::read_dir(state)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.any(|name| name.strip_prefix("snapshot.").is_some_and(|number| number.parse::<u64>().is_ok())))
}

const BATCH: u32 = 20_000;
/// Keys that fit into the processor's cache with all that is read of them.
const HOT: u32 = 1_000;

fn fill_file(path: &Path, size: u32) -> Outcome<()> {
    let begun = Instant::now();
    let store: SharedStore = Arc::new(SqliteStore::create(path, Arc::new(SystemClock::default()))?);
    tokio::runtime::Runtime::new()?.block_on(fill(&store, size))?;
    println!("{size} keys: written to SQLite in {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

async fn fill(store: &SharedStore, size: u32) -> Outcome<()> {
    let (projects, environments, flags) = (projects()?, ["live".parse()?, "test".parse()?], flag_sets()?);
    for first in (0..size).step_by(BATCH as usize) {
        let numbers = first..(first + BATCH).min(size);
        let rows: Vec<Key> = numbers.map(|number| key(number, &projects, &environments, &flags)).collect();
        let plan = move |_: &keyward::store::Reading| {
            let changes = rows.iter().map(|key| Change {
                row: Row::Key(Box::new(key.clone())),
                event: NewEvent { kind: EventKind::KeyImported, changes: BTreeMap::new() },
            });
            Ok(Changes::by(Actor::System, changes.collect()))
        };
        store.mutate(ReadRequest::default(), Box::new(plan)).await?.map_err(|_refusal| "the plan refuses nothing")?;
    }
    Ok(())
}

fn projects() -> Outcome<Vec<ProjectId>> {
    (0..100).map(|number| Ok(format!("project-{number}").parse()?)).collect()
}

fn flag_sets() -> Outcome<Vec<FlagSet>> {
    (0..50).map(|number| Ok(FlagSet::parse([format!("keyring.ring-{number}.read"), "jobs:read".to_owned()])?)).collect()
}

fn hash(number: u32) -> TokenHash {
    TokenHash::of(&number.to_le_bytes())
}

fn key(number: u32, projects: &[ProjectId], environments: &[EnvironmentId], flags: &[FlagSet]) -> Key {
    let at = number as usize;
    let now = Timestamp::from_seconds(1_700_000_000 + i64::from(number));
    let mut random = [0; 10];
    random[..4].copy_from_slice(&number.to_be_bytes());
    let id = KeyId::mint(now, random);
    Key {
        id,
        lineage: id.lineage(),
        hash: hash(number),
        format: Format::Imported,
        shown_prefix: None,
        last_four: None,
        name: format!("key {number}"),
        project: Some(projects[at % projects.len()].clone()),
        environment: environments[at % environments.len()].clone(),
        user: None,
        grants: Grants::Only(flags[at % flags.len()].clone()),
        props: BTreeMap::new(),
        may_grant: FlagSet::default(),
        operates_on: None,
        self_rotate: false,
        minted_by: None,
        states: States::default(),
        revoked_at: None,
        replaced_by: None,
        expires_at: Some(Timestamp::from_seconds(2_000_000_000)),
        grace_expires_at: None,
        rotation: Rotation::default(),
        created_at: now,
        updated_at: now,
        stamp: Stamp::default(),
    }
}

/// Nanoseconds of one look-up, in an order that no cache foresees.
fn lookups(table: &Table, first: u32, size: u32) -> f64 {
    let hashes: Vec<TokenHash> =
        (0..200_000_u64).map(|step| hash(first + u32::try_from(step * 7_919 % u64::from(size)).unwrap_or(0))).collect();
    let begun = Instant::now();
    let mut found = 0_u32;
    for hash in &hashes {
        found += u32::from(std::hint::black_box(table.lookup(hash)).is_some());
    }
    let nanos = begun.elapsed().as_nanos();
    std::hint::black_box(found);
    f64::from(u32::try_from(nanos / 1_000).unwrap_or(u32::MAX)) * 1_000.0 / 200_000.0
}

fn resident_bytes() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = status.split_whitespace().nth(1).ok_or("no resident pages in statm")?.parse()?;
    Ok(pages * 4096)
}
