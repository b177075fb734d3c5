//! Restored backups in PostgreSQL.

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::PostgresStore;
use super::fault::Fault;
use super::read::no_counter;
use super::rows::{Columns, id_of, to_sql, unsigned};
use super::session::{Kind, Param, Transaction};
use super::write::{Place, Told, write_events};
use crate::key::{Actor, EventKind, KeyId, Subject};
use crate::secret;
use crate::store::{Acceptance, AcceptanceId, Answer, GATEWAY_LOGIN, HistoryStore, NewEvent, Retold};

impl HistoryStore for PostgresStore {
    fn acceptances(&self) -> Answer<'_, Vec<Acceptance>> {
        self.read_with(Kind::ReadAny, |transaction| Box::pin(acceptances(transaction)))
    }

    fn retold(&self, after: u64) -> Answer<'_, Vec<Retold>> {
        self.read_with(Kind::Read, move |transaction| Box::pin(retold(transaction, after)))
    }

    fn accept(&self, actor: Actor, after: u64) -> Answer<'_, (Acceptance, Vec<Retold>)> {
        Box::pin(async move {
            let accepted = self.write_with(move |transaction| {
                let actor = actor.clone();
                Box::pin(async move { accept(transaction, actor, after).await })
            });
            let accepted = accepted.await?;
            self.shared.tell();
            Ok(accepted)
        })
    }
}

async fn acceptances(transaction: &Transaction) -> Result<Vec<Acceptance>, Fault> {
    let sql = "SELECT id, revision, at, actor FROM keyward.acceptances ORDER BY revision";
    let acceptance = |row: &Row| {
        let mut columns = Columns::of(row);
        let id = AcceptanceId(columns.bits()?);
        let (revision, at) = (unsigned(columns.integer()?)?, columns.time()?);
        let actor = columns.text()?;
        let actor = actor.parse().map_err(|()| Fault::Stored(format!("{actor:?} is no actor")))?;
        Ok(Acceptance { id, revision, at, actor })
    };
    transaction.query(sql, &[]).await?.iter().map(acceptance).collect()
}

/// What gateways revoked and deleted again, and is so still.
async fn retold(transaction: &Transaction, after: u64) -> Result<Vec<Retold>, Fault> {
    let newest = acceptances(transaction).await?.last().map_or(0, |acceptance| acceptance.revision);
    let sql = "SELECT e.revision, e.key_id, e.user_id FROM keyward.events e \
         LEFT JOIN keyward.keys k ON k.id = e.key_id LEFT JOIN keyward.users u ON u.id = e.user_id \
         WHERE e.revision > $1 AND e.actor = $2 \
         AND ((e.kind = $3 AND k.revoked) OR (e.kind = $4 AND u.deleted)) ORDER BY e.revision, e.ordinal";
    let actor = Actor::Local(GATEWAY_LOGIN.to_owned()).to_string();
    let params: [Param<'_>; 4] = [
        (&to_sql(after.max(newest)), Type::INT8),
        (&actor, Type::TEXT),
        (&EventKind::KeyRevoked.as_str(), Type::TEXT),
        (&EventKind::UserDeleted.as_str(), Type::TEXT),
    ];
    let retold = |row: &Row| {
        let mut columns = Columns::of(row);
        let revision = unsigned(columns.integer()?)?;
        let subject = match columns.bits_or_none()? {
            Some(id) => Subject::Key(KeyId::from_bits(id)),
            None => {
                let user = columns.text()?;
                Subject::User(user.parse().map_err(|fault| Fault::Stored(format!("{fault}")))?)
            }
        };
        Ok(Retold { revision, subject })
    };
    transaction.query(sql, &params).await?.iter().map(retold).collect()
}

async fn accept(transaction: &Transaction, actor: Actor, after: u64) -> Result<(Acceptance, Vec<Retold>), Fault> {
    let now = transaction.now();
    let (commit, id) = (Uuid::from_bytes(secret::random()?), Uuid::from_bytes(secret::random()?));
    let sql = "UPDATE keyward.counter SET revision = revision + 1, previous_id = commit_id, commit_id = $1 \
         RETURNING revision";
    let row = transaction.first(sql, &[(&commit, Type::UUID)]).await?.ok_or_else(no_counter)?;
    let revision = Columns::of(&row).integer()?;
    // With the counter's lock in hand, so that nobody writes meanwhile.
    let taken_back = retold(transaction, after).await?;
    // Nobody's place in the history that was lost is one in this.
    transaction.execute("DELETE FROM keyward.revisions", &[]).await?;
    let params: [Param<'_>; 3] = [(&revision, Type::INT8), (&commit, Type::UUID), (&now.nanos(), Type::INT8)];
    transaction.execute("INSERT INTO keyward.revisions (revision, commit_id, at) VALUES ($1, $2, $3)", &params).await?;
    for (ordinal, retold) in (0..).zip(&taken_back) {
        let place = Place { revision, ordinal, at: now };
        take_back(transaction, &retold.subject, place).await?;
        let (kind, key, user) = match &retold.subject {
            Subject::Key(id) => (EventKind::KeyUpdated, Some(id_of(*id)), None),
            Subject::User(id) => (EventKind::UserUpdated, None, Some(id.as_str())),
        };
        let told = ("restored".to_owned(), format!("as before revision {}", retold.revision));
        let event = NewEvent { kind, changes: [told].into() };
        write_events(transaction, &actor, None, vec![Told { key, user, event: &event }], place).await?;
    }
    let params: [Param<'_>; 4] =
        [(&id, Type::UUID), (&revision, Type::INT8), (&now.nanos(), Type::INT8), (&actor.to_string(), Type::TEXT)];
    let sql = "INSERT INTO keyward.acceptances (id, revision, at, actor) VALUES ($1, $2, $3, $4)";
    transaction.execute(sql, &params).await?;
    transaction.simple(&format!("SELECT pg_notify('{}', '{revision}')", super::CHANNEL)).await?;
    let revision = unsigned(revision)?;
    Ok((Acceptance { id: AcceptanceId(id.as_u128()), revision, at: now, actor }, taken_back))
}

/// A key that was revoked by a gateway alone, or a user that was deleted by one, is as the backup had it; a
/// grace that ended with it stays ended, and a rotation is planned anew.
async fn take_back(transaction: &Transaction, subject: &Subject, place: Place) -> Result<(), Fault> {
    let (at, revision, ordinal) = (place.at.nanos(), place.revision, place.ordinal);
    let stamp: [Param<'_>; 3] = [(&at, Type::INT8), (&revision, Type::INT8), (&ordinal, Type::INT8)];
    match subject {
        Subject::Key(id) => {
            let id = id_of(*id);
            let params: Vec<Param<'_>> = stamp.into_iter().chain([(&id as _, Type::UUID)]).collect();
            let sql = "UPDATE keyward.keys SET revoked = false, revoked_at = NULL, updated_at = $1, revision = $2, \
                 ordinal = $3, rotation_next_at = $1 + rotation_days * 86400000000000 WHERE id = $4";
            transaction.execute(sql, &params).await?;
        }
        Subject::User(id) => {
            let id = id.as_str();
            let params: Vec<Param<'_>> = stamp.into_iter().chain([(&id as _, Type::TEXT)]).collect();
            let sql = "UPDATE keyward.users SET deleted = false, updated_at = $1, revision = $2, ordinal = $3 \
                 WHERE id = $4";
            transaction.execute(sql, &params).await?;
        }
    }
    Ok(())
}
