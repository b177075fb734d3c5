//! Tells the store again what this gateway knows for good and a restored store has forgotten.
//!
//! Whatever comes of it, the table goes on refusing: this only makes the store say so too, to those
//! who read it and to gateways that start anew.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::key::Subject;
use crate::store::Cursor;
use crate::table::{BoxFuture, Merged};

/// Changes the store once more. Implemented by whoever may change keys.
pub trait Reassert: Send + Sync + fmt::Debug {
    /// Revokes this key, or deletes this user, in the history of which `at` is a place and in no other: one in
    /// which somebody took back what had ended is not told of it again.
    fn end<'a>(&'a self, subject: &'a Subject, at: Cursor) -> BoxFuture<'a, Reasserted>;
}

/// What came of telling the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reasserted {
    /// The store has it so again, as of this revision at the latest.
    Told(u64),
    /// The store does not have it at all.
    Absent,
    /// The store's history is another by now: nothing was changed.
    OtherHistory,
    /// The store could not be told, and why.
    Failed(String),
}

/// What the store must still be told.
#[derive(Debug)]
pub(super) struct Retelling {
    reassert: Option<Arc<dyn Reassert>>,
    untold: VecDeque<Subject>,
    /// What ends only then.
    later: Vec<(Timestamp, Subject)>,
    /// All of both, and what the store was told, as of which revision: at most what is known here to have ended,
    /// until everything is read anew.
    known: HashMap<Subject, Option<u64>>,
    failing: bool,
}

/// How long the feed waits while the store is told.
const AT_ONCE: Duration = Duration::from_millis(200);
/// Longer than a store itself waits for a lock.
const PATIENCE: Duration = Duration::from_secs(7);

impl Retelling {
    pub(super) fn by(reassert: Option<Arc<dyn Reassert>>) -> Self {
        Self { reassert, untold: VecDeque::new(), later: Vec::new(), known: HashMap::new(), failing: false }
    }

    /// From here on the store is to be told of these, and of nothing that another history of it
    /// lacked.
    pub(super) fn owe(&mut self, merged: Merged) {
        self.untold.clear();
        self.later.clear();
        self.known.clear();
        // Users first: deleting one revokes its keys.
        let users = merged.users.into_iter().map(|user| (Subject::User(user), None));
        let keys = merged.keys.into_iter().map(|key| (Subject::Key(key), None));
        let graces = merged.graces.into_iter().map(|(key, ends)| (Subject::Key(key), Some(ends)));
        for (subject, ends) in users.chain(keys).chain(graces) {
            self.owe_one(subject, ends);
        }
    }

    /// The store is to be told of this too, once it ends where it has not yet: it was found otherwise by a
    /// read that began at the revision `found_at`. Whether that is news.
    pub(super) fn owe_too(&mut self, subject: Subject, ends: Option<Timestamp>, found_at: u64) -> bool {
        let is_known = self.known.get(&subject).is_some_and(|told| match told {
            None => true,
            // It was read before the store was told.
            Some(told) => *told > found_at,
        });
        if !is_known {
            self.owe_one(subject, ends);
        }
        !is_known
    }

    fn owe_one(&mut self, subject: Subject, ends: Option<Timestamp>) {
        self.known.insert(subject.clone(), None);
        match ends {
            None => self.untold.push_back(subject),
            Some(ends) => self.later.push((ends, subject)),
        }
    }

    /// Tells the store what has ended by `now`, for a while, as long as it is in the history of which `at` is a
    /// place. Whether there is more to be told at once; where the store cannot be told, the next call goes on with
    /// the others, and tries again once it has come round.
    pub(super) async fn tell(&mut self, at: Cursor, now: Timestamp) -> bool {
        let Some(reassert) = &self.reassert else { return false };
        let ended = self.later.extract_if(.., |(ends, _)| *ends <= now);
        self.untold.extend(ended.map(|(_, subject)| subject));
        let begun = Instant::now();
        while let Some(subject) = self.untold.front() {
            if begun.elapsed() > AT_ONCE {
                return true;
            }
            let told = tokio::time::timeout(PATIENCE, reassert.end(subject, at)).await;
            let known = match told.unwrap_or_else(|_elapsed| Reasserted::Failed("no answer in time".to_owned())) {
                Reasserted::Told(revision) => {
                    told_again(subject);
                    Some(revision)
                }
                Reasserted::Absent => None,
                // Everything is read anew, and what is owed then follows from that.
                Reasserted::OtherHistory => return false,
                Reasserted::Failed(cause) => {
                    if !self.failing {
                        tracing::error!(cause, left = self.untold.len(), "the store cannot be told what stays refused");
                    }
                    self.failing = true;
                    // It may be this one alone that cannot be told: it stands before no other.
                    self.untold.rotate_left(1);
                    return false;
                }
            };
            self.failing = false;
            let Some(subject) = self.untold.pop_front() else { break };
            if known.is_some() {
                self.known.insert(subject, known);
            } else {
                self.known.remove(&subject);
            }
        }
        false
    }
}

fn told_again(subject: &Subject) {
    match subject {
        Subject::Key(key) => tracing::warn!(%key, "revoked in the store again"),
        Subject::User(user) => tracing::warn!(%user, "deleted in the store again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyId;
    use parking_lot::Mutex;

    /// Answers in turn, and notes what it was asked.
    #[derive(Debug)]
    struct Answers {
        left: Mutex<Vec<Reasserted>>,
        asked: Mutex<Vec<Subject>>,
    }

    impl Reassert for Answers {
        fn end<'a>(&'a self, subject: &'a Subject, _at: Cursor) -> BoxFuture<'a, Reasserted> {
            self.asked.lock().push(subject.clone());
            let answer = self.left.lock().pop().unwrap_or(Reasserted::Told(5));
            Box::pin(async move { answer })
        }
    }

    /// Can tell everything but one.
    #[derive(Debug)]
    struct AllBut(Subject, Mutex<Vec<Subject>>);

    impl Reassert for AllBut {
        fn end<'a>(&'a self, subject: &'a Subject, _at: Cursor) -> BoxFuture<'a, Reasserted> {
            Box::pin(async move {
                if *subject == self.0 {
                    return Reasserted::Failed("it takes too long".to_owned());
                }
                self.1.lock().push(subject.clone());
                Reasserted::Told(5)
            })
        }
    }

    #[tokio::test]
    async fn one_that_cannot_be_told_stands_before_no_other() {
        let keys: Vec<KeyId> = (1..=3).map(KeyId::from_bits).collect();
        let told = Arc::new(AllBut(Subject::Key(keys[0]), Mutex::default()));
        let mut retelling = Retelling::by(Some(Arc::<AllBut>::clone(&told)));
        retelling.owe(Merged { keys: keys.clone(), ..Merged::default() });
        for _ in 0..3 {
            assert!(!retelling.tell(Cursor::default(), Timestamp::EPOCH).await);
        }
        assert_eq!(*told.1.lock(), [Subject::Key(keys[1]), Subject::Key(keys[2])]);
        assert_eq!(retelling.untold, [Subject::Key(keys[0])], "it is owed still");
        assert!(!retelling.owe_too(Subject::Key(keys[0]), None, 9));
        assert!(!retelling.owe_too(Subject::Key(keys[1]), None, 4), "read before the store was told");
        assert!(retelling.owe_too(Subject::Key(keys[1]), None, 5), "and after");
    }

    #[tokio::test]
    async fn what_the_store_did_not_take_is_told_again_and_what_it_lacks_is_not() {
        let failed = Reasserted::Failed("locked".to_owned());
        let answers = Arc::new(Answers { left: Mutex::new(vec![Reasserted::Absent, failed]), asked: Mutex::default() });
        let mut retelling = Retelling::by(Some(Arc::<Answers>::clone(&answers)));
        let (key, user) = (KeyId::from_bits(1), "ann".parse().expect("a user id"));
        retelling.owe(Merged { keys: vec![key], users: vec![user], ..Merged::default() });
        assert!(!retelling.tell(Cursor::default(), Timestamp::EPOCH).await);
        assert_eq!(answers.asked.lock().len(), 1, "after a failure nothing more is tried in this turn");
        assert!(!retelling.tell(Cursor::default(), Timestamp::EPOCH).await);
        let ann = answers.asked.lock().first().cloned().expect("it was asked");
        assert_eq!(*answers.asked.lock(), [ann.clone(), Subject::Key(key), ann]);
        assert!(!retelling.tell(Cursor::default(), Timestamp::EPOCH).await);
        assert_eq!(answers.asked.lock().len(), 3, "each is told once");
    }
}
