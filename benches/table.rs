//! What the table costs: loading it from a store, its memory, a look-up, a change, a cold start from the
//! snapshot. The goals: 1,000,000 keys in under 10 s from SQLite, 10,000,000 in under 60 s from PostgreSQL and
//! in under 15 s from a snapshot, at most 200 bytes resident a key, a look-up under 200 ns, a change that costs
//! the same however many keys there are.
//!
//! `cargo bench --bench table` measures 100,000 and 1,000,000 keys of both kinds of store, and as many as
//! `KEYWARD_BENCH_KEYS` says of PostgreSQL and of a store that makes its rows up as they are read: what a key
//! set costs the gateway alone. `cargo bench --bench table -- postgres 1000000` is one of them alone.
//! PostgreSQL is a server of its own, started for this and filled without the indexes of the keys, which a load
//! does not read. Each is a process of its own, for memory that one frees would count for the next.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a measurement reads the clock, prints, and may panic"
)]

mod generated;
mod postgres;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use keyward::clock::{Clock, SystemClock, Timestamp};
use keyward::key::{
    Actor, EnvironmentId, EventKind, FlagSet, Format, Grants, Key, KeyCore, KeyId, Label, ProjectId, Rotation, Stamp,
    States, TokenHash,
};
use keyward::store::{Change, Changes, NewEvent, ReadRequest, Row, SharedStore, SqliteStore};
use keyward::sync::{MacKey, Parts, Settings, Sync, SyncMetrics};
use keyward::table::{self, KeyRow, Table};

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
        ["sqlite", size] => measure_sqlite(size.parse()?),
        ["postgres", size] => measure_postgres(size.parse()?),
        ["generated", size] => measure_generated(size.parse()?),
        [size] => measure_all(&[("sqlite", size), ("postgres", size)]),
        _ => {
            let (small, large) = ("100000", "1000000");
            let mut all = vec![("sqlite", small), ("sqlite", large), ("postgres", small), ("postgres", large)];
            let more = std::env::var("KEYWARD_BENCH_KEYS");
            if let Ok(size) = &more {
                all.extend([("postgres", size.as_str()), ("generated", size.as_str())]);
            }
            measure_all(&all)
        }
    }
}

/// What is measured: a name, and what it should be.
const FIGURES: [(&str, &str); 10] = [
    ("loaded, s", "10 for 10⁶ (SQLite), 60 for 10⁷"),
    ("bytes resident a key, loaded", "200"),
    ("bytes resident a key, snapshot written", "200"),
    ("read back from the snapshot, s", "15 for 10⁷"),
    ("look-up, ns: any key", "200"),
    ("look-up, ns: one of 1,000", "200"),
    ("look-up, ns: unknown", ""),
    ("a change, ns", "the same for all"),
    ("whole process, MiB", ""),
    ("look-up, ns: two threads, one of 1,000", "as one thread"),
];

/// Measures one after the other, each in a process of its own, and prints the figures side by side.
fn measure_all(runs: &[(&str, &str)]) -> Outcome<()> {
    let mut columns = Vec::new();
    for (kind, size) in runs {
        let mut run = Command::new(std::env::current_exe()?);
        let ran = run.args([kind, size]).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?.wait_with_output()?;
        let said = String::from_utf8(ran.stdout)?;
        if !ran.status.success() {
            return Err(format!("{kind} {size} failed: {}\n{said}", ran.status).into());
        }
        let (figures, told): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.starts_with("= "));
        told.iter().for_each(|line| println!("{kind} {size}: {line}"));
        let figures: BTreeMap<String, String> = figures
            .iter()
            .filter_map(|line| line.strip_prefix("= ")?.rsplit_once('\t'))
            .map(|(a, b)| (a.into(), b.into()))
            .collect();
        columns.push((format!("{kind} {size}"), figures));
    }
    let heads: Vec<&str> = columns.iter().map(|(head, _)| head.as_str()).collect();
    println!("\n{:<40}{:>22}{:>34}", "", heads.iter().map(|head| format!("{head:>20}")).collect::<String>(), "goal");
    for (name, goal) in FIGURES {
        let cells: String = columns
            .iter()
            .map(|(_, figures)| format!("{:>20}", figures.get(name).map_or("", String::as_str)))
            .collect();
        println!("{name:<40}{cells}{goal:>34}");
    }
    Ok(())
}

fn measure_sqlite(size: u32) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("keyward.db");
    let mut fill = Command::new(std::env::current_exe()?);
    let filled =
        fill.args(["fill", path.to_str().ok_or("the temporary folder has an odd name")?]).arg(size.to_string());
    if !filled.status()?.success() {
        return Err("the store could not be filled".into());
    }
    let store: SharedStore = Arc::new(SqliteStore::open(&path, Arc::new(SystemClock::default()))?);
    measure(size, &store, u64::from(size.div_ceil(BATCH)), folder.path())
}

fn measure_postgres(size: u32) -> Outcome<()> {
    let server = postgres::Server::start()?;
    let begun = Instant::now();
    let store = server.filled(size)?;
    println!("rows made in PostgreSQL in {:.1} s", begun.elapsed().as_secs_f64());
    measure(size, &store, 1, tempfile::tempdir()?.path())
}

fn measure_generated(size: u32) -> Outcome<()> {
    static LABELS: LazyLock<Vec<Arc<Label>>> = LazyLock::new(|| {
        let (projects, flags) = (projects().expect("projects"), flag_sets().expect("sets of flags"));
        let environments: [EnvironmentId; 2] = ["live", "test"].map(|name| name.parse().expect("an environment"));
        let label = |at: usize| Label {
            project: Some(projects[at].clone()),
            environment: environments[at % 2].clone(),
            flags: Some(Arc::new(flags[at % flags.len()].clone())),
        };
        (0..projects.len()).map(|at| Arc::new(label(at))).collect()
    });
    let make = |number: u32| {
        let (at, id) = (Timestamp::from_seconds(1_700_000_000 + i64::from(number)), number.to_be_bytes());
        let mut random = [0; 10];
        random[..4].copy_from_slice(&id);
        let id = KeyId::mint(at, random);
        KeyCore {
            id,
            lineage: id.lineage(),
            hash: hash(number),
            label: Arc::clone(&LABELS[number as usize % LABELS.len()]),
            user: None,
            states: States::default(),
            expires_at: Some(Timestamp::from_seconds(2_000_000_000)),
            grace_expires_at: None,
            stamp: Stamp { revision: 1, ordinal: number },
        }
    };
    let begun = Instant::now();
    std::hint::black_box((0..size).map(|number| make(number).stamp.ordinal).max());
    println!("made up in {:.1} s by one thread, which is part of the loading below", begun.elapsed().as_secs_f64());
    let store: SharedStore = generated::Generated::new(size, make);
    measure(size, &store, 1, tempfile::tempdir()?.path())
}

fn figure(name: usize, value: &str) {
    println!("= {}\t{value}", FIGURES[name].0);
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
    if !runtime.block_on(sync.handle.wait_applied(revision, Duration::from_secs(900))) {
        return Err("the table was not loaded in time".into());
    }
    figure(0, &format!("{:.2}", loading.elapsed().as_secs_f64()));
    if table.keys() != usize::try_from(size)? {
        return Err(format!("{} keys were loaded", table.keys()).into());
    }
    figure(1, &(resident_bytes()?.saturating_sub(before) / u64::from(size)).to_string());

    // The first snapshot is written meanwhile, and the allocator gives back what loading needed.
    let written = Instant::now();
    while !has_snapshot(&state)? && written.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("snapshot written {:.1} s after the load", written.elapsed().as_secs_f64());
    std::thread::sleep(Duration::from_secs(3));
    figure(2, &(resident_bytes()?.saturating_sub(before) / u64::from(size)).to_string());
    figure(8, &(resident_bytes()? >> 20).to_string());
    figure(4, &format!("{:.0}", lookups(&table, 0, size)));
    figure(5, &format!("{:.0}", lookups(&table, 0, HOT)));
    figure(6, &format!("{:.0}", lookups(&table, size, size)));
    let both = std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| lookups(&table, 0, HOT)));
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).sum::<Result<f64, _>>()
    });
    figure(9, &format!("{:.0}", both.map_err(|_panicked| "a thread of look-ups panicked")? / 2.0));
    stop.send_replace(true);
    runtime.block_on(running)?;
    figure(7, &format!("{:.0}", changes(&table, size)?));
    drop(table);

    let table = Arc::new(Table::new());
    let starting = Instant::now();
    let (sync, _stop) = start(store, &table, &clock, &state)?;
    figure(3, &format!("{:.2}", starting.elapsed().as_secs_f64()));
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
    // No walk over the store while look-ups are measured.
    let settings =
        Settings { reconcile_every: Duration::from_secs(400 * 24 * 3600), ..Settings::new(state.to_owned()) };
    let sync = Sync::start(Parts {
        settings,
        store: Arc::clone(store),
        table: Arc::clone(table),
        clock: Arc::clone(clock),
        mac_key: MacKey::new(&[7; 32]),
        metrics: Arc::new(SyncMetrics::new()),
        reassert: None,
        stale_policy: Arc::new(table::OnStale::Serve),
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
    println!("written to SQLite in {:.1} s", begun.elapsed().as_secs_f64());
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

/// As PostgreSQL makes it, see [`postgres`].
fn hash(number: u32) -> TokenHash {
    TokenHash::of(&number.to_be_bytes())
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

/// How often something is measured. Of ten million keys, so many are asked for that no cache holds them.
const TIMES: u32 = 1_000_000;

/// Nanoseconds of one look-up, with what else a request asks the table, in an order that no cache foresees.
fn lookups(table: &Table, first: u32, size: u32) -> f64 {
    let hashes: Vec<TokenHash> = (0..TIMES).map(|step| hash(first + at_random(step, size))).collect();
    let begun = Instant::now();
    let mut found = 0_u32;
    for hash in &hashes {
        found += u32::from(std::hint::black_box((table.version(), table.lookup(hash))).1.is_some());
    }
    let each = begun.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES);
    std::hint::black_box(found);
    each
}

/// Nanoseconds of one change of one key, in memory: its journal's flush is the disk's.
fn changes(table: &Table, size: u32) -> Outcome<f64> {
    let (projects, environments, flags) = (projects()?, ["live".parse()?, "test".parse()?], flag_sets()?);
    let times = TIMES / 10;
    let rows = (0..times).map(|step| {
        let key = key(at_random(step, size), &projects, &environments, &flags);
        let states = States { disabled: true, ..States::default() };
        table::Row::Key(Box::new(KeyRow::from(Key {
            states,
            stamp: Stamp { revision: 1 << 40, ordinal: step },
            ..key
        })))
    });
    let rows: Vec<table::Row> = rows.collect();
    let begun = Instant::now();
    std::hint::black_box(table.apply(rows));
    Ok(begun.elapsed().as_secs_f64() * 1e9 / f64::from(times))
}

fn at_random(step: u32, size: u32) -> u32 {
    u32::try_from(u64::from(step) * 7_368_787 % u64::from(size)).unwrap_or(0)
}

fn resident_bytes() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = status.split_whitespace().nth(1).ok_or("no resident pages in statm")?.parse()?;
    Ok(pages * 4096)
}
