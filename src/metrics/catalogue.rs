//! Every figure the proxy exports: name, help text and labels, in one place.
//!
//! Only names and enums; the numbers live in [`WorkerMetrics`](super::WorkerMetrics). Names end in their unit,
//! counters in `_total`, as Prometheus recommends.

/// How a family behaves over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Quantiles with their sum and count.
    Summary,
}

impl Kind {
    /// The word in the `# TYPE` line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Summary => "summary",
        }
    }
}

/// One family of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// `pgsteer_…`.
    pub name: &'static str,
    /// What is counted, for people.
    pub help: &'static str,
    /// How it behaves.
    pub kind: Kind,
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: Kind::Counter }
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: Kind::Gauge }
}

const fn summary(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: Kind::Summary }
}

// Families of counters. Their members are in `Counter`.
const LOGINS: Family = counter("pgsteer_logins_total", "Clients that logged in");
const LOGIN_FAILURES: Family = counter("pgsteer_login_failures_total", "Logins that failed, by reason");
const REFUSED: Family =
    counter("pgsteer_refused_connections_total", "Connections closed before login, by reason");
const CANCELS: Family = counter("pgsteer_cancels_total", "Cancel requests, by outcome");
const SESSIONS_STARTED: Family = counter("pgsteer_sessions_started_total", "Sessions that began");
const SESSIONS_MOVED: Family =
    counter("pgsteer_sessions_moved_total", "Sessions that went on at another node without closing");
const READS_RERUN: Family = counter(
    "pgsteer_reads_rerun_total",
    "Reads that another node answered than the one chosen first, unnoticed by their client, by reason",
);
const COMMITS_RESOLVED: Family = counter(
    "pgsteer_commits_resolved_total",
    "COMMITs whose answer was lost with the server and whose fate was looked up, by what was found",
);
const REPLAYED: Family = counter(
    "pgsteer_transactions_replayed_total",
    "Open transactions that were lost with their server and, with `retry.transactions`, run again, by what came of it",
);
const LISTENED_AGAIN: Family = counter(
    "pgsteer_listened_again_total",
    "Sessions whose LISTENs were lost with their server and, with `retry.listen`, made again on the new primary",
);
const SESSIONS_KILLED: Family = counter("pgsteer_sessions_killed_total", "Sessions ended from the console");
const HOLDS_STARTED: Family =
    counter("pgsteer_holds_started_total", "Statements and logins that had to wait for a primary");
const HOLDS_ENDED: Family = counter("pgsteer_holds_ended_total", "How waiting for a primary ended");
const BACKENDS_OPENED: Family =
    counter("pgsteer_backends_opened_total", "Connections opened to nodes by the pools");
const BACKENDS_REUSED: Family = counter("pgsteer_backends_reused_total", "Leases served by an idle backend");
const BACKENDS_FAILED: Family =
    counter("pgsteer_backends_failed_total", "Connections to nodes that could not be opened, by reason");
const BACKENDS_CLOSED: Family =
    counter("pgsteer_backends_closed_total", "Connections to nodes that were closed, by reason");
const BACKENDS_LEAKED: Family =
    counter("pgsteer_backends_leaked_total", "Backends dropped without being released; must stay 0");
const RESETS: Family = counter("pgsteer_backend_resets_total", "Resets of returned backends, by result");
const CHECKOUT_FAILURES: Family =
    counter("pgsteer_checkout_failures_total", "Leases that were not granted, by reason");
const AUTH_LOOKUPS: Family =
    counter("pgsteer_auth_lookups_total", "Verifiers asked for, by where the answer came from");
const TOPOLOGY_CHANGES: Family =
    counter("pgsteer_topology_changes_total", "Material changes of the topology");
const PRIMARY_CHANGES: Family =
    counter("pgsteer_primary_changes_total", "Changes of the primary (new epochs)");
const OUTAGES: Family =
    counter("pgsteer_outages_total", "Times without a primary that takes writes, by how they ended");
const HOOKS: Family = counter("pgsteer_hooks_total", "Runs of fence_command and on_promotion, by result");
const VIOLATIONS: Family =
    counter("pgsteer_protocol_violations_total", "Messages that break the protocol, by peer");
const RELOADS: Family = counter("pgsteer_reloads_total", "Reloads of the configuration, by result");

/// Everything that is counted one by one, without a node. Members of a family are neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// A client logged in.
    LoginOk,
    /// The client left before it had logged in.
    LoginClientGone,
    /// The node refused the database.
    LoginDatabase,
    /// The verifier could not be asked for.
    LoginLookup,
    /// No `[[auth.rule]]` lets the client in, or one rejects it.
    LoginNoRule,
    /// Wrong password or certificate.
    LoginPassword,
    /// The node refused the login for another reason.
    LoginServer,
    /// `limits.login_timeout` passed.
    LoginTimeout,
    /// No TLS on a listener that requires it.
    LoginTlsRequired,
    /// No such user (the client is told the same as for a wrong password).
    LoginUnknownUser,
    /// No backend within `pool.wait_timeout`.
    LoginWaitTimeout,
    /// The proxy shuts down.
    RefusedDraining,
    /// No file descriptor left.
    RefusedFiles,
    /// `pool.max_clients` reached.
    RefusedMaxClients,
    /// `limits.max_logins_per_address` reached.
    RefusedPerAddress,
    /// The node could not be reached.
    CancelFailed,
    /// Sent to the backend's node.
    CancelForwarded,
    /// Nothing was running for that session.
    CancelIgnored,
    /// Nobody has that key.
    CancelUnknownKey,
    /// Ended a wait for a node: nothing had been sent.
    CancelWaiting,
    /// A session began.
    SessionStarted,
    /// A session went on at another node.
    SessionMoved,
    /// A read was run again: its node was lost before the client heard anything of the answer.
    ReadRunAgain,
    /// A read went to the primary: the standby chosen for it gave no backend.
    ReadWithoutStandby,
    /// A COMMIT without an answer had happened.
    CommitFound,
    /// It had not happened.
    CommitNotFound,
    /// Nobody can know.
    CommitUnknown,
    /// A lost transaction was replayed, and its client goes on in it.
    ReplayDone,
    /// Its results were others.
    ReplayDiffered,
    /// No server could run it again.
    ReplayFailed,
    /// It was none that may be replayed.
    ReplayRefused,
    /// A session's LISTENs were made again.
    ListenedAgain,
    /// A session was ended from the console.
    SessionKilled,
    /// Work began to wait for a primary.
    HoldStarted,
    /// The client left meanwhile.
    HoldClientGone,
    /// A primary was there and the work went on.
    HoldReleased,
    /// `cluster.hold_timeout` passed.
    HoldTimedOut,
    /// A connection to a node was opened.
    BackendOpened,
    /// A lease was served by an idle backend.
    BackendReused,
    /// The node could not be reached.
    BackendFailedDial,
    /// The node refused the login.
    BackendFailedLogin,
    /// The connection broke or the node ended it.
    BackendBroken,
    /// Its client vanished in the middle of work.
    BackendClientVanished,
    /// Its reset failed or took too long.
    BackendDirty,
    /// Its node is no longer the primary it was.
    BackendEpoch,
    /// Closed for another pool that needed the place.
    BackendEvicted,
    /// `pool.idle_timeout` passed.
    BackendIdle,
    /// `pool.lifetime` passed.
    BackendLifetime,
    /// The proxy shuts down.
    BackendShutdown,
    /// A backend was dropped without being released.
    BackendLeaked,
    /// The backend was closed for it.
    ResetFailed,
    /// The backend can be used again.
    ResetOk,
    /// The primary changed meanwhile.
    CheckoutEpoch,
    /// The node could not be reached or refused.
    CheckoutNode,
    /// `pool.max_waiters` reached.
    CheckoutQueueFull,
    /// `pool.wait_timeout` passed.
    CheckoutTimeout,
    /// From the cache.
    AuthCached,
    /// No answer.
    AuthFailed,
    /// From the cluster.
    AuthFetched,
    /// The topology changed materially.
    TopologyChange,
    /// Another primary was published.
    PrimaryChange,
    /// Another node was promoted.
    OutagePromotion,
    /// The primary came back.
    OutageReturn,
    /// Another node was promoted as planned.
    OutageSwitchover,
    /// A program did not succeed, or was killed.
    HookFailed,
    /// A program succeeded.
    HookOk,
    /// A client broke the protocol.
    ViolationClient,
    /// A node broke the protocol.
    ViolationServer,
    /// The old settings stay.
    ReloadFailed,
    /// The new settings are in force.
    ReloadOk,
}

/// A counter, its family and, where the family is split, its label.
pub(super) type Naming = (Counter, Family, Option<(&'static str, &'static str)>);

/// The names, in the order of the enum.
pub(super) const COUNTERS: &[Naming] = &[
    (Counter::LoginOk, LOGINS, None),
    (Counter::LoginClientGone, LOGIN_FAILURES, Some(("reason", "client_gone"))),
    (Counter::LoginDatabase, LOGIN_FAILURES, Some(("reason", "database"))),
    (Counter::LoginLookup, LOGIN_FAILURES, Some(("reason", "lookup"))),
    (Counter::LoginNoRule, LOGIN_FAILURES, Some(("reason", "no_rule"))),
    (Counter::LoginPassword, LOGIN_FAILURES, Some(("reason", "password"))),
    (Counter::LoginServer, LOGIN_FAILURES, Some(("reason", "server"))),
    (Counter::LoginTimeout, LOGIN_FAILURES, Some(("reason", "timeout"))),
    (Counter::LoginTlsRequired, LOGIN_FAILURES, Some(("reason", "tls_required"))),
    (Counter::LoginUnknownUser, LOGIN_FAILURES, Some(("reason", "unknown_user"))),
    (Counter::LoginWaitTimeout, LOGIN_FAILURES, Some(("reason", "wait_timeout"))),
    (Counter::RefusedDraining, REFUSED, Some(("reason", "draining"))),
    (Counter::RefusedFiles, REFUSED, Some(("reason", "files"))),
    (Counter::RefusedMaxClients, REFUSED, Some(("reason", "max_clients"))),
    (Counter::RefusedPerAddress, REFUSED, Some(("reason", "per_address"))),
    (Counter::CancelFailed, CANCELS, Some(("result", "failed"))),
    (Counter::CancelForwarded, CANCELS, Some(("result", "forwarded"))),
    (Counter::CancelIgnored, CANCELS, Some(("result", "ignored"))),
    (Counter::CancelUnknownKey, CANCELS, Some(("result", "unknown_key"))),
    (Counter::CancelWaiting, CANCELS, Some(("result", "waiting"))),
    (Counter::SessionStarted, SESSIONS_STARTED, None),
    (Counter::SessionMoved, SESSIONS_MOVED, None),
    (Counter::ReadRunAgain, READS_RERUN, Some(("reason", "node_lost"))),
    (Counter::ReadWithoutStandby, READS_RERUN, Some(("reason", "no_backend"))),
    (Counter::CommitFound, COMMITS_RESOLVED, Some(("result", "committed"))),
    (Counter::CommitNotFound, COMMITS_RESOLVED, Some(("result", "rolled_back"))),
    (Counter::CommitUnknown, COMMITS_RESOLVED, Some(("result", "unknown"))),
    (Counter::ReplayDone, REPLAYED, Some(("result", "replayed"))),
    (Counter::ReplayDiffered, REPLAYED, Some(("result", "differed"))),
    (Counter::ReplayFailed, REPLAYED, Some(("result", "failed"))),
    (Counter::ReplayRefused, REPLAYED, Some(("result", "refused"))),
    (Counter::ListenedAgain, LISTENED_AGAIN, None),
    (Counter::SessionKilled, SESSIONS_KILLED, None),
    (Counter::HoldStarted, HOLDS_STARTED, None),
    (Counter::HoldClientGone, HOLDS_ENDED, Some(("result", "client_gone"))),
    (Counter::HoldReleased, HOLDS_ENDED, Some(("result", "released"))),
    (Counter::HoldTimedOut, HOLDS_ENDED, Some(("result", "timed_out"))),
    (Counter::BackendOpened, BACKENDS_OPENED, None),
    (Counter::BackendReused, BACKENDS_REUSED, None),
    (Counter::BackendFailedDial, BACKENDS_FAILED, Some(("reason", "dial"))),
    (Counter::BackendFailedLogin, BACKENDS_FAILED, Some(("reason", "login"))),
    (Counter::BackendBroken, BACKENDS_CLOSED, Some(("reason", "broken"))),
    (Counter::BackendClientVanished, BACKENDS_CLOSED, Some(("reason", "client_vanished"))),
    (Counter::BackendDirty, BACKENDS_CLOSED, Some(("reason", "dirty"))),
    (Counter::BackendEpoch, BACKENDS_CLOSED, Some(("reason", "epoch"))),
    (Counter::BackendEvicted, BACKENDS_CLOSED, Some(("reason", "evicted"))),
    (Counter::BackendIdle, BACKENDS_CLOSED, Some(("reason", "idle"))),
    (Counter::BackendLifetime, BACKENDS_CLOSED, Some(("reason", "lifetime"))),
    (Counter::BackendShutdown, BACKENDS_CLOSED, Some(("reason", "shutdown"))),
    (Counter::BackendLeaked, BACKENDS_LEAKED, None),
    (Counter::ResetFailed, RESETS, Some(("result", "failed"))),
    (Counter::ResetOk, RESETS, Some(("result", "ok"))),
    (Counter::CheckoutEpoch, CHECKOUT_FAILURES, Some(("reason", "epoch"))),
    (Counter::CheckoutNode, CHECKOUT_FAILURES, Some(("reason", "node"))),
    (Counter::CheckoutQueueFull, CHECKOUT_FAILURES, Some(("reason", "queue_full"))),
    (Counter::CheckoutTimeout, CHECKOUT_FAILURES, Some(("reason", "timeout"))),
    (Counter::AuthCached, AUTH_LOOKUPS, Some(("result", "cached"))),
    (Counter::AuthFailed, AUTH_LOOKUPS, Some(("result", "failed"))),
    (Counter::AuthFetched, AUTH_LOOKUPS, Some(("result", "fetched"))),
    (Counter::TopologyChange, TOPOLOGY_CHANGES, None),
    (Counter::PrimaryChange, PRIMARY_CHANGES, None),
    (Counter::OutagePromotion, OUTAGES, Some(("end", "promotion"))),
    (Counter::OutageReturn, OUTAGES, Some(("end", "return"))),
    (Counter::OutageSwitchover, OUTAGES, Some(("end", "switchover"))),
    (Counter::HookFailed, HOOKS, Some(("result", "failed"))),
    (Counter::HookOk, HOOKS, Some(("result", "ok"))),
    (Counter::ViolationClient, VIOLATIONS, Some(("peer", "client"))),
    (Counter::ViolationServer, VIOLATIONS, Some(("peer", "server"))),
    (Counter::ReloadFailed, RELOADS, Some(("result", "failed"))),
    (Counter::ReloadOk, RELOADS, Some(("result", "ok"))),
];

/// What is there at this moment, per worker and summed when read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gauge {
    /// Connections that have not logged in yet.
    LoginsInProgress,
    /// Sessions, that is clients that have logged in.
    Sessions,
    /// Sessions whose work waits for a primary.
    SessionsHeld,
    /// Sessions that wait for a backend.
    SessionsWaiting,
    /// Statement texts that sessions keep to prepare them elsewhere.
    PreparedBytes,
    /// Sessions of the console.
    ConsoleSessions,
}

/// The gauges, in the order of the enum.
pub(super) const GAUGES: &[(Gauge, Family)] = &[
    (Gauge::LoginsInProgress, gauge("pgsteer_logins_in_progress", "Connections that have not logged in yet")),
    (Gauge::Sessions, gauge("pgsteer_sessions", "Clients that have logged in")),
    (Gauge::SessionsHeld, gauge("pgsteer_sessions_held", "Sessions whose work waits for a primary")),
    (Gauge::SessionsWaiting, gauge("pgsteer_sessions_waiting", "Sessions that wait for a backend")),
    (
        Gauge::PreparedBytes,
        gauge("pgsteer_prepared_bytes", "Statement texts that sessions keep to prepare them again"),
    ),
    (Gauge::ConsoleSessions, gauge("pgsteer_console_sessions", "Sessions of the console")),
];

/// What takes time. Each is a distribution from 1 µs to 60 s; longer ones count as 60 s in the quantiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// From the message that asks for work to ReadyForQuery, on the primary.
    StatementPrimary,
    /// The same on a standby.
    StatementStandby,
    /// From asking for a backend to having it.
    Checkout,
    /// From the first need of a primary to its being there.
    Hold,
    /// From dialling a node to a backend that is logged in.
    Connect,
    /// From the first evidence that the primary is lost until writes are sent again.
    Outage,
}

const STATEMENT: Family =
    summary("pgsteer_statement_seconds", "Time to answer a statement or pipeline, by route");
const CHECKOUT: Family = summary("pgsteer_checkout_wait_seconds", "Time a session waited for a backend");
const HOLD: Family = summary("pgsteer_hold_seconds", "Time work waited for a primary");
const CONNECT: Family = summary("pgsteer_connect_seconds", "Time to open a backend, login included");
const OUTAGE: Family =
    summary("pgsteer_outage_seconds", "Time without a primary that takes writes, from the first evidence");

/// A distribution, its family and, where the family is split, its label.
pub(super) type LatencyNaming = (Latency, Family, Option<(&'static str, &'static str)>);

/// The distributions, in the order of the enum.
pub(super) const LATENCIES: &[LatencyNaming] = &[
    (Latency::StatementPrimary, STATEMENT, Some(("route", "primary"))),
    (Latency::StatementStandby, STATEMENT, Some(("route", "standby"))),
    (Latency::Checkout, CHECKOUT, None),
    (Latency::Hold, HOLD, None),
    (Latency::Connect, CONNECT, None),
    (Latency::Outage, OUTAGE, None),
];

// Families with a label that is not known beforehand, or that are made when rendered.
pub(super) const BUILD_INFO: Family = gauge("pgsteer_build_info", "1, with the version as label");
pub(super) const WORKERS: Family = gauge("pgsteer_workers", "Worker threads");
pub(super) const CLIENT_BYTES: Family =
    counter("pgsteer_client_bytes_total", "Bytes received from and sent to clients after login");
pub(super) const STATEMENTS: Family =
    counter("pgsteer_statements_total", "Statements and pipelines answered, by node and route");
pub(super) const ROUTED: Family =
    counter("pgsteer_routed_total", "Batches sent to the primary and to standbys, by reason");
pub(super) const REROUTED: Family = counter(
    "pgsteer_rerouted_total",
    "Batches that a standby failed and the primary ran again, by the standby's SQLSTATE",
);
pub(super) const SESSION_ERRORS: Family =
    counter("pgsteer_session_errors_total", "Errors that the proxy itself gave to clients, by SQLSTATE");
pub(super) const PROBES: Family = counter("pgsteer_probes_total", "Probes of a node, by result");
pub(super) const NODE_UP: Family = gauge("pgsteer_node_up", "1 if the node answers its probes");
pub(super) const NODE_ROLE: Family = gauge("pgsteer_node_role", "1 for the role the node has now");
pub(super) const NODE_READS: Family =
    gauge("pgsteer_node_serves_reads", "1 if reads may be sent to the node");
pub(super) const NODE_LAG_SECONDS: Family =
    gauge("pgsteer_node_lag_seconds", "Replication lag in time; absent while unknown");
pub(super) const NODE_LAG_BYTES: Family =
    gauge("pgsteer_node_lag_bytes", "Replication lag in bytes of WAL; absent while unknown");
pub(super) const NODE_TIMELINE: Family =
    gauge("pgsteer_node_timeline", "Timeline of the node; absent while unknown");
pub(super) const NODE_IN_FLIGHT: Family =
    gauge("pgsteer_node_in_flight", "Backends of the node that sessions hold");
pub(super) const NODE_LATENCY: Family = gauge(
    "pgsteer_node_latency_seconds",
    "Average time of a standby's statements, the last second first; absent while unknown",
);
pub(super) const NODE_SHARE: Family =
    gauge("pgsteer_node_read_share", "Part of the reads that a standby is to get");
pub(super) const BACKENDS: Family = gauge("pgsteer_backends", "Connections of the pools to a node, by state");
pub(super) const BACKENDS_PINNED: Family =
    gauge("pgsteer_backends_pinned", "Backends that sessions keep between transactions, in transaction mode");
pub(super) const PREPARED: Family =
    gauge("pgsteer_prepared_statements", "Prepared statements on the backends of the pools");
pub(super) const SESSIONS_PINNED: Family =
    gauge("pgsteer_sessions_pinned", "Sessions bound to their backend, by cause; one may have several");
pub(super) const PINS: Family =
    counter("pgsteer_pins_total", "How often sessions became bound to their backend, by cause");
pub(super) const EPOCH: Family = gauge("pgsteer_topology_epoch", "Number of the current epoch");

/// What binds sessions to their backends, in the words of SHOW CLIENTS; a test holds it against `sql::PinCause`.
pub const PIN_CAUSES: &[&str] = &[
    "advisory lock",
    "cursor with hold",
    "listen",
    "temporary table",
    "setting",
    "sequence",
    "random seed",
    "library",
    "prepared statement",
];

/// SQLSTATEs that the proxy gives on its own behalf; anything else is counted as `other`.
pub(super) const SQLSTATES: &[&str] = &[
    "0A000", "08000", "08006", "08007", "08P01", "25006", "25P02", "26000", "28000", "28P01", "3D000",
    "40001", "53300", "53400", "57014", "57P01", "57P03", "57P05", "58000", "XX000", "other",
];

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn tables_are_in_the_order_of_their_enums() {
        for (index, (counter, ..)) in COUNTERS.iter().enumerate() {
            assert_eq!(*counter as usize, index, "{counter:?}");
        }
        for (index, (gauge, _)) in GAUGES.iter().enumerate() {
            assert_eq!(*gauge as usize, index, "{gauge:?}");
        }
        for (index, (latency, ..)) in LATENCIES.iter().enumerate() {
            assert_eq!(*latency as usize, index, "{latency:?}");
        }
    }

    #[test]
    fn the_last_member_of_each_enum_is_in_its_table() {
        assert_eq!(COUNTERS.len(), Counter::ReloadOk as usize + 1);
        assert_eq!(GAUGES.len(), Gauge::ConsoleSessions as usize + 1);
        assert_eq!(LATENCIES.len(), Latency::Outage as usize + 1);
    }

    #[test]
    fn members_of_a_family_are_neighbours_with_one_label() {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (index, (_, family, label)) in COUNTERS.iter().enumerate() {
            assert!(
                family.name.starts_with("pgsteer_") && family.name.ends_with("_total"),
                "{}",
                family.name
            );
            if let Some(last) = seen.insert(family.name, index) {
                assert_eq!(last + 1, index, "{} is torn apart", family.name);
                assert_eq!(COUNTERS[last].2.map(|one| one.0), label.map(|one| one.0));
            }
        }
    }
}
