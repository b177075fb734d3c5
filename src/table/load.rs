//! A key set built beside the one in use, and merged with it when it takes its place.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::content::{Content, Numbers};
use super::head::Head;
use super::row::{KeyRef, KeyRow, Row, UserRow};
use crate::clock::Timestamp;
use crate::key::{KeyCore, KeyId, Label, Subject, UserId};

/// A key set being built. Dropping it leaves the table as it was. Clones are one.
#[derive(Debug, Clone)]
pub struct Load {
    pub(super) content: Arc<Content>,
    pub(super) previous: Arc<Content>,
    pub(super) numbers: Arc<Numbers>,
    turn: Arc<Mutex<()>>,
}

impl Load {
    pub(super) fn beside(previous: Arc<Content>, numbers: Arc<Numbers>) -> Self {
        Self { content: Arc::new(Content::new()), previous, numbers, turn: Arc::default() }
    }

    /// Takes a key over.
    pub fn key(&self, key: &KeyRef<'_>) {
        self.content.apply_key(key, &self.numbers, Some(&self.previous));
    }

    /// Takes a user over.
    pub fn user(&self, user: &UserRow) {
        let _turn = self.turn.lock();
        self.content.apply_user(user);
    }

    /// A way to take many keys over, one of several threads' own.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane { load: self.clone(), lent: HashMap::new() }
    }

    /// How many keys were taken over.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.content.keys()
    }

    /// Carries over what must never be taken back, unless too much would be lost.
    pub(super) fn merge(&self, drop_max_percent: u8) -> Result<Merged, LoadRefused> {
        let (mut live, mut missing) = (0_u64, 0_u64);
        let mut terminal: Vec<KeyRow> = Vec::new();
        let mut replaced: Vec<KeyRow> = Vec::new();
        let mut merged = Merged::default();
        self.previous.for_each_key(|key| {
            if key.states.is_terminal() {
                terminal.push(key.to_row());
                return;
            }
            if key.grace_expires_at.is_some() {
                replaced.push(key.to_row());
            }
            live += 1;
            match self.content.stamp_and_states(&key.head) {
                None => {
                    missing += 1;
                    if !key.states.disabled {
                        merged.gone.add(|| Subject::Key(key.id));
                    }
                }
                // A newer change that says otherwise is one of this history.
                Some((stamp, states)) if stamp < key.stamp => {
                    merged.older += 1;
                    if key.states.disabled && !states.disabled && !states.is_terminal() {
                        merged.revived.add(|| Subject::Key(key.id));
                    }
                }
                Some(_) => {}
            }
        });
        if missing.saturating_mul(100) > live.saturating_mul(u64::from(drop_max_percent)) {
            return Err(LoadRefused { live, missing });
        }
        for key in terminal {
            if self.content.keep_terminal(&key.view(), &self.numbers, &self.previous) {
                merged.keys.push(key.id);
                merged.rows.push(Row::Key(Box::new(key)));
            }
        }
        for key in replaced {
            if let Some(end) = key.grace_expires_at.filter(|&end| self.content.keep_grace(&key.head, end)) {
                merged.graces.push((key.id, end));
                merged.rows.push(Row::Key(Box::new(key)));
            }
        }
        self.previous.for_each_user(|user| {
            if user.deleted && self.content.keep_deleted(&user) {
                merged.users.push(user.id.clone());
                merged.rows.push(Row::User(user));
            } else if let Some(found) = self.content.user(&user.id).filter(|found| found.stamp < user.stamp) {
                merged.older += 1;
                if !user.active && found.active {
                    merged.revived.add(|| Subject::User(user.id.clone()));
                }
            }
        });
        Ok(merged)
    }
}

/// Takes keys over by the million: what many of them share is looked for once, and its uses are counted in
/// bulk.
#[derive(Debug)]
pub struct Lane {
    load: Load,
    /// By the place of the label in memory, where it stays as long as it is kept here.
    lent: HashMap<usize, Lent>,
}

/// A label, and uses of it that no key has yet.
#[derive(Debug)]
struct Lent {
    _label: Arc<Label>,
    number: u32,
    uses: u32,
}

/// More labels are not kept: a set in which none is like another would fill the memory.
const LENT_MAX: usize = 4_096;
/// So many uses are counted at once.
const LENT_AT_ONCE: u32 = 1_024;

impl Lane {
    /// Takes a key over.
    pub fn key(&mut self, key: &KeyCore) {
        self.take(&KeyRef::from(key), &key.label);
    }

    /// Takes a key over whose project, environment and flags are those of `label`.
    pub fn take(&mut self, key: &KeyRef<'_>, label: &Arc<Label>) {
        let Self { load: Load { content, previous, numbers, .. }, lent } = self;
        let number = || number_of(lent, content, key, label);
        content.apply_labelled_key(key, number, (numbers, Some(previous)));
    }
}

/// One use of `label`.
fn number_of(lent: &mut HashMap<usize, Lent>, content: &Content, key: &KeyRef<'_>, label: &Arc<Label>) -> Option<u32> {
    let place = Arc::as_ptr(label).addr();
    if let Some(lent) = lent.get_mut(&place) {
        // The last one stays here: without any, the number could be another label's.
        if lent.uses <= 1 {
            content.labels.take_more(lent.number, LENT_AT_ONCE);
            lent.uses += LENT_AT_ONCE;
        }
        lent.uses -= 1;
        return Some(lent.number);
    }
    let number = content.labels.take(key)?;
    if lent.len() < LENT_MAX {
        content.labels.take_more(number, LENT_AT_ONCE);
        lent.insert(place, Lent { _label: Arc::clone(label), number, uses: LENT_AT_ONCE });
    }
    Some(number)
}

impl Drop for Lane {
    fn drop(&mut self) {
        for Lent { number, uses, .. } in self.lent.values() {
            self.load.content.labels.give_all_back(*number, *uses);
        }
    }
}

impl<'a> From<&'a KeyCore> for KeyRef<'a> {
    fn from(key: &'a KeyCore) -> Self {
        Self {
            head: Head::from(&key.hash),
            id: key.id,
            lineage: key.lineage,
            states: key.states,
            project: key.label.project.as_ref(),
            environment: &key.label.environment,
            user: key.user.as_ref(),
            flags: key.label.flags.as_deref(),
            expires_at: key.expires_at,
            grace_expires_at: key.grace_expires_at,
            stamp: key.stamp,
        }
    }
}

/// What a reload would have taken back, and what was therefore kept: each is an alarm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merged {
    /// Keys known as revoked or superseded that the store has otherwise or not at all.
    pub keys: Vec<KeyId>,
    /// Keys known as replaced, with the end of their grace, that the store has without one or with a later.
    pub graces: Vec<(KeyId, Timestamp)>,
    /// Users known as deleted that the store has otherwise or not at all.
    pub users: Vec<UserId>,
    /// All of these as they were known: what must survive a restart before anything else is reported.
    pub rows: Vec<Row>,
    /// Keys and users that were switched off here, and that the store has as they were before: they work again.
    pub revived: Few,
    /// Keys that were not ended here, and that the store does not have.
    pub gone: Few,
    /// How many keys and users the store has as they were before a change that was known here.
    pub older: u64,
}

/// Of many, how many they are, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Few {
    /// The first of them.
    pub named: Vec<Subject>,
    /// How many more there are.
    pub more: usize,
}

impl Few {
    /// So many are named.
    const MAX: usize = 100;

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.named.len() + self.more
    }

    fn add(&mut self, one: impl FnOnce() -> Subject) {
        if self.named.len() < Self::MAX {
            self.named.push(one());
        } else {
            self.more += 1;
        }
    }
}

/// A reload that would lose too many keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{missing} of {live} live keys would be lost")]
pub struct LoadRefused {
    /// How many live keys are known.
    pub live: u64,
    /// How many of them the new content lacks.
    pub missing: u64,
}
