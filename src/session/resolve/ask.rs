//! The messages of ours that learn what is needed to tell later what became of a transaction, and the answers to them.
//!
//! In: nothing but answers. Out: messages, facts. They are statements with a name and not Queries, which would drop the
//! client's unnamed statement. Sans-IO.

use crate::topology::{Facts, Here, Lsn, Timeline};
use crate::wire::encode;

/// The name of statements of ours, and of the portal of the question: the unnamed one may be the client's COMMIT. It is
/// not closed, since the transaction ends next.
const NAME: &[u8] = b"pgsteer_transaction\0";
/// Microseconds from the Unix epoch to that of PostgreSQL, 2000-01-01.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// Asked in the client's transaction, before its COMMIT is sent. Whatever the session has set must not change what it says.
const FACTS: &[u8] = b"SELECT pg_catalog.concat_ws(' ', \
    COALESCE(pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text, '-'), \
    pg_catalog.pg_current_wal_insert_lsn(), \
    pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), \
    pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.pg_postmaster_start_time()), 'hex'), \
    COALESCE(pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text, '-'))\0";

/// Asked of the primary when the answer to a COMMIT was lost; NULL while that is in recovery.
pub(super) const HERE: &str = "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.concat_ws(' ', \
    pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), \
    pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.pg_postmaster_start_time()), 'hex'), \
    COALESCE(pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text, '-'), \
    pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())) END";

/// Asks what became of a transaction. An id that the server has yet to give is an error.
pub(super) fn status(xid: u64) -> String {
    format!("SELECT COALESCE(pg_catalog.pg_xact_status('{xid}'::pg_catalog.xid8), 'forgotten')")
}

/// Asks for the facts. With `is_synced` it stands alone, else in the middle of a batch of the client's.
pub(super) fn facts(is_synced: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(FACTS.len() + 160);
    statement(&mut out, FACTS, NAME);
    if is_synced {
        encode::sync(&mut out);
    } else {
        encode::flush(&mut out);
    }
    out
}

/// Begins a transaction; the client's batch follows.
pub(super) fn begin() -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    statement(&mut out, b"BEGIN\0", b"\0");
    out
}

/// Ends it.
pub(super) fn end(commits: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    statement(&mut out, if commits { b"COMMIT\0" } else { b"ROLLBACK\0" }, b"\0");
    encode::sync(&mut out);
    out
}

/// Runs a text under our name, and leaves no statement behind. A failure may have left the statement of the last time.
fn statement(out: &mut Vec<u8>, sql: &[u8], portal: &[u8]) {
    close(out);
    let mut message = |tag, parts: &[&[u8]]| {
        encode::message(out, tag, |body| parts.iter().for_each(|part| body.extend_from_slice(part)));
    };
    message(b'P', &[NAME, sql, &[0; 2]]);
    message(b'B', &[portal, NAME, &[0; 6]]);
    message(b'E', &[portal, &[0; 4]]);
    close(out);
}

fn close(out: &mut Vec<u8>) {
    encode::message(out, b'C', |body| {
        body.push(b'S');
        body.extend_from_slice(NAME);
    });
}

/// Reads the row that answers [`facts`].
pub(super) fn read_facts(row: &[u8]) -> Option<Facts> {
    let [xid, lsn, file, start, replayed] = words(only_column(row)?)?;
    Some(Facts {
        xid: if xid == "-" { None } else { Some(xid.parse().ok()?) },
        lsn: lsn.parse().ok()?,
        timeline: timeline(file)?,
        start_time: start_time(start)?,
        replayed: position(replayed)?,
    })
}

/// Reads what [`HERE`] says, and the first transaction id not in use.
pub(super) fn read_here(value: &[u8]) -> Option<(Here, u64)> {
    let [file, start, replayed, next_xid] = words(value)?;
    let (timeline, start_time, replayed) = (timeline(file)?, start_time(start)?, position(replayed)?);
    Some((Here { timeline, start_time, replayed }, next_xid.parse().ok()?))
}

fn words<const N: usize>(text: &[u8]) -> Option<[&str; N]> {
    let words: Vec<&str> = std::str::from_utf8(text).ok()?.split(' ').collect();
    words.try_into().ok()
}

fn timeline(file: &str) -> Option<Timeline> {
    u32::from_str_radix(file.get(..8)?, 16).ok().map(Timeline)
}

/// Microseconds since the Unix epoch.
fn start_time(hex: &str) -> Option<i64> {
    Some(u64::from_str_radix(hex, 16).ok()?.cast_signed() + POSTGRES_EPOCH)
}

#[expect(clippy::option_option, reason = "the outer one is a text that is no position")]
fn position(text: &str) -> Option<Option<Lsn>> {
    if text == "-" { Some(None) } else { text.parse().ok().map(Some) }
}

/// The value in a DataRow of one column.
fn only_column(row: &[u8]) -> Option<&[u8]> {
    row.get(6..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let row = b"\0\x01\0\0\0\x40700 0/16B3748 00000002000000000000000A 0000000000000001 -";
        let facts = read_facts(row).unwrap();
        assert_eq!((facts.xid, facts.lsn, facts.timeline), (Some(700), Lsn(0x16B_3748), Timeline(2)));
        assert_eq!((facts.start_time, facts.replayed), (POSTGRES_EPOCH + 1, None));
        let nothing = b"\0\x01\0\0\0\x40- 0/1 00000002000000000000000A 0000000000000001 0/2";
        let facts = read_facts(nothing).unwrap();
        assert_eq!((facts.xid, facts.replayed), (None, Some(Lsn(2))));
        let (here, next_xid) = read_here(b"0000000300000000000000FF 0000000000000002 0/3000060 745").unwrap();
        assert_eq!((here.timeline, here.replayed, next_xid), (Timeline(3), Some(Lsn(0x300_0060)), 745));
        assert_eq!(read_here(b"0000000300000000000000FF 0000000000000002 0/3000060"), None);
        assert_eq!(read_facts(b"\0\x01\xff\xff\xff\xff"), None);
    }
}
