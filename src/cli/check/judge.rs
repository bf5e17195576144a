//! Facts and settings in, findings out: what is wrong with the cluster and what to do. Pure.

use std::collections::BTreeMap;

use super::facts::{AuthAnswer, Facts, NodeReport, Rights, Unreachable};
use crate::config::{PoolMode, Settings, Split, TlsMode, format_size, setup_sql};
use crate::topology::Lsn;

/// The first version that reports `in_hot_standby`, which the probes rely on.
const OLDEST: u32 = 140_000;
/// Connections of ours beside the pools: the probe, the look-ups of secrets, an operator's psql.
const BESIDE_POOLS: usize = 3;

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Whether the proxy would suffer from it now; otherwise it is advice.
    pub(super) is_problem: bool,
    /// The node it is about; `None` for the whole cluster.
    pub(super) node: Option<String>,
    pub(super) text: String,
    /// What to run on the primary, as superuser; empty if SQL does not help.
    pub(super) sql: String,
}

/// Collects what is found.
struct Findings<'a> {
    settings: &'a Settings,
    list: Vec<Finding>,
}

impl Findings<'_> {
    fn problem(&mut self, node: Option<&str>, text: impl Into<String>, sql: impl Into<String>) {
        self.add(true, node, text.into(), sql.into());
    }

    fn advice(&mut self, node: Option<&str>, text: impl Into<String>, sql: impl Into<String>) {
        self.add(false, node, text.into(), sql.into());
    }

    fn add(&mut self, is_problem: bool, node: Option<&str>, text: String, sql: String) {
        self.list.push(Finding { is_problem, node: node.map(str::to_owned), text, sql });
    }
}

/// Bytes a standby is behind, by the answers of one moment.
pub(super) fn lag(nodes: &[NodeReport], facts: &Facts) -> Option<u64> {
    let primary = primaries(nodes).next()?.1.lsn?;
    facts.lsn.filter(|_| facts.in_recovery).map(|lsn| primary.0.saturating_sub(lsn.0))
}

fn answered(nodes: &[NodeReport]) -> impl Iterator<Item = (&str, &Facts)> {
    nodes.iter().filter_map(|node| Some((node.name.as_str(), node.answer.as_ref().ok()?)))
}

fn primaries(nodes: &[NodeReport]) -> impl Iterator<Item = (&str, &Facts)> {
    answered(nodes).filter(|(_, facts)| !facts.in_recovery)
}

/// Everything worth telling, problems first.
pub(super) fn judge(settings: &Settings, nodes: &[NodeReport]) -> Vec<Finding> {
    let mut findings = Findings { settings, list: Vec::new() };
    for node in nodes {
        match &node.answer {
            Err(why) => unreachable(&mut findings, node, why),
            Ok(facts) => {
                alone(&mut findings, &node.name, facts);
                if facts.in_recovery {
                    standby(&mut findings, nodes, &node.name, facts);
                }
                auth(&mut findings, &node.name, facts);
            }
        }
    }
    together(&mut findings, nodes);
    let mut list = findings.list;
    list.sort_by_key(|finding| !finding.is_problem);
    list
}

fn unreachable(findings: &mut Findings<'_>, node: &NodeReport, why: &Unreachable) {
    let settings = findings.settings;
    let monitor = &settings.cluster.monitor;
    let (user, database) = (setup_sql::identifier(&monitor.user), &monitor.database);
    let role = || format!("-- if the role is not there yet:\n{}", setup_sql::role(&monitor.user));
    let text = &why.text;
    let (todo, sql) = match why.sqlstate.as_deref() {
        Some("28P01") => (
            "the role is missing or its password differs from the one configured".to_owned(),
            format!("ALTER ROLE {user} LOGIN PASSWORD 'the configured one';\n{}", role()),
        ),
        Some("28000") => {
            let kind = if settings.cluster.tls.mode == TlsMode::Off { "host" } else { "hostssl" };
            let line = format!("{kind} {database} {user} ADDRESS-OF-PGSTEER/32 scram-sha-256");
            (format!("let it in by a line in the node's pg_hba.conf and reload: {line}"), role())
        }
        Some("3D000") => {
            (format!("set cluster.monitor.database; \"{database}\" is not there"), String::new())
        }
        Some("53300") => ("raise max_connections or close connections".to_owned(), String::new()),
        Some("57P03") => ("the server is starting or stopping; ask again".to_owned(), String::new()),
        _ => ("is the server up, is the address right, does a firewall drop it?".to_owned(), String::new()),
    };
    findings.problem(Some(&node.name), format!("cannot be asked: {text}; {todo}"), sql);
}

/// What a node says for itself.
fn alone(findings: &mut Findings<'_>, name: &str, facts: &Facts) {
    let node = Some(name);
    if facts.version_num < OLDEST {
        let version = facts.version_num / 10_000;
        findings.problem(node, format!("runs PostgreSQL {version}; 14 or later is needed"), "");
    }
    let expected = findings.settings.cluster.system_identifier;
    if let (Some(expected), Some(found)) = (expected, facts.system_identifier)
        && expected != found
    {
        let text = format!("has system identifier {found}, but cluster.system_identifier is {expected}");
        findings.problem(node, format!("{text}; it is another cluster and would never be used"), "");
    }
    if facts.limits.wal_level == "minimal" {
        let sql = "ALTER SYSTEM SET wal_level = 'replica';\n-- then restart the server\n";
        findings.problem(node, "has wal_level \"minimal\", so it can have no standby", sql);
    }
    if !facts.limits.hot_standby {
        let sql = "ALTER SYSTEM SET hot_standby = on;\n-- then restart the server\n";
        findings.advice(node, "has hot_standby off: as a standby it would answer nobody", sql);
    }
    connections(findings, name, facts);
    databases(findings, name, facts);
    rights(findings, name, facts.rights);
}

fn connections(findings: &mut Findings<'_>, name: &str, facts: &Facts) {
    let limits = &facts.limits;
    let ours = findings.settings.pool.max_backends_per_node + BESIDE_POOLS;
    let room = limits.max_connections.saturating_sub(limits.reserved);
    if ours > room {
        let most = findings.settings.pool.max_backends_per_node;
        let text = format!(
            "has room for {room} connections (max_connections {} less {} reserved), but pool.max_backends_per_node \
             is {most} and {BESIDE_POOLS} more are needed; lower it to {} or raise max_connections",
            limits.max_connections,
            limits.reserved,
            room.saturating_sub(BESIDE_POOLS),
        );
        let sql = format!(
            "ALTER SYSTEM SET max_connections = {};\n-- standbys first, then the primary; each needs a restart\n",
            ours + limits.reserved
        );
        findings.problem(Some(name), text, sql);
    }
}

/// What cannot be read of databases counts as a write, and as leaving nothing behind.
fn databases(findings: &mut Findings<'_>, name: &str, facts: &Facts) {
    let settings = findings.settings;
    let is_read = settings.route.split == Split::Auto || settings.pool.mode == PoolMode::Transaction;
    // Standbys have the same rights.
    if facts.closed.is_empty() || facts.in_recovery || !is_read {
        return;
    }
    let user = &settings.cluster.monitor.user;
    let (quoted, closed) = (setup_sql::identifier(user), join(facts.closed.iter().cloned()));
    let text = format!(
        "the role {quoted} may not connect to {closed}: what functions and tables do there is not known"
    );
    let grants: String =
        facts.closed.iter().map(|database| setup_sql::connect_grant(user, database)).collect();
    findings.advice(Some(name), text, grants);
}

fn rights(findings: &mut Findings<'_>, name: &str, rights: Rights) {
    let user = &findings.settings.cluster.monitor.user;
    let (grant, promote) = (setup_sql::monitor_grant(user), setup_sql::promote_grant(user));
    let quoted = setup_sql::identifier(user);
    if !rights.monitor && !rights.superuser {
        let text = format!("the role {quoted} lacks pg_monitor: it cannot see whether replication runs");
        findings.problem(Some(name), text, grant);
    }
    if !rights.control {
        let text = format!("the role {quoted} may not call pg_control_system: clusters cannot be told apart");
        findings.problem(Some(name), text, setup_sql::control_grant(user));
    }
    if !rights.promote {
        let text = format!("the role {quoted} may not promote; only planned switchovers need that");
        findings.advice(Some(name), text, promote);
    }
}

/// What a standby shows of its replication.
fn standby(findings: &mut Findings<'_>, nodes: &[NodeReport], name: &str, facts: &Facts) {
    let node = Some(name);
    match (facts.receiver.as_deref(), facts.archive_fed) {
        // Without an answer the missing right is told already.
        (Some("streaming"), _) | (None, None) => {}
        (Some(status), _) => {
            let text = format!("its WAL receiver is \"{status}\", not streaming; see the server's log");
            findings.problem(node, text, "");
        }
        (None, Some(true)) => {
            findings.advice(
                node,
                "lives from an archive: it is judged by lag, which jumps with each file",
                "",
            );
        }
        (None, Some(false)) => {
            let text =
                "no WAL receiver runs, so it gets nothing; check primary_conninfo and the server's log";
            findings.problem(node, text, "");
        }
    }
    let primary = primaries(nodes).next().and_then(|(_, primary)| primary.timeline);
    if let (Some(mine), Some(newest)) = (facts.timeline, primary)
        && mine < newest
    {
        let text = format!(
            "is on timeline {mine}, the primary on {newest}; it needs pg_rewind or a new base backup"
        );
        findings.problem(node, text, "");
    }
    let limit = findings.settings.cluster.max_lag_bytes;
    if let Some(lag) = lag(nodes, facts).filter(|lag| *lag > limit) {
        let (lag, limit) = (megabytes(lag), format_size(limit));
        findings.advice(
            node,
            format!("is {lag} behind, more than cluster.max_lag_bytes ({limit}): no reads now"),
            "",
        );
    }
}

pub(super) fn megabytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} kB", bytes >> 10),
        _ => format!("{} MB", bytes >> 20),
    }
}

fn auth(findings: &mut Findings<'_>, name: &str, facts: &Facts) {
    let settings = findings.settings;
    let user = setup_sql::identifier(&settings.auth.query_user);
    let database = &settings.auth.query_database;
    let function =
        || format!("-- in the database {database}:\n{}", setup_sql::auth_function(&settings.auth.query_user));
    match &facts.auth {
        None | Some(AuthAnswer::Works | AuthAnswer::Superuser) => {}
        Some(AuthAnswer::NoLogin(text)) => {
            let text = format!(
                "{user} cannot log in for auth.query: {text}; check auth.query_user and its password"
            );
            findings.problem(Some(name), text, "");
        }
        Some(AuthAnswer::Columns(count)) => {
            let text = format!("auth.query returns rows of {count}; name and secret are needed");
            findings.problem(Some(name), text, "");
        }
        Some(AuthAnswer::Refused(code, text)) => {
            let text = format!("auth.query fails for {user}: {text} ({code}); nobody could log in");
            findings.problem(Some(name), text, function());
        }
    }
}

/// What only shows when the answers are laid side by side.
fn together(findings: &mut Findings<'_>, nodes: &[NodeReport]) {
    let mut clusters: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for (name, facts) in answered(nodes) {
        if let Some(identifier) = facts.system_identifier {
            clusters.entry(identifier).or_default().push(name);
        }
    }
    if clusters.len() > 1 {
        let each =
            clusters.iter().map(|(identifier, names)| format!("{identifier} on {}", names.join(" and ")));
        let text = format!("the nodes are of different clusters, by system identifier: {}", join(each));
        findings.problem(None, format!("{text}; list only copies of one cluster"), "");
    }
    let names: Vec<String> = primaries(nodes)
        .map(|(name, facts)| {
            let timeline = facts.timeline.map_or_else(|| "?".to_owned(), |timeline| timeline.to_string());
            format!("{name} (timeline {timeline}, {})", facts.lsn.unwrap_or(Lsn(0)))
        })
        .collect();
    match names.len() {
        0 if answered(nodes).next().is_some() => {
            findings.problem(
                None,
                "no node is a primary: writes would wait; promote a standby",
                "SELECT pg_promote();\n",
            );
        }
        0 | 1 => {}
        count => {
            let list = join(names.into_iter());
            let todo = "stop the one that is out of date and make it a standby again (pg_rewind)";
            findings.problem(None, format!("{count} nodes are primaries: {list}; {todo}"), "");
        }
    }
    if nodes.len() == 1 {
        findings.advice(None, "there is only one node: nothing can take over when it fails", "");
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
