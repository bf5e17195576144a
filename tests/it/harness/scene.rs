//! A cluster with the proxy in front: where most tests begin.

use std::time::Duration;

use pgsteer::demo::cluster::Spec;
use pgsteer::demo::node::Promote;
use pgsteer::demo::setup::Logins;
use serde_json::Value;
use tokio::time::Instant;

use super::cluster::{TestCluster, cluster_with};
use super::link::Link;
use super::oracle::Oracle;
use super::proxy::{ProxySpec, TestProxy};
use super::{eventually, raw::Raw};

/// Dropped in this order: the proxy first, so that it never sees its cluster go.
pub struct Scene {
    /// The program under test.
    pub proxy: TestProxy,
    /// One link per node, when the scene was made with links.
    pub links: Vec<Link>,
    /// What it stands in front of.
    pub cluster: TestCluster,
}

/// A primary with that many standbys and a proxy whose settings `adapt` may change.
pub async fn scene(standbys: usize, adapt: impl FnOnce(&mut ProxySpec)) -> Scene {
    scene_of(cluster_with(Spec::new(standbys, Logins::fixed())).await, adapt).await
}

/// The same in front of a cluster that is there.
pub async fn scene_of(cluster: TestCluster, adapt: impl FnOnce(&mut ProxySpec)) -> Scene {
    let mut spec = ProxySpec::new(&cluster);
    adapt(&mut spec);
    let proxy = spec.start().await;
    let scene = Scene { proxy, links: Vec::new(), cluster };
    scene.all_serve().await;
    scene
}

/// The same with a link between the proxy and each node.
pub async fn linked_scene(standbys: usize, adapt: impl FnOnce(&mut ProxySpec)) -> Scene {
    let cluster = cluster_with(Spec::new(standbys, Logins::fixed())).await;
    let mut links = Vec::new();
    for node in cluster.nodes() {
        links.push(Link::to(node.port()).await);
    }
    let mut spec = ProxySpec::behind(&links, &cluster);
    adapt(&mut spec);
    let proxy = spec.start().await;
    let scene = Scene { proxy, links, cluster };
    scene.all_serve().await;
    scene
}

impl Scene {
    /// Waits until the proxy sees the primary and every standby in service.
    async fn all_serve(&self) {
        for index in 1..self.cluster.nodes().len() {
            self.wait_node(index, "reads", "qualified").await;
        }
        self.wait_node(0, "role", "primary").await;
    }

    /// A load through both listeners, on commits that wait for all standbys: what is acknowledged cannot be
    /// lost by PostgreSQL, so whatever is lost was lost by the proxy.
    pub async fn oracle(&self, writers: usize, readers: usize) -> Oracle {
        let standbys = self.cluster.nodes().len() - 1;
        if standbys > 0 {
            let all = format!("ANY {standbys} (*)");
            self.cluster.set_synchronous(self.cluster.n(0), Some(&all)).await.unwrap();
        }
        let (write_to, read_from) = (self.proxy.config(), self.proxy.standby_config());
        Oracle::start(self.cluster.n(0), &write_to, &read_from, [writers, readers]).await
    }

    /// What the proxy says of a node.
    pub async fn node(&self, index: usize) -> Value {
        self.proxy.topology().await.unwrap()["nodes"][index].clone()
    }

    /// Waits until the proxy says that of a node.
    pub async fn wait_node(&self, index: usize, field: &str, value: &str) {
        let what = format!("{field} = {value} of node{}", index + 1);
        eventually(&what, async || self.node(index).await[field] == value).await;
    }

    /// Waits until the proxy says anything else of a node.
    pub async fn wait_node_not(&self, index: usize, field: &str, value: &str) {
        let what = format!("{field} of node{} not to be {value}", index + 1);
        eventually(&what, async || self.node(index).await[field] != value).await;
    }

    /// Promotes the standby that has received most and lets the others follow it; its index, when the
    /// promotion was asked for, and when it was first seen out of recovery.
    pub async fn promote_best(&self) -> (usize, Instant, Instant) {
        let standbys: Vec<_> = self.cluster.nodes().iter().skip(1).collect();
        let best = self.cluster.most_advanced(&standbys).await.unwrap();
        let asked = Instant::now();
        let writable = best.promote_and_wait(Promote::PgCtl).await.unwrap();
        for standby in standbys.iter().filter(|standby| standby.name() != best.name()) {
            standby.repoint(&self.cluster.conninfo(best, standby)).await.unwrap();
        }
        let index = self.cluster.nodes().iter().position(|node| node.name() == best.name()).unwrap();
        (index, asked, writable)
    }

    /// A raw session of `app` through the listener for the primary.
    pub async fn raw(&self) -> Raw {
        Raw::login(&self.proxy.address(), "app", "app-secret", "app").await
    }

    /// A raw session of `app` through the listener for standbys.
    pub async fn raw_standby(&self) -> Raw {
        Raw::login(&self.proxy.standby_address(), "app", "app-secret", "app").await
    }

    /// A raw session of `app` at the primary itself.
    pub async fn raw_direct(&self) -> Raw {
        Raw::login(&self.cluster.n(0).address(), "app", "app-secret", "app").await
    }

    /// Waits until a statement of the superuser at node 0 says `wanted`.
    pub async fn primary_says(&self, sql: &str, wanted: &str) {
        self.cluster.n(0).wait_for(sql, wanted, Duration::from_secs(20)).await.unwrap();
    }

    /// The proxy ends cleanly: nothing panicked, nothing leaked.
    pub async fn finish(self) {
        self.proxy.stop().await;
    }
}
