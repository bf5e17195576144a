//! A primary and its hot standbys, made by the streaming-replication recipe, and what operators do to them.
//! In: programs and a specification. Out: running nodes. Used by `pgsteer demo` and by the integration
//! tests alike; knows nothing of the proxy.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::error::DemoError;
use super::node::{Node, quoted};
use super::programs::{Programs, run};
use super::setup::{APP_DATABASE_SQL, Logins, RECIPE, THROW_AWAY};
use super::steps::Steps;
use super::wait::until;
use super::workspace::{HeldPorts, Workspace, free_ports};

/// How long replication may take to get going: a walreceiver looks for its source each 0.1 s.
const REPLICATION_LIMIT: Duration = Duration::from_secs(30);

/// What to build.
#[derive(Debug, Clone)]
pub struct Spec {
    /// How many standbys stand beside the primary.
    pub standbys: usize,
    /// Passwords of the roles.
    pub logins: Logins,
    /// Settings beyond the recipe's, for every node.
    pub settings: Vec<(String, String)>,
    /// More arguments for initdb.
    pub initdb: Vec<String>,
    /// Beginning of the temporary folder's name.
    pub prefix: String,
}

impl Spec {
    /// A throw-away cluster with that many standbys.
    pub fn new(standbys: usize, logins: Logins) -> Self {
        Self { standbys, logins, settings: Vec::new(), initdb: Vec::new(), prefix: "pgsteer-".to_owned() }
    }

    /// All settings of a node: recipe, throw-away, own.
    pub fn node_settings(&self) -> Vec<(String, String)> {
        let fixed = RECIPE.iter().chain(THROW_AWAY.iter()).map(|&(name, value)| (name.into(), value.into()));
        fixed.chain(self.settings.iter().cloned()).collect()
    }
}

/// How a lost primary came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejoin {
    /// `pg_rewind` took its own branch back.
    Rewound,
    /// A new base backup; why `pg_rewind` was not used.
    BaseBackup(String),
}

/// Servers in one temporary folder; all end and the folder goes when this value does.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: servers first.
    nodes: Vec<Node>,
    logins: Logins,
    programs: Arc<Programs>,
    workspace: Workspace,
    _ports: HeldPorts,
}

impl Cluster {
    /// Builds primary and standbys from nothing: node 0 is the primary.
    pub async fn create(programs: &Arc<Programs>, spec: Spec, steps: Steps) -> Result<Self, DemoError> {
        let cluster = Self::plan(programs, &spec)?;
        let primary = cluster.node(0)?;
        let text = format!("initdb for {} (PostgreSQL {})", primary.name(), programs.version);
        steps.step(&text, cluster.initdb(primary, &spec.initdb)).await?;
        steps.step("starting the primary, making roles", cluster.first_start(primary)).await?;
        let standbys = cluster.nodes.iter().skip(1).map(|standby| async {
            let name = standby.name();
            steps.step(&format!("pg_basebackup for {name}"), cluster.base_backup(standby, primary)).await?;
            steps.step(&format!("starting {name} as hot standby"), cluster.join(standby, primary)).await
        });
        if steps.is_terminal() {
            // One after the other: each has its line.
            for standby in standbys {
                standby.await?;
            }
        } else {
            try_join_all(standbys).await?;
        }
        Ok(cluster)
    }

    /// Folder, ports and names, but no files and no servers yet: for building from a template.
    pub fn plan(programs: &Arc<Programs>, spec: &Spec) -> Result<Self, DemoError> {
        let workspace = Workspace::create(&spec.prefix, programs.account.as_ref())?;
        let ports = free_ports(spec.standbys + 1)?;
        let settings = spec.node_settings();
        let node = |(i, port): (usize, &u16)| {
            let name = format!("node{}", i + 1);
            let socket_dir = workspace.socket_dir();
            Node::new(&name, workspace.path(), &socket_dir, *port, programs, settings.clone())
        };
        Ok(Self {
            nodes: ports.iter().enumerate().map(node).collect(),
            logins: spec.logins.clone(),
            programs: Arc::clone(programs),
            workspace,
            _ports: ports,
        })
    }

    /// Its nodes; the index is fixed, the roles are not.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, index: usize) -> Result<&Node, DemoError> {
        let none = || DemoError::Setup(format!("there is no node {index} in this cluster"));
        self.nodes.get(index).ok_or_else(none)
    }

    /// Passwords of its roles.
    pub fn logins(&self) -> &Logins {
        &self.logins
    }

    /// The programs it runs.
    pub fn programs(&self) -> &Arc<Programs> {
        &self.programs
    }

    /// Its temporary folder.
    pub fn path(&self) -> &Path {
        self.workspace.path()
    }

    /// Servers and folder outlive this value.
    pub fn keep(mut self) {
        for node in &self.nodes {
            node.let_go();
        }
        self.workspace.keep();
    }

    // ---- building ---------------------------------------------------------------------------------

    async fn initdb(&self, node: &Node, more: &[String]) -> Result<(), DemoError> {
        let mut command = self.programs.command("initdb");
        command.arg("-D").arg(node.data());
        command.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]).args(more);
        run(command, "initdb").await?;
        node.write_config()
    }

    async fn first_start(&self, primary: &Node) -> Result<(), DemoError> {
        primary.start().await?;
        let mut sql = primary.sql().await?;
        sql.run(&self.logins.roles_sql()).await?;
        sql.run(APP_DATABASE_SQL).await
    }

    /// `pg_basebackup -Xs -P -R` from the primary as the replication role. Without a slot: with one it would count as a
    /// synchronous standby, and acknowledge commits that it may never finish.
    pub async fn base_backup(&self, standby: &Node, primary: &Node) -> Result<(), DemoError> {
        let mut command = self.programs.command("pg_basebackup");
        command.arg("-D").arg(standby.data()).arg("-d").arg(self.conninfo(primary, standby));
        command.args(["-Xs", "-P", "-R", "--checkpoint=fast", "--no-sync", "--no-slot"]);
        run(command, "pg_basebackup").await.map(drop)
    }

    /// Starts a node that has been made a standby and waits until it streams.
    pub async fn join(&self, standby: &Node, primary: &Node) -> Result<(), DemoError> {
        standby.write_config()?;
        standby.start().await?;
        self.wait_streaming(standby, primary).await
    }

    /// Where a standby streams from, as `primary_conninfo` wants it.
    pub fn conninfo(&self, primary: &Node, standby: &Node) -> String {
        format!(
            "host=127.0.0.1 port={} user=replicator password={} application_name={}",
            primary.port(),
            self.logins.replicator,
            standby.name()
        )
    }

    // ---- operators' work --------------------------------------------------------------------------

    /// Waits until a standby receives from that node, on whatever timeline.
    pub async fn wait_streaming(&self, standby: &Node, primary: &Node) -> Result<(), DemoError> {
        let sql = "SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        let streaming = standby.wait_for(sql, &primary.port().to_string(), REPLICATION_LIMIT).await;
        streaming.map_err(|error| standby.complain(&error.to_string()))
    }

    /// Waits until a standby has replayed everything the primary has written by now.
    pub async fn wait_caught_up(&self, standby: &Node, primary: &Node) -> Result<(), DemoError> {
        let lsn = primary.one("SELECT pg_current_wal_flush_lsn()").await?;
        let sql = format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{lsn}', false)");
        standby.wait_for(&sql, "t", REPLICATION_LIMIT).await
    }

    /// Makes a running standby follow another node and waits until it does.
    pub async fn repoint(&self, standby: &Node, primary: &Node) -> Result<(), DemoError> {
        standby.repoint(&self.conninfo(primary, standby)).await?;
        self.wait_streaming(standby, primary).await
    }

    /// Commits on `primary` wait for one standby from now on (`Some("ANY 1 (*)")`), or for none.
    pub async fn set_synchronous(&self, primary: &Node, names: Option<&str>) -> Result<(), DemoError> {
        let names = names.unwrap_or_default();
        let mut sql = primary.sql().await?;
        sql.run(&format!("ALTER SYSTEM SET synchronous_standby_names = {}", quoted(names))).await?;
        sql.run("SELECT pg_reload_conf()").await?;
        if names.is_empty() {
            return Ok(());
        }
        let counted = "SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')";
        primary.wait_for(counted, "t", REPLICATION_LIMIT).await
    }

    /// Which of the nodes has received most: the one to promote, since no acknowledged write is missing there.
    pub async fn most_advanced<'a>(&self, standbys: &[&'a Node]) -> Result<&'a Node, DemoError> {
        let positions = try_join_all(standbys.iter().map(|node| node.wal_position())).await?;
        let best = positions.into_iter().zip(standbys).rev().max_by_key(|(position, _)| *position);
        best.map(|(_, node)| *node)
            .ok_or_else(|| DemoError::Setup("there is no standby to promote".to_owned()))
    }

    /// Brings a stopped or dead node back as a standby of `primary`: `pg_rewind`, else a new base backup.
    pub async fn rejoin(&self, lost: &Node, primary: &Node) -> Result<Rejoin, DemoError> {
        lost.wait_gone().await?;
        // pg_rewind reads the source's timeline from its control file: old until a checkpoint has ended.
        primary.sql().await?.run("CHECKPOINT").await?;
        let how = match self.rewind(lost, primary).await {
            Ok(()) => Rejoin::Rewound,
            Err(error) => {
                std::fs::remove_dir_all(lost.data())
                    .map_err(DemoError::io(format!("removing the data of {}", lost.name())))?;
                self.base_backup(lost, primary).await?;
                Rejoin::BaseBackup(error.to_string())
            }
        };
        lost.write_standby(&self.conninfo(primary, lost))?;
        self.join(lost, primary).await?;
        Ok(how)
    }

    async fn rewind(&self, lost: &Node, primary: &Node) -> Result<(), DemoError> {
        if self.programs.pg_rewind.is_none() {
            return Err(DemoError::Setup("there is no pg_rewind".to_owned()));
        }
        let source = format!(
            "host={} port={} user=postgres dbname=postgres",
            primary.socket_dir().display(),
            primary.port()
        );
        let mut command = self.programs.command("pg_rewind");
        command.arg("-D").arg(lost.data()).arg("--source-server").arg(source).arg("--no-sync");
        run(command, "pg_rewind").await.map(drop)
    }

    /// Ends all servers (fast shutdown, standbys' source first) and removes the folder.
    pub async fn stop(self) -> Result<(), DemoError> {
        for node in &self.nodes {
            node.thaw()?;
            node.ask_to_stop(super::node::Stop::Fast)?;
        }
        try_join_all(self.nodes.iter().map(Node::wait_exit)).await?;
        until("the servers' processes to go", REPLICATION_LIMIT, async || {
            Ok(self.nodes.iter().all(|node| node.processes().is_empty()).then_some(()))
        })
        .await
    }
}
