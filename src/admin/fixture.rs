//! A proxy's admin state without a proxy, for the tests of this module.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{AdminState, Command, Pulse};
use crate::config::options::Class;
use crate::config::{Change, Settings};
use crate::control::order::{Accept, Accepted, Failure};
use crate::drain::Tasks;
use crate::metrics::Metrics;
use crate::net::tls::ServerTlsContext;
use crate::pool::Registry;
use crate::session::catalogues::{Catalogues, Sources};
use crate::session::directory::Directory;
use crate::topology::{
    Epoch, EventKind, EventLog, Health, Lag, Lsn, NodeId, Nudges, ReadRefusal, Reads, Role, Store, Timeline,
    Topology,
};

/// A primary and a standby that is 1.5 ms behind, and a session number 7 to kill.
pub(super) fn state() -> Arc<AdminState> {
    let settings = Settings::for_tests();
    let names: Vec<String> = settings.cluster.nodes.iter().map(|node| node.name.clone()).collect();
    let metrics = Metrics::new(1, &names);
    metrics.control().record_statement(0, false, Duration::from_millis(2));
    let events = Arc::new(EventLog::new());
    events.push(EventKind::Primary, Some(&names[0]), "none -> 127.0.0.1:5432 (epoch 1): the only one");
    let (commands, orders) = mpsc::channel(1);
    let tasks = Tasks::new();
    tasks.spawn(obey(orders));
    let store = Arc::new(Store::new(topology(&settings)));
    let nudges = Arc::new(Nudges::new(settings.cluster.nodes.len()));
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let registry = Registry::new(
        Arc::clone(&settings),
        Arc::clone(&store),
        nudges,
        Arc::new(ServerTlsContext::off()),
        Arc::clone(&metrics),
        tasks.clone(),
    );
    let began = Instant::now();
    registry.note_statement(NodeId(1), began, began + Duration::from_millis(3));
    let directory = Arc::new(Directory::new(10));
    let tls = Arc::new(ServerTlsContext::off());
    let sources = Sources { store: Arc::clone(&store), tls, directory: Arc::clone(&directory) };
    let (catalogues, _) = Catalogues::new(Arc::clone(&settings), sources);
    Arc::new(AdminState {
        store,
        settings,
        registry,
        directory,
        catalogues,
        events,
        metrics,
        commands,
        tasks,
        listening: Arc::new(AtomicBool::new(true)),
        pulses: vec![Pulse::new()],
        started: UNIX_EPOCH,
    })
}

fn topology(settings: &Settings) -> Topology {
    let mut topology = Topology::unseen(&settings.cluster.nodes);
    topology.epoch = Epoch(1);
    topology.primary = Some(NodeId(0));
    topology.timeline = Some(Timeline(3));
    topology.system_identifier = Some(7_000_000_000_000_000_001);
    for node in &mut topology.nodes {
        node.health = Health::Up;
        node.timeline = Some(Timeline(3));
        node.lsn = Some(Lsn(0x2_016B_3748));
        node.server_version_num = Some(150_020);
        node.start_time = Some(1_795_339_000_120_000);
        node.probe_time = Some(Duration::from_micros(260));
    }
    let (primary, standby) = topology.nodes.split_at_mut(1);
    primary[0].role = Role::Primary;
    primary[0].reads = Reads::Refused(ReadRefusal::IsPrimary);
    primary[0].reason = "out of recovery on timeline 3".to_owned();
    standby[0].role = Role::Standby;
    standby[0].reads = Reads::Qualified;
    standby[0].lag = Some(Lag { time: Duration::from_micros(1_500), bytes: 220, at_least: false });
    standby[0].reason = "streams from the primary".to_owned();
    topology
}

async fn obey(mut orders: mpsc::Receiver<Command>) {
    let mut reloads = 0;
    while let Some(order) = orders.recv().await {
        match order {
            Command::Accept { order, reply } => {
                let accepted = Accepted { primary: None, timeline: Some(Timeline(2)), epoch: Epoch(5) };
                drop(reply.send(match order {
                    Accept::Timeline(_) => Ok(accepted),
                    Accept::Node(node) => {
                        Err(Failure { text: format!("no node {node}"), detail: "Nothing.".to_owned() })
                    }
                }));
            }
            Command::Kill { session, reply } => drop(reply.send(session == 7)),
            Command::Promote { order, reply } => {
                let failure =
                    Failure { text: format!("no node {}", order.node), detail: "Nothing.".to_owned() };
                drop(reply.send(Err(failure)));
            }
            Command::Reload { reply } if reloads == 0 => {
                reloads += 1;
                let change = Change {
                    key: "pool.size".to_owned(),
                    old: "20".to_owned(),
                    new: "30".to_owned(),
                    class: Class::Live,
                };
                drop(reply.send(Ok(vec![change])));
            }
            Command::Reload { reply } => {
                let lines = "proxy.toml:3: pool.size: -1 is not a count\nproxy.toml:9: listen: none";
                drop(reply.send(Err(lines.to_owned())));
            }
        }
    }
}
