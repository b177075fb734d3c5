//! Restored backups in PostgreSQL.

use std::collections::BTreeMap;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::fault::Fault;
use super::rows::{Columns, json, subject_columns, to_sql, unsigned};
use super::session::{Kind, Param, Transaction, unexpected};
use super::{CHANNEL, PostgresStore};
use crate::key::{Actor, EventKind, KeyId, Stamp, Subject};
use crate::secret;
use crate::store::{Acceptance, AcceptanceId, Answer, GATEWAY_LOGIN, HistoryStore, Retold};

impl HistoryStore for PostgresStore {
    fn acceptances(&self) -> Answer<'_, Vec<Acceptance>> {
        self.read_with(Kind::ReadAny, |transaction| Box::pin(acceptances(transaction)))
    }

    fn retold(&self, after: u64) -> Answer<'_, Vec<Retold>> {
        self.read_with(Kind::Read, move |transaction| Box::pin(retold(transaction, after)))
    }

    fn accept(&self, actor: Actor, after: u64) -> Answer<'_, (Acceptance, Vec<Retold>)> {
        self.write_with(move |transaction| {
            let actor = actor.clone();
            Box::pin(async move { accept(transaction, actor, after).await })
        })
    }
}

async fn acceptances(transaction: &Transaction) -> Result<Vec<Acceptance>, Fault> {
    let sql = "SELECT id, revision, at, actor FROM keyward.acceptances ORDER BY revision";
    let mut found = Vec::new();
    for row in transaction.query(sql, &[]).await? {
        let mut columns = Columns::of(&row);
        let id = AcceptanceId(columns.bits()?);
        let (revision, at) = (unsigned(columns.integer()?)?, columns.time()?);
        let actor = columns.text()?;
        let actor = actor.parse().map_err(|()| Fault::Stored(format!("{actor:?} is no actor")))?;
        found.push(Acceptance { id, revision, at, actor });
    }
    Ok(found)
}

/// What gateways revoked and deleted again, and is so still by nobody else.
async fn retold(transaction: &Transaction, after: u64) -> Result<Vec<Retold>, Fault> {
    let newest = acceptances(transaction).await?.last().map_or(0, |acceptance| acceptance.revision);
    let sql = "SELECT e.revision, e.key_id, e.user_id FROM keyward.events e \
               LEFT JOIN keyward.keys k ON k.id = e.key_id LEFT JOIN keyward.users u ON u.id = e.user_id \
               WHERE e.revision > $1 AND e.actor = $2 AND ((e.kind = $3 AND k.revoked) OR (e.kind = $4 AND u.deleted)) \
               AND NOT EXISTS (SELECT 1 FROM keyward.events o WHERE o.key_id = e.key_id AND o.kind = e.kind \
               AND o.actor <> $2 AND (o.revision, o.ordinal) > (e.revision, e.ordinal)) \
               AND NOT EXISTS (SELECT 1 FROM keyward.events o WHERE o.user_id = e.user_id AND o.kind = e.kind \
               AND o.actor <> $2 AND (o.revision, o.ordinal) > (e.revision, e.ordinal)) \
               ORDER BY e.revision, e.ordinal";
    let (after, actor) = (to_sql(after.max(newest)), Actor::Local(GATEWAY_LOGIN.to_owned()).to_string());
    let params: [Param<'_>; 4] = [
        (&after, Type::INT8),
        (&actor, Type::TEXT),
        (&EventKind::KeyRevoked.as_str(), Type::TEXT),
        (&EventKind::UserDeleted.as_str(), Type::TEXT),
    ];
    let mut found = Vec::new();
    for row in transaction.query(sql, &params).await? {
        let mut columns = Columns::of(&row);
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

async fn accept(transaction: &Transaction, actor: Actor, after: u64) -> Result<(Acceptance, Vec<Retold>), Fault> {
    let commit = Uuid::from_bytes(secret::random()?);
    // The counter first: what is read from here on is what it will be when this is committed.
    let sql = "UPDATE keyward.counter SET revision = revision + 1, previous_id = commit_id, commit_id = $1 \
               RETURNING revision";
    let row = transaction.first(sql, &[(&commit, Type::UUID)]).await?.ok_or_else(unexpected)?;
    let number = Columns::of(&row).integer()?;
    let revision: u64 = unsigned(number)?;
    let taken_back = retold(transaction, after).await?;
    let at = transaction.now();
    // Nobody's place in the history that was lost is one in this.
    transaction.execute("DELETE FROM keyward.revisions", &[]).await?;
    let sql = "INSERT INTO keyward.revisions (revision, commit_id, at) VALUES ($1, $2, $3)";
    let params: [Param<'_>; 3] = [(&number, Type::INT8), (&commit, Type::UUID), (&at.nanos(), Type::INT8)];
    transaction.execute(sql, &params).await?;
    let by = actor.to_string();
    for (ordinal, retold) in (0..).zip(&taken_back) {
        take_back(transaction, retold, Stamp { revision, ordinal }, &by).await?;
    }
    let id = Uuid::from_bytes(secret::random()?);
    let sql = "INSERT INTO keyward.acceptances (id, revision, at, actor) VALUES ($1, $2, $3, $4)";
    let params: [Param<'_>; 4] =
        [(&id, Type::UUID), (&number, Type::INT8), (&at.nanos(), Type::INT8), (&by, Type::TEXT)];
    transaction.execute(sql, &params).await?;
    transaction.simple(&format!("SELECT pg_notify('{CHANNEL}', '{number}')")).await?;
    let acceptance = Acceptance { id: AcceptanceId(id.as_u128()), revision, at, actor };
    Ok((acceptance, taken_back))
}

/// A key that was revoked by a gateway alone, or a user that was deleted by one, is as the backup had it; a
/// grace that ended with it stays ended, and a rotation is planned anew where the key was not replaced.
async fn take_back(transaction: &Transaction, retold: &Retold, stamp: Stamp, actor: &str) -> Result<(), Fault> {
    let (revision, ordinal, at) = (to_sql(stamp.revision), i64::from(stamp.ordinal), transaction.now().nanos());
    let (key, user) = subject_columns(Some(&retold.subject));
    let (kind, sql, of): (_, _, Param<'_>) = match &retold.subject {
        Subject::Key(_) => (
            EventKind::KeyUpdated,
            "UPDATE keyward.keys SET revoked = false, revoked_at = NULL, updated_at = $3, revision = $1, ordinal = $2, \
             rotation_next_at = CASE WHEN replaced_by IS NULL THEN $3 + rotation_days * 86400000000000 END \
             WHERE id = $4",
            (&key, Type::UUID),
        ),
        Subject::User(_) => (
            EventKind::UserUpdated,
            "UPDATE keyward.users SET deleted = false, updated_at = $3, revision = $1, ordinal = $2 WHERE id = $4",
            (&user, Type::TEXT),
        ),
    };
    transaction.execute(sql, &[(&revision, Type::INT8), (&ordinal, Type::INT8), (&at, Type::INT8), of]).await?;
    let told = ("restored".to_owned(), format!("as before revision {}", retold.revision));
    let changes = json(&BTreeMap::from([told]));
    let sql = "INSERT INTO keyward.events (revision, ordinal, at, kind, actor, key_id, user_id, changes) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let event: [Param<'_>; 8] = [
        (&revision, Type::INT8),
        (&ordinal, Type::INT8),
        (&at, Type::INT8),
        (&kind.as_str(), Type::TEXT),
        (&actor, Type::TEXT),
        (&key, Type::UUID),
        (&user, Type::TEXT),
        (&changes, Type::TEXT),
    ];
    transaction.execute(sql, &event).await?;
    Ok(())
}
