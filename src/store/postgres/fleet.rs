//! The gateways of a store in PostgreSQL.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::PostgresStore;
use super::fault::Fault;
use super::read::no_counter;
use super::rows::{Columns, to_sql, unsigned};
use super::session::{Kind, Param, Transaction};
use crate::clock::Timestamp;
use crate::store::{Answer, Fleet, FleetStore, Gateway, GatewayId, GatewayReport, Incarnation, Reported, WhenStale};

impl FleetStore for PostgresStore {
    fn register(&self, report: GatewayReport, beside: Vec<Incarnation>) -> Answer<'_, ()> {
        let kept: Vec<Uuid> = beside.iter().chain([&report.incarnation]).map(|one| Uuid::from_u128(one.0)).collect();
        self.write_with(move |transaction| {
            let (report, kept) = (report.clone(), kept.clone());
            Box::pin(async move {
                let sql = "DELETE FROM keyward.gateways WHERE gateway_id = $1 AND NOT incarnation = ANY($2)";
                let params: [Param<'_>; 2] = [(&report.gateway.digits(), Type::TEXT), (&kept, Type::UUID_ARRAY)];
                transaction.execute(sql, &params).await?;
                note(transaction, &report).await?;
                Ok(())
            })
        })
    }

    fn report(&self, report: GatewayReport) -> Answer<'_, Reported> {
        self.write_with(move |transaction| {
            let report = report.clone();
            Box::pin(async move { note(transaction, &report).await })
        })
    }

    fn leave(&self, ended: Vec<Incarnation>) -> Answer<'_, ()> {
        let ended: Vec<Uuid> = ended.iter().map(|one| Uuid::from_u128(one.0)).collect();
        self.write_with(move |transaction| {
            let ended = ended.clone();
            Box::pin(async move {
                let sql = "DELETE FROM keyward.gateways WHERE incarnation = ANY($1)";
                transaction.execute(sql, &[(&ended, Type::UUID_ARRAY)]).await?;
                Ok(())
            })
        })
    }

    fn forget(&self, gateway: GatewayId) -> Answer<'_, usize> {
        self.write_with(move |transaction| {
            let gateway = gateway.clone();
            Box::pin(async move {
                let sql = "DELETE FROM keyward.gateways WHERE gateway_id = $1";
                let gone = transaction.execute(sql, &[(&gateway.digits(), Type::TEXT)]).await?;
                Ok(usize::try_from(gone).unwrap_or(usize::MAX))
            })
        })
    }

    fn gateways(&self) -> Answer<'_, Fleet> {
        self.read_with(Kind::Read, |transaction| Box::pin(fleet(transaction)))
    }
}

async fn note(transaction: &Transaction, report: &GatewayReport) -> Result<Reported, Fault> {
    let incarnation = Uuid::from_u128(report.incarnation.0);
    let now = transaction.now().nanos();
    let denies = match report.when_stale {
        WhenStale::Serves => false,
        WhenStale::Denies => true,
    };
    let max_staleness = i64::try_from(report.max_staleness.as_nanos()).unwrap_or(i64::MAX);
    let heard: [Param<'_>; 2] = [(&incarnation, Type::UUID), (&now, Type::INT8)];
    let sql = "UPDATE keyward.gateways SET last_seen = greatest(last_seen, $2) WHERE incarnation = $1";
    let known = transaction.execute(sql, &heard).await?;
    let params: [Param<'_>; 13] = [
        (&incarnation, Type::UUID),
        (&report.gateway.digits(), Type::TEXT),
        (&to_sql(report.sequence), Type::INT8),
        (&to_sql(report.applied.revision), Type::INT8),
        (&Uuid::from_u128(report.applied.commit.0), Type::UUID),
        (&to_sql(report.streams_cut), Type::INT8),
        (&denies, Type::BOOL),
        (&max_staleness, Type::INT8),
        (&report.version, Type::TEXT),
        (&report.host, Type::TEXT),
        (&i64::from(report.pid), Type::INT8),
        (&report.started_at.nanos(), Type::INT8),
        (&now, Type::INT8),
    ];
    let sql = "INSERT INTO keyward.gateways AS old (incarnation, gateway_id, sequence, revision, commit_id, \
         streams_cut, denies, max_staleness, version, host, pid, started_at, last_seen) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
         ON CONFLICT (incarnation) DO UPDATE SET sequence = excluded.sequence, revision = excluded.revision, \
         commit_id = excluded.commit_id, streams_cut = excluded.streams_cut, denies = excluded.denies, \
         max_staleness = excluded.max_staleness WHERE excluded.sequence > old.sequence";
    transaction.execute(sql, &params).await?;
    Ok(if known == 0 { Reported::New } else { Reported::Known })
}

async fn fleet(transaction: &Transaction) -> Result<Fleet, Fault> {
    let row = transaction.first("SELECT revision, commit_id FROM keyward.counter", &[]).await?;
    let newest = Columns::of(&row.ok_or_else(no_counter)?).cursor()?;
    let sql = "SELECT g.incarnation, g.gateway_id, g.sequence, g.revision, g.commit_id, g.streams_cut, g.denies, \
         g.max_staleness, g.version, g.host, g.pid, g.started_at, g.last_seen, \
         g.revision = 0 OR EXISTS \
         (SELECT 1 FROM keyward.revisions r WHERE r.revision = g.revision AND r.commit_id = g.commit_id), \
         (SELECT r.at FROM keyward.revisions r WHERE r.revision = least(g.revision, g.streams_cut) + 1) \
         FROM keyward.gateways g ORDER BY g.gateway_id, g.started_at, g.incarnation";
    let gateways = transaction.query(sql, &[]).await?.iter().map(gateway).collect::<Result<_, _>>()?;
    Ok(Fleet { gateways, newest, now: transaction.now() })
}

fn gateway(row: &Row) -> Result<Gateway, Fault> {
    let mut columns = Columns::of(row);
    let incarnation = Incarnation(columns.bits()?);
    let gateway = columns.text()?.parse().map_err(|_no_id| Fault::Stored("a gateway has no id".to_owned()))?;
    let report = GatewayReport {
        gateway,
        incarnation,
        sequence: unsigned(columns.integer()?)?,
        applied: columns.cursor()?,
        streams_cut: unsigned(columns.integer()?)?,
        when_stale: if columns.yes()? { WhenStale::Denies } else { WhenStale::Serves },
        max_staleness: Duration::from_nanos(unsigned(columns.integer()?)?),
        version: columns.text()?.to_owned(),
        host: columns.text()?.to_owned(),
        pid: unsigned(columns.integer()?)?,
        started_at: columns.time()?,
    };
    let (last_seen, is_of_this_history): (Timestamp, bool) = (columns.time()?, columns.yes()?);
    let behind_since = columns.time_or_none()?.filter(|_| is_of_this_history);
    Ok(Gateway { report, last_seen, is_of_this_history, behind_since })
}
