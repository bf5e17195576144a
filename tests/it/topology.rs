//! Probers and watcher against real servers, without the rest of the proxy: what is published, and how soon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsteer::config::{NodeAddress, NodeSettings, Secret, Settings};
use pgsteer::demo::node::{Promote, Stop};
use pgsteer::drain::Tasks;
use pgsteer::health::{self, HealthHandle, Surroundings};
use pgsteer::metrics::Metrics;
use pgsteer::net::tls::ServerTlsContext;
use pgsteer::topology::{
    Alive, Epoch, EventLog, Health, NodeId, Nudge, Nudges, ReadRefusal, Reads, Role, Store, Timeline,
    Topology,
};

use crate::harness::cluster::{TestCluster, cluster};
use crate::harness::link::Link;
use crate::harness::{LIMIT, soon};

/// A cluster, each node behind a link, watched.
struct Watched {
    cluster: TestCluster,
    links: Vec<Link>,
    store: Arc<Store>,
    nudges: Arc<Nudges>,
    events: Arc<EventLog>,
    handle: HealthHandle,
    tasks: Tasks,
}

async fn watched(standbys: usize, change: impl FnOnce(&mut Settings)) -> Watched {
    let cluster = cluster(standbys).await;
    let mut links = Vec::new();
    let mut settings = Settings::default();
    settings.cluster.nodes.clear();
    for node in cluster.nodes() {
        let link = Link::to(node.port()).await;
        let mut spec = NodeSettings::new(NodeAddress::new("127.0.0.1", link.port()));
        spec.replication_address = Some(format!("127.0.0.1:{}", node.port()));
        settings.cluster.nodes.push(spec);
        links.push(link);
    }
    settings.cluster.state_file = None;
    settings.cluster.monitor.password = Some(Secret::new("pgsteer-secret".to_owned()));
    change(&mut settings);
    let names: Vec<String> = settings.cluster.nodes.iter().map(|n| n.name.clone()).collect();
    let store = Arc::new(Store::new(Topology::unseen(&settings.cluster.nodes)));
    let nudges = Arc::new(Nudges::new(names.len()));
    let events = Arc::new(EventLog::new());
    let tasks = Tasks::new();
    let around = Surroundings {
        store: Arc::clone(&store),
        nudges: Arc::clone(&nudges),
        events: Arc::clone(&events),
        metrics: Metrics::new(1, &names),
        tls: Arc::new(ServerTlsContext::off()),
    };
    let handle = health::start(&tasks, &settings, around);
    Watched { cluster, links, store, nudges, events, handle, tasks }
}

/// Watched, and everything as it should be.
async fn calm(standbys: usize) -> Watched {
    let watched = watched(standbys, |_| {}).await;
    watched
        .until("all is well", |t| t.primary == Some(NodeId(0)) && t.read_nodes().count() == standbys)
        .await;
    watched
}

impl Watched {
    /// Waits for a topology, also for figures that wake nobody; returns when it was first seen.
    async fn until(&self, what: &str, good: impl Fn(&Topology) -> bool) -> Instant {
        let seen = async {
            while !good(&self.store.load()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let shown = tokio::time::timeout(Duration::from_mins(1), seen).await;
        assert!(shown.is_ok(), "not in time: {what}\n{:#?}\n{:#?}", self.store.load(), self.events.list());
        Instant::now()
    }

    fn view(&self, node: u16) -> pgsteer::topology::NodeView {
        self.store.load().nodes[usize::from(node)].clone()
    }

    /// Promotes a standby; how long after it accepted writes it was published as the primary.
    async fn promote(&self, node: u16) -> Duration {
        let mut changed = self.store.subscribe();
        let publication = async {
            while self.store.load().writable_primary() != Some(NodeId(node)) {
                changed.changed().await.unwrap();
            }
            Instant::now()
        };
        let promotion = self.cluster.n(node.into()).promote_and_wait(Promote::PgCtl);
        let (published, writable) =
            soon("the promotion", async { tokio::join!(publication, promotion) }).await;
        published.saturating_duration_since(writable.unwrap().into())
    }

    /// Waits until no probe is sent for half a second.
    async fn quiet(&self) {
        let mut sent = None;
        let calm = async {
            while sent.replace(self.nudges.sent()) != Some(self.nudges.sent()) {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        soon("calm", calm).await;
    }

    async fn end(self) {
        self.tasks.stop();
        assert!(self.tasks.ended(Duration::from_secs(5)).await);
    }
}

#[tokio::test]
async fn a_healthy_cluster_is_found() {
    let watched = calm(2).await;
    let view = watched.store.load();
    assert_eq!((view.epoch, view.timeline), (Epoch(1), Some(Timeline(1))));
    assert!(view.alarms.is_empty() && !view.starting());
    for node in &view.nodes {
        assert_eq!(node.health, Health::Up);
        assert_eq!(node.timeline, Some(Timeline(1)));
        assert!(
            node.lsn.is_some() && node.server_version_num.unwrap() >= 140_000 && node.start_time.is_some()
        );
    }
    assert_eq!((view.nodes[1].role, view.nodes[1].lag.unwrap().bytes), (Role::Standby, 0));
    let probe = view.nodes[0].probe_time.unwrap();
    println!("a probe takes {probe:?}");
    watched.end().await;
}

/// A primary lost in each way, a standby promoted, the old one back un-fenced.
async fn replaced(what: &str, strike: impl AsyncFn(&Watched), revive: impl AsyncFn(&Watched)) {
    let watched = calm(2).await;
    strike(&watched).await;
    watched
        .until("the primary's silence is known", |t| {
            t.node(NodeId(0)).is_some_and(|n| n.health != Health::Up)
        })
        .await;
    let view = watched.store.load();
    assert_eq!(
        (view.primary, view.epoch),
        (Some(NodeId(0)), Epoch(1)),
        "{what}: silence alone changes nothing"
    );
    assert!(view.read_nodes().count() == 2, "{what}: reads go on\n{:#?}", watched.events.list());
    // A primary that is only cut off from the proxy would feed it beyond the fork.
    let third = watched.cluster.n(2);
    third.repoint("").await.unwrap();
    third.wait_for("SELECT count(*) FROM pg_stat_wal_receiver", "0", LIMIT).await.unwrap();
    let gap = watched.promote(1).await;
    println!("{what}: published {gap:?} after the new primary took writes");
    let view = watched.store.load();
    assert_eq!((view.primary, view.epoch, view.timeline), (Some(NodeId(1)), Epoch(2), Some(Timeline(2))));
    assert_eq!(view.nodes[0].role, Role::Zombie);
    assert!(view.fork.is_some_and(|f| f.timeline == Timeline(2)), "{what}: the promotion was watched");
    assert!(!view.nodes[2].reads.qualified(), "{what}: it follows nobody yet");
    assert!(gap < Duration::from_millis(500), "{what}: {gap:?}");
    let (lost, primary) = (watched.cluster.n(0), watched.cluster.n(1));
    // Before the old primary is back: it would follow that one beyond the fork.
    watched.cluster.repoint(watched.cluster.n(2), primary).await.unwrap();
    watched.until("one follows", |t| t.nodes[2].reads.qualified()).await;
    revive(&watched).await;
    watched
        .until("the zombie is seen", |t| t.nodes[0].health == Health::Up && t.nodes[0].role == Role::Zombie)
        .await;
    watched.until("an alarm", |t| !t.alarms.is_empty()).await;
    lost.kill_and_wait().await.unwrap();
    watched.cluster.rejoin(lost, primary).await.unwrap();
    watched.until("all follow", |t| t.read_nodes().count() == 2 && t.alarms.is_empty()).await;
    assert_eq!(watched.store.epoch(), Epoch(2));
    watched.end().await;
}

#[tokio::test]
async fn a_killed_primary_is_replaced() {
    let strike = async |w: &Watched| {
        let _ = w.cluster.n(0).kill().unwrap();
    };
    replaced("killed", strike, async |w: &Watched| {
        w.cluster.n(0).wait_exit().await.unwrap();
        w.cluster.n(0).start().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_frozen_primary_is_replaced() {
    let strike = async |w: &Watched| w.cluster.n(0).freeze().unwrap();
    replaced("frozen", strike, async |w: &Watched| w.cluster.n(0).thaw().unwrap()).await;
}

#[tokio::test]
async fn a_cut_primary_is_replaced() {
    let strike = async |w: &Watched| w.links[0].cut();
    replaced("cut", strike, async |w: &Watched| w.links[0].mend()).await;
}

#[tokio::test]
async fn a_promotion_without_any_warning_is_seen() {
    let watched = calm(1).await;
    let gap = watched.promote(1).await;
    println!("beside a live primary: published {gap:?} after the new primary took writes");
    assert_eq!(watched.view(0).role, Role::Zombie);
    watched.end().await;
}

#[tokio::test]
async fn a_restart_in_place_is_waited_for() {
    let watched = calm(1).await;
    watched.cluster.n(0).stop(Stop::Fast).await.unwrap();
    watched.until("down", |t| t.nodes[0].health == Health::Down).await;
    assert_eq!(watched.store.load().primary, Some(NodeId(0)));
    assert!(watched.view(1).reads.qualified(), "the verdict is frozen");
    watched.cluster.n(0).start().await.unwrap();
    watched.until("back", |t| t.writable_primary() == Some(NodeId(0))).await;
    assert_eq!(watched.store.epoch(), Epoch(1));
    watched.until("streaming again", |t| t.read_nodes().count() == 1).await;
    watched.end().await;
}

#[tokio::test]
async fn a_paused_standby_lags_by_time_and_by_bytes() {
    let watched = calm(2).await;
    watched.cluster.n(1).pause_replay().await.unwrap();
    let mut sql = watched.cluster.n(0).sql().await.unwrap();
    sql.run("CREATE TABLE noise (a int)").await.unwrap();
    watched.until("out", |t| t.nodes[1].reads == Reads::Refused(ReadRefusal::Lagging)).await;
    let lag = watched.view(1).lag.unwrap();
    assert!(lag.time > Duration::from_secs(1) && lag.bytes > 0, "{lag:?}");
    assert!(watched.view(2).reads.qualified());
    watched.cluster.n(1).resume_replay().await.unwrap();
    watched.until("back", |t| t.read_nodes().count() == 2).await;
    watched.end().await;
}

#[tokio::test]
async fn one_ended_connection_is_told_from_a_shutdown() {
    let watched = calm(1).await;
    watched.nudges.nudge(NodeId(0), Nudge::Shutdown57P01);
    let alive = watched.nudges.still_alive(NodeId(0), None, Duration::from_secs(5)).await;
    assert_eq!(alive, Alive::Yes);
    let mut sql = watched.cluster.n(0).sql().await.unwrap();
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgsteer monitor'";
    sql.run(end).await.unwrap();
    let alive = watched.nudges.still_alive(NodeId(0), None, Duration::from_secs(5)).await;
    assert_eq!(alive, Alive::Yes, "the monitor's own connection is no more than another");
    assert_eq!(watched.view(0).role, Role::Primary);
    watched.cluster.n(0).ask_to_stop(Stop::Fast).unwrap();
    let alive = watched.nudges.still_alive(NodeId(0), None, Duration::from_secs(5)).await;
    // A probe that is caught in the shutdown may stay without any answer: no sign of life either way.
    assert_ne!(alive, Alive::Yes);
    watched.end().await;
}

#[tokio::test]
async fn samples_come_fast_while_somebody_waits_for_them_and_calm_returns() {
    // So calm that no sample comes by itself.
    let watched = watched(1, |settings| {
        settings.cluster.monitor.interval = Duration::from_hours(1);
        settings.cluster.max_lag = Duration::from_hours(10);
    })
    .await;
    watched.until("all is well", |t| t.primary == Some(NodeId(0)) && t.read_nodes().count() == 1).await;
    let latest = |node: u16| watched.view(node).samples.latest().unwrap();
    watched.quiet().await;
    let (before, other) = (watched.nudges.sent(), latest(0));
    watched.nudges.nudge(NodeId(1), Nudge::Wanted);
    watched.until("an answer to one wish", |t| t.nodes[1].samples.latest().unwrap().number > before).await;
    watched.until("a second sample", |t| t.nodes[1].samples.latest().unwrap().number > before + 1).await;
    watched.quiet().await;
    assert_eq!(latest(0), other, "nobody has wished for a sample of the other");
    let mut decisions = watched.store.decisions();
    let waiting = async {
        for _ in 0..50 {
            watched.nudges.nudge(NodeId(0), Nudge::Wanted);
            decisions.changed().await.unwrap();
        }
    };
    soon("answers to wishes", waiting).await;
    assert!(latest(0).number > other.number);
    watched.quiet().await;
    watched.end().await;
}

#[tokio::test]
async fn the_highest_timeline_outlives_the_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let first = watched(1, |s| s.cluster.state_file = Some(path.clone())).await;
    first.until("a primary", |t| t.writable_primary() == Some(NodeId(0))).await;
    assert!(std::fs::read_to_string(&path).unwrap().contains("timeline = 1"));
    first.cluster.n(0).kill().unwrap();
    first.promote(1).await;
    assert!(std::fs::read_to_string(&path).unwrap().contains("timeline = 2"), "durable before it is seen");
    assert_eq!(first.handle.state_problem(), None);
    first.end().await;
}
