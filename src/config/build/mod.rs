//! Values as written in, typed and cross-checked settings out.
//!
//! Each block is built by one function that notes what is wrong and goes on with the default. Contradictions
//! between blocks are looked for at the end.

mod auth;
mod cluster;
mod functions;
mod listen;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::defaults::default_workers;
use super::raw::Section;
use super::settings::{
    Admin, Consistency, Limits, Log, LogFormat, Pool, PoolMode, Retry, Route, Settings, Split,
};

/// Durations that end on a timer: long enough to be meant, short enough to be added to a clock.
const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(365 * 24);
/// The same for what may be switched off by 0.
const WAIT_OR_NONE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(365 * 24);
/// Threads, far beyond any machine this makes sense on.
const MAX_WORKERS: usize = 1024;
/// Sockets that one process can have.
const MAX_CONNECTIONS: usize = 1_000_000;
/// PostgreSQL takes packets of up to 10 000 bytes before login; a packet holds at least length and version.
/// Bytes of a transaction that is kept: one statement at least, and not so many that thousands of sessions exhaust the host.
const TRANSACTION_SIZE: RangeInclusive<u64> = 1024..=64 << 20;
const STARTUP_PACKET: RangeInclusive<u64> = 64..=65_536;

pub(super) fn settings(root: &Section<'_>, source: Option<PathBuf>) -> Settings {
    let workers = match root.number("workers", 0, 0..=MAX_WORKERS) {
        0 => default_workers(),
        count => count,
    };
    let cluster = cluster::build(&root.block("cluster"));
    let settings = Settings {
        workers,
        auth: auth::build(&root.block("auth"), &cluster.monitor),
        cluster,
        listen: listen::build(root),
        pool: pool(&root.block("pool")),
        route: route(&root.block("route")),
        retry: retry(&root.block("retry")),
        admin: admin(&root.block("admin")),
        log: log(&root.block("log")),
        limits: limits(&root.block("limits")),
        source,
    };
    auth::needs(&root.block("auth"), &settings);
    let zone = &settings.route.zone;
    if zone.is_some() && settings.cluster.nodes.iter().all(|node| node.zone != *zone) {
        root.block("route").warning("zone", "is the zone of no node; give it to one in [[cluster.node]]");
    }
    settings
}

/// Says that a value belongs to a later version. It must not be taken silently.
fn not_yet(section: &Section<'_>, name: &str, what: &str, instead: &str) {
    section.error(name, format!("{what} is not available in this version; {instead}"));
}

fn pool(pool: &Section<'_>) -> Pool {
    let d = Pool::default();
    let mode = pool.choice(
        "mode",
        d.mode,
        &[("session", PoolMode::Session), ("transaction", PoolMode::Transaction)],
    );
    let built = Pool {
        mode,
        size: pool.number("size", d.size, 1..=MAX_CONNECTIONS),
        max_backends_per_node: pool.number(
            "max_backends_per_node",
            d.max_backends_per_node,
            1..=MAX_CONNECTIONS,
        ),
        max_clients: pool.number("max_clients", d.max_clients, 1..=MAX_CONNECTIONS),
        wait_timeout: pool.duration("wait_timeout", d.wait_timeout, WAIT),
        idle_timeout: pool.duration("idle_timeout", d.idle_timeout, WAIT),
        lifetime: pool.duration("lifetime", d.lifetime, WAIT_OR_NONE),
        min_idle: pool.number("min_idle", d.min_idle, 0..=MAX_CONNECTIONS),
        reserve: pool.number("reserve", d.reserve, 0..=MAX_CONNECTIONS),
        warm: pool.number("warm", d.warm, 0..=1000),
        max_waiters: pool.number("max_waiters", d.max_waiters, 0..=MAX_CONNECTIONS),
        max_startup_sets: pool.number("max_startup_sets", d.max_startup_sets, 1..=10_000),
        max_connecting_per_node: pool.number("max_connecting_per_node", d.max_connecting_per_node, 1..=1000),
        reset_timeout: pool.duration("reset_timeout", d.reset_timeout, WAIT),
        max_pinned: pool.number("max_pinned", d.max_pinned, 0..=MAX_CONNECTIONS),
        pin_sequences: pool.flag("pin_sequences", d.pin_sequences),
        max_prepared: pool.number("max_prepared", d.max_prepared, 1..=100_000),
    };
    pool_fits(pool, &built);
    // A small pool is no reason to ask for two lines.
    Pool { warm: built.warm.min(built.size), ..built }
}

fn pool_fits(pool: &Section<'_>, built: &Pool) {
    if built.size > built.max_backends_per_node {
        let most = built.max_backends_per_node;
        let text = format!(
            "is {}, but a node gets at most {most} backends (pool.max_backends_per_node); raise that or lower this",
            built.size
        );
        pool.error("size", text);
    }
    for (name, value) in [("warm", built.warm), ("min_idle", built.min_idle)] {
        if value > built.size && pool.has(name) {
            let text = format!("is {value}, more than a pool may hold (pool.size is {})", built.size);
            pool.error(name, format!("{text}; lower it"));
        }
    }
}

fn route(route: &Section<'_>) -> Route {
    let d = Route::default();
    let splits = [("off", Split::Off), ("declared", Split::Declared), ("auto", Split::Auto)];
    let split = route.choice("split", d.split, &splits);
    let levels = [("eventual", Consistency::Eventual), ("session", Consistency::Session)];
    let consistency = route.choice("consistency", d.consistency, &levels);
    let (read_functions, write_functions) = functions::functions(route);
    Route {
        split,
        consistency,
        freshness_wait: route.duration("freshness_wait", d.freshness_wait, WAIT_OR_NONE),
        database_suffix: route.text("database_suffix").unwrap_or(d.database_suffix),
        zone: route.some_text("zone"),
        slow_start: route.duration("slow_start", d.slow_start, WAIT_OR_NONE),
        read_functions,
        write_functions,
    }
}

fn retry(retry: &Section<'_>) -> Retry {
    let d = Retry::default();
    Retry {
        reads: retry.flag("reads", d.reads),
        transactions: retry.flag("transactions", d.transactions),
        transaction_size: usize::try_from(retry.size(
            "transaction_size",
            d.transaction_size as u64,
            TRANSACTION_SIZE,
        ))
        .unwrap_or(d.transaction_size),
        resolve_commit: retry.flag("resolve_commit", d.resolve_commit),
        listen: retry.flag("listen", d.listen),
    }
}

fn admin(admin: &Section<'_>) -> Admin {
    let d = Admin::default();
    let http = match admin.text("http") {
        None => d.http,
        Some(text) if text.is_empty() => None,
        Some(text) => text.parse::<SocketAddr>().map_or_else(
            |_| {
                let example = "\"127.0.0.1:9632\" or \"[::]:9632\", or \"\" to turn it off";
                admin.error(
                    "http",
                    format!("\"{text}\" is not an IP address with a port; write it like {example}"),
                );
                d.http
            },
            Some,
        ),
    };
    Admin { http, users: admin.texts("users", &d.users), database: admin.text_or("database", &d.database) }
}

fn log(log: &Section<'_>) -> Log {
    let d = Log::default();
    let level = log.parsed("level", |text| {
        let wrong = || {
            let levels = "\"error\", \"warn\", \"info\", \"debug\", \"trace\" or \"off\"";
            format!("\"{text}\" is not a level; write {levels}, or add modules: \"info,pgsteer::pool=debug\"")
        };
        text.split(',').all(is_directive).then(|| text.to_owned()).ok_or_else(wrong)
    });
    Log {
        level: level.unwrap_or(d.level),
        format: log.choice("format", d.format, &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
    }
}

/// `level` or `module=level`.
fn is_directive(text: &str) -> bool {
    let level =
        text.split_once('=').map_or(text, |(module, level)| if module.is_empty() { "" } else { level });
    ["off", "error", "warn", "info", "debug", "trace"].contains(&level.trim().to_ascii_lowercase().as_str())
}

fn limits(limits: &Section<'_>) -> Limits {
    let d = Limits::default();
    let bytes = |name, default: usize, range| {
        usize::try_from(limits.size(name, default as u64, range)).unwrap_or(default)
    };
    Limits {
        login_timeout: limits.duration("login_timeout", d.login_timeout, WAIT),
        max_logins_per_address: limits.number(
            "max_logins_per_address",
            d.max_logins_per_address,
            1..=MAX_CONNECTIONS,
        ),
        max_startup_packet: bytes("max_startup_packet", d.max_startup_packet, STARTUP_PACKET),
        drain_timeout: limits.duration("drain_timeout", d.drain_timeout, WAIT_OR_NONE),
        client_write_timeout: limits.duration("client_write_timeout", d.client_write_timeout, WAIT),
        max_prepared_bytes: bytes("max_prepared_bytes", d.max_prepared_bytes, 0..=1 << 30),
    }
}
