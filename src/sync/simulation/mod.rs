//! The whole protocol under faults that one machine cannot show: gateways that run the real
//! follower, table, journal and snapshot against a database, disks and clocks that are simulated.
//!
//! A history is a list of steps, made from a number, and always goes the same way: no thread, disk or clock
//! of the machine has a part in it. After every step it is checked that a key revoked at what a gateway reports is refused by it; that no key is
//! refused which is live there; that nothing reported goes back within one history; that what has
//! ended stays refused whatever the database is replaced by; that a replaced key ends with its grace by
//! each gateway's clock, and so no later than the clocks are apart, and for good and all no earlier than by
//! the database's own; that a gateway with a snapshot serves without the database; and that unknown tokens
//! are called unknown only where that is known. What goes wrong is cut down to the few steps that it takes.

mod clock;
mod database;
mod disk;
mod world;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use self::database::Deed;
use self::world::{Around, GATEWAYS, Planted, Reach, Step, World};

fn deed() -> impl Strategy<Value = Deed> {
    // Much happens to one of them, as it does to one of the gateways.
    let key = prop_oneof![Just(0), 0..database::KEYS];
    prop_oneof![
        6 => key.clone().prop_map(Deed::Create),
        6 => key.clone().prop_map(Deed::Revoke),
        2 => key.clone().prop_map(Deed::Supersede),
        4 => (key.clone(), 0..20_u8).prop_map(|(key, minutes)| Deed::Rotate(key, minutes)),
        3 => key.clone().prop_map(Deed::Disable),
        3 => key.clone().prop_map(Deed::Enable),
        2 => any::<bool>().prop_map(Deed::UserMay),
        2 => any::<bool>().prop_map(Deed::UserActive),
        1 => Just(Deed::DeleteUser),
        3 => key.prop_map(Deed::Begin),
        3 => (0..3_u8).prop_map(Deed::Commit),
        2 => Just(Deed::Backup),
        2 => Just(Deed::Restore),
        2 => (0..4_u8).prop_map(Deed::Failover),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    // Most happens to one of them, or what takes many steps would seldom happen to any.
    let gateway = prop_oneof![3 => Just(0_u8), 2 => 0..GATEWAYS];
    let reach =
        prop_oneof![3 => Just(Reach::Well), 2 => Just(Reach::Gone), 1 => any::<u8>().prop_map(Reach::BreaksOff)];
    prop_oneof![
        16 => deed().prop_map(Step::Does),
        18 => gateway.clone().prop_map(Step::Turn),
        3 => (gateway.clone(), deed()).prop_map(|(gateway, deed)| Step::TurnDuring(gateway, deed)),
        5 => (gateway.clone(), 0..database::KEYS).prop_map(|(gateway, key)| Step::Ask(gateway, key)),
        4 => gateway.clone().prop_map(Step::Settle),
        3 => (gateway.clone(), any::<u8>()).prop_map(|(gateway, chance)| Step::PowerCut(gateway, chance)),
        4 => gateway.clone().prop_map(Step::BeginSnapshot),
        4 => gateway.clone().prop_map(Step::EndSnapshot),
        2 => gateway.clone().prop_map(Step::Kill),
        2 => (gateway.clone(), any::<u8>()).prop_map(|(gateway, chance)| Step::LosePower(gateway, chance)),
        1 => gateway.clone().prop_map(Step::Drain),
        6 => gateway.clone().prop_map(Step::Start),
        6 => (gateway.clone(), reach).prop_map(|(gateway, reach)| Step::Reach(gateway, reach)),
        1 => (gateway.clone(), any::<u8>()).prop_map(|(gateway, room)| Step::Fills(gateway, room)),
        2 => gateway.clone().prop_map(Step::HasRoom),
        2 => (gateway.clone(), any::<i8>()).prop_map(|(gateway, minutes)| Step::SetClock(gateway, minutes)),
        3 => gateway.clone().prop_map(Step::Reconcile),
        3 => any::<u8>().prop_map(Step::Pass),
        1 => any::<u8>().prop_map(Step::PassLong),
    ]
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..70)
}

async fn run(planted: Planted, around: &Around, history: &[Step]) -> Result<(), String> {
    let mut world = World::new(planted, around);
    for (at, step) in history.iter().enumerate() {
        world.step(*step).await.map_err(|wrong| format!("after step {at}: {wrong}"))?;
    }
    world.check().map_err(|wrong| format!("in the end: {wrong}"))
}

/// A history that went wrong, with what was wrong.
type Fault = (String, Vec<Step>);

/// Where histories are run.
struct Ground {
    planted: Planted,
    runtime: tokio::runtime::Runtime,
    around: Around,
}

impl Ground {
    fn new(planted: Planted) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { planted, runtime, around: Around::new() }
    }

    fn run(&self, history: &[Step]) -> Result<(), String> {
        self.runtime.block_on(run(self.planted, &self.around, history))
    }

    /// The history without the steps that it takes not to go wrong in the same way.
    fn cut_down(&self, (mut why, mut history): Fault) -> Fault {
        let mut size = history.len();
        loop {
            let (mut at, before) = (0, history.len());
            while at < history.len() {
                let mut fewer = history.clone();
                fewer.drain(at..(at + size).min(history.len()));
                match self.run(&fewer) {
                    Err(wrong) if kind(&wrong) == kind(&why) => (why, history) = (wrong, fewer),
                    Ok(()) | Err(_) => at += size,
                }
            }
            if size == 1 && history.len() == before {
                return (why, history);
            }
            size = (size / 2).max(1);
        }
    }
}

/// What is wrong, whichever gateway and key it is of.
fn kind(why: &str) -> String {
    let what = why.split(';').next().unwrap_or_default();
    what.rsplit(": ").next().unwrap_or_default().chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

/// Runs `cases` histories from a number of their own; the first that went wrong, cut down.
fn explore(planted: Planted, cases: u32, seed: u8) -> Result<(), Fault> {
    let ground = Ground::new(planted);
    // Its numbers need not be good, and unoptimised those of ChaCha take longer than the histories.
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::XorShift, &[seed; 16]));
    let histories = history();
    for _ in 0..cases {
        let history = histories.new_tree(&mut runner).expect("nothing is filtered out").current();
        if let Err(why) = ground.run(&history) {
            return Err(ground.cut_down((why, history)));
        }
    }
    Ok(())
}

/// How many histories: some at every test (each costs some milliseconds unoptimised), many where
/// `KEYWARD_SOAK_SIMULATED` says so.
#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
fn cases(usual: u32) -> u32 {
    std::env::var("KEYWARD_SOAK_SIMULATED").ok().and_then(|count| count.parse().ok()).unwrap_or(usual)
}

fn holds(seed: u8) {
    if let Err((why, history)) = explore(Planted::Nothing, cases(300), seed) {
        panic!("{why}\n{history:#?}");
    }
}

#[test]
fn a_fleet_keeps_its_promises_in_histories_of_every_kind() {
    holds(1);
}

#[test]
fn a_fleet_keeps_its_promises_in_more_histories() {
    holds(2);
}

#[test]
fn a_fleet_keeps_its_promises_in_yet_more_histories() {
    holds(3);
}

#[test]
fn a_fleet_keeps_its_promises_in_even_more_histories() {
    holds(4);
}

#[test]
fn a_fleet_keeps_its_promises_in_the_last_of_them() {
    holds(5);
}

/// A fault that is planted is found, and in how few steps it shows.
fn is_found(planted: Planted) -> (String, Vec<Step>) {
    explore(planted, 5_000, 9).expect_err("what was planted is found")
}

#[test]
fn revisions_from_a_sequence_are_found_out() {
    let (why, history) = is_found(Planted::SequenceForCounter);
    assert!(why.contains("at what is applied"), "{why}\n{history:?}");
    assert!(history.iter().any(|step| matches!(step, Step::Does(Deed::Begin(_)))), "{history:?}");
    assert!(history.len() <= 20, "{history:?}");
}

#[test]
fn a_journal_that_is_not_flushed_is_found_out() {
    let (why, history) = is_found(Planted::JournalNotFlushed);
    assert!(why.contains("is not ready") || why.contains("works"), "{why}\n{history:?}");
    assert!(history.len() <= 20, "{history:?}");
}

#[test]
fn a_commit_id_that_is_ignored_is_found_out() {
    let (why, history) = is_found(Planted::CommitIdIgnored);
    assert!(why.contains("at what is applied"), "{why}\n{history:?}");
    assert!(history.len() <= 20, "{history:?}");
}

#[test]
fn a_grace_that_one_gateways_clock_ends_for_all_is_found_out() {
    // The clock of this gateway is some minutes ahead.
    let lost = [Deed::Create(0), Deed::Rotate(0, 3), Deed::Failover(1)].map(Step::Does);
    let history: Vec<Step> = lost.into_iter().flat_map(|lost| [lost, Step::Turn(0)]).collect();
    let why = Ground::new(Planted::OneClock).run(&history).expect_err("what was planted is found");
    assert!(why.contains("before its time"), "{why}");
    let ended = history.into_iter().chain([Step::Pass(200), Step::Turn(0), Step::Turn(0)]).collect::<Vec<_>>();
    Ground::new(Planted::Nothing).run(&ended).expect("both clocks are waited for");
}
