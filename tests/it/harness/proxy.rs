//! The program under test in front of a cluster, with a configuration that each test adds to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pgsteer::demo::cluster::Cluster;
use pgsteer::demo::proxy::Proxy;
use pgsteer::demo::workspace::{HeldPorts, Workspace, free_ports};
use tokio_postgres::Config;

use super::eventually;
use super::link::Link;

/// The settings of one proxy.
#[derive(Debug, Clone)]
pub struct ProxySpec {
    nodes: Vec<(String, u16)>,
    /// More keys, per node.
    keys: Vec<String>,
    sections: BTreeMap<String, BTreeMap<String, String>>,
    tables: String,
    listener: [String; 2],
    open_files: Option<u32>,
}

impl ProxySpec {
    /// In front of all nodes of a cluster: the monitor and `auth_query` as the guide sets them up, one
    /// listener for the primary and one for standbys.
    pub fn new(cluster: &Cluster) -> Self {
        Self::to(cluster.nodes().iter().map(|node| (node.address(), node.port())).collect())
    }

    /// In front of all nodes of a cluster, each behind a link of the same index.
    pub fn behind(links: &[Link], cluster: &Cluster) -> Self {
        let pairs = links.iter().zip(cluster.nodes());
        Self::to(pairs.map(|(link, node)| (link.address(), node.port())).collect())
    }

    /// In front of any addresses; each with the port that standbys know the node by.
    pub fn to(nodes: Vec<(String, u16)>) -> Self {
        let mut spec = Self {
            keys: vec![String::new(); nodes.len()],
            nodes,
            sections: BTreeMap::new(),
            tables: String::new(),
            listener: [String::new(), String::new()],
            open_files: None,
        };
        spec.raw("cluster.tls", "{ mode = \"off\" }");
        spec.set("cluster.monitor.user", "pgsteer");
        spec.set("cluster.monitor.password", "pgsteer-secret");
        spec.raw("admin.users", "[\"postgres\"]");
        if let Ok(split) = std::env::var("PGSTEER_TEST_SPLIT") {
            spec.set("route.split", &split);
        }
        if let Some(mode) = super::pool_mode() {
            spec.set("pool.mode", &mode);
        }
        spec
    }

    /// Sets a text or duration: `set("cluster.max_lag", "500ms")`.
    pub fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.raw(key, &format!("{value:?}"))
    }

    /// Sets anything else, in TOML: `raw("pool.size", "5")`.
    pub fn raw(&mut self, key: &str, value: &str) -> &mut Self {
        let (section, key) = key.rsplit_once('.').unwrap_or(("", key));
        self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds tables in TOML, such as `[[auth.user]]` with its keys.
    pub fn tables(&mut self, text: &str) -> &mut Self {
        writeln!(self.tables, "{text}").unwrap();
        self
    }

    /// Starts it with this soft limit of open files, as a shell would.
    pub fn open_files(&mut self, limit: u32) -> &mut Self {
        self.open_files = Some(limit);
        self
    }

    /// More keys for a node, in TOML.
    pub fn node(&mut self, index: usize, text: &str) -> &mut Self {
        writeln!(self.keys[index], "{text}").unwrap();
        self
    }

    /// More keys for the first (primary) or second (standby) listener, in TOML.
    pub fn listener(&mut self, index: usize, text: &str) -> &mut Self {
        writeln!(self.listener[index], "{text}").unwrap();
        self
    }

    /// The file for these ports: primary, standby, HTTP.
    pub fn file(&self, dir: &Path, ports: &[u16]) -> String {
        let mut sections = self.sections.clone();
        let cluster = sections.entry("cluster".to_owned()).or_default();
        let state = format!("{:?}", dir.join("state").display().to_string());
        cluster.entry("state_file".to_owned()).or_insert(state);
        let admin = sections.entry("admin".to_owned()).or_default();
        admin.entry("http".to_owned()).or_insert_with(|| format!("\"127.0.0.1:{}\"", ports[2]));
        let mut text = String::new();
        // The empty name sorts first: keys that belong to no table.
        for (section, keys) in &sections {
            if !section.is_empty() {
                writeln!(text, "\n[{section}]").unwrap();
            }
            for (key, value) in keys {
                writeln!(text, "{key} = {value}").unwrap();
            }
        }
        for (index, (address, port)) in self.nodes.iter().enumerate() {
            writeln!(text, "\n[[cluster.node]]\nname = \"node{}\"\naddress = \"{address}\"", index + 1)
                .unwrap();
            if !address.ends_with(&format!(":{port}")) {
                writeln!(text, "replication_address = \"127.0.0.1:{port}\"").unwrap();
            }
            text.push_str(&self.keys[index]);
        }
        for (index, role) in ["primary", "standby"].iter().enumerate() {
            let (port, more) = (ports[index], &self.listener[index]);
            let line = format!("\n[[listen]]\naddress = \"127.0.0.1:{port}\"\nrole = \"{role}\"\n{more}");
            text.push_str(&line);
        }
        format!("{text}\n{}", self.tables)
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&self) -> TestProxy {
        let proxy = self.spawn();
        proxy.wait_ready().await.unwrap();
        proxy
    }

    /// Starts it and does not wait.
    pub fn spawn(&self) -> TestProxy {
        let workspace = Workspace::create("pgsteer-p-", None).unwrap();
        let ports = free_ports(3).unwrap();
        let text = self.file(workspace.path(), &ports);
        // Measurements are of an optimised build.
        let given = std::env::var_os("PGSTEER_PROGRAM");
        let mut program = PathBuf::from(given.unwrap_or(env!("CARGO_BIN_EXE_pgsteer").into()));
        if let Some(limit) = self.open_files {
            let script = format!("#!/bin/sh\nulimit -Sn {limit}\nexec '{}' \"$@\"\n", program.display());
            program = workspace.path().join("limited");
            std::fs::write(&program, script).unwrap();
            std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        }
        let proxy = Proxy::start(&program, workspace.path(), &text, ports[2]).unwrap();
        TestProxy { proxy, ports, workspace }
    }
}

/// A running proxy. Dereferences to [`Proxy`]. When its test fails its log is printed.
pub struct TestProxy {
    proxy: Proxy,
    ports: HeldPorts,
    workspace: Workspace,
}

impl Deref for TestProxy {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        &self.proxy
    }
}

impl TestProxy {
    /// The port of the listener for the primary.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// The port of the listener for standbys.
    pub fn standby_port(&self) -> u16 {
        self.ports[1]
    }

    /// `127.0.0.1:port` of the listener for the primary, for raw clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// The same of the listener for standbys.
    pub fn standby_address(&self) -> String {
        format!("127.0.0.1:{}", self.standby_port())
    }

    /// Its temporary folder.
    pub fn dir(&self) -> &Path {
        self.workspace.path()
    }

    /// A login of `app` for writes.
    pub fn config(&self) -> Config {
        self.login("app", "app-secret", "app")
    }

    /// A login of `app` for reads.
    pub fn standby_config(&self) -> Config {
        let mut config = self.config();
        config_port(&mut config, self.standby_port());
        config
    }

    /// Who it says is the primary.
    pub async fn primary(&self) -> serde_json::Value {
        self.topology().await.unwrap()["primary"].clone()
    }

    /// Waits until it says that this node is the primary.
    pub async fn wait_primary(&self, name: &str) {
        eventually(&format!("{name} to be the primary"), async || self.primary().await == name).await;
    }

    /// A login of the console's user.
    pub fn console_config(&self) -> Config {
        self.login("postgres", "postgres-secret", "pgsteer")
    }

    /// Any login at the listener for the primary.
    pub fn login(&self, user: &str, password: &str, database: &str) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").user(user).password(password).dbname(database);
        config_port(&mut config, self.port());
        config
    }

    /// The most memory it ever held, in kB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Writes a changed configuration to its file; takes effect at SIGHUP.
    pub fn rewrite(&self, spec: &ProxySpec) {
        self.write_config(&spec.file(self.dir(), &self.ports)).unwrap();
    }

    /// All samples of `/metrics`: the name with its labels as printed → value.
    pub async fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, body) = self.page("/metrics").await.unwrap();
        assert_eq!(status, 200, "{body}");
        let samples = body.lines().filter(|line| !line.starts_with('#'));
        samples
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// The sum over all samples of one name, whatever their labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let samples = self.metrics().await;
        let ours = |key: &&String| key.split('{').next() == Some(name);
        samples.iter().filter(|(key, _)| ours(key)).map(|(_, value)| value).sum()
    }

    /// Waits until the log holds a text.
    pub async fn logged(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), async || self.log_text().contains(text)).await;
    }

    /// Asserts that nothing has panicked and no backend was leaked, then SIGTERM and a clean exit.
    pub async fn stop(self) {
        assert!(self.is_running(), "the proxy has ended by itself:\n{}", self.log_text());
        let leaked = self.metric("pgsteer_backends_leaked_total").await;
        assert!(leaked == 0.0, "{leaked} leaked backends");
        let status = self.proxy.stop().await.unwrap();
        assert!(status.success(), "{status}:\n{}", self.log_text());
        assert!(!self.log_text().contains("panicked"), "{}", self.log_text());
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let file = std::fs::read_to_string(self.proxy.config_file()).unwrap_or_default();
            eprintln!("---- proxy.toml\n{file}\n---- log of the proxy\n{}", self.proxy.log_text());
        }
    }
}

/// `Config::port` adds a port; here it is replaced.
fn config_port(config: &mut Config, port: u16) {
    let mut fresh = Config::new();
    fresh.host("127.0.0.1").port(port);
    fresh.user(config.get_user().unwrap_or("app")).dbname(config.get_dbname().unwrap_or("app"));
    fresh.password(config.get_password().unwrap_or_default());
    *config = fresh;
}
