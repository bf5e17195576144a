//! The one question a prober asks, and how its answer is read.
//!
//! One round trip, the same text for both roles and for PostgreSQL 14 to 18, and nothing in it needs more than LOGIN
//! and `pg_monitor`.

use tokio_postgres::Row;

use crate::topology::{Lsn, Receiver, Sample, Timeline};

/// Run once per connection. A database whose default is serializable would make a standby refuse every query, a
/// `search_path` may hide our functions behind somebody's own, and compiling a plan takes longer than the question.
pub(super) const SETTINGS: &str = "SET default_transaction_isolation = 'read committed'; \
     SET search_path = pg_catalog; SET jit = off; SET statement_timeout = 0";

/// The part that is asked each time. The role is looked at once and first: recovery only ever ends, so what is asked
/// of a primary below cannot meet a standby. `pg_control_recovery()` and `primary_conninfo` are looked at only where no
/// receiver runs, the latter only by whom may see it.
const PROBE: &str = "WITH role AS MATERIALIZED (SELECT pg_is_in_recovery() AS standby), \
     feed AS (SELECT standby, r.pid, r.status, r.received_tli, r.sender_host, r.sender_port, r.latest_end_lsn, \
       CASE WHEN standby AND r.pid IS NULL AND pg_has_role(current_user, 'pg_read_all_settings', 'USAGE') \
         THEN current_setting('primary_conninfo') = '' ELSE false END AS archive_fed \
       FROM role LEFT JOIN pg_stat_wal_receiver r ON standby) \
     SELECT standby, \
       CASE WHEN NOT standby THEN pg_walfile_name(pg_current_wal_insert_lsn()) END AS wal_file, \
       CASE WHEN NOT standby THEN pg_current_wal_flush_lsn() END::text AS flush, \
       CASE WHEN NOT standby THEN pg_current_wal_insert_lsn() END::text AS insert, \
       CASE WHEN NOT standby THEN pg_snapshot_xmax(pg_current_snapshot()) END::text AS next_xid, \
       pg_last_wal_replay_lsn()::text AS replayed, \
       pg_last_wal_receive_lsn()::text AS received, \
       pid, status, received_tli, sender_host, sender_port, latest_end_lsn::text AS latest_end, archive_fed, \
       CASE WHEN archive_fed THEN (SELECT min_recovery_end_timeline FROM pg_control_recovery()) END AS min_tli";

/// What does not change while a server runs, and what is only told, not judged: asked with every tenth question or so.
const WHOLE: &str = ", (SELECT system_identifier FROM pg_control_system()) AS system_identifier, \
       (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8 AS start_time, \
       current_setting('server_version_num')::int4 AS version, \
       pg_size_bytes(current_setting('wal_segment_size')) AS segment, \
       (SELECT json_agg(row_to_json(w))::text FROM (SELECT application_name, client_addr, state, sync_state, \
         sent_lsn, flush_lsn, replay_lsn FROM pg_stat_replication) w) AS replication";

/// The short question.
pub(super) fn probe() -> String {
    format!("{PROBE} FROM feed")
}

/// The short question and what only now and then is asked.
pub(super) fn whole_probe() -> String {
    format!("{PROBE}{WHOLE} FROM feed")
}

/// What the last whole answer on this connection said and a short one does not repeat.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// `pg_control_system().system_identifier`.
    pub(super) system_identifier: u64,
    /// Postmaster start time, microseconds since the Unix epoch.
    pub(super) start_time: i64,
    /// `server_version_num`.
    pub(super) server_version_num: u32,
    /// `wal_segment_size`, bytes.
    pub(super) segment_bytes: u64,
    /// `pg_stat_replication` as JSON.
    pub(super) replication: Option<String>,
}

/// Reads the rest of a whole answer.
pub(super) fn identity(row: &Row) -> Result<Identity, tokio_postgres::Error> {
    Ok(Identity {
        system_identifier: row.try_get::<_, i64>("system_identifier")? as u64,
        start_time: row.try_get("start_time")?,
        server_version_num: row.try_get::<_, i32>("version")? as u32,
        segment_bytes: row.try_get::<_, i64>("segment")? as u64,
        replication: row.try_get("replication")?,
    })
}

/// Reads an answer.
pub(super) fn sample(row: &Row, identity: &Identity) -> Result<Sample, tokio_postgres::Error> {
    let lsn = |column: &str| lsn(row, column).map(|l| l.map(|l| l.rounded(identity.segment_bytes)));
    let file: Option<&str> = row.try_get("wal_file")?;
    let pid: Option<i32> = row.try_get("pid")?;
    let receiver = match pid {
        None => None,
        Some(_) => Some(Receiver {
            streaming: row.try_get::<_, Option<&str>>("status")? == Some("streaming"),
            timeline: timeline(row.try_get("received_tli")?),
            sender_host: row.try_get("sender_host")?,
            sender_port: row.try_get::<_, Option<i32>>("sender_port")?.and_then(|p| u16::try_from(p).ok()),
            latest_end: lsn("latest_end")?,
        }),
    };
    Ok(Sample {
        system_identifier: identity.system_identifier,
        server_version_num: identity.server_version_num,
        start_time: identity.start_time,
        in_recovery: row.try_get("standby")?,
        timeline: file.and_then(timeline_of_file),
        insert: lsn("insert")?,
        flush: lsn("flush")?,
        replayed: lsn("replayed")?,
        next_xid: row.try_get::<_, Option<&str>>("next_xid")?.and_then(|text| text.parse().ok()),
        received: lsn("received")?,
        receiver,
        archive_fed: row.try_get("archive_fed")?,
        min_recovery_timeline: timeline(row.try_get("min_tli")?),
        replication: identity.replication.clone(),
    })
}

fn lsn(row: &Row, column: &str) -> Result<Option<Lsn>, tokio_postgres::Error> {
    Ok(row.try_get::<_, Option<&str>>(column)?.and_then(|text| text.parse().ok()))
}

/// 0 stands for "none" in the control file.
fn timeline(number: Option<i32>) -> Option<Timeline> {
    number.filter(|n| *n > 0).map(|n| Timeline(n as u32))
}

/// The first eight hex digits of a WAL file's name.
fn timeline_of_file(name: &str) -> Option<Timeline> {
    u32::from_str_radix(name.get(..8)?, 16).ok().map(Timeline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeline_is_in_the_file_name() {
        assert_eq!(timeline_of_file("000000020000000000000003"), Some(Timeline(2)));
        assert_eq!(timeline_of_file("0000001F0000000000000003"), Some(Timeline(31)));
        assert_eq!(timeline_of_file("short"), None);
        assert_eq!(timeline(Some(0)), None);
    }
}
