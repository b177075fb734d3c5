//! The folder itself: who holds it, what is in it, and what of that can be started from.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;

use super::disk::{Disk, Folder, Pace};
use super::high_water::HighWater;
use super::journal::{self, Entry, Journal};
use super::presence::Presence;
use super::seal::{Broken, MacKey};
use super::snapshot::{self, Header, Plan, Sealed};
use crate::clock::Timestamp;
use crate::secret::{self, NoRandomness};
use crate::store::{Cursor, GatewayId, Incarnation, StoreId};
use crate::table::{Load, Row, Table};

/// Why a gateway cannot use its state folder. Each is a fault of the installation: exit code 64.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process uses it.
    #[error("the state folder {} is in use by another keyward process: stop it, or set another [sync] state_dir", .0.display())]
    InUse(PathBuf),
    /// It cannot be read or written.
    #[error("the state folder {} cannot be used: {cause}", .folder.display())]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// No gateway id could be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// The folder, held by this process until it is dropped or given away.
#[derive(Debug)]
pub(crate) struct StateDir {
    folder: PathBuf,
    disk: Arc<dyn Disk>,
    key: MacKey,
    /// None once the folder is another process's.
    lock: Option<File>,
    gateway: GatewayId,
    /// The number of the journal that is written now; the next snapshot gets a greater one.
    number: u64,
    journal: Option<Journal>,
    /// The last journal record.
    sequence: u64,
    /// The two newest snapshots that can be started from.
    snapshots: (Option<u64>, Option<u64>),
    /// No snapshot of a smaller number may be started from.
    oldest: u64,
    store: Option<StoreId>,
}

/// What was found to start from.
#[derive(Debug)]
pub(crate) struct Restored {
    /// The store it is of.
    pub(crate) store: StoreId,
    /// Where in the store's history it stands.
    pub(crate) cursor: Cursor,
    /// Rows may be newer than that, and none is newer than this.
    pub(crate) reached: Cursor,
    /// All of it is of one history of the store. Where not, what it knows as ended is all that counts.
    pub(crate) is_one_history: bool,
    /// When it was last known to be like the store.
    pub(crate) contact_at: Timestamp,
    /// The clock must not read earlier than this.
    pub(crate) clock_floor: Timestamp,
    /// How many keys it holds.
    pub(crate) keys: usize,
    /// Why it may not be served by itself: only once the store has confirmed it.
    pub(crate) refusal: Option<Refusal>,
    /// The content, to be swapped into the table.
    pub(crate) load: Load,
}

/// Why what was found may not be served without the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The high-water file says that there was something newer.
    #[error("it is older than the high-water file says: {0}; `--accept-old-snapshot` starts from it all the same")]
    Older(String),
    /// There is no whole snapshot.
    #[error("only keys that have ended could be read: {0}")]
    Incomplete(String),
    /// It was last like the store too long ago.
    #[error("it was last like the store at {contact_at}, longer ago than snapshot_max_age")]
    TooOld {
        /// When that was.
        contact_at: Timestamp,
    },
}

/// How much of the age and the high-water mark is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The oldest that may be served without the store.
    pub(crate) snapshot_max_age: Duration,
    /// Whether to start from what the high-water file says is too old.
    pub(crate) accept_old: bool,
}

impl StateDir {
    /// Takes the folder, which is made where it is missing; by the lock that another process lends,
    /// where it is this folder's.
    ///
    /// # Errors
    /// When another process holds it, or it cannot be used.
    pub(crate) fn open(folder: &Path, key: MacKey, lent: Option<File>) -> Result<Self, StateError> {
        let unusable = |cause| StateError::Unusable { folder: folder.to_owned(), cause };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
        // It may have been made by somebody with another mask.
        std::fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(unusable)?;
        let own = private().write(true).create(true).truncate(false).open(folder.join("lock")).map_err(unusable)?;
        let lock = match lent {
            Some(lent) if is_same(&lent, &own).map_err(unusable)? => lent,
            Some(_) | None => own,
        };
        // flock(2): a lock is of the open file, so that it can be taken once more through what is lent.
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StateError::InUse(folder.to_owned()),
            TryLockError::Error(cause) => unusable(cause),
        })?;
        let gateway = gateway_id(folder)?;
        Self::on(folder, Arc::new(Folder(folder.to_owned())), key, (gateway, Some(lock))).map_err(unusable)
    }

    /// Takes files that nobody else uses, by the lock that says so.
    pub(crate) fn on(
        folder: &Path,
        disk: Arc<dyn Disk>,
        key: MacKey,
        (gateway, lock): (GatewayId, Option<File>),
    ) -> io::Result<Self> {
        remove_unfinished(&*disk)?;
        let number = numbers(&*disk)?.into_iter().max().map_or(1, |newest| newest + 1);
        Ok(Self {
            folder: folder.to_owned(),
            disk,
            key,
            lock,
            gateway,
            number,
            journal: None,
            sequence: 0,
            snapshots: (None, None),
            oldest: 0,
            store: None,
        })
    }

    /// The lock, for another process to hold as well. Nothing is written from then on.
    pub(crate) fn lend(&self) -> io::Result<File> {
        self.lock.as_ref().ok_or_else(|| io::Error::other("the state folder was given away"))?.try_clone()
    }

    /// Goes on writing after what another process wrote meanwhile; what that was, oldest first.
    ///
    /// # Errors
    /// When it cannot be read. Writing goes on all the same, in files of other numbers.
    pub(crate) fn take_back(&mut self) -> Result<Vec<Row>, String> {
        let (ours, known) = (self.number, self.sequence);
        self.journal = None;
        let numbers = numbers(&*self.disk).map_err(|error| error.to_string())?;
        self.number = numbers.iter().copied().max().map_or(ours, |newest| newest.max(ours)) + 1;
        if let Ok(mark) = HighWater::read(&*self.disk, &self.key) {
            self.sequence = self.sequence.max(mark.sequence);
            self.oldest = self.oldest.max(mark.oldest);
        }
        let mut rows = Vec::new();
        let mut journals: Vec<u64> = numbers.into_iter().filter(|&number| number >= ours).collect();
        journals.sort_unstable();
        journals.dedup();
        for number in journals {
            let read = journal::read(&*self.disk, number, &self.key);
            for entry in read.map_err(|broken| format!("journal {number}: {broken}"))?.entries {
                if entry.sequence > known {
                    self.sequence = self.sequence.max(entry.sequence);
                    rows.push(entry.row);
                }
            }
        }
        Ok(rows)
    }

    /// Lets go of the folder, which another process holds too.
    pub(crate) fn let_go(&mut self) {
        self.lock = None;
    }

    /// Names this gateway towards the store, as long as the folder exists.
    pub(crate) const fn gateway(&self) -> &GatewayId {
        &self.gateway
    }

    /// Its files.
    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// How what takes long here is done.
    pub(crate) fn pace(&self) -> Pace {
        self.disk.pace()
    }

    /// Says in the folder that this process runs.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn tell_presence(&self, own: Incarnation) -> Result<Presence, StateError> {
        Presence::tell(&self.folder, own).map_err(|cause| StateError::Unusable { folder: self.folder.clone(), cause })
    }

    /// The newest snapshot and the journals since, handed to a load of `table`; none if there is no
    /// snapshot. A snapshot that is broken is passed over for the one before it.
    ///
    /// # Errors
    /// When there are snapshots and none can be used.
    pub(crate) fn restore(
        &mut self,
        table: &Table,
        limits: Limits,
        now: Timestamp,
    ) -> Result<Option<Restored>, String> {
        let mark = HighWater::read(&*self.disk, &self.key);
        if let Ok(mark) = &mark {
            // Whatever becomes of the snapshots: numbers only go up.
            self.sequence = mark.sequence;
            self.oldest = mark.oldest;
        }
        let mut candidates = snapshots(&*self.disk).map_err(|error| error.to_string())?;
        candidates.sort_unstable_by(|a, b| b.cmp(a));
        let mut faults = Vec::new();
        for (at, &number) in candidates.iter().enumerate() {
            match self.restore_from(number, table) {
                Ok((sealed, load, sequence, reached)) => {
                    self.snapshots = (Some(number), candidates.get(at + 1).copied());
                    let found = Found { number, header: sealed.header, sequence, reached };
                    return Ok(Some(self.judge(found, load, &mark, limits, now)));
                }
                Err(fault) => faults.push(format!("snapshot {number}: {fault}")),
            }
        }
        self.restore_ended(&candidates, &faults, table)
    }

    /// What can still be read of keys and users that have ended, where nothing whole is left: they
    /// are refused, and what is not known to have ended only the store can tell.
    fn restore_ended(
        &mut self,
        candidates: &[u64],
        faults: &[String],
        table: &Table,
    ) -> Result<Option<Restored>, String> {
        let load = table.load();
        let mut of_store = None;
        for &number in candidates {
            if let Ok(sealed) = snapshot::read(&*self.disk, number, &self.key)
                && of_store.is_none_or(|store| store == sealed.header.store)
                && sealed.load_ended(&load).is_ok()
            {
                of_store = Some(sealed.header.store);
            }
        }
        let mut journals = numbers_of(&*self.disk, &["journal."]).map_err(|error| error.to_string())?;
        journals.sort_unstable();
        for number in journals {
            let Ok(read) = journal::read(&*self.disk, number, &self.key) else { continue };
            for Entry { sequence, store, row, .. } in read.entries {
                if of_store.is_some_and(|known| known != store) {
                    continue;
                }
                of_store = Some(store);
                self.sequence = self.sequence.max(sequence);
                match &row {
                    Row::Key(key) if key.states.is_terminal() => load.key(&key.view()),
                    Row::User(user) if user.deleted => load.user(user),
                    Row::Key(_) | Row::User(_) => {}
                }
            }
        }
        let Some(store) = of_store else {
            return if faults.is_empty() { Ok(None) } else { Err(faults.join("; ")) };
        };
        let why = if faults.is_empty() { "no snapshot was written yet".to_owned() } else { faults.join("; ") };
        self.store = Some(store);
        Ok(Some(Restored {
            store,
            cursor: Cursor::default(),
            reached: Cursor::default(),
            is_one_history: false,
            contact_at: Timestamp::default(),
            clock_floor: Timestamp::default(),
            keys: load.keys(),
            refusal: Some(Refusal::Incomplete(why)),
            load,
        }))
    }

    fn restore_from(&self, number: u64, table: &Table) -> Result<(Sealed, Load, u64, Cursor), String> {
        let sealed = snapshot::read(&*self.disk, number, &self.key).map_err(|broken| broken.to_string())?;
        let load = table.load();
        sealed.load(&load).map_err(|broken| broken.to_string())?;
        let (mut sequence, mut reached) = (sealed.header.sequence, sealed.header.cursor);
        for journal in number..self.number {
            let entries = journal::read(&*self.disk, journal, &self.key)
                .map_err(|broken| format!("journal {journal}: {broken}"))?;
            for Entry { sequence: at, store, reached: by, row } in entries.entries {
                if at != sequence + 1 || store != sealed.header.store {
                    return Err(format!("journal {journal}: record {at} does not follow record {sequence}"));
                }
                (sequence, reached) = (at, by);
                match &row {
                    Row::Key(key) => load.key(&key.view()),
                    Row::User(user) => load.user(user),
                }
            }
            if entries.torn {
                tracing::warn!(journal, "the last record was not written whole and was never reported as applied");
            }
        }
        Ok((sealed, load, sequence, reached))
    }

    fn judge(
        &mut self,
        found: Found,
        load: Load,
        mark: &Result<HighWater, Broken>,
        limits: Limits,
        now: Timestamp,
    ) -> Restored {
        let header = found.header;
        let is_one_history = mark.as_ref().is_ok_and(|mark| mark.refuses(&found).is_none());
        let mut refusal = match mark {
            Err(broken) => Some(Refusal::Older(format!("the high-water file cannot be used: {broken}"))),
            Ok(mark) => mark.refuses(&found),
        };
        if limits.accept_old
            && let Some(refused) = refusal.take()
        {
            tracing::error!(%refused, "starting from old state because it was asked for: revoked keys may work again");
        }
        let mut contact_at = header.contact_at;
        let mut clock_floor = header.taken_at;
        if let Ok(mark) = mark
            && refusal.is_none()
        {
            contact_at = contact_at.max(mark.contact_at);
            clock_floor = clock_floor.max(mark.written_at);
        }
        if refusal.is_none() && now.max(clock_floor).since(contact_at) > limits.snapshot_max_age {
            refusal = Some(Refusal::TooOld { contact_at });
        }
        self.sequence = self.sequence.max(found.sequence);
        self.store = Some(header.store);
        Restored {
            store: header.store,
            cursor: header.cursor,
            reached: found.reached,
            is_one_history,
            contact_at,
            clock_floor,
            keys: load.keys(),
            refusal,
            load,
        }
    }

    /// Which store the folder is of from now on.
    pub(crate) fn set_store(&mut self, store: StoreId) {
        self.store = Some(store);
    }

    /// Remembers rows, and returns once they would survive a loss of power. On an error none of
    /// them counts as remembered.
    pub(crate) fn append(
        &mut self,
        rows: &[Row],
        reached: Cursor,
        (contact_at, now): (Timestamp, Timestamp),
    ) -> io::Result<()> {
        let Some(store) = self.store else { return Err(io::Error::other("no store is known yet")) };
        let journal = match &mut self.journal {
            Some(journal) => journal,
            none => none.insert(Journal::open(&*self.disk, self.number)?),
        };
        if let Err(error) = journal.append(rows, (self.sequence + 1, store, reached), &self.key) {
            // The file may end in half a record: the next attempt gets a file of its own. One that
            // never held a record is not kept, or a disk that stays full would be filled with them.
            let was_empty = journal.bytes() == 0;
            self.journal = None;
            if !was_empty || self.disk.remove(&journal::name(self.number)).is_err() {
                self.number += 1;
            }
            return Err(error);
        }
        self.sequence += rows.len() as u64;
        self.mark(contact_at, now)
    }

    /// Moves the high-water mark to where things stand.
    pub(crate) fn mark(&mut self, contact_at: Timestamp, now: Timestamp) -> io::Result<()> {
        let Some(store) = self.store else { return Ok(()) };
        let mark = HighWater { store, oldest: self.oldest, sequence: self.sequence, contact_at, written_at: now };
        mark.write(&*self.disk, &self.key)
    }

    /// From now on nothing that was written so far may be started from: the table was loaded anew.
    pub(crate) fn forget_older(&mut self, contact_at: Timestamp, now: Timestamp) -> io::Result<()> {
        self.oldest = self.number + 1;
        self.snapshots = (None, None);
        self.mark(contact_at, now)
    }

    /// Begins a snapshot of a table that holds everything journalled so far and stands at `cursor`.
    /// Later records go to the journal of its number.
    pub(crate) fn begin_snapshot(&mut self, cursor: Cursor, contact_at: Timestamp, now: Timestamp) -> Option<Plan> {
        let store = self.store?;
        self.number += 1;
        self.journal = None;
        let header = Header { store, cursor, taken_at: now, contact_at, sequence: self.sequence };
        Some(Plan { disk: Arc::clone(&self.disk), number: self.number, key: self.key.clone(), header })
    }

    /// Takes note of a snapshot that was written, and removes what is now older than the two newest.
    pub(crate) fn finish_snapshot(&mut self, plan: &Plan, contact_at: Timestamp, now: Timestamp) -> io::Result<()> {
        if plan.number < self.oldest {
            // The table was loaded anew meanwhile. Until that is in a snapshot, what was written before
            // is all that remembers what had ended by then.
            return Ok(());
        }
        self.snapshots = (Some(plan.number), self.snapshots.0);
        let (newest, previous) = self.snapshots;
        self.oldest = self.oldest.max(previous.or(newest).unwrap_or(0));
        self.mark(contact_at, now)?;
        for number in numbers(&*self.disk)? {
            if number < self.oldest {
                self.disk.remove(&snapshot::name(number))?;
                self.disk.remove(&journal::name(number))?;
            }
        }
        self.disk.sync_names()
    }

    /// Bytes in the journal that is written now.
    pub(crate) fn journal_bytes(&self) -> u64 {
        self.journal.as_ref().map_or(0, Journal::bytes)
    }
}

/// A snapshot with its journals.
#[derive(Debug, Clone, Copy)]
struct Found {
    number: u64,
    header: Header,
    /// The last journal record.
    sequence: u64,
    reached: Cursor,
}

impl HighWater {
    fn refuses(&self, found: &Found) -> Option<Refusal> {
        let why = if self.store != found.header.store {
            "it is of another store".to_owned()
        } else if found.number < self.oldest {
            format!("snapshot {} was replaced by {}", found.number, self.oldest)
        } else if found.sequence < self.sequence {
            format!("it ends at change {} of {}", found.sequence, self.sequence)
        } else {
            return None;
        };
        Some(Refusal::Older(why))
    }
}

/// Whether two open files are one file.
fn is_same(a: &File, b: &File) -> io::Result<bool> {
    let (a, b) = (a.metadata()?, b.metadata()?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn gateway_id(folder: &Path) -> Result<GatewayId, StateError> {
    let unusable = |cause| StateError::Unusable { folder: folder.to_owned(), cause };
    let path = folder.join("gateway_id");
    let mut text = String::new();
    match File::open(&path) {
        Ok(mut file) => {
            file.read_to_string(&mut text).map_err(unusable)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unusable(error)),
    }
    if let Ok(known) = text.trim().to_ascii_lowercase().parse() {
        return Ok(known);
    }
    let id: GatewayId = HEXLOWER.encode(&secret::random::<16>()?).parse().expect("16 bytes are 32 digits");
    let mut file = private().write(true).create(true).truncate(true).open(&path).map_err(unusable)?;
    writeln!(file, "{id}").and_then(|()| file.sync_all()).map_err(unusable)?;
    Ok(id)
}

/// Removes what a process that was killed had not put into place.
fn remove_unfinished(disk: &dyn Disk) -> io::Result<()> {
    let names = disk.names()?;
    let is_unfinished =
        |name: &&String| (name.starts_with("snapshot.") && name.ends_with(".new")) || name.starts_with("new-process.");
    names.iter().filter(is_unfinished).try_for_each(|name| disk.remove(name))
}

/// The numbers of all snapshots and journals, some of them twice.
fn numbers(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    numbers_of(disk, &["snapshot.", "journal."])
}

fn snapshots(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    numbers_of(disk, &["snapshot."])
}

fn numbers_of(disk: &dyn Disk, prefixes: &[&str]) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for name in disk.names()? {
        let number = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix));
        found.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    Ok(found)
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
