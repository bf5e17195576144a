//! One table of all options: name, default, when a change takes effect, what it is for.
//!
//! The loader knows valid names from it, `SHOW CONFIG` and `docs/configuration.md` are printed from it, and
//! tests hold `proxy.toml` and the defaults against it. It must not know how a value is used.

use std::fmt;

/// When a change of an option takes effect at a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// At once, for all sessions.
    Live,
    /// For sessions that begin after the reload.
    NewSessions,
    /// Only after a restart of the proxy.
    Restart,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::NewSessions => "new sessions",
            Self::Restart => "restart",
        })
    }
}

/// How the value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Host and port.
    Address,
    /// One of a few words.
    Choice,
    /// Number and unit of time.
    Duration,
    /// true or false.
    Flag,
    /// List of texts; from the environment separated by commas.
    List,
    /// Whole number.
    Number,
    /// File name, relative to the folder of the configuration file.
    Path,
    /// Text that is never shown.
    Secret,
    /// Number and unit of memory; kB is 1024 bytes.
    Size,
    /// Any text.
    Text,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "address",
            Self::Choice => "choice",
            Self::Duration => "duration",
            Self::Flag => "true/false",
            Self::List => "list",
            Self::Number => "number",
            Self::Path => "path",
            Self::Secret => "secret",
            Self::Size => "size",
            Self::Text => "text",
        })
    }
}

/// One option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionSpec {
    /// Dotted name; `[]` follows the name of a block that may be repeated: `auth.user[].name`.
    pub key: &'static str,
    /// How it is written.
    pub kind: Kind,
    /// As it would be written in the file; empty where there is no default and a value is needed.
    pub default: &'static str,
    /// When a change takes effect.
    pub class: Class,
    /// What it is for, in one line of Markdown.
    pub doc: &'static str,
}

const fn option(
    key: &'static str,
    kind: Kind,
    default: &'static str,
    class: Class,
    doc: &'static str,
) -> OptionSpec {
    OptionSpec { key, kind, default, class, doc }
}

/// What a dotted name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A block: `[pool]`.
    Block,
    /// Blocks that may be repeated: `[[listen]]`.
    Blocks,
    /// A value.
    Value,
    /// Nothing we know.
    Nothing,
}

/// What that name, with `[]` for any index, stands for.
pub(super) fn meaning(shape: &str) -> Meaning {
    let below = |option: &OptionSpec, mark: &str| {
        option.key.strip_prefix(shape).is_some_and(|rest| rest.starts_with(mark))
    };
    if OPTIONS.iter().any(|option| option.key == shape) {
        Meaning::Value
    } else if OPTIONS.iter().any(|option| below(option, "[].")) {
        Meaning::Blocks
    } else if OPTIONS.iter().any(|option| below(option, ".")) {
        Meaning::Block
    } else {
        Meaning::Nothing
    }
}

/// The option of that key, whose indices may be numbers: `listen[1].role`.
pub fn find(key: &str) -> Option<&'static OptionSpec> {
    let shape = shape(key);
    OPTIONS.iter().find(|option| option.key == shape)
}

/// The key without the numbers in its brackets.
pub(super) fn shape(key: &str) -> String {
    let mut inside = false;
    let keep = |one: &char| {
        inside = (inside || *one == '[') && *one != ']';
        !inside || *one == '['
    };
    key.chars().filter(keep).collect()
}

/// What to write instead of `name` inside the block `parent`: a name like it there, or the same name elsewhere.
pub(super) fn suggestion(parent: &str, name: &str) -> Option<String> {
    let prefix = if parent.is_empty() { String::new() } else { format!("{parent}.") };
    let siblings = OPTIONS.iter().filter_map(|option| option.key.strip_prefix(prefix.as_str()));
    let first_word = |rest: &'static str| rest.split(['.', '[']).next().unwrap_or(rest);
    let limit = name.chars().count().div_ceil(3).clamp(1, 3);
    let near = siblings.map(first_word).map(|other| (distance(name, other), other)).min();
    if let Some((_, other)) = near.filter(|(steps, _)| *steps <= limit) {
        return Some(format!("did you mean \"{other}\"?"));
    }
    let tail = |option: &&OptionSpec| option.key.rsplit('.').next() == Some(name);
    OPTIONS.iter().find(tail).map(|option| format!("there is \"{}\"; move it there", option.key))
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let cost = (diagonal + usize::from(x != *y)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = cost;
            left = cost;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// All options, in the order of the documentation.
#[rustfmt::skip]
pub const OPTIONS: &[OptionSpec] = &[
    option("workers", Kind::Number, "0", Class::Restart,
        "Worker threads; 0 stands for one per core."),
    option("cluster.nodes", Kind::List, "", Class::Restart,
        "The nodes as a list of addresses; the primary is discovered among them. Or one `[[cluster.node]]` each."),
    option("cluster.max_lag", Kind::Duration, "\"1s\"", Class::Live,
        "A standby further behind than this gets no reads."),
    option("cluster.max_lag_bytes", Kind::Size, "\"16MB\"", Class::Live,
        "The same in bytes of WAL."),
    option("cluster.fallback", Kind::Choice, "\"primary\"", Class::Live,
        "Where reads go when no standby qualifies: `primary`, `least_stale` or `error`."),
    option("cluster.hold_timeout", Kind::Duration, "\"30s\"", Class::Live,
        "How long work waits for a primary before it gets 57P03."),
    option("cluster.max_held", Kind::Number, "10000", Class::Live,
        "Sessions whose work or login waits for a primary, at most; one more gets 57P03 at once."),
    option("cluster.start_grace", Kind::Duration, "\"5s\"", Class::Live,
        "After a start without state file, how long a primary waits for nodes that do not answer."),
    option("cluster.frozen_limit", Kind::Duration, "\"1min\"", Class::Live,
        "How long standbys go on serving reads when nobody can be seen to write."),
    option("cluster.connect_timeout", Kind::Duration, "\"5s\"", Class::Live,
        "Time to reach a node, TLS included."),
    option("cluster.state_file", Kind::Path, "\"/var/lib/pgsteer/state\"", Class::Restart,
        "Where system identifier and highest timeline are kept over restarts; \"\" keeps nothing."),
    option("cluster.system_identifier", Kind::Text, "\"\"", Class::Restart,
        "The cluster's system identifier, to refuse any other from the first start on."),
    option("cluster.fence_command", Kind::List, "[]", Class::Live,
        "What shuts an old primary out: program and arguments, run at every promotion, in a switchover before it."),
    option("cluster.on_promotion", Kind::List, "[]", Class::Live,
        "Program and arguments run after every promotion, to let the other nodes follow the new primary."),
    option("cluster.hook_timeout", Kind::Duration, "\"30s\"", Class::Live,
        "A hook that runs for longer is killed, with all it has started."),
    option("cluster.switchover.user", Kind::Text, "\"\"", Class::Live,
        "Role that, in a switchover, closes the old primary (ALTER SYSTEM, `pg_signal_backend`) and promotes."),
    option("cluster.switchover.password", Kind::Secret, "\"\"", Class::Live,
        "Its password; by default the monitor's when the role is the same."),
    option("cluster.switchover.password_file", Kind::Path, "\"\"", Class::Live,
        "File with that password."),
    option("cluster.switchover.timeout", Kind::Duration, "\"10s\"", Class::Live,
        "How long a switchover may hold writes before it is given up; less than `hold_timeout`."),
    option("cluster.tls.mode", Kind::Choice, "\"prefer\"", Class::Restart,
        "TLS towards the nodes, as libpq's sslmode: `off`, `prefer`, `require`, `verify-ca` or `verify-full`."),
    option("cluster.tls.ca", Kind::Path, "\"\"", Class::Restart,
        "PEM file with the authorities that sign the nodes' certificates; by default the system's."),
    option("cluster.tls.cert", Kind::Path, "\"\"", Class::Restart,
        "PEM file with the certificate shown to nodes that ask for one."),
    option("cluster.tls.key", Kind::Path, "\"\"", Class::Restart,
        "PEM file with the key of that certificate."),
    option("cluster.monitor.user", Kind::Text, "\"pgsteer\"", Class::Restart,
        "Role that probes the nodes; needs LOGIN and `pg_monitor`."),
    option("cluster.monitor.password", Kind::Secret, "\"\"", Class::Restart,
        "Its password; none where the nodes trust it."),
    option("cluster.monitor.password_file", Kind::Path, "\"\"", Class::Restart,
        "File with that password."),
    option("cluster.monitor.database", Kind::Text, "\"postgres\"", Class::Restart,
        "Database it connects to."),
    option("cluster.monitor.interval", Kind::Duration, "\"100ms\"", Class::Live,
        "Time between two probes when all is well."),
    option("cluster.monitor.fast_interval", Kind::Duration, "\"20ms\"", Class::Live,
        "The same while something is wrong or somebody waits."),
    option("cluster.monitor.timeout", Kind::Duration, "\"500ms\"", Class::Live,
        "A node that is silent for longer gets no new work."),
    option("cluster.node[].address", Kind::Address, "", Class::Restart,
        "Host and port of one node (port 5432 if left out), or the directory of its unix socket."),
    option("cluster.node[].name", Kind::Text, "\"\"", Class::Restart,
        "Its name in logs, tables and metrics; by default the address."),
    option("cluster.node[].weight", Kind::Number, "100", Class::Restart,
        "Its share of the reads, 1 to 1000."),
    option("cluster.node[].zone", Kind::Text, "\"\"", Class::Restart,
        "Its availability zone, see `route.zone`."),
    option("cluster.node[].replication_address", Kind::Text, "\"\"", Class::Restart,
        "Host by which standbys know it as their sender, when that is not the host of `address`."),
    option("auth.source", Kind::Choice, "\"query\"", Class::NewSessions,
        "Where the secrets of users come from: `query`, `static` or `trust`."),
    option("auth.query", Kind::Text, "\"SELECT * FROM pgsteer.get_auth($1)\"", Class::NewSessions,
        "Statement that returns name and secret of user `$1`; `pgsteer check` prints the function."),
    option("auth.query_user", Kind::Text, "\"\"", Class::NewSessions,
        "Role that runs it; by default the monitor's."),
    option("auth.query_password", Kind::Secret, "\"\"", Class::NewSessions,
        "Its password; by default the monitor's when the role is the same."),
    option("auth.query_password_file", Kind::Path, "\"\"", Class::NewSessions,
        "File with that password."),
    option("auth.query_database", Kind::Text, "\"\"", Class::NewSessions,
        "Database it runs in; by default the monitor's."),
    option("auth.cache_size", Kind::Number, "10000", Class::Restart,
        "Secrets kept at most, for logins while no node can be asked for them."),
    option("auth.cache_lifetime", Kind::Duration, "\"5min\"", Class::NewSessions,
        "How long one may be used in that case, from the last login of its user."),
    option("auth.user[].name", Kind::Text, "", Class::NewSessions,
        "A user for `source = \"static\"`, or one the query must not see."),
    option("auth.user[].password", Kind::Secret, "\"\"", Class::NewSessions,
        "The user's password. Exactly one of this and the two that follow."),
    option("auth.user[].password_file", Kind::Path, "\"\"", Class::NewSessions,
        "File with that password."),
    option("auth.user[].verifier", Kind::Secret, "\"\"", Class::NewSessions,
        "`SCRAM-SHA-256$…` or `md5…`, as in `pg_authid`."),
    option("auth.user[].server_password", Kind::Secret, "\"\"", Class::NewSessions,
        "Password for the nodes, when it is not the one the client gives."),
    option("auth.user[].server_password_file", Kind::Path, "\"\"", Class::NewSessions,
        "File with that password."),
    option("auth.rule[].type", Kind::Choice, "\"all\"", Class::NewSessions,
        "Connections the rule is about: `all`, `local`, `host`, `hostssl` or `hostnossl`."),
    option("auth.rule[].database", Kind::List, "[\"all\"]", Class::NewSessions,
        "Databases: names, `all` or `sameuser`."),
    option("auth.rule[].user", Kind::List, "[\"all\"]", Class::NewSessions,
        "Users: names or `all`."),
    option("auth.rule[].address", Kind::Text, "\"all\"", Class::NewSessions,
        "Client addresses: `all`, an address or a network such as `10.0.0.0/8`."),
    option("auth.rule[].method", Kind::Choice, "", Class::NewSessions,
        "What the client does: `scram-sha-256`, `md5`, `password`, `cert`, `trust` or `reject`."),
    option("listen[].address", Kind::Address, "\"127.0.0.1:6432\"", Class::Restart,
        "Where clients connect: host and port, `*` for all addresses, or a directory for a unix socket."),
    option("listen[].port", Kind::Number, "6432", Class::Restart,
        "Port of a listener whose address names none; for a unix socket the number in the file's name."),
    option("listen[].role", Kind::Choice, "\"primary\"", Class::Restart,
        "`primary` routes sessions by what they declare, `standby` makes them read-only."),
    option("listen[].max_lag", Kind::Duration, "\"0s\"", Class::Restart,
        "`cluster.max_lag` for its sessions, tighter or looser; `0s` leaves it as it is."),
    option("listen[].tls.mode", Kind::Choice, "\"off\"", Class::Restart,
        "TLS towards clients: `off`, `allow` or `require`."),
    option("listen[].tls.cert", Kind::Path, "\"\"", Class::NewSessions,
        "PEM file with the certificate chain."),
    option("listen[].tls.key", Kind::Path, "\"\"", Class::NewSessions,
        "PEM file with its key."),
    option("listen[].tls.client_ca", Kind::Path, "\"\"", Class::NewSessions,
        "PEM file with the authorities that sign client certificates."),
    option("pool.mode", Kind::Choice, "\"session\"", Class::Restart,
        "How long a session keeps its backend: `session`, until the client leaves; `transaction`, until its \
         transaction ends."),
    option("pool.size", Kind::Number, "20", Class::Live,
        "Backends per node, database and user."),
    option("pool.max_backends_per_node", Kind::Number, "90", Class::Live,
        "Backends per node over all databases and users; stay below the server's `max_connections`."),
    option("pool.max_clients", Kind::Number, "10000", Class::Live,
        "Clients at once; one more gets 53300."),
    option("pool.wait_timeout", Kind::Duration, "\"30s\"", Class::Live,
        "How long a client waits for a backend before it gets 53300."),
    option("pool.idle_timeout", Kind::Duration, "\"10min\"", Class::Live,
        "A backend that nobody used for this long is closed."),
    option("pool.lifetime", Kind::Duration, "\"1h\"", Class::Live,
        "A backend older than this is not used again; with 0 every session gets a new one."),
    option("pool.min_idle", Kind::Number, "0", Class::Live,
        "Idle backends kept open in each pool in use, however long they are idle."),
    option("pool.reserve", Kind::Number, "2", Class::Live,
        "Backends of `size` and `max_backends_per_node` that reads do not get at the primary when they go there for want \
         of a standby; at most a quarter."),
    option("pool.warm", Kind::Number, "2", Class::Live,
        "Backends per pool in use kept open on every standby, so that a promotion finds them."),
    option("pool.max_waiters", Kind::Number, "10000", Class::Live,
        "Clients waiting for the same pool; one more gets 53300 at once."),
    option("pool.max_startup_sets", Kind::Number, "64", Class::Live,
        "Different sets of startup parameters kept apart per node, database and user."),
    option("pool.max_connecting_per_node", Kind::Number, "8", Class::Live,
        "Logins at one node at the same time."),
    option("pool.max_pinned", Kind::Number, "0", Class::Live,
        "Sessions per node, database and user that may keep a backend in transaction mode; 0: three quarters of \
         `size`."),
    option("pool.pin_sequences", Kind::Flag, "true", Class::NewSessions,
        "Whether `nextval` keeps a session's backend in transaction mode, so that `currval` and `lastval` find it."),
    option("pool.max_prepared", Kind::Number, "200", Class::NewSessions,
        "Prepared statements kept on each backend for all sessions, in transaction mode."),
    option("pool.reset_timeout", Kind::Duration, "\"5s\"", Class::Live,
        "A backend that is not clean after this time is closed."),
    option("route.split", Kind::Choice, "\"declared\"", Class::NewSessions,
        "What may go to a standby: `off`, `declared`, which is what the client itself calls read-only, or `auto`, \
         which is also every statement outside a transaction that only reads."),
    option("route.consistency", Kind::Choice, "\"session\"", Class::NewSessions,
        "What reads on standbys may rely on. `session`: on finding all that the session has written and read. \
            `eventual`: on the lag limits."),
    option("route.freshness_wait", Kind::Duration, "\"0s\"", Class::Live,
        "How long a read waits for a standby to get what its session has written, before the primary serves it."),
    option("route.database_suffix", Kind::Text, "\"\"", Class::NewSessions,
        "With `_ro`, the database name `app_ro` is `app`, read-only. \"\" turns it off."),
    option("route.zone", Kind::Text, "\"\"", Class::Live,
        "The proxy's own availability zone: reads go to standbys of the same `zone` while one of them serves."),
    option("route.slow_start", Kind::Duration, "\"10s\"", Class::Live,
        "How long the share of a standby grows that has just begun, or begun again, to serve reads."),
    option("route.read_functions", Kind::List, "[]", Class::Live,
        "Functions (`name` or `schema.name`) whose calls only read, whatever the catalogue says."),
    option("route.write_functions", Kind::List, "[]", Class::Live,
        "Functions whose calls go to the primary, whatever the catalogue says."),
    option("retry.reads", Kind::Flag, "true", Class::Live,
        "Run a read (`route.split` = `auto`) again elsewhere when its node was lost before any of its result was \
         delivered."),
    option("retry.transactions", Kind::Flag, "false", Class::NewSessions,
        "Run an open transaction again on the new primary when its server was lost before its COMMIT was sent. Every result \
         must equal what the client has seen; otherwise it gets 40001."),
    option("retry.transaction_size", Kind::Size, "\"64kB\"", Class::NewSessions,
        "Longest transaction that is kept to be run again: what the client has sent in it."),
    option("retry.resolve_commit", Kind::Flag, "false", Class::NewSessions,
        "Find out what became of a COMMIT whose answer was lost with the server, and of an INSERT, UPDATE, DELETE, MERGE or \
         SELECT outside a transaction. Costs these one round trip more to the server."),
    option("retry.listen", Kind::Flag, "false", Class::Live,
        "Keep sessions that LISTEN when their server is lost: the new primary listens to the same channels. Otherwise their \
         connection is closed with 57P01. Notifications sent in between are lost either way."),
    option("admin.http", Kind::Text, "\"127.0.0.1:9632\"", Class::Restart,
        "Address of `/metrics`, `/livez`, `/readyz` and `/topology`; \"\" turns it off."),
    option("admin.users", Kind::List, "[\"postgres\"]", Class::NewSessions,
        "Users who may use the console."),
    option("admin.database", Kind::Text, "\"pgsteer\"", Class::NewSessions,
        "Database name of the console."),
    option("log.level", Kind::Text, "\"info\"", Class::Live,
        "`error`, `warn`, `info`, `debug`, `trace` or `off`; or per module: `info,pgsteer::pool=debug`."),
    option("log.format", Kind::Choice, "\"text\"", Class::Restart,
        "`text` or `json`."),
    option("limits.login_timeout", Kind::Duration, "\"1min\"", Class::NewSessions,
        "From accept to the end of the login."),
    option("limits.max_logins_per_address", Kind::Number, "1000", Class::NewSessions,
        "Connections from one address that have not logged in yet."),
    option("limits.max_startup_packet", Kind::Size, "\"10000B\"", Class::NewSessions,
        "Length of a startup packet."),
    option("limits.drain_timeout", Kind::Duration, "\"30s\"", Class::Live,
        "How long a shutdown waits for transactions to finish."),
    option("limits.client_write_timeout", Kind::Duration, "\"1min\"", Class::Live,
        "A client that takes nothing of an answer for this long is cut, on the console and in transaction mode, where it \
         keeps a backend from others."),
    option("limits.max_prepared_bytes", Kind::Size, "\"1MB\"", Class::NewSessions,
        "Statement text a session keeps to prepare it again elsewhere."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_documented() {
        for (index, option) in OPTIONS.iter().enumerate() {
            assert!(OPTIONS[..index].iter().all(|other| other.key != option.key), "{} twice", option.key);
            assert!(option.doc.ends_with('.'), "{}: a sentence ends with a full stop", option.key);
        }
    }

    #[test]
    fn shapes_and_meanings() {
        assert_eq!(shape("auth.user[12].name"), "auth.user[].name");
        assert_eq!(find("listen[1].tls.mode").map(|one| one.key), Some("listen[].tls.mode"));
        assert_eq!(meaning("pool"), Meaning::Block);
        assert_eq!(meaning("listen"), Meaning::Blocks);
        assert_eq!(meaning("listen[].tls"), Meaning::Block);
        assert_eq!(meaning("cluster.nodes"), Meaning::Value);
        assert_eq!(meaning("poo"), Meaning::Nothing);
        assert_eq!(meaning(""), Meaning::Nothing);
    }

    #[test]
    fn suggestions() {
        let of = |parent, name| suggestion(parent, name).unwrap_or_default();
        assert_eq!(of("pool", "siez"), "did you mean \"size\"?");
        assert_eq!(of("", "clustr"), "did you mean \"cluster\"?");
        assert_eq!(of("listen[].tls", "certt"), "did you mean \"cert\"?");
        assert_eq!(of("cluster", "wait_timeout"), "there is \"pool.wait_timeout\"; move it there");
        assert_eq!(of("pool", "colour"), "");
        assert_eq!(of("pool", ""), "");
    }

    #[test]
    fn distances() {
        assert_eq!((distance("", ""), distance("abc", ""), distance("", "abc")), (0, 3, 3));
        assert_eq!((distance("kitten", "sitting"), distance("same", "same")), (3, 0));
    }
}
