//! One transaction on one connection of the pool. Nothing outlives it: what it sets is set for the
//! transaction alone and no statement is prepared, so that a pooler may hand the connection to
//! somebody else as soon as it has ended.

use std::time::Duration;

use deadpool_postgres::Object;
use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, RowStream, SimpleQueryMessage, SimpleQueryRow};

use super::Shared;
use super::fault::Fault;
use crate::clock::Timestamp;
use crate::store::StoreError;

/// A value and how it is sent.
pub(super) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// The server's clock in nanoseconds. Its own resolution is the microsecond; counted in those, not
/// even a server that counts in floating point loses any.
pub(super) const NOW: &str = "round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000";

/// How much longer than the server is given we wait for it: it should say itself that it gave up.
const SLACK: Duration = Duration::from_secs(5);
/// How often a connection that turns out to be dead before anything was done is replaced.
const STALE_MAX: usize = 12;

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Reads of one moment, of whatever store is there.
    ReadAny,
    /// The same, for as long as it takes.
    ReadAllAny,
    /// Reads of one moment, of the store that was opened.
    Read,
    /// The same, for as long as it takes.
    ReadLong,
    /// Writes that use no revision.
    Write,
}

/// A transaction under way. Dropped before its end, it takes its connection with it, and the server
/// rolls it back.
pub(super) struct Transaction {
    object: Option<Object>,
    patience: Duration,
    now: Timestamp,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Shared {
    /// Begins a transaction.
    pub(super) async fn begin(&self, kind: Kind, permit: Option<OwnedSemaphorePermit>) -> Result<Transaction, Fault> {
        let begin = match kind {
            Kind::ReadAny | Kind::Read => self.opening(READING, self.statement_timeout),
            Kind::ReadLong | Kind::ReadAllAny => self.opening(READING, Duration::ZERO),
            Kind::Write => self.opening(WRITING, self.statement_timeout),
        };
        let is_any = matches!(kind, Kind::ReadAny | Kind::ReadAllAny);
        let of_store = if is_any { "NULL" } else { "(SELECT store_id::text FROM keyward.meta)" };
        let sql = format!("{begin}; SELECT {NOW}, pg_is_in_recovery(), {of_store}");
        let (mut transaction, rows) = self.begin_by(&sql, permit).await?;
        let row = rows.last().ok_or_else(unexpected)?;
        if row.get(1) != Some("f") {
            return Err(Fault::Replica);
        }
        if !is_any {
            self.is_this_store(row.get(2))?;
        }
        transaction.now = self.time(row.get(0))?;
        Ok(transaction)
    }

    /// Begins a transaction by `sql`, which is run as it stands, and answers with its rows. A
    /// connection that is found dead is replaced.
    pub(super) async fn begin_by(
        &self,
        sql: &str,
        mut permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(Transaction, Vec<SimpleQueryRow>), Fault> {
        let mut tried = 0;
        loop {
            tried += 1;
            let object = self.pool.get().await.map_err(|error| self.no_connection(error))?;
            let patience = self.statement_timeout + SLACK;
            let held = permit.take();
            let mut transaction = Transaction { object: Some(object), patience, now: Timestamp::EPOCH, _permit: held };
            match transaction.simple(sql).await {
                Ok(rows) => return Ok((transaction, rows)),
                Err(fault) if fault.is_lost_connection() && tried < STALE_MAX => permit = transaction._permit.take(),
                Err(fault) => return Err(fault),
            }
        }
    }

    /// What begins a transaction, in one go with its limits.
    pub(super) fn opening(&self, begin: &str, timeout: Duration) -> String {
        // Shorter than others wait for its locks: whoever is gone shall not fail them.
        let idle = (self.statement_timeout / 2).max(Duration::from_secs(2)).as_millis();
        format!(
            "{begin}; SET LOCAL statement_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = {idle}",
            timeout.as_millis()
        )
    }

    /// Whether what says of itself that it is the store `found` is the one that was opened.
    pub(super) fn is_this_store(&self, found: Option<&str>) -> Result<(), Fault> {
        let Some(found) = found else { return Err(Fault::Stored("it has no store id".to_owned())) };
        match uuid::Uuid::parse_str(found) {
            Ok(id) if id.as_u128() == self.id.0 => Ok(()),
            Ok(_other) => Err(StoreError::OtherStore { store: self.name.clone() }.into()),
            Err(_unreadable) => Err(Fault::Stored("its store id is none".to_owned())),
        }
    }
}

pub(super) const READING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
pub(super) const WRITING: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

pub(super) fn unexpected() -> Fault {
    Fault::Around("the server gave an answer that was not asked for".to_owned())
}

impl Transaction {
    /// The server's clock when it began.
    pub(super) const fn now(&self) -> Timestamp {
        self.now
    }

    fn client(&self) -> &Client {
        self.object.as_ref().expect("a transaction has its connection until it ends")
    }

    /// Runs statements as they stand, and answers with the rows of all of them.
    pub(super) async fn simple(&self, sql: &str) -> Result<Vec<SimpleQueryRow>, Fault> {
        let messages = within(self.patience, self.client().simple_query(sql)).await?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The rows of one statement.
    pub(super) async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Fault> {
        within(self.patience, self.client().query_typed(sql, params)).await
    }

    /// The first row of one statement.
    pub(super) async fn first(&self, sql: &str, params: &[Param<'_>]) -> Result<Option<Row>, Fault> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    /// Runs one statement, and answers how many rows it wrote.
    pub(super) async fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64, Fault> {
        within(self.patience, self.client().execute_typed(sql, params)).await
    }

    /// The rows of one statement as they come. The server may take as long as it likes for all of
    /// them, but not for one.
    pub(super) async fn stream(&self, sql: &str, params: &[Param<'_>]) -> Result<Rows, Fault> {
        let params = params.iter().map(|(value, of)| (*value, of.clone()));
        let stream = within(self.patience, self.client().query_typed_raw(sql, params)).await?;
        Ok(Rows { stream: Box::pin(stream), patience: self.patience })
    }

    /// Ends a transaction that read, and one that shall have written nothing. Nobody waits for the server:
    /// whoever has the connection next comes after this.
    pub(super) fn leave(mut self) {
        use futures_util::FutureExt as _;
        if let Some(Err(_lost)) = self.client().batch_execute("ROLLBACK").now_or_never() {
            return;
        }
        drop(self.object.take());
    }

    /// Gives the connection back after a transaction that has ended already.
    pub(super) fn release(mut self) {
        drop(self.object.take());
    }

    /// Commits. Where this fails, nobody knows yet whether it was.
    pub(super) async fn commit(self) -> Result<(), Fault> {
        self.finish("COMMIT").await
    }

    async fn finish(mut self, sql: &str) -> Result<(), Fault> {
        within(self.patience, self.client().batch_execute(sql)).await?;
        drop(self.object.take());
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
    }
}

/// Rows as they come.
pub(super) struct Rows {
    stream: std::pin::Pin<Box<RowStream>>,
    patience: Duration,
}

impl Rows {
    pub(super) async fn next(&mut self) -> Result<Option<Row>, Fault> {
        use futures_util::TryStreamExt as _;
        within(self.patience, self.stream.try_next()).await
    }
}

async fn within<T>(
    patience: Duration,
    asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(patience, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_elapsed) => Err(Fault::Around(format!("it gave no answer for {} s", patience.as_secs()))),
    }
}
