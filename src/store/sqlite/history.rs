//! Restored backups in SQLite.

use rusqlite::{Connection, params};

use super::fault::Fault;
use super::rows::{Columns, Place, to_sql, unsigned, write_event};
use super::{OfStore, SqliteStore};
use crate::clock::Timestamp;
use crate::key::{Actor, Event, EventKind, KeyId, Stamp, Subject};
use crate::secret;
use crate::store::{Acceptance, AcceptanceId, Answer, GATEWAY_LOGIN, HistoryStore, Retold};

impl HistoryStore for SqliteStore {
    fn acceptances(&self) -> Answer<'_, Vec<Acceptance>> {
        self.read_with(OfStore::Any, |connection, _shared| acceptances(connection))
    }

    fn retold(&self, after: u64) -> Answer<'_, Vec<Retold>> {
        self.read_with(OfStore::This, move |connection, _shared| retold(connection, after))
    }

    fn accept(&self, actor: Actor, after: u64) -> Answer<'_, (Acceptance, Vec<Retold>)> {
        self.write_with(move |connection, now| accept(connection, actor, after, now))
    }
}

fn acceptances(connection: &Connection) -> Result<Vec<Acceptance>, Fault> {
    let mut statement =
        connection.prepare_cached("SELECT id, revision, at, actor FROM acceptances ORDER BY revision")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns { row, next: 0 };
        let id = AcceptanceId(columns.bits()?);
        let (revision, at) = (unsigned(columns.integer()?)?, columns.time()?);
        let actor = columns.text()?;
        let actor = actor.parse().map_err(|()| Fault::Stored(format!("{actor:?} is no actor")))?;
        found.push(Acceptance { id, revision, at, actor });
    }
    Ok(found)
}

/// What gateways revoked and deleted again, and is so still by nobody else.
fn retold(connection: &Connection, after: u64) -> Result<Vec<Retold>, Fault> {
    let newest = acceptances(connection)?.last().map_or(0, |acceptance| acceptance.revision);
    let mut statement = connection.prepare_cached(
        "SELECT e.revision, e.key_id, e.user_id FROM events e \
         LEFT JOIN keys k ON k.id = e.key_id LEFT JOIN users u ON u.id = e.user_id \
         WHERE e.revision > ?1 AND e.actor = ?2 \
         AND ((e.kind = ?3 AND k.revoked = 1) OR (e.kind = ?4 AND u.deleted = 1)) \
         AND NOT EXISTS (SELECT 1 FROM events o WHERE o.key_id = e.key_id AND o.kind = e.kind AND o.actor <> ?2 \
         AND (o.revision, o.ordinal) > (e.revision, e.ordinal)) \
         AND NOT EXISTS (SELECT 1 FROM events o WHERE o.user_id = e.user_id AND o.kind = e.kind AND o.actor <> ?2 \
         AND (o.revision, o.ordinal) > (e.revision, e.ordinal)) ORDER BY e.revision, e.ordinal",
    )?;
    let actor = Actor::Local(GATEWAY_LOGIN.to_owned()).to_string();
    let (revoked, deleted) = (EventKind::KeyRevoked.as_str(), EventKind::UserDeleted.as_str());
    let mut rows = statement.query(params![to_sql(after.max(newest)), actor, revoked, deleted])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns { row, next: 0 };
        let revision = unsigned(columns.integer()?)?;
        let subject = match columns.bits_or_none()? {
            Some(id) => Subject::Key(KeyId::from_bits(id)),
            None => {
                let user = columns.text()?;
                Subject::User(user.parse().map_err(|fault| Fault::Stored(format!("{fault}")))?)
            }
        };
        found.push(Retold { revision, subject });
    }
    Ok(found)
}

fn accept(
    connection: &Connection,
    actor: Actor,
    after: u64,
    now: Timestamp,
) -> Result<(Acceptance, Vec<Retold>), Fault> {
    let taken_back = retold(connection, after)?;
    let (commit, id): ([u8; 16], [u8; 16]) = (secret::random()?, secret::random()?);
    let revision: i64 = connection
        .prepare_cached("UPDATE counter SET revision = revision + 1, commit_id = ?1 RETURNING revision")?
        .query_row(params![commit], |row| row.get(0))?;
    let revision: u64 = unsigned(revision)?;
    // Nobody's place in the history that was lost is one in this.
    connection.execute("DELETE FROM revisions", [])?;
    connection.execute(
        "INSERT INTO revisions (revision, commit_id, at) VALUES (?1, ?2, ?3)",
        params![to_sql(revision), commit, now.nanos()],
    )?;
    for (ordinal, retold) in (0..).zip(&taken_back) {
        let stamp = Stamp { revision, ordinal };
        take_back(connection, &retold.subject, stamp, now)?;
        let kind = match retold.subject {
            Subject::Key(_) => EventKind::KeyUpdated,
            Subject::User(_) => EventKind::UserUpdated,
        };
        let told = ("restored".to_owned(), format!("as before revision {}", retold.revision));
        let event = Event {
            stamp,
            at: now,
            kind,
            actor: actor.clone(),
            from: None,
            subject: retold.subject.clone(),
            changes: [told].into(),
        };
        write_event(connection, &event, Place { revision: to_sql(revision), ordinal })?;
    }
    connection.execute(
        "INSERT INTO acceptances (id, revision, at, actor) VALUES (?1, ?2, ?3, ?4)",
        params![id, to_sql(revision), now.nanos(), actor.to_string()],
    )?;
    let acceptance = Acceptance { id: AcceptanceId(u128::from_be_bytes(id)), revision, at: now, actor };
    Ok((acceptance, taken_back))
}

/// A key that was revoked by a gateway alone, or a user that was deleted by one, is as the backup had it; a
/// grace that ended with it stays ended, and a rotation is planned anew where the key was not replaced.
fn take_back(connection: &Connection, subject: &Subject, stamp: Stamp, now: Timestamp) -> Result<(), Fault> {
    let (at, revision) = (now.nanos(), to_sql(stamp.revision));
    match subject {
        Subject::Key(id) => connection
            .prepare_cached(
                "UPDATE keys SET revoked = 0, revoked_at = NULL, updated_at = ?2, revision = ?3, ordinal = ?4, \
                 rotation_next_at = CASE WHEN replaced_by IS NULL THEN ?2 + rotation_days * 86400000000000 END \
                 WHERE id = ?1",
            )?
            .execute(params![id.bits().to_be_bytes(), at, revision, stamp.ordinal])?,
        Subject::User(id) => connection
            .prepare_cached("UPDATE users SET deleted = 0, updated_at = ?2, revision = ?3, ordinal = ?4 WHERE id = ?1")?
            .execute(params![id.as_str(), at, revision, stamp.ordinal])?,
    };
    Ok(())
}
