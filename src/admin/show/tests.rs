//! Headings are a promise to scripts: they change only on purpose.

use super::*;
use crate::admin::fixture;

#[test]
fn help_lists_every_command() {
    let lines: String = help()
        .iter()
        .map(|row| row.iter().filter_map(Cell::to_text).collect::<Vec<_>>().join(" | ") + "\n")
        .collect();
    insta::assert_snapshot!(lines, @r"
    SHOW NODES | each node: role, health, why it is read from or not, lag, what runs on it
    SHOW TOPOLOGY | which node is the primary, since which epoch, on which timeline
    SHOW POOLS | backends of each node, database and user: idle, leased, waited for
    SHOW CLIENTS | the sessions: who, from where, in which state, on which node
    SHOW BACKENDS | the server connections: pid, node, age, state
    SHOW STATS | counters and latencies since the start
    SHOW EVENTS | what changed in the topology, when and why; newest last
    SHOW CONFIG | every option: its value, its default, what a reload does with it
    SHOW VERSION | the version of pgsteer
    SHOW HELP | this list
    RELOAD | reads the configuration file again; lists what changed and what needs a restart
    KILL <session> | ends one session, by its number in SHOW CLIENTS
    ");
}

#[tokio::test]
async fn stats_are_the_metrics() {
    let stats = table(Show::Stats, &fixture::state());
    let find = |metric: &str, labels: &str| {
        let row = stats.rows.iter().find(|row| row[0] == Cell::text(metric) && row[1] == Cell::text(labels));
        row.unwrap_or_else(|| panic!("no {metric} {labels}"))[2].clone()
    };
    assert_eq!(find("statements_total", "node=\"127.0.0.1:5432\",route=\"primary\""), Cell::Float(1.0));
    assert_eq!(find("sessions", ""), Cell::Float(0.0));
    assert_eq!(find("hold_seconds", "quantile=\"0.5\""), Cell::Null, "nothing was measured yet");
}

#[tokio::test]
async fn what_is_not_known_is_null() {
    let state = fixture::state();
    let nodes = table(Show::Nodes, &state);
    let lag = NODES.iter().position(|column| column.name == "lag_ms").unwrap();
    assert_eq!(nodes.rows[0][lag], Cell::Null);
    assert_eq!(nodes.rows[1][lag], Cell::Float(1.5));
}
