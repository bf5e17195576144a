//! `ACCEPT`: an operator decides where the servers alone cannot: which of two primaries of one timeline is the right one,
//! and that a timeline is not to be counted.
//!
//! In: an order. Out: the watcher is told, and what it makes of that. It still decides by its own rules: a node that is
//! silent, or in recovery, is not made the primary by saying so.

use std::time::Duration;

use tracing::warn;

use super::order::{Accept, Accepted, Failure};
use super::plan::{named, refused};
use crate::health::HealthHandle;
use crate::topology::{EventKind, EventLog, Health, NodeView, Role, Store, Timeline, Topology};

/// How long the watcher may take: it decides at once, and by the next probes at the latest.
const DECIDED: Duration = Duration::from_secs(3);

/// Tells the watcher, and waits until it has decided.
pub async fn accept(
    order: &Accept,
    store: &Store,
    health: &HealthHandle,
    events: &EventLog,
) -> Result<Accepted, Failure> {
    let topology = store.load();
    match order {
        Accept::Node(name) => {
            let node = claimant(&topology, name)?;
            let (id, name) = (node.id, node.name().to_owned());
            tell(events, Some(&name), &format!("an operator accepts {name} as the primary"));
            let heard = health.accept(id).await;
            let decided = heard && until(store, |topology| topology.primary == Some(id)).await;
            if !decided {
                return Err(undecided(&store.load(), &format!("{name} has not become the primary")));
            }
        }
        Accept::Timeline(timeline) => {
            known(&topology, *timeline)?;
            tell(events, None, &format!("an operator accepts timeline {timeline} as the highest"));
            let heard = health.accept_timeline(*timeline).await;
            let is_highest = |topology: &Topology| topology.timeline == Some(*timeline);
            // A node that takes writes there is the primary when it has said so once more.
            let _elected =
                heard && until(store, |topology| is_highest(topology) && topology.primary.is_some()).await;
            if !is_highest(&store.load()) {
                return Err(undecided(&store.load(), &format!("timeline {timeline} is not the highest")));
            }
        }
    }
    let topology = store.load();
    let primary = topology.primary.and_then(|id| topology.node(id)).map(|node| node.name().to_owned());
    Ok(Accepted { primary, timeline: topology.timeline, epoch: topology.epoch })
}

fn tell(events: &EventLog, node: Option<&str>, text: &str) {
    warn!(kind = EventKind::Primary.as_str(), node, "{text}");
    events.push(EventKind::Primary, node, text);
}

/// Waits for a decision that leads to that. False when there was none in time.
async fn until(store: &Store, wanted: impl Fn(&Topology) -> bool) -> bool {
    let mut decisions = store.decisions();
    let reached = async {
        while !wanted(&store.load()) {
            if decisions.changed().await.is_err() {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(DECIDED, reached).await.unwrap_or(false)
}

fn undecided(topology: &Topology, text: &str) -> Failure {
    let alarms = topology.alarms.join("; ");
    let detail = if alarms.is_empty() { "SHOW NODES and SHOW TOPOLOGY tell why.".to_owned() } else { alarms };
    refused(text, &detail)
}

/// The node of that name or address, if it takes writes on the highest timeline.
fn claimant<'a>(topology: &'a Topology, name: &str) -> Result<&'a NodeView, Failure> {
    let node = named(topology, name)?;
    let name = node.name();
    if node.health != Health::Up {
        let text = format!("{name} is {}", node.health);
        return Err(refused(text, "Only a node that answers can be the primary. Nothing was changed."));
    }
    match node.role {
        Role::Standby => {
            let text = format!("{name} is in recovery: it takes no writes");
            return Err(refused(text, "Promote it; pgsteer follows. Nothing was changed."));
        }
        Role::Stranger => {
            return Err(refused(format!("{name} is of another cluster"), "Nothing was changed."));
        }
        Role::Primary | Role::Unknown | Role::Zombie => {}
    }
    match (node.timeline, topology.timeline) {
        (Some(own), Some(highest)) if own < highest => {
            let text = format!("{name} is on timeline {own}, the cluster is on {highest}");
            let detail = format!(
                "If nothing that came after timeline {own} is to be kept, stop the nodes that have it and say \
                 ACCEPT TIMELINE {own}. Nothing was changed."
            );
            Err(refused(text, &detail))
        }
        _ => Ok(node),
    }
}

/// Can this timeline be the highest? Some node must be on it: a slip of the pen would fence all of them. A higher one takes
/// an ACCEPT back.
fn known(topology: &Topology, timeline: Timeline) -> Result<(), Failure> {
    let is_there = |node: &NodeView| node.health == Health::Up && node.timeline == Some(timeline);
    let text = if topology.timeline == Some(timeline) {
        format!("the cluster is on timeline {timeline} already")
    } else if !topology.nodes.iter().any(is_there) {
        format!("no node that answers is on timeline {timeline}")
    } else {
        return Ok(());
    };
    Err(refused(text, "SHOW NODES tells the timelines. Nothing was changed."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::NodeId;

    fn topology() -> Topology {
        let settings = crate::config::Settings::for_tests();
        let mut topology = Topology::unseen(&settings.cluster.nodes);
        topology.timeline = Some(Timeline(2));
        topology
    }

    #[test]
    fn what_cannot_be_the_primary_is_refused_with_what_to_do() {
        let mut topology = topology();
        let name = topology.nodes[0].name().to_owned();
        let why = |topology: &Topology, name: &str| claimant(topology, name).map(|node| node.id);
        let text = |topology: &Topology, name: &str| why(topology, name).unwrap_err().text;
        assert_eq!(text(&topology, "stranger"), "there is no node \"stranger\"");
        assert_eq!(text(&topology, &name), format!("{name} is down"));
        topology.nodes[0].health = Health::Up;
        topology.nodes[0].role = Role::Standby;
        assert_eq!(text(&topology, &name), format!("{name} is in recovery: it takes no writes"));
        topology.nodes[0].role = Role::Zombie;
        topology.nodes[0].timeline = Some(Timeline(1));
        let failure = why(&topology, &topology.nodes[0].spec.address.to_string()).unwrap_err();
        assert_eq!(failure.text, format!("{name} is on timeline 1, the cluster is on 2"));
        assert!(failure.detail.contains("ACCEPT TIMELINE 1"), "{}", failure.detail);
        topology.nodes[0].timeline = Some(Timeline(2));
        assert_eq!(why(&topology, &name), Ok(NodeId(0)), "fenced by a mistaken ACCEPT of another");
    }

    #[test]
    fn only_a_timeline_that_a_node_is_on_can_be_accepted() {
        let mut topology = topology();
        topology.nodes[0].health = Health::Up;
        topology.nodes[0].timeline = Some(Timeline(1));
        assert_eq!(known(&topology, Timeline(1)), Ok(()));
        for (timeline, text) in [
            (0, "no node that answers is on timeline 0"),
            (2, "the cluster is on timeline 2 already"),
            (3, "no node that answers is on timeline 3"),
        ] {
            assert_eq!(known(&topology, Timeline(timeline)).unwrap_err().text, text);
        }
        topology.nodes[0].timeline = Some(Timeline(3));
        assert_eq!(known(&topology, Timeline(3)), Ok(()), "it was disowned by mistake");
        topology.nodes[0].health = Health::Down;
        assert!(known(&topology, Timeline(3)).is_err());
    }
}
