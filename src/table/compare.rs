//! Holding what is known against rows of the store: what a walk over both finds that no feed has
//! brought.

use super::row::{KeyRef, KeyRow, UserRow};
use super::shared::Table;
use crate::clock::Timestamp;
use crate::key::Stamp;

/// How what is known differs from a row of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// It is not known at all.
    Missing,
    /// It is known otherwise.
    Other {
        /// By which change.
        known: Stamp,
    },
    /// It has ended here, and the row says that it has not.
    TakenBack {
        /// When it ends; none where it has in any case.
        ends: Option<Timestamp>,
    },
}

/// From this ordinal on a stamp is of a repair: no mutation has so many changes.
const OF_REPAIRS: u32 = 1 << 31;

/// The stamp of a repair of what was known by the change `known`, found at `revision`: later than all
/// up to there, earlier than all that follows.
#[must_use]
pub fn repair_stamp(known: Stamp, revision: u64) -> Stamp {
    if known.revision >= revision && known.ordinal >= OF_REPAIRS {
        Stamp { revision: known.revision, ordinal: known.ordinal.saturating_add(1) }
    } else {
        Stamp { revision: revision.max(known.revision), ordinal: OF_REPAIRS }
    }
}

impl Table {
    /// How what is known of a key differs from its row, if it does; and the number of its slot, if it is
    /// known. What is known by a change after `revision` is not held against the row.
    #[must_use]
    pub fn compare_key(&self, row: &KeyRow, revision: u64) -> (Option<u32>, Option<Difference>) {
        let compared = self.content().with_key(row.head, |slot, known| {
            if known.stamp.revision > revision {
                return (Some(slot), None);
            }
            let row = row.view();
            let kept = row.over(known.states, known.grace_expires_at);
            let takes_back = row.takes_back(kept);
            let is_as_kept = (known.states, known.grace_expires_at) == (kept.states, kept.grace_expires_at);
            let difference = if takes_back && known.states.is_terminal() {
                Some(Difference::TakenBack { ends: None })
            } else if !is_as_kept || !says_the_same(known, &row) {
                Some(Difference::Other { known: known.stamp })
            } else {
                takes_back.then_some(Difference::TakenBack { ends: kept.grace_expires_at })
            };
            (Some(slot), difference)
        });
        compared.unwrap_or((None, Some(Difference::Missing)))
    }

    /// The same of a user.
    #[must_use]
    pub fn compare_user(&self, row: &UserRow, revision: u64) -> Option<Difference> {
        let Some(known) = self.content().user(&row.id) else { return Some(Difference::Missing) };
        if known.stamp.revision > revision {
            return None;
        }
        if known.deleted && !row.deleted {
            return Some(Difference::TakenBack { ends: None });
        }
        let same = (known.active, known.deleted) == (row.active, row.deleted) && known.flags == row.flags;
        (!same).then_some(Difference::Other { known: known.stamp })
    }

    /// Walks over all keys with the numbers of their slots; see [`Table::for_each_user`].
    pub fn for_each_slot(&self, each: impl FnMut(u32, &KeyRef<'_>)) {
        self.content().for_each_numbered_key(each);
    }
}

/// Whether they differ in nothing but whether and when the key ends.
fn says_the_same(known: &KeyRef<'_>, row: &KeyRef<'_>) -> bool {
    known.id == row.id
        && known.lineage == row.lineage
        && known.project == row.project
        && known.environment == row.environment
        && known.user == row.user
        && known.flags == row.flags
        && known.expires_at == row.expires_at
}
