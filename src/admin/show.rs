//! The console's tables, one function each.
//!
//! In: snapshots from the layers below. Out: typed tables whose headings use the glossary's nouns, units last.
//! It must not know who asks.

use super::AdminState;
use super::command::{SHOWS, Show};
use super::report::{NodeReport, Report, from_micros};
use super::table::{Cell, Column, Row, Table};
use crate::topology::Event;

/// The headings of a table, known before it is asked for.
pub fn columns(show: Show) -> &'static [Column] {
    match show {
        Show::Backends => BACKENDS,
        Show::Clients => CLIENTS,
        Show::Config => CONFIG,
        Show::Events => EVENTS,
        Show::Help => HELP,
        Show::Nodes => NODES,
        Show::Pools => POOLS,
        Show::Stats => STATS,
        Show::Topology => TOPOLOGY,
        Show::Version => VERSION,
    }
}

/// A table as of now.
pub fn table(show: Show, state: &AdminState) -> Table {
    let rows = match show {
        Show::Backends => backends(state),
        Show::Clients => clients(state),
        Show::Config => config(state),
        Show::Events => state.events.list().iter().map(event).collect(),
        Show::Help => help(),
        Show::Nodes => nodes(state),
        Show::Pools => pools(state),
        Show::Stats => stats(state),
        Show::Topology => topology(state),
        Show::Version => vec![vec![Cell::text(concat!("pgsteer ", env!("CARGO_PKG_VERSION")))]],
    };
    Table::new(columns(show), rows)
}

const HELP: &[Column] = &[Column::text("command"), Column::text("meaning")];

fn help() -> Vec<Row> {
    let shows = SHOWS.iter().map(|(word, _, meaning)| (format!("SHOW {word}"), *meaning));
    let orders = [
        ("RELOAD", "reads the configuration file again; lists what changed and what needs a restart"),
        ("KILL <session>", "ends one session, by its number in SHOW CLIENTS"),
    ];
    let orders = orders.into_iter().map(|(command, meaning)| (command.to_owned(), meaning));
    shows.chain(orders).map(|(command, meaning)| vec![Cell::Text(command), Cell::text(meaning)]).collect()
}

const VERSION: &[Column] = &[Column::text("version")];

const EVENTS: &[Column] =
    &[Column::time("at"), Column::text("kind"), Column::text("node"), Column::text("event")];

fn event(event: &Event) -> Row {
    vec![
        Cell::Time(event.at),
        Cell::text(event.kind.as_str()),
        Cell::or_null(event.node.as_ref(), Cell::text),
        Cell::text(&event.text),
    ]
}

const NODES: &[Column] = &[
    Column::text("node"),
    Column::text("address"),
    Column::text("role"),
    Column::text("health"),
    Column::text("reads"),
    Column::float("lag_ms"),
    Column::int("lag_bytes"),
    Column::text("lsn"),
    Column::int("timeline"),
    Column::int("sessions"),
    Column::int("backends"),
    Column::int("statements"),
    Column::text("server_version"),
    Column::time("started_at"),
    Column::float("probe_ms"),
    Column::int("weight"),
    Column::text("zone"),
    Column::text("reason"),
];

fn nodes(state: &AdminState) -> Vec<Row> {
    let started = state.store.load();
    let started = started.nodes.iter().map(|node| node.start_time.and_then(from_micros));
    Report::of(state)
        .nodes
        .into_iter()
        .zip(started)
        .map(|(node, started)| {
            let NodeReport { name, address, role, health, reads, reason, .. } = node;
            vec![
                Cell::Text(name),
                Cell::Text(address),
                Cell::Text(role),
                Cell::Text(health),
                Cell::Text(reads),
                Cell::or_null(node.lag_ms, Cell::Float),
                Cell::or_null(node.lag_bytes, Cell::count),
                Cell::or_null(node.lsn, Cell::Text),
                Cell::or_null(node.timeline, Cell::count),
                Cell::count(node.sessions),
                Cell::count(node.backends),
                Cell::count(node.statements),
                Cell::or_null(node.server_version, Cell::Text),
                Cell::or_null(started, Cell::Time),
                Cell::or_null(node.probe_ms, Cell::Float),
                Cell::count(node.weight),
                Cell::or_null(node.zone, Cell::Text),
                Cell::Text(reason),
            ]
        })
        .collect()
}

const TOPOLOGY: &[Column] = &[
    Column::int("epoch"),
    Column::int("topology_version"),
    Column::text("primary"),
    Column::bool("writable"),
    Column::int("timeline"),
    Column::text("system_identifier"),
    Column::int("nodes"),
    Column::int("nodes_up"),
    Column::int("standbys_read"),
    Column::text("alarms"),
];

fn topology(state: &AdminState) -> Vec<Row> {
    let report = Report::of(state);
    let up = report.nodes.iter().filter(|node| node.health == "up").count();
    let read = report.nodes.iter().filter(|node| node.reads == "qualified").count();
    vec![vec![
        Cell::count(report.epoch),
        Cell::count(report.topology_version),
        Cell::or_null(report.primary, Cell::Text),
        Cell::Bool(report.writable),
        Cell::or_null(report.timeline, Cell::count),
        Cell::or_null(report.system_identifier, Cell::Text),
        Cell::count(report.nodes.len()),
        Cell::count(up),
        Cell::count(read),
        Cell::Text(report.alarms.join("; ")),
    ]]
}

const POOLS: &[Column] = &[];
const CLIENTS: &[Column] = &[];
const BACKENDS: &[Column] = &[];
const CONFIG: &[Column] = &[];
fn pools(_: &AdminState) -> Vec<Row> {
    Vec::new()
}
fn clients(_: &AdminState) -> Vec<Row> {
    Vec::new()
}
fn backends(_: &AdminState) -> Vec<Row> {
    Vec::new()
}
fn config(_: &AdminState) -> Vec<Row> {
    Vec::new()
}

const STATS: &[Column] = &[Column::text("metric"), Column::text("labels"), Column::float("value")];

/// The same figures as /metrics, so that there is one list of names.
fn stats(state: &AdminState) -> Vec<Row> {
    state.metrics.render().lines().filter_map(sample).collect()
}

/// A line `name{labels} value` of Prometheus' text format; `None` for comments.
fn sample(line: &str) -> Option<Row> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let value = value.parse().ok().filter(|value: &f64| !value.is_nan());
    Some(vec![
        Cell::text(name.trim_start_matches("pgsteer_")),
        Cell::text(labels.trim_end_matches('}')),
        Cell::or_null(value, Cell::Float),
    ])
}

#[cfg(test)]
mod tests;
