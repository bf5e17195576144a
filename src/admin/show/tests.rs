//! Headings are a promise to scripts: they change only on purpose.

use super::*;
use crate::admin::fixture;

/// All tables with their headings, one a line.
fn headings() -> String {
    let line = |(word, show, _): &(&str, Show, &str)| {
        let names: Vec<&str> = columns(*show).iter().map(|column| column.name).collect();
        format!("{word}: {}\n", names.join(" "))
    };
    SHOWS.iter().map(line).collect()
}

#[test]
fn headings_stay() {
    insta::assert_snapshot!(headings(), @r"
    NODES: node address role health reads lag_ms lag_bytes lsn timeline sessions backends statements server_version started_at probe_ms weight in_flight latency_ms read_share zone reason
    TOPOLOGY: epoch topology_version primary writable timeline system_identifier nodes nodes_up standbys_read alarms
    POOLS: node database user startup_set active idle opening closing pinned prepared waiting longest_wait_ms wait_p99_ms
    CLIENTS: session user database address application endpoint state node backend_pid statements pins prepared prepared_bytes tls connected_at
    BACKENDS: backend node database user pid state state_s age_s epoch opened_on_primary pinned prepared tls startup_set
    ROUTES: route reason sqlstate batches percent meaning
    STATS: metric labels value
    EVENTS: at kind node event
    OUTAGES: noticed_at end old_primary new_primary writable_after_ms answered_after_ms held timed_out retried replayed failed epoch timeline fork_lsn evidence
    CONFIG: option value default applies meaning
    VERSION: version
    HELP: command meaning
    ");
}

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
    SHOW ROUTES | how much went to the primary and to standbys, by reason
    SHOW STATS | counters and latencies since the start
    SHOW EVENTS | what changed in the topology, when and why; newest last
    SHOW OUTAGES | each failover: when the loss was noticed and by what, how long writes stood still, what it cost
    SHOW CONFIG | every option: its value, its default, what a reload does with it
    SHOW VERSION | the version of pgsteer
    SHOW HELP | this list
    EXPLAIN ROUTE [(DATABASE <name>)] <statement> | where the statement would go, why, and what speaks for each node; runs nothing
    PROMOTE <node> [(TIMEOUT '10s', SOLE ENTRY)] | makes a standby the primary without an error for anybody; opens the primary if it is that already
    ACCEPT <node> | says which of several nodes that take writes on one timeline is the primary
    ACCEPT TIMELINE <n> | says that what came after that timeline never happened
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
async fn routes_say_what_happened_the_most_frequent_first() {
    let state = fixture::state();
    assert!(table(Show::Routes, &state).rows.is_empty());
    let count = |standby, why: Why| state.metrics.control().routed(standby, why.index());
    count(false, Why::Write(crate::sql::Reason::Locking));
    for _ in 0..7 {
        count(true, Why::Read);
    }
    state.metrics.control().rerouted("25006");
    state.metrics.control().rerouted("99999");
    let lines: String = table(Show::Routes, &state)
        .rows
        .iter()
        .map(|row| {
            let cells = row.iter().map(|cell| cell.to_text().unwrap_or_else(|| "-".to_owned()));
            cells.collect::<Vec<_>>().join(" | ") + "\n"
        })
        .collect();
    insta::assert_snapshot!(lines, @r"
    standby | read | - | 7 | 87.5 | it only reads
    primary | locking | - | 1 | 12.5 | a part of it locks rows
    primary | rerun | 25006 | 1 | - | failed on a standby with 25006, run again on the primary
    primary | rerun | other | 1 | - | failed on a standby with other, run again on the primary
    ");
}

#[tokio::test]
async fn what_is_not_known_is_null() {
    let state = fixture::state();
    let nodes = table(Show::Nodes, &state);
    let lag = NODES.iter().position(|column| column.name == "lag_ms").unwrap();
    assert_eq!(nodes.rows[0][lag], Cell::Null);
    assert_eq!(nodes.rows[1][lag], Cell::Float(1.5));
}

#[tokio::test]
async fn every_column_and_metric_is_documented() {
    let page = include_str!("../../../docs/operations.md");
    for (word, show, _) in SHOWS {
        let Some((_, section)) = page.split_once(&format!("**{word}**")) else {
            assert!(matches!(show, Show::Help | Show::Version), "{word} is not documented");
            continue;
        };
        let section = section.split("\n\n").next().unwrap_or_default();
        for column in columns(*show) {
            assert!(section.contains(&format!("`{}`", column.name)), "{word}: {} is missing", column.name);
        }
    }
    let metrics = fixture::state().render_metrics();
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(page.contains(&format!("| `{name}` | {kind} |")), "{name} is missing");
    }
}
