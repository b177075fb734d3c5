//! Reads the store for whoever follows it: all that changed, or everything. Given up when no row comes for a
//! while, however long the whole takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::key::Stamp;
use crate::store::{Answer, Batch, Cursor, Damaged, LoadLane, Loaded, Poll, Row as StoredRow, Store, StoreError};
use crate::table::{KeyRef, KeyRow, Load, Row, UserRow};

/// What was read, beside what went into a load.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// What changed, in order. Of a load what has ended, as far as that is little: see [`ENDED_MAX`].
    pub(super) rows: Vec<Row>,
    /// Rows that cannot be read, with why.
    pub(super) damaged: Vec<(Damaged, Stamp, String)>,
}

/// So much that has ended is written into the journal when everything was read. Where it is more, the
/// snapshot is waited for, and no more than this is kept.
pub(super) const ENDED_MAX: usize = 20_000;

/// Why a read was not all.
#[derive(Debug)]
pub(super) enum ReadFault {
    Store(StoreError),
    /// No row came for a while.
    Slow,
    /// It ended without saying where the reader then stands.
    Early,
}

const ROWS_PATIENCE: Duration = Duration::from_secs(5);
/// Everything is taken over by as many threads, where the store can hand it over so.
const LANES: usize = 2;

/// All that changed after `cursor`, and where the reader stands then.
pub(super) async fn changes(store: &dyn Store, cursor: Cursor) -> Result<(Read, Poll), ReadFault> {
    let handed = Arc::new(AtomicU64::new(0));
    let changes = Arc::new(Mutex::new((Read::default(), None)));
    let sink = {
        let (changes, handed) = (Arc::clone(&changes), Arc::clone(&handed));
        Box::new(move |batch| {
            handed.fetch_add(1, Ordering::Relaxed);
            let (read, end) = &mut *changes.lock();
            match batch {
                Batch::Row(_, StoredRow::Key(key)) => read.rows.push(Row::Key(Box::new(KeyRow::from(*key)))),
                Batch::Row(_, StoredRow::User(user)) => read.rows.push(Row::User(UserRow::from(user))),
                Batch::Damaged(stamp, what, cause) => {
                    read.rows.extend(refused(&what, stamp));
                    read.damaged.push((what, stamp, cause));
                }
                Batch::End(poll) => *end = Some(poll),
            }
        })
    };
    patiently(store.changes_after(cursor, sink), &handed).await?;
    let (read, end) = std::mem::take(&mut *changes.lock());
    Ok((read, end.ok_or(ReadFault::Early)?))
}

/// Everything into `load`, and where the reader stands then.
pub(super) async fn everything(store: &dyn Store, load: &Load) -> Result<(Read, Poll), ReadFault> {
    let handed = Arc::new(AtomicU64::new(0));
    let found = Arc::new(Mutex::new(Read::default()));
    let lanes = (0..LANES).map(|_| lane(load, &handed, &found)).collect();
    let end = patiently(store.load(lanes), &handed).await?;
    let read = std::mem::take(&mut *found.lock());
    Ok((read, end))
}

/// One of several ways into `load`.
fn lane(load: &Load, handed: &Arc<AtomicU64>, found: &Arc<Mutex<Read>>) -> LoadLane {
    let (handed, found, load, mut lane) = (Arc::clone(handed), Arc::clone(found), load.clone(), load.lane());
    Box::new(move |loaded| {
        handed.fetch_add(1, Ordering::Relaxed);
        let ended = match loaded {
            Loaded::Key(key) => {
                lane.key(&key);
                key.states.is_terminal().then(|| Row::Key(Box::new(KeyRef::from(&key).to_row())))
            }
            Loaded::User(user) => {
                let user = UserRow::from(user);
                load.user(&user);
                user.deleted.then_some(Row::User(user))
            }
            Loaded::Damaged(what, cause) => {
                let stamp = Stamp::default();
                match refused(&what, stamp) {
                    Some(Row::Key(key)) => load.key(&key.view()),
                    Some(Row::User(user)) => load.user(&user),
                    None => {}
                }
                return found.lock().damaged.push((what, stamp, cause));
            }
        };
        if let Some(row) = ended {
            let rows = &mut found.lock().rows;
            if rows.len() <= ENDED_MAX {
                rows.push(row);
            }
        }
    })
}

/// What refuses the subject of a row that cannot be read, as far as that can be named.
fn refused(what: &Damaged, stamp: Stamp) -> Option<Row> {
    match what {
        Damaged::Key { id, hash: Some(hash) } => Some(Row::Key(Box::new(KeyRow::refused(*id, hash, stamp)))),
        Damaged::User(id) => Some(Row::User(UserRow::refused(id.clone(), stamp))),
        Damaged::Key { hash: None, .. } | Damaged::Unnamed => None,
    }
}

/// The answer, unless nothing is handed over for too long before it comes.
async fn patiently<T>(mut answer: Answer<'_, T>, handed: &AtomicU64) -> Result<T, ReadFault> {
    let mut before = 0;
    loop {
        if let Ok(answer) = tokio::time::timeout(ROWS_PATIENCE, &mut answer).await {
            return answer.map_err(ReadFault::Store);
        }
        let now = handed.load(Ordering::Relaxed);
        if now == before {
            return Err(ReadFault::Slow);
        }
        before = now;
    }
}
