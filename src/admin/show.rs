//! The console's tables, one function each.
//!
//! In: snapshots from the layers below. Out: typed tables whose headings use the glossary's nouns, units last.
//! It must not know who asks.

mod outages;

use self::outages::OUTAGES;
use super::AdminState;
use super::command::{SHOWS, Show};
use super::report::{NodeReport, Report, from_micros};
use super::table::{Cell, Column, Row, Table};
use crate::config;
use crate::pool::{BackendRow, PoolRow};
use crate::route::Why;
use crate::session::directory::SessionRow;
use crate::topology::{Event, NodeId, Topology};

/// The headings of a table, known before it is asked for.
pub fn columns(show: Show) -> &'static [Column] {
    match show {
        Show::Backends => BACKENDS,
        Show::Clients => CLIENTS,
        Show::Config => CONFIG,
        Show::Events => EVENTS,
        Show::Help => HELP,
        Show::Nodes => NODES,
        Show::Outages => OUTAGES,
        Show::Pools => POOLS,
        Show::Routes => ROUTES,
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
        Show::Outages => outages::outages(state),
        Show::Pools => pools(state),
        Show::Routes => routes(state),
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
        (
            "EXPLAIN ROUTE [(DATABASE <name>)] <statement>",
            "where the statement would go, why, and what speaks for each node; runs nothing",
        ),
        (
            "PROMOTE <node> [(TIMEOUT '10s', SOLE ENTRY)]",
            "makes a standby the primary without an error for anybody; opens the primary if it is that already",
        ),
        ("ACCEPT <node>", "says which of several nodes that take writes on one timeline is the primary"),
        ("ACCEPT TIMELINE <n>", "says that what came after that timeline never happened"),
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
    Column::int("in_flight"),
    Column::float("latency_ms"),
    Column::float("read_share"),
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
                Cell::count(node.in_flight),
                Cell::or_null(node.latency_ms, Cell::Float),
                Cell::Float(node.read_share),
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

const CLIENTS: &[Column] = &[
    Column::int("session"),
    Column::text("user"),
    Column::text("database"),
    Column::text("address"),
    Column::text("application"),
    Column::text("endpoint"),
    Column::text("state"),
    Column::text("node"),
    Column::int("backend_pid"),
    Column::int("statements"),
    Column::text("pins"),
    Column::int("prepared"),
    Column::int("prepared_bytes"),
    Column::bool("tls"),
    Column::time("connected_at"),
];

const POOLS: &[Column] = &[
    Column::text("node"),
    Column::text("database"),
    Column::text("user"),
    Column::text("startup_set"),
    Column::int("active"),
    Column::int("idle"),
    Column::int("opening"),
    Column::int("closing"),
    Column::int("pinned"),
    Column::int("prepared"),
    Column::int("waiting"),
    Column::float("longest_wait_ms"),
    Column::float("wait_p99_ms"),
];

fn pools(state: &AdminState) -> Vec<Row> {
    let topology = state.store.load();
    let row = |pool: PoolRow| {
        vec![
            node_name(&topology, pool.key.node),
            Cell::text(&pool.key.database),
            Cell::text(&pool.key.user),
            Cell::Text(pool.key.set.to_string()),
            Cell::count(pool.active),
            Cell::count(pool.idle),
            Cell::count(pool.opening),
            Cell::count(pool.closing),
            Cell::count(pool.pinned),
            Cell::count(pool.prepared),
            Cell::count(pool.waiting),
            Cell::millis(pool.longest_wait),
            Cell::millis(pool.wait_p99),
        ]
    };
    state.registry.rows().into_iter().map(row).collect()
}

fn node_name(topology: &Topology, id: NodeId) -> Cell {
    Cell::or_null(topology.node(id), |node| Cell::text(node.name()))
}

const BACKENDS: &[Column] = &[
    Column::int("backend"),
    Column::text("node"),
    Column::text("database"),
    Column::text("user"),
    Column::int("pid"),
    Column::text("state"),
    Column::float("state_s"),
    Column::float("age_s"),
    Column::int("epoch"),
    Column::bool("opened_on_primary"),
    Column::bool("pinned"),
    Column::int("prepared"),
    Column::bool("tls"),
    Column::text("startup_set"),
];

fn backends(state: &AdminState) -> Vec<Row> {
    let topology = state.store.load();
    let row = |backend: BackendRow| {
        vec![
            Cell::count(backend.id),
            node_name(&topology, backend.node),
            Cell::text(&backend.key.database),
            Cell::text(&backend.key.user),
            Cell::count(backend.pid),
            Cell::text(backend.state.as_str()),
            Cell::seconds(backend.state_age),
            Cell::seconds(backend.age),
            Cell::count(backend.epoch.0),
            Cell::Bool(backend.opened_on_primary),
            Cell::Bool(backend.pinned),
            Cell::count(backend.prepared),
            Cell::Bool(backend.tls),
            Cell::Text(backend.key.set.to_string()),
        ]
    };
    state.registry.backend_rows().into_iter().map(row).collect()
}

fn clients(state: &AdminState) -> Vec<Row> {
    let topology = state.store.load();
    let row = |session: SessionRow| {
        vec![
            Cell::count(session.id),
            Cell::Text(session.user),
            Cell::Text(session.database),
            Cell::Text(session.address),
            Cell::Text(session.application),
            Cell::text(session.endpoint),
            Cell::text(session.state),
            Cell::or_null(session.node, |id| node_name(&topology, id)),
            Cell::or_null(session.backend_pid, Cell::count),
            Cell::count(session.statements),
            Cell::Text(session.pins),
            Cell::count(session.prepared),
            Cell::count(session.prepared_bytes),
            Cell::Bool(session.tls),
            Cell::Time(session.since),
        ]
    };
    state.directory.rows().into_iter().map(row).collect()
}

const CONFIG: &[Column] = &[
    Column::text("option"),
    Column::text("value"),
    Column::text("default"),
    Column::text("applies"),
    Column::text("meaning"),
];

fn config(state: &AdminState) -> Vec<Row> {
    let row = |row: config::Row| {
        vec![
            Cell::Text(row.key),
            Cell::Text(row.value),
            Cell::text(row.default),
            Cell::Text(row.class.to_string()),
            Cell::text(row.doc),
        ]
    };
    config::show(&state.settings.load()).into_iter().map(row).collect()
}

const ROUTES: &[Column] = &[
    Column::text("route"),
    Column::text("reason"),
    Column::text("sqlstate"),
    Column::int("batches"),
    Column::float("percent"),
    Column::text("meaning"),
];

/// What has happened at least once, the most frequent first; then what standbys failed, by SQLSTATE.
fn routes(state: &AdminState) -> Vec<Row> {
    let all: Vec<Why> = Why::all().collect();
    let mut taken: Vec<_> = state.metrics.routed().filter(|(.., count)| *count > 0).collect();
    taken.sort_by_key(|(standby, reason, count)| (std::cmp::Reverse(*count), *standby, *reason));
    let total = taken.iter().map(|(.., count)| count).sum::<u64>() as f64;
    let percent = |count: u64| (count as f64 / total * 1000.0).round() / 10.0;
    let row = |(standby, reason, count): (bool, usize, u64)| {
        let why = all.get(reason).copied();
        let meaning = why.map(|why| match why {
            Why::Write(reason) => format!("a part of it {}", reason.text()),
            why => why.text().to_owned(),
        });
        vec![
            Cell::text(if standby { "standby" } else { "primary" }),
            Cell::or_null(why, |why| Cell::text(why.as_str())),
            Cell::Null,
            Cell::count(count),
            Cell::Float(percent(count)),
            Cell::or_null(meaning, Cell::Text),
        ]
    };
    let again = |(sqlstate, count): (&str, u64)| {
        let meaning = format!("failed on a standby with {sqlstate}, run again on the primary");
        vec![
            Cell::text("primary"),
            Cell::text(Why::Rerun.as_str()),
            Cell::text(sqlstate),
            Cell::count(count),
            Cell::Null,
            Cell::Text(meaning),
        ]
    };
    let rerun = state.metrics.rerouted().filter(|(_, count)| *count > 0);
    taken.into_iter().map(row).chain(rerun.map(again)).collect()
}

const STATS: &[Column] = &[Column::text("metric"), Column::text("labels"), Column::float("value")];

/// The same figures as /metrics, so that there is one list of names.
fn stats(state: &AdminState) -> Vec<Row> {
    state.render_metrics().lines().filter_map(sample).collect()
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
