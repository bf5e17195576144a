//! Settings as text again: for `SHOW CONFIG`, for the difference of two configurations, for the documentation.
//!
//! Secrets come out as `***`. Which option a line belongs to is looked up in the table of options.

use std::path::PathBuf;

use super::hba::{HbaRule, NameMatch, RuleKind};
use super::options::{self, Class};
use super::settings::{
    Auth, AuthSource, ClientTlsMode, Cluster, Consistency, Fallback, Listen, ListenAddress, ListenRole,
    LogFormat, NodeSettings, PoolMode, Settings, Split, StaticUser, TlsMode,
};
use super::units::{format_duration, format_size};

/// What stands for a secret.
const HIDDEN: &str = "***";

/// One line of `SHOW CONFIG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `pool.size`, `listen[0].role`.
    pub key: String,
    /// As it would be written, without quotes; `***` for a secret; empty for nothing.
    pub value: String,
    /// The default, likewise.
    pub default: &'static str,
    /// When a change takes effect.
    pub class: Class,
    /// What it is for.
    pub doc: &'static str,
}

/// All settings, in the order of the documentation but for repeated blocks.
pub fn show(settings: &Settings) -> Vec<Row> {
    let row = |(key, value): (String, String)| {
        let option = options::find(&key)?;
        let default = option.default.trim_matches('"');
        Some(Row { key, value, default, class: option.class, doc: option.doc })
    };
    entries(settings).into_iter().filter_map(row).collect()
}

/// Collects keys with their values.
struct Lines(Vec<(String, String)>);

impl Lines {
    #[expect(clippy::needless_pass_by_value, reason = "most values are made for the call")]
    fn put(&mut self, key: &str, value: impl ToString) {
        self.0.push((key.to_owned(), value.to_string()));
    }

    fn hide(&mut self, key: &str, is_set: bool) {
        self.put(key, if is_set { HIDDEN } else { "" });
    }

    fn path(&mut self, key: &str, path: Option<&PathBuf>) {
        self.put(key, path.map(|path| path.display().to_string()).unwrap_or_default());
    }

    fn list(&mut self, key: &str, list: &[String]) {
        self.put(key, list.join(", "));
    }
}

/// Every key with its value. Secrets are hidden, so two of them look alike here: see `diff`.
pub(super) fn entries(settings: &Settings) -> Vec<(String, String)> {
    let mut lines = Lines(Vec::new());
    lines.put("workers", settings.workers);
    cluster(&mut lines, &settings.cluster);
    auth(&mut lines, &settings.auth);
    for (index, one) in settings.listen.iter().enumerate() {
        listen(&mut lines, &format!("listen[{index}]"), one);
    }
    pool(&mut lines, settings);
    rest(&mut lines, settings);
    lines.0
}

fn cluster(lines: &mut Lines, cluster: &Cluster) {
    for (index, one) in cluster.nodes.iter().enumerate() {
        node(lines, &format!("cluster.node[{index}]"), one);
    }
    lines.put("cluster.max_lag", format_duration(cluster.max_lag));
    lines.put("cluster.max_lag_bytes", format_size(cluster.max_lag_bytes));
    let fallback = match cluster.fallback {
        Fallback::Error => "error",
        Fallback::LeastStale => "least_stale",
        Fallback::Primary => "primary",
    };
    lines.put("cluster.fallback", fallback);
    lines.put("cluster.hold_timeout", format_duration(cluster.hold_timeout));
    lines.put("cluster.max_held", cluster.max_held);
    lines.put("cluster.start_grace", format_duration(cluster.start_grace));
    lines.put("cluster.frozen_limit", format_duration(cluster.frozen_limit));
    lines.put("cluster.connect_timeout", format_duration(cluster.connect_timeout));
    lines.path("cluster.state_file", cluster.state_file.as_ref());
    let identifier = cluster.system_identifier.map(|one| one.to_string()).unwrap_or_default();
    lines.put("cluster.system_identifier", identifier);
    lines.list("cluster.fence_command", &cluster.hooks.fence_command);
    lines.list("cluster.on_promotion", &cluster.hooks.on_promotion);
    lines.put("cluster.hook_timeout", format_duration(cluster.hooks.timeout));
    lines.put("cluster.switchover.user", cluster.switchover.user.as_deref().unwrap_or_default());
    lines.hide("cluster.switchover.password", cluster.switchover.password.is_some());
    lines.put("cluster.switchover.timeout", format_duration(cluster.switchover.timeout));
    let mode = match cluster.tls.mode {
        TlsMode::Off => "off",
        TlsMode::Prefer => "prefer",
        TlsMode::Require => "require",
        TlsMode::VerifyCa => "verify-ca",
        TlsMode::VerifyFull => "verify-full",
    };
    lines.put("cluster.tls.mode", mode);
    lines.path("cluster.tls.ca", cluster.tls.ca.as_ref());
    lines.path("cluster.tls.cert", cluster.tls.cert.as_ref());
    lines.path("cluster.tls.key", cluster.tls.key.as_ref());
    lines.put("cluster.monitor.user", &cluster.monitor.user);
    lines.hide("cluster.monitor.password", cluster.monitor.password.is_some());
    lines.put("cluster.monitor.database", &cluster.monitor.database);
    lines.put("cluster.monitor.interval", format_duration(cluster.monitor.interval));
    lines.put("cluster.monitor.fast_interval", format_duration(cluster.monitor.fast_interval));
    lines.put("cluster.monitor.timeout", format_duration(cluster.monitor.timeout));
}

fn node(lines: &mut Lines, key: &str, node: &NodeSettings) {
    lines.put(&format!("{key}.address"), &node.address);
    lines.put(&format!("{key}.name"), &node.name);
    lines.put(&format!("{key}.weight"), node.weight);
    lines.put(&format!("{key}.zone"), node.zone.as_deref().unwrap_or_default());
    let replication = node.replication_address.as_deref().unwrap_or_default();
    lines.put(&format!("{key}.replication_address"), replication);
}

fn auth(lines: &mut Lines, auth: &Auth) {
    let source = match auth.source {
        AuthSource::Passthrough => "passthrough",
        AuthSource::Query => "query",
        AuthSource::Static => "static",
        AuthSource::Trust => "trust",
    };
    lines.put("auth.source", source);
    lines.put("auth.query", &auth.query);
    lines.put("auth.query_user", &auth.query_user);
    lines.hide("auth.query_password", auth.query_password.is_some());
    lines.put("auth.query_database", &auth.query_database);
    lines.put("auth.cache_size", auth.cache_size);
    lines.put("auth.cache_lifetime", format_duration(auth.cache_lifetime));
    for (index, one) in auth.users.iter().enumerate() {
        user(lines, &format!("auth.user[{index}]"), one);
    }
    for (index, one) in auth.rules.iter().enumerate() {
        rule(lines, &format!("auth.rule[{index}]"), one);
    }
}

fn user(lines: &mut Lines, key: &str, user: &StaticUser) {
    lines.put(&format!("{key}.name"), &user.name);
    let name = if user.secret.is_password() { "password" } else { "verifier" };
    lines.hide(&format!("{key}.{name}"), true);
    lines.hide(&format!("{key}.server_password"), user.server_password.is_some());
}

fn rule(lines: &mut Lines, key: &str, rule: &HbaRule) {
    let kind = match rule.kind {
        RuleKind::All => "all",
        RuleKind::Local => "local",
        RuleKind::Host => "host",
        RuleKind::HostSsl => "hostssl",
        RuleKind::HostNoSsl => "hostnossl",
    };
    let names = |list: &[NameMatch]| {
        let name = |one: &NameMatch| match one {
            NameMatch::All => "all".to_owned(),
            NameMatch::Exactly(name) => name.clone(),
            NameMatch::SameUser => "sameuser".to_owned(),
        };
        list.iter().map(name).collect::<Vec<_>>()
    };
    lines.put(&format!("{key}.type"), kind);
    lines.list(&format!("{key}.database"), &names(&rule.databases));
    lines.list(&format!("{key}.user"), &names(&rule.users));
    let address = rule.address.map_or_else(|| "all".to_owned(), |net| net.to_string());
    lines.put(&format!("{key}.address"), address);
    lines.put(&format!("{key}.method"), rule.method);
}

fn listen(lines: &mut Lines, key: &str, listen: &Listen) {
    let (ListenAddress::Tcp { port, .. } | ListenAddress::Unix { port, .. }) = &listen.address;
    lines.put(&format!("{key}.address"), &listen.address);
    lines.put(&format!("{key}.port"), port);
    let role = match listen.role {
        ListenRole::Primary => "primary",
        ListenRole::Standby => "standby",
    };
    lines.put(&format!("{key}.role"), role);
    lines.put(&format!("{key}.max_lag"), format_duration(listen.max_lag));
    let mode = match listen.tls.mode {
        ClientTlsMode::Allow => "allow",
        ClientTlsMode::Off => "off",
        ClientTlsMode::Require => "require",
    };
    lines.put(&format!("{key}.tls.mode"), mode);
    lines.path(&format!("{key}.tls.cert"), listen.tls.cert.as_ref());
    lines.path(&format!("{key}.tls.key"), listen.tls.key.as_ref());
    lines.path(&format!("{key}.tls.client_ca"), listen.tls.client_ca.as_ref());
}

fn pool(lines: &mut Lines, settings: &Settings) {
    let pool = &settings.pool;
    let mode = match pool.mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
    };
    lines.put("pool.mode", mode);
    lines.put("pool.size", pool.size);
    lines.put("pool.max_backends_per_node", pool.max_backends_per_node);
    lines.put("pool.max_clients", pool.max_clients);
    lines.put("pool.wait_timeout", format_duration(pool.wait_timeout));
    lines.put("pool.idle_timeout", format_duration(pool.idle_timeout));
    lines.put("pool.lifetime", format_duration(pool.lifetime));
    lines.put("pool.min_idle", pool.min_idle);
    lines.put("pool.reserve", pool.reserve);
    lines.put("pool.warm", pool.warm);
    lines.put("pool.max_waiters", pool.max_waiters);
    lines.put("pool.max_startup_sets", pool.max_startup_sets);
    lines.put("pool.max_connecting_per_node", pool.max_connecting_per_node);
    lines.put("pool.max_pinned", pool.max_pinned);
    lines.put("pool.pin_sequences", pool.pin_sequences);
    lines.put("pool.max_prepared", pool.max_prepared);
    lines.put("pool.reset_timeout", format_duration(pool.reset_timeout));
}

fn rest(lines: &mut Lines, settings: &Settings) {
    let Settings { route, retry, admin, log, limits, .. } = settings;
    let split = match route.split {
        Split::Auto => "auto",
        Split::Declared => "declared",
        Split::Off => "off",
    };
    lines.put("route.split", split);
    let consistency = match route.consistency {
        Consistency::Eventual => "eventual",
        Consistency::Session => "session",
    };
    lines.put("route.consistency", consistency);
    lines.put("route.freshness_wait", format_duration(route.freshness_wait));
    lines.put("route.database_suffix", &route.database_suffix);
    lines.put("route.zone", route.zone.as_deref().unwrap_or_default());
    lines.put("route.slow_start", format_duration(route.slow_start));
    lines.list("route.read_functions", &route.read_functions);
    lines.list("route.write_functions", &route.write_functions);
    lines.put("retry.reads", retry.reads);
    lines.put("retry.transactions", retry.transactions);
    lines.put("retry.transaction_size", format_size(retry.transaction_size as u64));
    lines.put("retry.resolve_commit", retry.resolve_commit);
    lines.put("retry.listen", retry.listen);
    lines.put("admin.http", admin.http.map(|one| one.to_string()).unwrap_or_default());
    lines.list("admin.users", &admin.users);
    lines.put("admin.database", &admin.database);
    lines.put("log.level", &log.level);
    lines.put("log.format", if log.format == LogFormat::Json { "json" } else { "text" });
    lines.put("limits.login_timeout", format_duration(limits.login_timeout));
    lines.put("limits.max_logins_per_address", limits.max_logins_per_address);
    lines.put("limits.max_startup_packet", format_size(limits.max_startup_packet as u64));
    lines.put("limits.drain_timeout", format_duration(limits.drain_timeout));
    lines.put("limits.client_write_timeout", format_duration(limits.client_write_timeout));
    lines.put("limits.max_prepared_bytes", format_size(limits.max_prepared_bytes as u64));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::load::parse;
    use super::super::options::OPTIONS;
    use super::super::raw::Files;
    use super::*;

    /// Shown under another name, since the settings no longer know how they were written.
    const SHOWN_ELSEWHERE: &[&str] = &[
        "cluster.nodes",
        "cluster.monitor.password_file",
        "cluster.switchover.password_file",
        "auth.query_password_file",
        "auth.user[].password_file",
        "auth.user[].server_password_file",
    ];

    struct NoFiles;

    impl Files for NoFiles {
        fn secret(&self, _: &Path) -> std::io::Result<(String, u32)> {
            Err(std::io::ErrorKind::NotFound.into())
        }

        fn readable(&self, _: &Path) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_option_is_shown_and_nothing_else() {
        let text = "[cluster]\nnodes = [\"a\", \"b\"]\n\
            [[auth.user]]\nname = \"u\"\npassword = \"hunter2\"\n\
            [[auth.user]]\nname = \"v\"\nverifier = \"md5a3556571e93b0d20722ba62be61e8c2d\"\n\
            [[auth.rule]]\naddress = \"10.0.0.0/8\"\nmethod = \"md5\"\n";
        let settings = parse(text, None, [], &NoFiles).unwrap().settings;
        let rows = show(&settings);
        assert_eq!(rows.len(), entries(&settings).len(), "a key is not in the table");
        for option in OPTIONS.iter().filter(|one| !SHOWN_ELSEWHERE.contains(&one.key)) {
            assert!(
                rows.iter().any(|row| options::shape(&row.key) == option.key),
                "{} is not shown",
                option.key
            );
        }
        let lines = rows.iter().map(|row| format!("{}={}", row.key, row.value));
        let all = lines.collect::<Vec<_>>().join("\n");
        assert!(!all.contains("hunter2") && !all.contains("a3556571"), "{all}");
        for line in ["auth.user[0].password=***", "cluster.max_lag=1s", "auth.rule[0].address=10.0.0.0/8"] {
            assert!(all.contains(line), "{line} is missing in {all}");
        }
    }

    #[test]
    fn defaults_are_shown_as_the_table_has_them() {
        for row in show(&Settings::default()).iter().filter(|row| !row.key.contains('[')) {
            let special = ["workers", "auth.query_user", "auth.query_database"].contains(&row.key.as_str());
            let lists = row.default.trim_matches(['[', ']']).replace('"', "");
            let units = row.default == "10000B" && row.value == "10000B";
            assert!(special || units || row.value == row.default || row.value == lists, "{row:?}");
        }
    }
}
