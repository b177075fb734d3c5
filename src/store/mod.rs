//! Where keys live. One trait, so that the embedded store and a shared one keep the same contract.
//!
//! A mutation is one transaction: the counter row first (its lock makes revisions commit-ordered),
//! then the rows the change is decided on are read again, then a pure function says what changes,
//! then rows, events and revision are written and committed together.

mod api;
mod awaited;
#[cfg(test)]
mod contract;
mod copy;
#[cfg(test)]
mod copy_contract;
mod decode;
mod fleet;
#[cfg(test)]
mod fleet_contract;
mod history;
mod postgres;
mod rotation;
#[cfg(test)]
mod rotation_contract;
mod secrets;
mod settings;
#[cfg(test)]
pub(crate) mod slow;
mod sqlite;
#[cfg(test)]
mod staging_contract;

pub use api::{
    Answer, Batch, BoxFuture, COUNTED_MAX, Change, Changes, CommitId, Committed, Cursor, Damaged, EventQuery, Keep,
    Kept, KeyPage, KeyQuery, KeyUsage, ListedKey, LoadLane, Loaded, NewEvent, NumberedSecret, ONCE_KEPT, OnceKey,
    Outcome, OwnedKey, Plan, Planned, Poll, REFUSALS_KEPT, ReadRequest, Reading, Refusal, RefusalQuery, RefusalTally,
    Row, STAGE_KEPT, SharedStore, StageId, Staged, StagedKey, Staging, Store, StoreError, StoreId, UsageUpdate,
    UserQuery,
};
pub use awaited::{AwaitedStore, Opener};
pub use copy::{Column, Copied, CopyFault, CopyPlace, CopyRow, CopyStore, CopyTable, Head, Kind, Step, Value, copy};
pub use fleet::{Fleet, FleetStore, Gateway, GatewayId, GatewayReport, Incarnation, NotAGateway, Reported, WhenStale};
pub use history::{Acceptance, AcceptanceId, GATEWAY_LOGIN, HistoryStore, Retold};
pub use postgres::{Address, AddressFault, POSTGRES_POOL_MIN, PostgresSettings, PostgresStore, TlsMode};
pub use rotation::{
    Claim, Claimed, Delivery, DeliveryId, DeliveryState, NewDelivery, Notice, NoticeKind, RotationCounts,
    RotationStore, Settlement, Unannounced,
};
pub use secrets::{belong_together, check_secrets};
pub use settings::Settings;
pub use sqlite::{Backup, SqliteStore, back_up, examine, restore};
