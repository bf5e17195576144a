//! SHOW OUTAGES: each time without a primary that takes writes, newest last.

use crate::admin::AdminState;
use crate::admin::table::{Cell, Column, Row};
use crate::topology::Outage;

pub(super) const OUTAGES: &[Column] = &[
    Column::time("noticed_at"),
    Column::text("end"),
    Column::text("old_primary"),
    Column::text("new_primary"),
    Column::float("writable_after_ms"),
    Column::float("answered_after_ms"),
    Column::int("held"),
    Column::int("timed_out"),
    Column::int("retried"),
    Column::int("replayed"),
    Column::int("failed"),
    Column::int("epoch"),
    Column::int("timeline"),
    Column::text("fork_lsn"),
    Column::text("evidence"),
];

pub(super) fn outages(state: &AdminState) -> Vec<Row> {
    state.events.outages().iter().map(|outage| row(outage)).collect()
}

fn row(outage: &Outage) -> Row {
    vec![
        Cell::Time(outage.noticed_at),
        Cell::text(outage.ending.as_str()),
        Cell::text(&outage.old),
        Cell::text(&outage.new),
        Cell::millis(outage.writable_after),
        Cell::or_null(outage.answered_after, Cell::millis),
        Cell::count(outage.work.held),
        Cell::count(outage.work.timed_out),
        Cell::count(outage.work.retried),
        Cell::count(outage.work.replayed),
        Cell::count(outage.work.failures()),
        Cell::count(outage.epoch.0),
        Cell::or_null(outage.timeline, |timeline| Cell::count(timeline.0)),
        Cell::or_null(outage.fork, |fork| Cell::Text(fork.lsn.to_string())),
        Cell::text(&outage.evidence),
    ]
}
