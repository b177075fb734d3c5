//! What a signature costs: of a key in JWT form, and of an assertion, which is made for a request whose key
//! and upstream have not met within ten seconds.

use std::sync::Arc;

use divan::Bencher;
use keyward::clock::Timestamp;
use keyward::key::{EnvironmentId, FlagSet, KeyId, Label, Record, Signers, Standing, States, UserCore, UserStanding};
use keyward::secret::{MasterSecret, MasterSecrets};

#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn main() {
    divan::main();
}

fn signers() -> Signers {
    Signers::derive(&MasterSecrets::first(MasterSecret::generate().expect("randomness")), 1, "https://api.example.com")
}

fn record() -> Record {
    let id = KeyId::from_bits(7);
    let flags = Arc::new(FlagSet::parse(["keyring.read", "keyring.comms.write", "jobs:write"]).expect("flags"));
    let user = UserCore { flags: Arc::clone(&flags), ..UserCore::unknown("ann@example.com".parse().expect("a user")) };
    let project = Some("acme".parse().expect("a project"));
    let label = Label { project, environment: EnvironmentId::live(), flags: Some(flags) };
    Record {
        id,
        lineage: id.lineage(),
        hash_head: [0; 32],
        standing: Standing {
            states: States::default(),
            user: UserStanding::None,
            expires_at: None,
            grace_expires_at: None,
        },
        label: label.into(),
        user: Some(user.into()),
        slot: 0,
    }
}

#[divan::bench]
fn assertion(bencher: Bencher<'_, '_>) {
    let (signers, record) = (signers(), record());
    bencher.bench_local(|| signers.assert(&record, "rings", NOW));
}

#[divan::bench]
fn derive() -> Signers {
    signers()
}
