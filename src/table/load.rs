//! A key set built beside the one in use, and merged with it when it takes its place.

use std::sync::Arc;

use parking_lot::Mutex;

use super::content::{Content, Numbers};
use super::row::{KeyRef, KeyRow, Row, UserRow};
use crate::clock::Timestamp;
use crate::key::{KeyId, UserId};

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
        self.previous.for_each_key(|key| {
            if key.states.is_terminal() {
                terminal.push(key.to_row());
            } else {
                if key.grace_expires_at.is_some() {
                    replaced.push(key.to_row());
                }
                live += 1;
                missing += u64::from(!self.content.knows(&key.head));
            }
        });
        if missing.saturating_mul(100) > live.saturating_mul(u64::from(drop_max_percent)) {
            return Err(LoadRefused { live, missing });
        }
        let mut merged = Merged::default();
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
