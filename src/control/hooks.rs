//! `cluster.fence_command` and `cluster.on_promotion`: the operator's part in a change of the primary.
//!
//! In: published topologies. Out: once per promotion, the fence first and then the rest, in a task of their own: nobody
//! waits for them. A switchover runs the fence itself, before it promotes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tracing::{info, warn};

use super::command::Run;
use crate::config::{NodeAddress, Settings};
use crate::drain::Tasks;
use crate::metrics::{Counter, Metrics};
use crate::topology::{Epoch, EventKind, EventLog, Lsn, NodeId, NodeView, Store, Timeline, Topology};

/// Why the fence is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A promotion was seen.
    Failover,
    /// A switchover was ordered.
    Switchover,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Reason::Failover => "failover",
            Reason::Switchover => "switchover",
        }
    }
}

/// Who hands over to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) reason: Reason,
    pub(super) old: NodeId,
    pub(super) new: NodeId,
    pub(super) old_timeline: Option<Timeline>,
    /// Of the new primary, once there is one.
    pub(super) timeline: Option<Timeline>,
    pub(super) epoch: Epoch,
    pub(super) fork: Option<Lsn>,
}

/// Runs the hooks.
pub struct Hooks {
    pub(super) settings: Arc<ArcSwap<Settings>>,
    pub(super) store: Arc<Store>,
    pub(super) events: Arc<EventLog>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tasks: Tasks,
    /// The old primary that a switchover has fenced itself, and the timeline that is over with it.
    pub(super) fenced: Mutex<Option<(NodeId, Option<Timeline>)>>,
}

impl Hooks {
    /// Hooks of the nodes in `store`, by the settings in force at each promotion.
    pub fn new(
        settings: Arc<ArcSwap<Settings>>,
        store: Arc<Store>,
        events: Arc<EventLog>,
        metrics: Arc<Metrics>,
        tasks: Tasks,
    ) -> Arc<Self> {
        Arc::new(Self { settings, store, events, metrics, tasks, fenced: Mutex::default() })
    }

    /// Runs the hooks at each promotion, until the tasks stop.
    pub async fn watch(self: Arc<Self>) {
        let mut versions = self.store.subscribe();
        let mut last = None;
        loop {
            if let Some(change) = promotion(&mut last, &self.store.load()) {
                let hooks = Arc::clone(&self);
                self.tasks.spawn(async move { hooks.promoted(change).await });
            }
            tokio::select! {
                () = self.tasks.stopping() => return,
                changed = versions.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn promoted(&self, change: Change) {
        let limit = self.settings.load().cluster.hooks.timeout;
        let fenced = self.fenced.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A node that was restored to a new timeline must not fence itself.
        if change.old != change.new && fenced != Some((change.old, change.old_timeline)) {
            // Its failure is told; the other hook may still do its part.
            let _ = self.fence(&change, limit).await;
        }
        let _ =
            self.run("on_promotion", |settings| &settings.cluster.hooks.on_promotion, &change, limit).await;
    }

    /// Runs `fence_command`, if there is one; an error says why the old primary may not be fenced.
    pub(super) async fn fence(&self, change: &Change, limit: Duration) -> Result<(), String> {
        self.run("fence_command", |settings| &settings.cluster.hooks.fence_command, change, limit).await
    }

    async fn run(
        &self,
        option: &'static str,
        argv: fn(&Settings) -> &Vec<String>,
        change: &Change,
        limit: Duration,
    ) -> Result<(), String> {
        let settings = self.settings.load_full();
        let argv = argv(&settings).clone();
        if argv.is_empty() {
            return Ok(());
        }
        let topology = self.store.load();
        let environment = environment(option, change, &topology);
        let run = Run { option, argv, environment, limit: limit.min(settings.cluster.hooks.timeout) };
        let began = Instant::now();
        let done = run.run(self.tasks.stopping()).await;
        let ms = began.elapsed().as_millis();
        let node = topology.node(change.new).map(NodeView::name);
        match &done {
            Ok(()) => {
                self.metrics.count(Counter::HookOk);
                info!(hook = option, ms, "a hook succeeded");
                self.events.push(EventKind::Hook, node, format!("{option} succeeded after {ms} ms"));
            }
            Err(why) => {
                self.metrics.count(Counter::HookFailed);
                warn!(hook = option, ms, "a hook did not succeed: {why}");
                self.events.push(EventKind::Hook, node, format!("{option} {why}"));
            }
        }
        done
    }
}

/// The promotion that this topology shows, compared with the last primary and its timeline, which are noted.
fn promotion(last: &mut Option<(NodeId, Timeline)>, topology: &Topology) -> Option<Change> {
    let new = topology.primary?;
    let timeline = topology.node(new)?.timeline.or(topology.timeline)?;
    let (old, old_timeline) = last.replace((new, timeline))?;
    (timeline > old_timeline).then(|| Change {
        reason: Reason::Failover,
        old,
        new,
        old_timeline: Some(old_timeline),
        timeline: Some(timeline),
        epoch: topology.epoch,
        fork: topology.fork.map(|fork| fork.lsn),
    })
}

/// What a hook is told.
fn environment(hook: &str, change: &Change, topology: &Topology) -> Vec<(&'static str, String)> {
    let address = |id| topology.node(id).map(|node| node.spec.address.clone());
    let name = |id| topology.node(id).map(|node| node.name().to_owned()).unwrap_or_default();
    let host = |address: Option<NodeAddress>| address.map(|one| one.host).unwrap_or_default();
    let port = |address: Option<NodeAddress>| address.map(|one| one.port.to_string()).unwrap_or_default();
    let text = |value: Option<Timeline>| value.map(|one| one.to_string()).unwrap_or_default();
    vec![
        ("PGSTEER_HOOK", hook.to_owned()),
        ("PGSTEER_REASON", change.reason.as_str().to_owned()),
        ("PGSTEER_OLD_PRIMARY", name(change.old)),
        ("PGSTEER_OLD_PRIMARY_HOST", host(address(change.old))),
        ("PGSTEER_OLD_PRIMARY_PORT", port(address(change.old))),
        ("PGSTEER_NEW_PRIMARY", name(change.new)),
        ("PGSTEER_NEW_PRIMARY_HOST", host(address(change.new))),
        ("PGSTEER_NEW_PRIMARY_PORT", port(address(change.new))),
        ("PGSTEER_OLD_TIMELINE", text(change.old_timeline)),
        ("PGSTEER_TIMELINE", text(change.timeline)),
        ("PGSTEER_EPOCH", change.epoch.to_string()),
        ("PGSTEER_FORK_LSN", change.fork.map(|lsn| lsn.to_string()).unwrap_or_default()),
        (
            "PGSTEER_SYSTEM_IDENTIFIER",
            topology.system_identifier.map(|one| one.to_string()).unwrap_or_default(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Fork;

    fn topology(primary: Option<u16>, timeline: u32, epoch: u64) -> Topology {
        let mut topology = Topology::unseen(&Settings::for_tests().cluster.nodes);
        (topology.primary, topology.epoch) = (primary.map(NodeId), Epoch(epoch));
        topology.timeline = Some(Timeline(timeline));
        if let Some(primary) = primary {
            topology.nodes[usize::from(primary)].timeline = Some(Timeline(timeline));
        }
        topology
    }

    #[test]
    fn a_promotion_is_a_higher_timeline_and_told_once() {
        let mut last = None;
        assert_eq!(promotion(&mut last, &topology(None, 1, 0)), None);
        assert_eq!(promotion(&mut last, &topology(Some(0), 1, 1)), None, "the first primary is none");
        assert_eq!(promotion(&mut last, &topology(None, 2, 2)), None);
        assert_eq!(promotion(&mut last, &topology(Some(0), 1, 3)), None, "it is back");
        let change = promotion(&mut last, &topology(Some(1), 2, 4)).unwrap();
        assert_eq!((change.old, change.new, change.epoch), (NodeId(0), NodeId(1), Epoch(4)));
        assert_eq!((change.old_timeline, change.timeline), (Some(Timeline(1)), Some(Timeline(2))));
        assert_eq!(promotion(&mut last, &topology(Some(1), 2, 4)), None);
    }

    #[test]
    fn a_hook_is_told_who_hands_over_to_whom() {
        let mut after = topology(Some(1), 2, 4);
        after.fork = Some(Fork { timeline: Timeline(2), lsn: Lsn(0x2_016B_3748) });
        after.system_identifier = Some(7);
        let change = promotion(&mut Some((NodeId(0), Timeline(1))), &after).unwrap();
        let told = environment("on_promotion", &change, &after);
        let lines: Vec<String> = told.iter().map(|(name, value)| format!("{name}={value}")).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        PGSTEER_HOOK=on_promotion
        PGSTEER_REASON=failover
        PGSTEER_OLD_PRIMARY=127.0.0.1:5432
        PGSTEER_OLD_PRIMARY_HOST=127.0.0.1
        PGSTEER_OLD_PRIMARY_PORT=5432
        PGSTEER_NEW_PRIMARY=127.0.0.1:5433
        PGSTEER_NEW_PRIMARY_HOST=127.0.0.1
        PGSTEER_NEW_PRIMARY_PORT=5433
        PGSTEER_OLD_TIMELINE=1
        PGSTEER_TIMELINE=2
        PGSTEER_EPOCH=4
        PGSTEER_FORK_LSN=2/16B3748
        PGSTEER_SYSTEM_IDENTIFIER=7
        ");
    }
}
