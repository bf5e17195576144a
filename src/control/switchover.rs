//! A planned switchover: hold new writes, close the old primary, let the chosen standby get everything, promote it.
//!
//! In: an order. Out: another primary, or the old one as it was. Up to `pg_promote()` every failure is taken back; behind
//! it there is no way back, and held work waits for the new primary.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::hooks::{Change, Hooks, Reason};
use super::order::{Done, Failure, Order};
use super::plan::{Closing, Plan, judge, refused};
use super::server::{APPLICATION, LOOK, Position, Server};
use crate::config::{NodeSettings, Settings};
use crate::drain::Tasks;
use crate::health::HealthHandle;
use crate::net::client::Login;
use crate::net::tls::ServerTlsContext;
use crate::pool::Registry;
use crate::session::directory::Directory;
use crate::topology::{EventKind, Health, NodeId, Role, Store, Topology};

/// How long the watcher may take to publish what it was told: it does so at once.
const PUBLISHED: Duration = Duration::from_secs(5);
/// How long a promotion may take: its checkpoint is not waited for.
const PROMOTION: Duration = Duration::from_mins(1);
/// How long what nobody has flushed yet is waited for. The WAL writer flushes three times in that time.
const FLUSHED: Duration = Duration::from_secs(1);
/// Time to open a closed server again.
const REOPENED: Duration = Duration::from_secs(5);

/// What was reached when a switchover could not go on.
struct Halt {
    why: String,
    /// The old primary may be closed.
    closed: bool,
    /// The standby was told to promote itself.
    promoted: bool,
}

/// Carries out switchovers, one at a time.
pub struct Switchover {
    settings: Arc<ArcSwap<Settings>>,
    store: Arc<Store>,
    directory: Arc<Directory>,
    registry: Arc<Registry>,
    health: HealthHandle,
    hooks: Arc<Hooks>,
    tls: Arc<ServerTlsContext>,
    tasks: Tasks,
    under_way: Mutex<()>,
}

/// What a switchover works with.
pub struct Parts {
    /// The settings in force.
    pub settings: Arc<ArcSwap<Settings>>,
    /// The topology in force.
    pub store: Arc<Store>,
    /// The sessions whose transactions end first.
    pub directory: Arc<Directory>,
    /// The backends that are ours.
    pub registry: Arc<Registry>,
    /// Who holds new writes.
    pub health: HealthHandle,
    /// The operator's programs.
    pub hooks: Arc<Hooks>,
    /// TLS towards the nodes.
    pub tls: Arc<ServerTlsContext>,
    /// Whatever is started.
    pub tasks: Tasks,
}

impl Switchover {
    /// None is under way.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { settings, store, directory, registry, health, hooks, tls, tasks } = parts;
        let under_way = Mutex::default();
        Arc::new(Self { settings, store, directory, registry, health, hooks, tls, tasks, under_way })
    }

    /// Makes a standby the primary; opens the primary again when it is that already.
    pub async fn promote(self: &Arc<Self>, order: &Order) -> Result<Done, Failure> {
        let Ok(_turn) = self.under_way.try_lock() else {
            return Err(refused("a switchover is under way", "SHOW EVENTS tells how it ends."));
        };
        let plan = Plan::of(order, &self.store.load(), &self.settings.load())?;
        if plan.old == plan.new {
            return self.reopen(&plan).await;
        }
        let (old, new) = (&plan.old_node.name, &plan.new_node.name);
        let (before, after) = match self.prepare(&plan).await {
            Ok(servers) => servers,
            Err(why) => return Err(refused(why, "Nothing was changed.")),
        };
        self.tell(&plan, false, &format!("switchover {old} -> {new} begins"));
        let began = Instant::now();
        let done = match self.hand_over(&plan, &before, &after, began + plan.timeout).await {
            Ok(closed) => Ok(self.finish(&plan, &before, closed, began).await),
            Err(halt) => Err(self.back_out(&plan, &before, halt).await),
        };
        match &done {
            Ok(done) => {
                let (ms, verdict) = (done.held.as_millis(), &done.verdict);
                self.tell(
                    &plan,
                    false,
                    &format!("switchover {old} -> {new} done, writes held for {ms} ms: {verdict}"),
                );
            }
            Err(Failure { text, detail }) => {
                self.tell(&plan, true, &format!("switchover {old} -> {new} failed: {text}. {detail}"));
            }
        }
        done
    }

    fn tell(&self, plan: &Plan, bad: bool, text: &str) {
        let (kind, node) = (EventKind::Switchover, plan.new_node.name.as_str());
        if bad {
            warn!(kind = kind.as_str(), node, "{text}");
        } else {
            info!(kind = kind.as_str(), node, "{text}");
        }
        self.hooks.events.push(kind, Some(node), text);
    }

    /// Logs in at a node, as the role for switchovers if there is one.
    async fn connect(&self, node: &NodeSettings) -> Result<Server, String> {
        let settings = self.settings.load();
        let (cluster, monitor) = (&settings.cluster, &settings.cluster.monitor);
        let (user, password) = match &cluster.switchover.user {
            Some(user) => (user, &cluster.switchover.password),
            None => (&monitor.user, &monitor.password),
        };
        let login = Login {
            user,
            password: password.as_ref(),
            database: &monitor.database,
            application_name: APPLICATION,
        };
        Server::connect(node, &self.tls, &login, cluster.connect_timeout, &self.tasks).await
    }

    /// Asks both nodes whether everything that is needed may be done, before anybody has to wait.
    async fn prepare(&self, plan: &Plan) -> Result<(Server, Server), String> {
        let (old, new) = (self.connect(&plan.old_node).await?, self.connect(&plan.new_node).await?);
        new.may_promote().await?;
        if plan.closing == Closing::Sql {
            old.may_close().await?;
        }
        // Closed by an earlier switchover, as a primary it would take no writes.
        if new.is_closed().await? {
            let name = &plan.new_node.name;
            if plan.closing != Closing::Sql {
                return Err(format!(
                    "default_transaction_read_only is on at {name}: ALTER SYSTEM RESET it there, and reload"
                ));
            }
            new.open(Instant::now() + REOPENED).await?;
        }
        Ok((old, new))
    }

    /// All up to the promotion. Returns the old primary's last position.
    async fn hand_over(
        &self,
        plan: &Plan,
        old: &Server,
        new: &Server,
        deadline: Instant,
    ) -> Result<Position, Halt> {
        let open = |why| Halt { why, closed: false, promoted: false };
        let closed = |why| Halt { why, closed: true, promoted: false };
        self.hold(true).await.map_err(open)?;
        self.drain(plan, deadline).await.map_err(open)?;
        let before = old.position().await.map_err(open)?;
        self.close(plan, old, deadline).await.map_err(closed)?;
        let last = self.caught_up(plan, old, new, before, deadline).await.map_err(closed)?;
        if plan.closing == Closing::Command {
            *self.hooks.fenced.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((plan.old, plan.timeline));
        }
        if self.store.epoch() != plan.epoch {
            return Err(closed("the primary has changed meanwhile".to_owned()));
        }
        // An answer that does not come may belong to a promotion that has begun.
        let promoted = |why| Halt { why, closed: true, promoted: true };
        new.promote().await.map_err(promoted)?;
        self.promoted(plan).await.map_err(promoted)?;
        Ok(last)
    }

    /// New writes wait, or go on; resolves when every session can see it.
    async fn hold(&self, held: bool) -> Result<(), String> {
        if !self.health.hold(held).await {
            return Err("the proxy is shutting down".to_owned());
        }
        let mut versions = self.store.subscribe();
        let published = async { while self.store.load().held != held && versions.changed().await.is_ok() {} };
        timeout(PUBLISHED, published).await.map_err(|_| "the watcher does not answer".to_owned())
    }

    /// Waits for the end of all transactions on the old primary.
    async fn drain(&self, plan: &Plan, deadline: Instant) -> Result<(), String> {
        loop {
            let busy = self.directory.busy(plan.old);
            if busy.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline || self.tasks.is_stopping() {
                let shown: Vec<String> = busy.iter().take(5).map(u64::to_string).collect();
                let more = if busy.len() > shown.len() { ", ..." } else { "" };
                let (count, list) = (busy.len(), shown.join(", "));
                return Err(format!(
                    "{count} sessions are still in a transaction or statement: {list}{more}"
                ));
            }
            sleep(LOOK).await;
        }
    }

    /// Nobody writes to the old primary any more when this succeeds.
    async fn close(&self, plan: &Plan, old: &Server, deadline: Instant) -> Result<(), String> {
        match plan.closing {
            Closing::SoleEntry => Ok(()),
            Closing::Command => {
                let change = Change {
                    reason: Reason::Switchover,
                    old: plan.old,
                    new: plan.new,
                    old_timeline: plan.timeline,
                    timeline: None,
                    epoch: plan.epoch,
                    fork: None,
                };
                let limit = deadline.saturating_duration_since(Instant::now());
                self.hooks.fence(&change, limit).await.map_err(|why| format!("fence_command {why}"))
            }
            Closing::Sql => {
                let rows = self.registry.backend_rows();
                let own: Vec<i32> =
                    rows.iter().filter(|row| row.node == plan.old).map(|row| row.pid).collect();
                let (ended, left) = old.close(&own, deadline).await?;
                info!(
                    node = plan.old_node.name,
                    ended, left, "the old primary is closed, foreign sessions were ended"
                );
                Ok(())
            }
        }
    }

    /// Waits until the standby has replayed all there is, which it says after the old primary has said how much. A primary
    /// that was shut down says nothing: `before` is what it had before that.
    async fn caught_up(
        &self,
        plan: &Plan,
        old: &Server,
        new: &Server,
        before: Position,
        deadline: Instant,
    ) -> Result<Position, String> {
        let began = Instant::now();
        loop {
            let (last, gone) = match old.position().await {
                Ok(position) => (position, false),
                Err(_) if plan.closing == Closing::Command => (before, true),
                Err(why) => return Err(why),
            };
            let has = new.position().await?;
            // What is in memory only, nobody was told of, unless he did not want to wait for the disk.
            let flushed = gone || last.flush >= last.insert || began.elapsed() >= FLUSHED;
            let wanted = if began.elapsed() >= FLUSHED { last.flush } else { last.flush.max(last.insert) };
            let all = !gone || has.replayed >= has.received;
            if flushed && all && has.replayed >= wanted {
                return Ok(last);
            }
            if Instant::now() >= deadline || self.tasks.is_stopping() {
                let (replayed, name) = (has.replayed, &plan.new_node.name);
                return Err(format!("{name} has replayed {replayed} and not {wanted} in time"));
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until the new primary is seen: held work goes on with that.
    async fn promoted(&self, plan: &Plan) -> Result<(), String> {
        let mut versions = self.store.subscribe();
        let seen = async {
            while self.store.load().primary != Some(plan.new) && versions.changed().await.is_ok() {}
        };
        let name = &plan.new_node.name;
        let late =
            |_| format!("{name} was told to promote itself, but does not take writes after {PROMOTION:?}");
        timeout(PROMOTION, seen).await.map_err(late)
    }

    /// What has become of it.
    async fn finish(self: &Arc<Self>, plan: &Plan, old: &Server, last: Position, began: Instant) -> Done {
        let held = began.elapsed();
        let topology = self.store.load();
        let fork = topology.fork.map(|fork| fork.lsn);
        let mut verdict = judge(fork, last);
        // Whoever was not closed out may have written until its own proxy saw the promotion.
        if let Ok(now) = old.position().await
            && now.xmax > last.xmax
        {
            let (name, count) = (&plan.old_node.name, now.xmax - last.xmax);
            verdict = format!(
                "{count} transactions began on {name} after it was closed and are lost there; {verdict}"
            );
        }
        if plan.closing == Closing::Sql {
            let (own, node) = (Arc::clone(self), Arc::clone(&plan.old_node));
            let id = plan.old;
            self.tasks.spawn(async move { own.open_as_standby(id, &node).await });
        }
        Done {
            old: plan.old_node.name.clone(),
            new: plan.new_node.name.clone(),
            held,
            epoch: topology.epoch,
            timeline: topology.timeline,
            closed_at: Some(last.insert),
            fork,
            verdict,
        }
    }

    /// The old primary, closed for good, would take no writes if it were promoted one day: as a standby it is opened.
    async fn open_as_standby(self: Arc<Self>, id: NodeId, node: &NodeSettings) {
        let mut versions = self.store.subscribe();
        let follows = async {
            let standby =
                |t: &Topology| t.node(id).is_some_and(|n| n.role == Role::Standby && n.health == Health::Up);
            while !standby(&self.store.load()) && versions.changed().await.is_ok() {}
        };
        tokio::select! {
            () = self.tasks.stopping() => return,
            () = follows => {}
        }
        let opened = async { self.connect(node).await?.open(Instant::now() + REOPENED).await };
        let name = node.name.as_str();
        let text = match opened.await {
            Ok(()) => format!("{name} follows the new primary: default_transaction_read_only was reset"),
            Err(why) => {
                format!("ALTER SYSTEM RESET default_transaction_read_only is left to do at {name}: {why}")
            }
        };
        info!(kind = EventKind::Switchover.as_str(), node = name, "{text}");
        self.hooks.events.push(EventKind::Switchover, Some(name), text);
    }

    /// Takes back what was done, as far as that is possible.
    async fn back_out(&self, plan: &Plan, old: &Server, halt: Halt) -> Failure {
        let (old_name, new_name) = (&plan.old_node.name, &plan.new_node.name);
        if halt.promoted {
            let detail = format!(
                "Writes are held until {new_name} takes them. If it never will, PROMOTE \"{old_name}\" opens {old_name} again."
            );
            return Failure { text: halt.why, detail };
        }
        let mut detail = format!("{old_name} goes on as the primary.");
        if halt.closed && plan.closing == Closing::Sql {
            let opened = match old.open(Instant::now() + REOPENED).await {
                Ok(()) => Ok(()),
                Err(_) => self.open_anew(&plan.old_node).await,
            };
            if let Err(why) = opened {
                detail = format!(
                    "{old_name} could not be opened again ({why}); PROMOTE \"{old_name}\" tries again."
                );
            }
        }
        if halt.closed && plan.closing == Closing::Command {
            detail = format!("fence_command was run: see how {old_name} is.");
            *self.hooks.fenced.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        if let Err(why) = self.hold(false).await {
            detail = format!("{detail} Writes are still held: {why}.");
        }
        Failure { text: halt.why, detail }
    }

    async fn open_anew(&self, node: &NodeSettings) -> Result<(), String> {
        self.connect(node).await?.open(Instant::now() + REOPENED).await
    }

    /// `PROMOTE` of the primary: the end of a switchover that could not be taken back, or whose proxy has died.
    async fn reopen(&self, plan: &Plan) -> Result<Done, Failure> {
        let name = &plan.old_node.name;
        let began = Instant::now();
        if self.settings.load().cluster.switchover.user.is_some()
            && let Err(why) = self.open_anew(&plan.old_node).await
        {
            return Err(refused(why, "ALTER SYSTEM RESET default_transaction_read_only there, and reload."));
        }
        self.hold(false).await.map_err(|why| refused(why, ""))?;
        let verdict = format!("{name} is the primary, and open");
        self.tell(plan, false, &verdict);
        Ok(Done {
            old: name.clone(),
            new: name.clone(),
            held: began.elapsed(),
            epoch: plan.epoch,
            timeline: plan.timeline,
            closed_at: None,
            fork: None,
            verdict,
        })
    }
}
