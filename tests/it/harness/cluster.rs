//! Clusters for tests, copied from one template, so that a primary with two standbys is up in about a second.

use std::ops::Deref;
use std::sync::Arc;

use futures_util::future::try_join_all;
use pgsteer::demo::cluster::{Cluster, Spec};
use pgsteer::demo::error::DemoError;
use pgsteer::demo::node::{Node, Stop};
use pgsteer::demo::programs::{Programs, run};
use pgsteer::demo::setup::Logins;
use pgsteer::demo::steps::Steps;
use tokio::process::Command;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

/// How many clusters live at once: each is some 20 processes, and there are two cores.
static ROOM: Semaphore = Semaphore::const_new(3);

static TEMPLATE: OnceCell<Template> = OnceCell::const_new();

/// A stopped primary (node 0) and a stopped standby of it (node 1); removed by its guard at exit.
struct Template {
    cluster: Cluster,
    programs: Arc<Programs>,
}

/// A running cluster; node 0 is the primary at first. Dereferences to [`Cluster`].
pub struct TestCluster {
    cluster: Cluster,
    _room: SemaphorePermit<'static>,
}

impl Deref for TestCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl TestCluster {
    /// The node with this index, 0 being the primary at first.
    pub fn n(&self, index: usize) -> &Node {
        &self.cluster.nodes()[index]
    }

    /// Kills the primary, promotes the standby with the given index and repoints the others.
    pub async fn fail_over(&self, from: usize, to: usize) {
        self.n(from).kill().unwrap();
        self.n(to).promote_and_wait(pgsteer::demo::node::Promote::PgCtl).await.unwrap();
        for (index, node) in self.nodes().iter().enumerate() {
            if index != from && index != to {
                self.repoint(node, self.n(to)).await.unwrap();
            }
        }
    }
}

/// The programs of this machine.
pub async fn programs() -> Arc<Programs> {
    Arc::clone(&template().await.programs)
}

/// A primary with that many standbys, all streaming.
pub async fn cluster(standbys: usize) -> TestCluster {
    cluster_with(Spec::new(standbys, Logins::fixed())).await
}

/// The same with settings of its own.
pub async fn cluster_with(spec: Spec) -> TestCluster {
    let template = template().await;
    let room = ROOM.acquire().await.unwrap();
    let cluster = copy(template, &spec).await.unwrap();
    TestCluster { cluster, _room: room }
}

/// A cluster with another system identifier.
pub async fn stranger() -> TestCluster {
    let programs = programs().await;
    let room = ROOM.acquire().await.unwrap();
    let cluster = Cluster::create(&programs, spec(0), Steps::Silent).await.unwrap();
    TestCluster { cluster, _room: room }
}

fn spec(standbys: usize) -> Spec {
    // Small segments: sixteen times less to copy.
    let initdb = vec!["--wal-segsize=1".to_owned()];
    Spec { initdb, prefix: "pgsteer-t-".to_owned(), ..Spec::new(standbys, Logins::fixed()) }
}

async fn template() -> &'static Template {
    TEMPLATE
        .get_or_init(async || {
            let bindir = std::env::var_os("PGSTEER_PGBIN");
            let programs = Arc::new(Programs::find(bindir.as_deref().map(AsRef::as_ref)).await.unwrap());
            let cluster = Cluster::create(&programs, spec(1), Steps::Silent).await.unwrap();
            // The primary first: it hands everything to the standby before it ends.
            for node in cluster.nodes() {
                node.stop(Stop::Fast).await.unwrap();
            }
            Template { cluster, programs }
        })
        .await
}

async fn copy(template: &Template, spec: &Spec) -> Result<Cluster, DemoError> {
    let spec = Spec { prefix: "pgsteer-t-".to_owned(), ..spec.clone() };
    let cluster = Cluster::plan(&template.programs, &spec)?;
    let primary = cluster.node(0)?;
    try_join_all(cluster.nodes().iter().enumerate().map(async |(index, node)| {
        let from = template.cluster.node(index.min(1))?;
        let mut command = Command::new("cp");
        command.args(["-a", "--reflink=auto"]).arg(from.data()).arg(node.data());
        run(command, "cp").await?;
        node.write_config()?;
        if index > 0 {
            node.write_standby(&cluster.conninfo(primary, node))?;
        }
        node.start().await
    }))
    .await?;
    try_join_all(cluster.nodes().iter().skip(1).map(|node| cluster.wait_streaming(node, primary))).await?;
    Ok(cluster)
}
