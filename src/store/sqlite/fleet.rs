//! The gateways of a store in SQLite.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::fault::Fault;
use super::read;
use super::rows::{Columns, to_sql, unsigned};
use super::{OfStore, SqliteStore};
use crate::clock::Timestamp;
use crate::store::{
    Answer, CommitId, Cursor, Fleet, FleetStore, Gateway, GatewayId, GatewayReport, Incarnation, Reported, WhenStale,
};

impl FleetStore for SqliteStore {
    fn register(&self, report: GatewayReport, beside: Vec<Incarnation>) -> Answer<'_, ()> {
        self.write_with(move |connection, now| {
            let mut others = connection.prepare_cached("SELECT incarnation FROM gateways WHERE gateway_id = ?1")?;
            let others = others.query_map(params![report.gateway.digits()], |row| row.get::<_, [u8; 16]>(0))?;
            let others = others.collect::<Result<Vec<_>, _>>()?;
            let others = others.into_iter().map(|bits| Incarnation(u128::from_be_bytes(bits)));
            let replaced = others.filter(|other| *other != report.incarnation && !beside.contains(other));
            remove(connection, replaced)?;
            note(connection, &report, now)?;
            Ok(())
        })
    }

    fn report(&self, report: GatewayReport) -> Answer<'_, Reported> {
        self.write_with(move |connection, now| note(connection, &report, now))
    }

    fn leave(&self, ended: Vec<Incarnation>) -> Answer<'_, ()> {
        self.write_with(move |connection, _now| remove(connection, ended.into_iter()))
    }

    fn forget(&self, gateway: GatewayId) -> Answer<'_, usize> {
        self.write_with(move |connection, _now| {
            let mut delete = connection.prepare_cached("DELETE FROM gateways WHERE gateway_id = ?1")?;
            Ok(delete.execute(params![gateway.digits()])?)
        })
    }

    fn gateways(&self) -> Answer<'_, Fleet> {
        self.read_with(OfStore::This, |connection, shared| fleet(connection, shared.clock.now()))
    }
}

fn remove(connection: &Connection, ended: impl Iterator<Item = Incarnation>) -> Result<(), Fault> {
    let mut delete = connection.prepare_cached("DELETE FROM gateways WHERE incarnation = ?1")?;
    for Incarnation(bits) in ended {
        delete.execute(params![bits.to_be_bytes()])?;
    }
    Ok(())
}

fn note(connection: &Connection, report: &GatewayReport, now: Timestamp) -> Result<Reported, Fault> {
    let incarnation = report.incarnation.0.to_be_bytes();
    let denies = match report.when_stale {
        WhenStale::Serves => false,
        WhenStale::Denies => true,
    };
    let max_staleness = i64::try_from(report.max_staleness.as_nanos()).unwrap_or(i64::MAX);
    let known = connection
        .prepare_cached("UPDATE gateways SET last_seen = max(last_seen, ?2) WHERE incarnation = ?1")?
        .execute(params![incarnation, now.nanos()])?;
    connection
        .prepare_cached(
            "INSERT INTO gateways (incarnation, gateway_id, sequence, revision, commit_id, streams_cut, denies, \
             max_staleness, version, host, pid, started_at, last_seen) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
             ON CONFLICT (incarnation) DO UPDATE SET sequence = excluded.sequence, revision = excluded.revision, \
             commit_id = excluded.commit_id, streams_cut = excluded.streams_cut, denies = excluded.denies, \
             max_staleness = excluded.max_staleness WHERE excluded.sequence > gateways.sequence",
        )?
        .execute(params![
            incarnation,
            report.gateway.digits(),
            to_sql(report.sequence),
            to_sql(report.applied.revision),
            report.applied.commit.0.to_be_bytes(),
            to_sql(report.streams_cut),
            denies,
            max_staleness,
            report.version,
            report.host,
            report.pid,
            report.started_at.nanos(),
            now.nanos(),
        ])?;
    Ok(if known == 0 { Reported::New } else { Reported::Known })
}

fn fleet(connection: &Connection, now: Timestamp) -> Result<Fleet, Fault> {
    let newest = read::newest(connection)?;
    let mut statement = connection.prepare_cached(
        "SELECT g.incarnation, g.gateway_id, g.sequence, g.revision, g.commit_id, g.streams_cut, g.denies, \
         g.max_staleness, g.version, g.host, g.pid, g.started_at, g.last_seen, \
         g.revision = 0 OR EXISTS \
         (SELECT 1 FROM revisions r WHERE r.revision = g.revision AND r.commit_id = g.commit_id), \
         (SELECT r.at FROM revisions r WHERE r.revision = min(g.revision, g.streams_cut) + 1) \
         FROM gateways g ORDER BY g.gateway_id, g.started_at, g.incarnation",
    )?;
    let mut rows = statement.query([])?;
    let mut gateways = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns { row, next: 0 };
        let incarnation = Incarnation(columns.bits()?);
        let gateway = columns.text()?.parse().map_err(|_no_id| Fault::Stored("a gateway has no id".to_owned()))?;
        let sequence = unsigned(columns.integer()?)?;
        let applied = Cursor { revision: unsigned(columns.integer()?)?, commit: CommitId(columns.bits()?) };
        let report = GatewayReport {
            gateway,
            incarnation,
            sequence,
            applied,
            streams_cut: unsigned(columns.integer()?)?,
            when_stale: if columns.integer()? == 0 { WhenStale::Serves } else { WhenStale::Denies },
            max_staleness: Duration::from_nanos(unsigned(columns.integer()?)?),
            version: columns.text()?.to_owned(),
            host: columns.text()?.to_owned(),
            pid: unsigned(columns.integer()?)?,
            started_at: columns.time()?,
        };
        let (last_seen, is_of_this_history) = (columns.time()?, columns.integer()? != 0);
        let behind_since = columns.integer_or_none()?.map(Timestamp::from_nanos).filter(|_| is_of_this_history);
        gateways.push(Gateway { report, last_seen, is_of_this_history, behind_since });
    }
    Ok(Fleet { gateways, newest, now })
}
