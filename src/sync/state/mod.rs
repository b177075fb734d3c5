//! What a gateway remembers across restarts, in one folder that only it may use: snapshots of the
//! table, a journal of what changed since, and a high-water mark that tells when either was
//! replaced by an older one.
//!
//! Every file is authenticated, and its code is checked before a byte of it is parsed. Nothing
//! here holds a token. A snapshot has a number, and the journal of the same number goes on from
//! it; two snapshots are kept, each with the journals since.

mod codec;
mod dir;
mod disk;
mod high_water;
mod journal;
mod presence;
mod seal;
mod snapshot;

pub use dir::StateError;
pub(super) use dir::{Limits, Restored, StateDir};
pub(super) use disk::{Disk, Pace};
#[cfg(test)]
pub(super) use disk::{DiskFile, Folder};
pub(super) use presence::Presence;
pub use seal::MacKey;
pub(super) use snapshot::Plan;
