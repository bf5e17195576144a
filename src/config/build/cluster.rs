//! `[cluster]` with its nodes, TLS and monitor.

use std::path::PathBuf;
use std::time::Duration;

use super::super::problem::Place;
use super::super::raw::Section;
use super::super::settings::{
    Cluster, Fallback, Hooks, Monitor, NodeAddress, NodeSettings, ServerTls, Switchover, TlsMode,
};
use super::super::units::{format_duration, parse_node_address};
use super::{WAIT, WAIT_OR_NONE};

/// Nodes of a cluster; each has a prober and a row in every table.
const MAX_NODES: usize = 64;
/// As long as a name in PostgreSQL.
const MAX_NAME: usize = 63;

pub(super) fn build(cluster: &Section<'_>) -> Cluster {
    let d = Cluster::default();
    let fallbacks =
        [("primary", Fallback::Primary), ("least_stale", Fallback::LeastStale), ("error", Fallback::Error)];
    let monitor = monitor(&cluster.block("monitor"));
    let hold_timeout = cluster.duration("hold_timeout", d.hold_timeout, WAIT_OR_NONE);
    Cluster {
        nodes: nodes(cluster),
        max_lag: cluster.duration("max_lag", d.max_lag, WAIT_OR_NONE),
        max_lag_bytes: cluster.size("max_lag_bytes", d.max_lag_bytes, 0..=1 << 50),
        fallback: cluster.choice("fallback", d.fallback, &fallbacks),
        hold_timeout,
        max_held: cluster.number("max_held", d.max_held, 0..=1_000_000),
        start_grace: cluster.duration("start_grace", d.start_grace, WAIT_OR_NONE),
        frozen_limit: cluster.duration("frozen_limit", d.frozen_limit, WAIT_OR_NONE),
        state_file: state_file(cluster, d.state_file),
        system_identifier: system_identifier(cluster),
        tls: tls(&cluster.block("tls")),
        connect_timeout: cluster.duration("connect_timeout", d.connect_timeout, WAIT),
        hooks: hooks(cluster),
        switchover: switchover(&cluster.block("switchover"), &monitor, hold_timeout),
        monitor,
    }
}

fn state_file(cluster: &Section<'_>, default: Option<PathBuf>) -> Option<PathBuf> {
    if cluster.has("state_file") { cluster.path("state_file") } else { default }
}

fn system_identifier(cluster: &Section<'_>) -> Option<u64> {
    // 64 bits do not fit into a TOML integer, so it is text; that of `SHOW NODES` can be pasted.
    cluster.parsed("system_identifier", |text| {
        let wrong =
            || format!("\"{text}\" is not a number; paste what pg_controldata or pgsteer check shows");
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| wrong()) }
    })?
}

fn nodes(cluster: &Section<'_>) -> Vec<NodeSettings> {
    let mut nodes: Vec<NodeSettings> = Vec::new();
    let list = cluster.list("nodes");
    // The environment overrides the file in whatever form the file has them.
    let place = cluster.find("nodes").map(|found| found.place);
    let from_environment = place == Some(Place::Environment);
    if list.is_some() && cluster.has("node") && !from_environment {
        cluster.error("nodes", "and [[cluster.node]] are both given; keep one of them");
    }
    for (place, text) in list.iter().flatten() {
        match parse_node_address(text) {
            Ok(address) => add(&mut nodes, NodeSettings::new(address), |wrong| {
                cluster.context.problems.error(place.clone(), "cluster.nodes", wrong);
            }),
            Err(wrong) => cluster.context.problems.error(place.clone(), "cluster.nodes", wrong),
        }
    }
    if !from_environment {
        for block in cluster.blocks("node") {
            if let Some(found) = node(&block) {
                add(&mut nodes, found, |wrong| block.error("address", wrong));
            }
        }
    }
    if list.as_ref().is_none_or(Vec::is_empty) && cluster.blocks("node").is_empty() {
        let example = "nodes = [\"192.168.1.100:5432\", \"192.168.1.101:5432\"]";
        cluster.error("nodes", format!("is missing; list the servers below [cluster]: {example}"));
    }
    if nodes.len() > MAX_NODES {
        cluster.error("nodes", format!("are {}; at most {MAX_NODES} are watched", nodes.len()));
    }
    nodes
}

fn add(nodes: &mut Vec<NodeSettings>, node: NodeSettings, error: impl Fn(String)) {
    if nodes.iter().any(|other| other.address == node.address) {
        error(format!("{} is listed twice; remove one", node.address));
    } else if nodes.iter().any(|other| other.name == node.name) {
        error(format!("the name \"{}\" is used twice; give each node its own", node.name));
    } else {
        nodes.push(node);
    }
}

fn node(block: &Section<'_>) -> Option<NodeSettings> {
    if !block.has("address") {
        block.error("address", "is missing; write address = \"host:5432\"");
    }
    let weight = block.number("weight", 100, 1..=1000);
    let name = block.some_text("name");
    if name.as_ref().is_some_and(|name| name.len() > MAX_NAME || name.contains(char::is_control)) {
        block
            .error("name", format!("is not a name; write up to {MAX_NAME} bytes without control characters"));
    }
    let (zone, replication_address) = (block.some_text("zone"), block.some_text("replication_address"));
    let address: NodeAddress = block.parsed("address", parse_node_address)?;
    let name = name.unwrap_or_else(|| address.to_string());
    let weight = u32::try_from(weight).unwrap_or(u32::MAX);
    Some(NodeSettings { address, name, weight, zone, replication_address })
}

fn tls(tls: &Section<'_>) -> ServerTls {
    let modes = [
        ("off", TlsMode::Off),
        ("prefer", TlsMode::Prefer),
        ("require", TlsMode::Require),
        ("verify-ca", TlsMode::VerifyCa),
        ("verify-full", TlsMode::VerifyFull),
    ];
    let built = ServerTls {
        mode: tls.choice("mode", ServerTls::default().mode, &modes),
        ca: tls.readable("ca"),
        cert: tls.readable("cert"),
        key: tls.readable("key"),
    };
    both_or_none(tls, built.cert.is_some(), built.key.is_some());
    if built.ca.is_some() && !matches!(built.mode, TlsMode::VerifyCa | TlsMode::VerifyFull) {
        let todo = "write mode = \"verify-full\" or \"verify-ca\"";
        tls.warning("ca", format!("is not used: the mode checks no certificate; {todo}"));
    }
    built
}

/// A certificate is of no use without its key.
pub(super) fn both_or_none(tls: &Section<'_>, cert: bool, key: bool) {
    if cert && !key {
        tls.error("cert", "has no key; add key = \"FILE\" with its private key");
    }
    if key && !cert {
        tls.error("key", "has no cert; add cert = \"FILE\" with its certificate");
    }
}

fn hooks(cluster: &Section<'_>) -> Hooks {
    let command = |name| {
        let command = cluster.texts(name, &[]);
        if command.first().is_some_and(String::is_empty) {
            cluster.error(name, "has no program; write [\"/path/of/it\", \"argument\"]");
        }
        command
    };
    Hooks {
        fence_command: command("fence_command"),
        on_promotion: command("on_promotion"),
        timeout: cluster.duration("hook_timeout", Hooks::default().timeout, WAIT),
    }
}

fn switchover(switchover: &Section<'_>, monitor: &Monitor, hold_timeout: Duration) -> Switchover {
    let user = switchover.some_text("user");
    let password = switchover.secret("password");
    if user.is_none() && password.is_some() {
        switchover.error("password", "has no user; add user = \"NAME\"");
    }
    let same = user.as_ref() == Some(&monitor.user);
    let password = password.or_else(|| monitor.password.clone().filter(|_| same));
    let timeout = switchover.duration("timeout", Switchover::default().timeout, WAIT);
    if timeout >= hold_timeout && switchover.has("timeout") {
        let hold = format_duration(hold_timeout);
        let text = format!("must be less than hold_timeout, which is {hold}: held work would fail first");
        switchover.error("timeout", text);
    }
    Switchover { user, password, timeout }
}

fn monitor(monitor: &Section<'_>) -> Monitor {
    let d = Monitor::default();
    let built = Monitor {
        user: monitor.text_or("user", &d.user),
        password: monitor.secret("password"),
        database: monitor.text_or("database", &d.database),
        interval: monitor.duration("interval", d.interval, WAIT),
        fast_interval: monitor.duration("fast_interval", d.fast_interval, WAIT),
        timeout: monitor.duration("timeout", d.timeout, WAIT),
    };
    if built.fast_interval > built.interval {
        let (fast, calm) = (format_duration(built.fast_interval), format_duration(built.interval));
        if monitor.has("fast_interval") {
            monitor.error(
                "fast_interval",
                format!("is {fast}, slower than interval, which is {calm}; lower it"),
            );
        } else {
            monitor.error(
                "interval",
                format!("is {calm}, faster than fast_interval, which is {fast}; lower that too"),
            );
        }
    }
    built
}
