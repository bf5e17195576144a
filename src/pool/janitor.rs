//! The timed upkeep of the pools: what is too old, too long idle, broken or of an old epoch goes; standbys are kept warm,
//! and pools in use at their `min_idle`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::backend::Backend;
use super::book::{Idle, Phase, Standing};
use super::error::LeaseError;
use super::key::PoolKey;
use super::lease::Place;
use super::recipes::Who;
use super::registry::{Registry, limits, locked};
use crate::metrics::{BackendFigures, Counter};
use crate::topology::{Health, NodeId, Role, Topology};

/// How often it looks.
const ROUND: Duration = Duration::from_millis(500);
/// Quantiles of waits cover this time and the one before.
const WINDOW: Duration = Duration::from_mins(1);
/// After a warm login failed at a node, the next try.
const WARM_RETRY: Duration = Duration::from_secs(2);
/// How long a secret that opened a backend outlives its refusal by another node: several times what reads tolerate of lag.
const PROVEN: Duration = Duration::from_secs(10);

/// Runs until the tasks are told to stop, then closes what is idle.
pub(super) async fn run(registry: Arc<Registry>) {
    let mut changes = registry.store.subscribe();
    let start = registry.store.load();
    let mut seen = (start.epoch, start.primary);
    let mut window_ends = Instant::now() + WINDOW;
    drop(start);
    loop {
        tokio::select! {
            () = registry.tasks.stopping() => break,
            () = sleep(ROUND) => {}
            () = registry.work.notified() => {}
            Ok(()) = changes.changed() => {}
        }
        let topology = registry.store.load();
        if seen != (topology.epoch, topology.primary) {
            if let Some(old) = seen.1.filter(|old: &NodeId| topology.primary != Some(*old)) {
                locked(&registry.book).dismiss(old.index());
            }
            seen = (topology.epoch, topology.primary);
        }
        registry.on_topology(&topology);
        registry.tidy();
        if Instant::now() >= window_ends {
            locked(&registry.book).rotate_waits();
            window_ends = Instant::now() + WINDOW;
        }
    }
    registry.close_idle(Counter::BackendShutdown, |_, _| true);
}

impl Registry {
    /// Retires backends of an old epoch and of fenced nodes, and opens warm ones on standbys and what is missing to
    /// `pool.min_idle`. The janitor does so by itself after every change.
    pub fn on_topology(self: &Arc<Self>, topology: &Topology) {
        self.close_idle(Counter::BackendEpoch, |pool, one| {
            let node = topology.node(pool.key.node);
            let fenced = node.is_none_or(|node| matches!(node.role, Role::Stranger | Role::Zombie));
            fenced || (one.item.opened_on_primary && one.item.epoch != topology.epoch)
        });
        for node in topology.nodes.iter().filter(|node| node.health == Health::Up) {
            let primary = topology.primary == Some(node.id);
            if primary || node.role == Role::Standby {
                self.fill(node.id, primary);
            }
        }
    }

    /// Closes what is idle in one pool: its role is no longer who it was.
    pub fn dismiss_idle(self: &Arc<Self>, of: &PoolKey) {
        self.close_idle(Counter::BackendDirty, |pool, _| pool.key == of);
    }

    /// Closes the idle backends for which `judge` says so.
    fn close_idle(
        self: &Arc<Self>,
        reason: Counter,
        judge: impl FnMut(&Standing<'_>, &mut Idle<Backend>) -> bool,
    ) {
        let taken = locked(&self.book).sweep(self.in_use_since(), judge);
        for mut backend in taken {
            backend.phase = Phase::Closing;
            self.finish(backend, reason);
        }
    }

    /// One round: broken, old and long-idle backends, forgotten recipes and pools, new limits, figures.
    pub(super) fn tidy(self: &Arc<Self>) {
        let settings = self.settings.load_full();
        let now = Instant::now();
        let evicted = locked(&self.book).set_limits(limits(&settings), now);
        self.close_evicted(evicted);
        self.close_idle(Counter::BackendBroken, |_, one| !one.item.stream.is_quiet());
        self.close_idle(Counter::BackendLifetime, |_, one| now >= one.item.expires);
        let since = self.in_use_since();
        let used = self.used_recipes(since);
        let (warm, min_idle) = (settings.pool.warm, settings.pool.min_idle);
        self.close_idle(Counter::BackendIdle, |pool, one| {
            let kept = pool.in_use && pool.newer < min_idle;
            // What is kept warm is kept also after its standby has become the primary.
            one.since < since && !kept && !(pool.newer < warm && used.contains(&Who::of(pool.key)))
        });
        locked(&self.book).prune(since);
        self.publish_figures();
    }

    /// A pool that nobody has wanted since then is out of use.
    fn in_use_since(&self) -> Instant {
        let now = Instant::now();
        now.checked_sub(self.settings.load().pool.idle_timeout).unwrap_or(now)
    }

    /// Recipes whose clients are there, or were there not long ago; the others are forgotten.
    fn used_recipes(&self, since: Instant) -> Vec<Who> {
        let nodes = self.store.load().nodes.len();
        let book = locked(&self.book);
        let in_use = |who: &Who| (0..nodes).any(|node| book.in_use(&who.at(NodeId(node as u16)), since));
        let mut recipes = locked(&self.recipes);
        // The parameters of a login are wanted longer than its backends: a client may come back during a failover.
        recipes.retain(|who, recipe| {
            let used = in_use(who);
            if !used {
                recipe.credentials = None;
            }
            used || recipe.made.elapsed() < Duration::from_hours(1)
        });
        recipes
            .iter()
            .filter(|(_, recipe)| recipe.credentials.is_some())
            .map(|(who, _)| who.clone())
            .collect()
    }

    /// Opens what is missing to `pool.warm` backends of every recipe at a standby, and to `pool.min_idle` of the pools in
    /// use at that node.
    fn fill(self: &Arc<Self>, node: NodeId, primary: bool) {
        let (warm, min_idle) = {
            let pool = &self.settings.load().pool;
            (if primary { 0 } else { pool.warm }, pool.min_idle)
        };
        let (now, since) = (Instant::now(), self.in_use_since());
        let wanted: Vec<_> = {
            let recipes = locked(&self.recipes);
            let due = recipes.iter().filter(|(_, recipe)| {
                recipe.not_before.get(&node).is_none_or(|not_before| *not_before <= now)
            });
            due.filter_map(|(who, recipe)| Some((who.clone(), recipe.credentials.clone()?))).collect()
        };
        for (who, credentials) in wanted {
            let key = Arc::new(who.at(node));
            let in_use = min_idle > warm && locked(&self.book).in_use(&key, since);
            let want = if in_use { min_idle } else { warm };
            loop {
                let reserved = if want > 0 { locked(&self.book).reserve(&key, want, now) } else { None };
                let Some(pool) = reserved else { break };
                let place = Place::new(self, pool);
                let (this, key, who) = (Arc::clone(self), Arc::clone(&key), who.clone());
                let credentials = Arc::clone(&credentials);
                self.tasks.spawn(async move {
                    let deadline = Instant::now() + this.settings.load().cluster.connect_timeout;
                    match this.open(place, &key, &credentials, deadline).await {
                        Ok(backend) => this.keep(backend, Phase::Active),
                        Err(error) => this.warm_failed(&who, node, &error),
                    }
                });
            }
        }
    }

    fn warm_failed(&self, who: &Who, node: NodeId, error: &LeaseError) {
        if let Some(recipe) = locked(&self.recipes).get_mut(who) {
            recipe.not_before.insert(node, Instant::now() + WARM_RETRY);
            // A wrong secret is not tried for ever: servers count failures, and people read logs. One that has just opened
            // a backend elsewhere is right: this node has not replayed it yet.
            let refused = matches!(error, LeaseError::Server(error) if error.code.0.starts_with(b"28"));
            let proven = recipe.made.elapsed() < PROVEN;
            if (refused && !proven) || matches!(error, LeaseError::Login(_)) {
                recipe.credentials = None;
            }
        }
    }

    fn publish_figures(&self) {
        let mut nodes = vec![BackendFigures::default(); self.store.load().nodes.len()];
        for figures in locked(&self.book).figures() {
            if let Some(node) = nodes.get_mut(figures.key.node.index()) {
                node.active += figures.active as u64;
                node.idle += figures.idle as u64;
                node.opening += figures.opening as u64;
            }
        }
        for (key, carried) in self.carried() {
            if let Some(node) = nodes.get_mut(key.node.index()) {
                node.pinned += carried.pinned;
                node.prepared += carried.prepared;
            }
        }
        for (index, figures) in nodes.into_iter().enumerate() {
            self.metrics.set_backends(index, figures);
        }
    }
}
