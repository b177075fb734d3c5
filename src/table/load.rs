//! A key set built beside the one in use, and merged with it when it takes its place.

use std::sync::Arc;

use parking_lot::Mutex;

use super::content::{Content, Numbers};
use super::row::{KeyRef, KeyRow, Row, UserRow};
use crate::clock::Timestamp;
use crate::key::{KeyId, Subject, UserId};

/// A key set being built. Dropping it leaves the table as it was.
#[derive(Debug)]
pub struct Load {
    pub(super) content: Content,
    pub(super) previous: Arc<Content>,
    pub(super) numbers: Arc<Numbers>,
    turn: Mutex<()>,
}

impl Load {
    pub(super) fn beside(previous: Arc<Content>, numbers: Arc<Numbers>) -> Self {
        Self { content: Content::new(), previous, numbers, turn: Mutex::new(()) }
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
