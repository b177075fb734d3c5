//! Gateways that follow one database, and what must be true of them at every moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::clock::SimClock;
use super::database::{BEGIN, Database, Deed, KEYS, Link, Mood, Numbering, Retells, ann, id_of, new_key, of_user};
use super::disk::SimDisk;
use crate::clock::{Clock, Timestamp};
use crate::key::{Key, Record, User};
use crate::store::{Cursor, Store};
use crate::sync::follow::Pause;
use crate::sync::metrics::{Alarm, SyncMetrics};
use crate::sync::reconcile::Went;
use crate::sync::state::StateDir;
use crate::sync::{MacKey, Parts, Settings, Sync};
use crate::table::{Freshness, MissAnswer, OnStale, Table};
use crate::wire::FailureLimit;

/// What is done wrong on purpose, to see that it is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Planted {
    Nothing,
    SequenceForCounter,
    JournalNotFlushed,
    CommitIdIgnored,
    OneClock,
}

pub(super) const GATEWAYS: u8 = 3;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Something happens to the database. Nobody is told: hints may be lost.
    Does(Deed),
    /// A gateway asks the database, because it was told to or because it was time. Done twice: a
    /// hint that came twice, or late.
    Turn(u8),
    /// The same, and something happens to the database in the middle of it.
    TurnDuring(u8, Deed),
    /// A request with the token of a key comes to a gateway.
    Ask(u8, u8),
    /// A gateway asks, and has the time to write a snapshot.
    Settle(u8),
    /// The power goes and comes back.
    PowerCut(u8, u8),
    /// A gateway writes a snapshot, but does not take note of it yet.
    BeginSnapshot(u8),
    /// It takes note of the snapshot.
    EndSnapshot(u8),
    /// A process is killed.
    Kill(u8),
    /// The machine loses power. Of what was not flushed, so much is there all the same.
    LosePower(u8, u8),
    /// A process ends in order.
    Drain(u8),
    Start(u8),
    /// The way of a gateway to the database.
    Reach(u8, Reach),
    /// A disk has room for so many changes more, then for none.
    Fills(u8, u8),
    HasRoom(u8),
    /// Somebody sets a gateway's clock, by minutes.
    SetClock(u8, i8),
    /// A gateway walks over the whole database.
    Reconcile(u8),
    /// Seconds pass.
    Pass(u8),
    /// Hours pass.
    PassLong(u8),
}

/// What a gateway knows changes by a step of its own, or by time.
enum Whose {
    Nobodys,
    One(u8),
    All,
}

impl Step {
    const fn whose(self) -> Whose {
        match self {
            Self::Does(_) => Whose::Nobodys,
            Self::Pass(_) | Self::PassLong(_) => Whose::All,
            Self::Turn(gateway)
            | Self::TurnDuring(gateway, _)
            | Self::Ask(gateway, _)
            | Self::Settle(gateway)
            | Self::PowerCut(gateway, _)
            | Self::BeginSnapshot(gateway)
            | Self::EndSnapshot(gateway)
            | Self::Kill(gateway)
            | Self::LosePower(gateway, _)
            | Self::Drain(gateway)
            | Self::Start(gateway)
            | Self::Reach(gateway, _)
            | Self::Fills(gateway, _)
            | Self::HasRoom(gateway)
            | Self::SetClock(gateway, _)
            | Self::Reconcile(gateway) => Whose::One(gateway),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Well,
    Gone,
    BreaksOff(u8),
}

/// A gateway and what it must not forget.
struct Gateway {
    name: u8,
    /// Where its processes say that they run, which is not simulated.
    folder: Arc<TempDir>,
    disk: SimDisk,
    clock: Arc<SimClock>,
    link: Arc<Link>,
    metrics: Arc<SyncMetrics>,
    run: Option<Run>,
    /// What it reported last, in whichever process.
    reported: Option<Cursor>,
    /// In which history of the database that was.
    reported_in: Option<usize>,
    /// Keys that were refused for good when something was reported.
    ended: [bool; KEYS as usize],
    /// Keys that a process had seen end, which may be remembered though nothing was reported since,
    perhaps_ended: [bool; KEYS as usize],
    /// and when those that it had seen replaced do.
    perhaps_graces: [Option<Timestamp>; KEYS as usize],
    user_ended: bool,
    perhaps_user_ended: bool,
    /// Some process has followed the database.
    has_followed: bool,
    /// Where the newest snapshot stands, if nothing was loaded anew since.
    snapshot: Option<Cursor>,
    /// When it was last in contact, by its own clock, and reported that.
    contact_at: Timestamp,
    /// The last process ended with something applied and not reported.
    unsettled: bool,
}

/// One process.
struct Run {
    sync: Sync,
    table: Arc<Table>,
    /// It has followed the database itself, and not only read its snapshot.
    followed: bool,
    reported: Option<Cursor>,
    ended: [bool; KEYS as usize],
    /// When replaced keys end, as far as this process knows.
    graces: [Option<Timestamp>; KEYS as usize],
    user_ended: bool,
    /// Keys that were asked for since it last followed.
    asked: [bool; KEYS as usize],
    in_vain: BTreeMap<u8, Timestamp>,
    /// Where the snapshot that is being written stands.
    writing: Option<Cursor>,
    turns: u32,
}

/// What is not simulated, and the same in every history: making it takes longer than a history does.
pub(super) struct Around {
    /// Where processes say that they run.
    folder: Arc<TempDir>,
    /// One gateway's each. Only what is added to them counts.
    metrics: Vec<Arc<SyncMetrics>>,
}

impl Around {
    pub(super) fn new() -> Self {
        // In memory where there is such a folder: a history makes a dozen files.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_none| tempfile::tempdir());
        let folder = Arc::new(folder.expect("a folder for the test"));
        Self { folder, metrics: (0..GATEWAYS).map(|_| Arc::new(SyncMetrics::new())).collect() }
    }
}

/// Everything together.
pub(super) struct World {
    database: Arc<Database>,
    gateways: Vec<Gateway>,
}

/// What was found to be wrong.
pub(super) type Wrong = String;

const MAX_STALENESS: Duration = Duration::from_secs(4 * 3600);
const SNAPSHOT_MAX_AGE: Duration = Duration::from_secs(24 * 3600);
const UNKNOWN_GRACE: Duration = Duration::from_secs(60);

impl World {
    pub(super) fn new(planted: Planted, around: &Around) -> Self {
        let numbering = if planted == Planted::SequenceForCounter { Numbering::Sequence } else { Numbering::Counter };
        let database = Arc::new(Database::new(numbering));
        let gateway = |name: u8| {
            // Clocks are minutes apart from the beginning.
            let minutes = u64::from(GATEWAYS - 1 - name) * 4;
            let clock = Arc::new(SimClock::at(BEGIN.plus(Duration::from_secs(minutes * 60))));
            let link = Arc::new(Link {
                database: Arc::clone(&database),
                clock: Arc::clone(&clock),
                mood: parking_lot::Mutex::new(Mood::Well),
                between: parking_lot::Mutex::new(None),
                ignores_commits: planted == Planted::CommitIdIgnored,
                knows_one_clock: planted == Planted::OneClock,
            });
            Gateway {
                name,
                folder: Arc::clone(&around.folder),
                disk: SimDisk::that_forgets_journals(planted == Planted::JournalNotFlushed),
                clock,
                link,
                metrics: Arc::clone(&around.metrics[usize::from(name)]),
                run: None,
                reported: None,
                reported_in: None,
                ended: [false; KEYS as usize],
                perhaps_ended: [false; KEYS as usize],
                perhaps_graces: [None; KEYS as usize],
                user_ended: false,
                perhaps_user_ended: false,
                has_followed: false,
                snapshot: None,
                contact_at: Timestamp::EPOCH,
                unsettled: false,
            }
        };
        let gateways = (0..GATEWAYS).map(gateway).collect();
        let mut world = Self { database, gateways };
        for gateway in &mut world.gateways {
            gateway.start();
        }
        world
    }

    /// Takes one step, and looks whether everything is as it must be of whoever may have changed.
    pub(super) async fn step(&mut self, step: Step) -> Result<(), Wrong> {
        let database = Arc::clone(&self.database);
        let of = |gateway: u8| usize::from(gateway % GATEWAYS);
        match step {
            Step::Does(deed) => database.does(deed),
            Step::Turn(gateway) => self.gateways[of(gateway)].turn().await?,
            Step::TurnDuring(gateway, deed) => {
                let gateway = &mut self.gateways[of(gateway)];
                *gateway.link.between.lock() = Some(deed);
                gateway.turn().await?;
                *gateway.link.between.lock() = None;
            }
            Step::Ask(gateway, key) => self.gateways[of(gateway)].ask(key % KEYS).await?,
            Step::Settle(gateway) => {
                let gateway = &mut self.gateways[of(gateway)];
                gateway.turn().await?;
                gateway.begin_snapshot();
                gateway.end_snapshot().await;
            }
            Step::PowerCut(gateway, chance) => {
                let gateway = &mut self.gateways[of(gateway)];
                gateway.dies();
                gateway.disk.lose_power(chance);
                gateway.start();
            }
            Step::BeginSnapshot(gateway) => self.gateways[of(gateway)].begin_snapshot(),
            Step::EndSnapshot(gateway) => self.gateways[of(gateway)].end_snapshot().await,
            Step::Kill(gateway) => self.gateways[of(gateway)].dies(),
            Step::LosePower(gateway, chance) => {
                let gateway = &mut self.gateways[of(gateway)];
                gateway.dies();
                gateway.disk.lose_power(chance);
            }
            Step::Drain(gateway) => self.gateways[of(gateway)].drain().await,
            Step::Start(gateway) => self.gateways[of(gateway)].start(),
            Step::Reach(gateway, reach) => {
                *self.gateways[of(gateway)].link.mood.lock() = match reach {
                    Reach::Well => Mood::Well,
                    Reach::Gone => Mood::Gone,
                    Reach::BreaksOff(after) => Mood::BreaksOff(after % 4),
                };
            }
            Step::Fills(gateway, room) => self.gateways[of(gateway)].disk.set_room(Some(u32::from(room % 12))),
            Step::HasRoom(gateway) => self.gateways[of(gateway)].disk.set_room(None),
            Step::SetClock(gateway, minutes) => self.gateways[of(gateway)].clock.set_off(minutes % 10),
            Step::Reconcile(gateway) => self.gateways[of(gateway)].reconcile().await?,
            Step::Pass(seconds) => self.pass(Duration::from_secs(u64::from(seconds))),
            Step::PassLong(hours) => self.pass(Duration::from_secs(u64::from(hours % 6) * 3600)),
        }
        if let Some(wrong) = self.database.0.lock().ended_early.take() {
            return Err(wrong);
        }
        match step.whose() {
            Whose::Nobodys => Ok(()),
            Whose::One(gateway) => self.gateways[of(gateway)].check(),
            Whose::All => self.check(),
        }
    }

    /// What must be true of every gateway at every moment.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        self.gateways.iter().try_for_each(Gateway::check)
    }

    fn pass(&self, span: Duration) {
        self.database.1.pass(span);
        self.gateways.iter().for_each(|gateway| gateway.clock.pass(span));
    }
}

impl Gateway {
    fn start(&mut self) {
        if self.run.is_some() {
            return;
        }
        self.clock.restart();
        let table = Arc::new(Table::new());
        let key = MacKey::new(&[7; 32]);
        let gateway = format!("gw_{:032x}", self.name).parse().expect("a gateway's id");
        let disk = Arc::new(self.disk.clone());
        let Ok(state) = StateDir::on(self.folder.path(), disk, key.clone(), (gateway, None)) else {
            return;
        };
        let settings = Settings {
            max_staleness: MAX_STALENESS,
            snapshot_max_age: SNAPSHOT_MAX_AGE,
            unknown_grace: UNKNOWN_GRACE,
            failure_limit: FailureLimit { per_second: 0, ..FailureLimit::default() },
            misses_per_second: 1_000_000,
            // Few keys are many percent.
            reload_drop_max_percent: 60,
            ..Settings::new("nowhere".into())
        };
        let parts = Parts {
            settings,
            store: Arc::clone(&self.link) as Arc<dyn Store>,
            table: Arc::clone(&table),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            mac_key: key,
            metrics: Arc::clone(&self.metrics),
            reassert: (self.name != 1).then(|| Arc::new(Retells(Arc::clone(&self.link))) as Arc<_>),
            stale_policy: Arc::new(OnStale::Serve),
            lent_lock: None,
        };
        let sync = Sync::from(parts, state).expect("the folder of the test can be written to");
        if let Some(floor) = sync.clock_floor {
            self.clock.raise_to(floor);
        }
        self.run = Some(Run {
            sync,
            table,
            followed: false,
            reported: None,
            ended: self.ended,
            graces: self.remembered_graces(),
            user_ended: self.user_ended,
            asked: [false; KEYS as usize],
            in_vain: BTreeMap::new(),
            writing: None,
            turns: 0,
        });
    }

    /// What a process that starts must know of the ends of graces: what is in the newest snapshot.
    fn remembered_graces(&self) -> [Option<Timestamp>; KEYS as usize] {
        let kept = self.snapshot.map(|at| self.link.database.0.lock().at(at)).unwrap_or_default();
        std::array::from_fn(|place| {
            let number = u8::try_from(place).expect("few keys");
            kept.keys.get(&id_of(number)).and_then(|key| key.grace_expires_at)
        })
    }

    fn dies(&mut self) {
        if let Some(run) = self.run.take() {
            for place in 0..usize::from(KEYS) {
                self.perhaps_ended[place] |= run.ended[place] && !self.ended[place];
                let perhaps = &mut self.perhaps_graces[place];
                *perhaps = [*perhaps, run.graces[place]].into_iter().flatten().min();
            }
            self.perhaps_user_ended |= run.user_ended;
            self.has_followed |= run.followed;
            let at = run.sync.runner.follower.at();
            self.unsettled = run.followed && run.reported != Some(at) || self.unsettled && !run.followed;
        }
    }

    async fn drain(&mut self) {
        let Some(run) = &mut self.run else { return };
        let (at, failures) = (run.sync.runner.follower.at(), self.metrics.snapshot_failures.get());
        run.sync.runner.follower.finish().await;
        if run.followed && run.reported == Some(at) && failures == self.metrics.snapshot_failures.get() {
            self.snapshot = Some(at);
        }
        self.dies();
    }

    async fn turn(&mut self) -> Result<(), Wrong> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let reloads = self.metrics.reloads.get();
        let unremembered = self.metrics.alarms_of(Alarm::Journal);
        run.turns += 1;
        let pause = run.sync.runner.follower.turn().await;
        let at = run.sync.runner.follower.at();
        if self.metrics.reloads.get() != reloads {
            self.snapshot = None;
            run.writing = None;
        }
        if matches!(pause, Pause::News(_)) {
            run.followed = true;
            run.asked = [false; KEYS as usize];
        }
        if run.followed {
            let known = self.link.database.0.lock().at(at);
            for number in 0..KEYS {
                let key = known.keys.get(&id_of(number));
                run.ended[usize::from(number)] |= key.is_some_and(|key| key.states.is_terminal());
                // What is not there at all has no grace.
                let grace = &mut run.graces[usize::from(number)];
                *grace = key.and_then(|key| key.grace_expires_at.into_iter().chain(*grace).min());
            }
            run.user_ended |= known.users.get(ann()).is_some_and(|user| user.deleted);
            if self.metrics.alarms_of(Alarm::Journal) == unremembered {
                if run.table.applied() != at.revision {
                    return Err(format!("gateway {} has remembered {at:?} and does not report it", self.name));
                }
                self.reports(at)?;
            }
        }
        self.must_be_ready()
    }

    /// The feed leaves nothing for a walk to find, but for what the database has forgotten.
    async fn reconcile(&mut self) -> Result<(), Wrong> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let found = |metrics: &SyncMetrics| {
            ["missing", "other", "extra", "damaged"].map(|kind| metrics.differences_of(kind)).iter().sum::<u64>()
        };
        let before = found(&self.metrics);
        while run.sync.runner.reconciler.step().await == Went::On {}
        run.sync.runner.follower.repair_all();
        if found(&self.metrics) != before {
            return Err(format!("gateway {} finds the database otherwise than it was told", self.name));
        }
        Ok(())
    }

    fn reports(&mut self, at: Cursor) -> Result<(), Wrong> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let database = self.link.database.0.lock();
        let history = database.history();
        if let Some((before, then)) = run.reported.zip(self.reported_in)
            && then == history
            && database.is_earlier(at, before)
        {
            return Err(format!("gateway {} went back from {before:?} to {at:?} in one history", self.name));
        }
        drop(database);
        run.reported = Some(at);
        // Where it stands as before, nobody has told it of another history.
        if self.reported.replace(at) != Some(at) {
            self.reported_in = Some(history);
        }
        self.ended = run.ended;
        self.user_ended = run.user_ended;
        self.contact_at = run.table.last_contact().unwrap_or_default();
        self.unsettled = false;
        Ok(())
    }

    /// A gateway that has a snapshot of what it followed last answers without the database.
    fn must_be_ready(&self) -> Result<(), Wrong> {
        let Some(run) = &self.run else { return Ok(()) };
        let age = self.clock.now().since(self.contact_at);
        let has_snapshot = self.snapshot.is_some() && !self.unsettled && age < SNAPSHOT_MAX_AGE;
        if (run.followed || has_snapshot) && !run.table.is_ready() {
            return Err(format!("gateway {} has a snapshot and is not ready", self.name));
        }
        let knew_something = self.snapshot.is_some() || self.reported.is_some() || self.has_followed;
        if run.table.is_ready() && !run.followed && !has_snapshot && !knew_something {
            return Err(format!("gateway {} is ready and knows nothing", self.name));
        }
        Ok(())
    }

    fn begin_snapshot(&mut self) {
        let Some(run) = &mut self.run else { return };
        let follower = &mut run.sync.runner.follower;
        if follower.is_writing_snapshot() || !run.followed {
            return;
        }
        follower.begin_snapshot();
        if follower.is_writing_snapshot() && run.reported == Some(follower.at()) {
            run.writing = run.reported;
        }
    }

    async fn end_snapshot(&mut self) {
        let Some(run) = &mut self.run else { return };
        if !run.sync.runner.follower.is_writing_snapshot() {
            return;
        }
        let failures = self.metrics.snapshot_failures.get();
        run.sync.runner.follower.turn_snapshot().await;
        let written = run.writing.take();
        if failures == self.metrics.snapshot_failures.get() {
            self.snapshot = written.or(self.snapshot);
        }
    }

    async fn ask(&mut self, number: u8) -> Result<(), Wrong> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let now = self.clock.now();
        let hash = new_key(number).hash;
        if run.table.freshness(now) == Freshness::Empty || run.table.lookup(&hash).is_some() {
            return Ok(());
        }
        let here = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        let lost_at = run.table.contact_lost_at();
        let answer = run.sync.misses.resolve(hash, here, now).answer().await;
        run.asked[usize::from(number)] = true;
        let is_well = *self.link.mood.lock() != Mood::Gone;
        let held = Arc::clone(&self.link.database.0.lock().held);
        let key = held.keys.get(&id_of(number));
        let wrong = |what: &str| Err(format!("gateway {} says of key {number} {what}", self.name));
        match answer {
            MissAnswer::Found(record) => {
                if run.has_ended(number, now) && is_allowed(&record, now) {
                    return wrong("that it works, and it has ended");
                }
                if !key.is_some_and(|key| is_allowed(&record_of(key, held.users.get(ann())), now))
                    && is_allowed(&record, now)
                {
                    return wrong("that it works, and it does not");
                }
            }
            MissAnswer::Unknown => {
                let vain = run.in_vain.get(&number).is_some_and(|at| now.since(*at) < Duration::from_secs(2));
                if is_well && lost_at.is_none() && key.is_some() && !vain {
                    return wrong("that there is none, and there is");
                }
                if lost_at.is_some_and(|lost_at| now.since(lost_at) < UNKNOWN_GRACE) && !vain {
                    return wrong("that there is none, and it cannot know");
                }
                run.in_vain.insert(number, now);
            }
            MissAnswer::UnknownYet => {
                if is_well && lost_at.is_none() {
                    return wrong("that it cannot know, and it can");
                }
                if lost_at.is_some_and(|lost_at| now.since(lost_at) >= UNKNOWN_GRACE) {
                    return wrong("that it cannot know, for ever");
                }
            }
            MissAnswer::TooManyFailures { .. } | MissAnswer::Overloaded => return wrong("nothing"),
        }
        Ok(())
    }

    /// What must be true of this gateway at every moment.
    fn check(&self) -> Result<(), Wrong> {
        let Some(run) = &self.run else { return Ok(()) };
        let now = self.clock.now();
        if run.table.freshness(now) == Freshness::Empty {
            return Ok(());
        }
        let mut database = self.link.database.0.lock();
        let at = if run.followed { Some(run.sync.runner.follower.at()) } else { self.reported };
        let known = at.map(|at| database.at(at)).unwrap_or_default();
        let kept = self.snapshot.map(|at| database.at(at)).unwrap_or_default();
        for number in 0..KEYS {
            let record = run.table.lookup(&new_key(number).hash);
            let allowed = record.as_ref().is_some_and(|record| is_allowed(record, now));
            let place = usize::from(number);
            let wrong = |what: &str| {
                let here = format!("followed: {}, at {at:?}, {record:?}", run.followed);
                Err(format!("gateway {}: key {number} {what}; {here}", self.name))
            };
            let has_ended = run.has_ended(number, now);
            let perhaps_over = self.perhaps_graces[place].is_some_and(|end| now >= end);
            let perhaps_ended = self.perhaps_ended[place] || perhaps_over || self.perhaps_user_ended && of_user(number);
            if has_ended && allowed {
                return wrong("has ended for good and works");
            }
            let key = known.keys.get(&id_of(number));
            let must = key.map(|key| is_allowed(&record_of(key, known.users.get(ann())), now));
            match must {
                Some(false) if allowed && (run.followed || !self.unsettled) => {
                    return wrong("works, and must not at what is applied");
                }
                Some(true) if !allowed && !has_ended && !perhaps_ended => {
                    let was_kept = kept.keys.contains_key(&id_of(number)) && !self.unsettled;
                    if run.followed || was_kept {
                        return wrong("is live at what is applied and is refused");
                    }
                }
                None if allowed && run.followed && !run.asked[place] => {
                    return wrong("works, and is not there at what is applied");
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }
}

impl Run {
    /// Whether a key has ended for good, as this process knows it.
    fn has_ended(&self, number: u8, now: Timestamp) -> bool {
        let place = usize::from(number);
        let is_over = self.graces[place].is_some_and(|end| now >= end);
        self.ended[place] || is_over || self.user_ended && of_user(number)
    }
}

fn record_of(key: &Key, user: Option<&User>) -> Record {
    Record::of(key, user)
}

fn is_allowed(record: &Record, now: Timestamp) -> bool {
    record.standing.status(false, now).is_usable() && record.flags().meets(&"jobs:read".split('.'))
}
