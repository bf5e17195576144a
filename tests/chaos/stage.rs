//! The cluster, the proxies in front of it, and what a step of the plan does to them. Orders are given as an HA manager
//! gives them: the standbys are taken from the old primary first, and the one that has most is promoted. So whatever was
//! acknowledged is there on the new one, and what is missing was lost by a proxy.

use std::time::Duration;

use pgsteer::demo::cluster::Spec;
use pgsteer::demo::error::DemoError;
use pgsteer::demo::node::{Node, Promote, Stop};
use pgsteer::demo::process::{self, Signal};
use pgsteer::demo::setup::Logins;
use tokio::time::{Instant, sleep};

use crate::harness::cluster::{TestCluster, cluster_with};
use crate::harness::drivers::connect;
use crate::harness::link::Link;
use crate::harness::proxy::{ProxySpec, TestProxy};
use crate::history::{Books, Fate, Reign, Stray, Window};
use crate::plan::{Loss, Plan, Random, Return, STANDBYS, Step, Stumble, Trouble};

/// The longest that anything may take that is bound to happen.
const LIMIT: Duration = Duration::from_mins(1);
/// How long a standby is given to follow before it is made anew.
const FOLLOW_LIMIT: Duration = Duration::from_secs(6);
/// Where standbys stream from while nobody is to be followed.
const NOWHERE: &str = "host=127.0.0.1 port=9 user=replicator";
/// Writes that go by while an old primary lives on.
const WRITES_BESIDE: usize = 40;

/// Why a step could not be done; the episode fails.
pub type Failed = String;

/// Everything but the clients.
pub struct Stage {
    // Dropped in this order: the proxies first, so that they never see their cluster go.
    pub proxies: Vec<TestProxy>,
    /// By proxy, then by node.
    links: Vec<Vec<Link>>,
    pub cluster: TestCluster,
    pub books: Books,
    /// Clients that write, by number; their rows tell who is at work.
    pub writers: usize,
    primary: usize,
    random: Random,
}

fn said<T>(result: Result<T, DemoError>) -> Result<T, Failed> {
    result.map_err(|error| error.to_string())
}

impl Stage {
    pub async fn build(plan: &Plan, writers: usize, books: &Books) -> Self {
        let settings = vec![("synchronous_standby_names".to_owned(), "ANY 1 (*)".to_owned())];
        let cluster = cluster_with(Spec { settings, ..Spec::new(STANDBYS, Logins::fixed()) }).await;
        cluster.n(0).sql_in("app").await.unwrap().run(crate::writers::TABLES_SQL).await.unwrap();
        let grant = "GRANT ALL ON ALL TABLES IN SCHEMA public TO app";
        cluster.n(0).sql_in("app").await.unwrap().run(grant).await.unwrap();
        let (mut proxies, mut links) = (Vec::new(), Vec::new());
        for _ in 0..plan.proxies {
            let mut own = Vec::new();
            for node in cluster.nodes() {
                own.push(Link::to(node.port()).await);
            }
            let mut spec = ProxySpec::behind(&own, &cluster);
            spec.set("pool.mode", plan.mode).set("route.split", plan.split);
            spec.raw("retry.resolve_commit", &plan.resolve.to_string());
            spec.raw("retry.transactions", &plan.replay.to_string());
            spec.raw("retry.listen", &plan.listen.to_string());
            if plan.proxies == 1 {
                spec.set("cluster.switchover.user", "postgres");
                spec.set("cluster.switchover.password", "postgres-secret");
            } else {
                // The others are to see a primary that is gone, and not one that turns their clients away.
                let script = shutdown_script(&cluster);
                spec.raw("cluster.fence_command", &format!("[\"sh\", \"-c\", {script:?}]"));
            }
            proxies.push(spec.start().await);
            links.push(own);
        }
        let now = Instant::now();
        let first = Reign {
            kind: "start".to_owned(),
            port: cluster.n(0).port(),
            asked: now,
            writable: now,
            seen: vec![now; plan.proxies],
            is_plain: false,
        };
        books.open().reigns.push(first);
        let random = Random::new(plan.seed, 1);
        Self { proxies, links, cluster, books: books.clone(), writers, primary: 0, random }
    }

    pub fn primary(&self) -> &Node {
        self.cluster.n(self.primary)
    }

    fn standbys(&self) -> Vec<usize> {
        (0..=STANDBYS).filter(|index| *index != self.primary).collect()
    }

    /// One step, and everything until all is well again.
    pub async fn run(&mut self, step: Step) -> Result<(), Failed> {
        self.books.note(format!("{step:?}; the primary is node{}", self.primary + 1));
        let (primary, standbys) = match step {
            // The proxy that is asked loses nothing; for the others it is a failover.
            Step::SwitchOver => ((0..self.proxies.len()).map(|index| index > 0).collect(), false),
            Step::FailOver { .. } => (vec![true; self.proxies.len()], true),
            // Nothing is lost when the primary is silent for a while.
            Step::Stumble { how: Stumble::Freeze | Stumble::Cut, .. } => {
                (vec![false; self.proxies.len()], false)
            }
            Step::Stumble { .. } => (vec![true; self.proxies.len()], false),
            Step::Standby { trouble, .. } => {
                (vec![false; self.proxies.len()], trouble != Trouble::PauseReplay)
            }
        };
        let moves = step == Step::SwitchOver;
        let window = Window { kind: step.word(), from: Instant::now(), to: None, primary, standbys, moves };
        let index = {
            let mut history = self.books.open();
            history.windows.push(window);
            history.windows.len() - 1
        };
        match step {
            Step::FailOver { loss, before, decision, back } => {
                self.fail_over(loss, before, Duration::from_millis(decision), back).await?;
            }
            Step::SwitchOver => self.switch_over().await?,
            Step::Stumble { how, millis } => self.stumble(how, Duration::from_millis(millis)).await?,
            Step::Standby { trouble, millis } => {
                let index = self.random.pick(&self.standbys());
                self.strike(index, trouble).await?;
                sleep(Duration::from_millis(millis)).await;
                self.relieve(index, trouble).await?;
            }
        }
        self.settle().await?;
        self.books.open().windows[index].to = Some(Instant::now());
        Ok(())
    }

    /// Waits until a condition holds; the step fails when it does not.
    async fn until(&self, what: &str, mut look: impl AsyncFnMut() -> bool) -> Result<(), Failed> {
        let began = Instant::now();
        while !look().await {
            if began.elapsed() > LIMIT {
                return Err(format!("in {LIMIT:?}: no {what}"));
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Waits until every proxy says that of a node.
    async fn all_say(&self, index: usize, field: &str, value: &str) -> Result<(), Failed> {
        for (number, proxy) in self.proxies.iter().enumerate() {
            let what = format!("{field} = {value} of node{} at proxy {}", index + 1, number + 1);
            let says = async || proxy.topology().await.is_ok_and(|view| view["nodes"][index][field] == value);
            self.until(&what, says).await?;
        }
        Ok(())
    }

    /// Waits until the primary and both standbys serve, and every writer has got something done.
    async fn settle(&self) -> Result<(), Failed> {
        let now = Instant::now();
        self.all_say(self.primary, "role", "primary").await?;
        for index in self.standbys() {
            self.all_say(index, "reads", "qualified").await?;
        }
        self.everybody_writes(now).await
    }

    /// Waits until every writer has had something acknowledged that it sent after that moment.
    async fn everybody_writes(&self, moment: Instant) -> Result<(), Failed> {
        let what = format!("write of each of {} writers", self.writers);
        self.until(&what, async || {
            let history = self.books.open();
            if !history.complaints.is_empty() {
                // Some writer may have ended over it; what it was is told at once.
                return true;
            }
            let recent = history.attempts.iter().rev().take_while(|attempt| attempt.ended > moment);
            let done = recent
                .filter(|attempt| attempt.sent > moment && matches!(attempt.fate, Fate::Acknowledged { .. }));
            let mut clients: Vec<usize> = done.map(|attempt| attempt.client).collect();
            clients.sort_unstable();
            clients.dedup();
            clients.len() == self.writers
        })
        .await
    }

    async fn more_writes(&self, count: usize) -> Result<(), Failed> {
        let moment = Instant::now();
        self.until(&format!("{count} acknowledged writes"), async || {
            let history = self.books.open();
            let recent = history.attempts.iter().rev().take_while(|attempt| attempt.ended > moment);
            let done = recent.filter(|attempt| matches!(attempt.fate, Fate::Acknowledged { .. }));
            !history.complaints.is_empty() || done.count() >= count
        })
        .await
    }

    // ---- standbys -----------------------------------------------------------------------------------

    async fn strike(&self, index: usize, trouble: Trouble) -> Result<(), Failed> {
        self.books.note(format!("{trouble:?} of standby node{}", index + 1));
        let node = self.cluster.n(index);
        match trouble {
            Trouble::Kill => drop(said(node.kill())?),
            Trouble::StopFast => said(node.ask_to_stop(Stop::Fast))?,
            Trouble::Freeze => said(node.freeze())?,
            Trouble::Cut => self.links.iter().for_each(|links| links[index].cut()),
            Trouble::Reset => self.links.iter().for_each(|links| links[index].reset()),
            Trouble::PauseReplay => said(node.pause_replay().await)?,
        }
        Ok(())
    }

    async fn relieve(&self, index: usize, trouble: Trouble) -> Result<(), Failed> {
        self.books.note(format!("end of {trouble:?} of node{}", index + 1));
        let node = self.cluster.n(index);
        match trouble {
            Trouble::Kill | Trouble::StopFast => {
                said(node.wait_gone().await)?;
                said(node.start().await)
            }
            Trouble::Freeze => said(node.thaw()),
            Trouble::Cut => {
                self.links.iter().for_each(|links| links[index].mend());
                Ok(())
            }
            Trouble::Reset => Ok(()),
            Trouble::PauseReplay => said(node.resume_replay().await),
        }
    }

    /// Makes a standby that runs follow the primary; makes it anew when it cannot.
    async fn follow(&self, index: usize) -> Result<(), Failed> {
        let (node, primary) = (self.cluster.n(index), self.primary());
        said(node.repoint(&self.cluster.conninfo(primary, node)).await)?;
        // One that is ahead of the fork streams too, for moments: the timeline it left, to which nothing is added.
        let timeline = "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int";
        let timeline = said(primary.one(timeline).await)?;
        let sql =
            "SELECT sender_port || ' ' || received_tli FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        if node.wait_for(sql, &format!("{} {timeline}", primary.port()), FOLLOW_LIMIT).await.is_ok() {
            return Ok(());
        }
        self.books.note(format!("node{} does not follow and is made anew", index + 1));
        said(node.stop(Stop::Fast).await)?;
        self.rejoin(index, Return::Rewind).await
    }

    /// No standby of these takes anything from anybody any more: what its primary does now nobody acknowledges.
    async fn detach(&self, standbys: &[usize]) -> Result<(), Failed> {
        for index in standbys {
            let node = self.cluster.n(*index);
            said(node.repoint(NOWHERE).await)?;
            said(node.wait_for("SELECT count(*) FROM pg_stat_wal_receiver", "0", LIMIT).await)?;
        }
        Ok(())
    }

    // ---- primaries ----------------------------------------------------------------------------------

    fn lose(&self, loss: Loss) -> Result<(), Failed> {
        let node = self.primary();
        match loss {
            Loss::Kill => drop(said(node.kill())?),
            Loss::KillPostmaster => said(node.kill_postmaster())?,
            Loss::StopFast => said(node.ask_to_stop(Stop::Fast))?,
            Loss::StopImmediate => said(node.ask_to_stop(Stop::Immediate))?,
            Loss::Freeze => said(node.freeze())?,
            // Where there is another proxy, that one still reaches it.
            Loss::Cut => self.links[0][self.primary].cut(),
            Loss::Live => {}
        }
        Ok(())
    }

    async fn fail_over(
        &mut self,
        loss: Loss,
        before: Option<Trouble>,
        decision: Duration,
        back: Return,
    ) -> Result<(), Failed> {
        let troubled = before.map(|trouble| (self.random.pick(&self.standbys()), trouble));
        if let Some((index, trouble)) = troubled {
            self.strike(index, trouble).await?;
            // What the other one has acknowledged alone must be on this one too.
            for other in self.standbys().into_iter().filter(|other| *other != index) {
                said(self.cluster.wait_caught_up(self.cluster.n(other), self.primary()).await)?;
            }
        }
        let old = self.primary;
        self.lose(loss)?;
        self.books.note(format!("{loss:?} of node{}", old + 1));
        sleep(decision).await;
        if let Some((index, trouble @ Trouble::PauseReplay)) = troubled {
            // While it is paused it cannot be taken from its source.
            self.relieve(index, trouble).await?;
        }
        let is_away = |index: usize| {
            let away = [Trouble::Kill, Trouble::StopFast, Trouble::Freeze];
            troubled.is_some_and(|(one, trouble)| one == index && away.contains(&trouble))
        };
        let (away, there): (Vec<usize>, Vec<usize>) =
            self.standbys().into_iter().partition(|index| is_away(*index));
        self.detach(&there).await?;
        self.promote_best(&there, loss, back, troubled.is_none()).await?;
        let late = |index: usize| troubled == Some((index, Trouble::Freeze));
        if let Some((index, trouble)) = troubled
            && trouble != Trouble::PauseReplay
            && !late(index)
        {
            if is_away(index) {
                // It must not come back to a primary that lives on.
                let node = self.cluster.n(index);
                said(node.wait_gone().await)?;
                said(node.write_standby(&self.cluster.conninfo(self.primary(), node)))?;
            }
            self.relieve(index, trouble).await?;
        }
        let others: Vec<usize> =
            there.into_iter().chain(away).filter(|index| *index != self.primary).collect();
        for index in others.iter().filter(|index| !late(**index)) {
            self.follow(*index).await?;
        }
        self.wait_seen().await?;
        if let Some(index) = others.into_iter().find(|index| late(*index)) {
            // It may get more from the old primary, and be ahead of the fork.
            self.relieve(index, Trouble::Freeze).await?;
            self.follow(index).await?;
        }
        if !matches!(loss, Loss::Freeze | Loss::Cut | Loss::Live) {
            self.everybody_writes(Instant::now()).await?;
        }
        self.bring_back(old, loss, back).await
    }

    /// Promotes the one that has received most.
    async fn promote_best(
        &mut self,
        among: &[usize],
        loss: Loss,
        back: Return,
        is_plain: bool,
    ) -> Result<(), Failed> {
        let nodes: Vec<&Node> = among.iter().map(|index| self.cluster.n(*index)).collect();
        let best = said(self.cluster.most_advanced(&nodes).await)?;
        let asked = Instant::now();
        self.books.note(format!("{} is promoted", best.name()));
        let writable = said(best.promote_and_wait(Promote::PgCtl).await)?;
        let port = best.port();
        self.primary = among.iter().copied().find(|index| self.cluster.n(*index).port() == port).unwrap();
        let kind = Step::FailOver { loss, before: None, decision: 0, back }.word();
        self.books.open().reigns.push(Reign { kind, port, asked, writable, seen: Vec::new(), is_plain });
        Ok(())
    }

    /// Waits until each proxy has said who the primary is, and writes down when.
    async fn wait_seen(&self) -> Result<(), Failed> {
        let name = self.primary().name();
        let mut seen = Vec::new();
        for (number, proxy) in self.proxies.iter().enumerate() {
            let what = format!("primary {name} at proxy {}", number + 1);
            let says = async || proxy.topology().await.is_ok_and(|view| view["primary"] == name);
            self.until(&what, says).await?;
            seen.push(Instant::now());
        }
        self.books.note(format!("every proxy has seen that {name} is the primary"));
        if let Some(reign) = self.books.open().reigns.last_mut() {
            reign.seen = seen;
        }
        Ok(())
    }

    /// The old primary: lives on for a while where it can, and comes back as a standby.
    async fn bring_back(&mut self, old: usize, loss: Loss, back: Return) -> Result<(), Failed> {
        let node = self.cluster.n(old);
        match loss {
            Loss::Freeze => said(node.thaw())?,
            Loss::Cut => self.links.iter().for_each(|links| links[old].mend()),
            _ => {}
        }
        if back == Return::Revived {
            said(node.wait_gone().await)?;
            said(node.write_file("postgresql.auto.conf", "synchronous_standby_names = ''\n"))?;
            said(node.start().await)?;
            self.books.note(format!("node{} is back as it was", old + 1));
        }
        if back == Return::Revived || matches!(loss, Loss::Freeze | Loss::Cut | Loss::Live) {
            self.live_beside(old).await?;
        }
        let node = self.cluster.n(old);
        if node.is_running() && loss != Loss::StopFast {
            let how = if self.random.chance(5) { Stop::Fast } else { Stop::Immediate };
            said(node.ask_to_stop(how))?;
        }
        if loss == Loss::KillPostmaster {
            // Its orphans would stay as long as their clients do.
            said(node.kill())?;
        }
        said(node.wait_gone().await)?;
        self.rejoin(old, back).await
    }

    /// An old primary that would acknowledge anything, beside the new one.
    async fn live_beside(&self, old: usize) -> Result<(), Failed> {
        self.all_say(old, "role", "zombie").await?;
        let node = self.cluster.n(old);
        let mut sql = said(node.sql_in("app").await)?;
        said(sql.run("ALTER SYSTEM SET synchronous_standby_names = ''").await)?;
        said(sql.run("SELECT pg_reload_conf()").await)?;
        self.books.note(format!("node{} acknowledges what it gets, beside its successor", old + 1));
        self.everybody_writes(Instant::now()).await?;
        self.more_writes(WRITES_BESIDE).await?;
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        said(node.wait_for(waiting, "0", LIMIT).await)?;
        // First the old one: rows come to the new one all the time.
        let there = rows(node).await?;
        let mut known = rows(self.primary()).await?;
        known.sort_unstable();
        let mut history = self.books.open();
        let reign = history.reigns.len() - 1;
        let strays: Vec<Stray> = there
            .into_iter()
            .filter(|row| known.binary_search(row).is_err())
            .map(|(client, row)| Stray { client, row, reign })
            .collect();
        history.strays.extend(strays);
        Ok(())
    }

    async fn rejoin(&self, index: usize, back: Return) -> Result<(), Failed> {
        let (node, primary) = (self.cluster.n(index), self.primary());
        if back != Return::Backup {
            let how = said(self.cluster.rejoin(node, primary).await)?;
            self.books.note(format!("node{} is back: {how:?}", index + 1));
            return Ok(());
        }
        std::fs::remove_dir_all(node.data()).map_err(|error| error.to_string())?;
        said(self.cluster.base_backup(node, primary).await)?;
        said(node.write_standby(&self.cluster.conninfo(primary, node)))?;
        said(self.cluster.join(node, primary).await)?;
        self.books.note(format!("node{} is back by a base backup", index + 1));
        Ok(())
    }

    async fn switch_over(&mut self) -> Result<(), Failed> {
        let (old, to) = (self.primary, self.random.pick(&self.standbys()));
        let console = connect(&self.proxies[0].console_config()).await.map_err(|error| error.to_string())?;
        let asked = Instant::now();
        let order = format!("PROMOTE node{} (TIMEOUT '20s')", to + 1);
        let answer = tokio::time::timeout(LIMIT, console.simple_query(&order)).await;
        let answer = answer.map_err(|_| format!("in {LIMIT:?}: no answer to {order}"))?;
        let promoted = said(self.cluster.n(to).one("SELECT NOT pg_is_in_recovery()").await)? == "t";
        self.books.note(format!(
            "{order}: {}",
            answer.as_ref().map_or_else(ToString::to_string, |_| "done".into())
        ));
        if !promoted {
            // It was given up, which a busy machine may bring about; writes go on where they were.
            let node = self.cluster.n(old);
            return if node.is_running() { Ok(()) } else { said(node.start().await) };
        }
        self.primary = to;
        let reign = Reign {
            kind: Step::SwitchOver.word(),
            port: self.primary().port(),
            asked,
            writable: Instant::now(),
            seen: Vec::new(),
            is_plain: true,
        };
        self.books.open().reigns.push(reign);
        for index in self.standbys().into_iter().filter(|index| *index != old) {
            self.follow(index).await?;
        }
        self.wait_seen().await?;
        self.everybody_writes(Instant::now()).await?;
        said(self.cluster.n(old).stop(Stop::Fast).await)?;
        said(self.cluster.n(old).wait_gone().await)?;
        self.rejoin(old, Return::Rewind).await
    }

    async fn stumble(&self, how: Stumble, time: Duration) -> Result<(), Failed> {
        let node = self.primary();
        let links = || self.links.iter().map(|links| &links[self.primary]);
        match how {
            Stumble::RestartFast => said(node.ask_to_stop(Stop::Fast))?,
            Stumble::RestartImmediate => said(node.ask_to_stop(Stop::Immediate))?,
            Stumble::RestartKilled => drop(said(node.kill())?),
            Stumble::Crash => {
                let backends = node.processes_called("app app");
                said(process::send(Signal::Kill, &backends[..1.min(backends.len())]))?;
            }
            Stumble::Freeze => said(node.freeze())?,
            Stumble::Cut => links().for_each(Link::cut),
            Stumble::Reset => links().for_each(Link::reset),
        }
        match how {
            Stumble::RestartFast | Stumble::RestartImmediate | Stumble::RestartKilled => {
                said(node.wait_gone().await)?;
                sleep(time / 4).await;
                said(node.start().await)
            }
            Stumble::Freeze => {
                sleep(time).await;
                said(node.thaw())
            }
            Stumble::Cut => {
                sleep(time).await;
                links().for_each(Link::mend);
                Ok(())
            }
            Stumble::Crash | Stumble::Reset => Ok(()),
        }
    }
}

/// Shuts the old primary down in a switchover, cleanly; in a failover it lives on, since that is tried here.
fn shutdown_script(cluster: &TestCluster) -> String {
    let folders =
        cluster.nodes().iter().map(|node| format!("{}) data='{}' ;; ", node.name(), node.data().display()));
    let folders: String = folders.collect();
    format!(
        "[ \"$PGSTEER_REASON\" = switchover ] || exit 0; case $PGSTEER_OLD_PRIMARY in {folders} esac; \
         read -r pid <\"$data/postmaster.pid\" && kill -INT \"$pid\" && while [ -e \"$data/postmaster.pid\" ]; do \
         sleep 0.02; done"
    )
}

/// All rows of writers on one server.
pub async fn rows(node: &Node) -> Result<Vec<(usize, u32)>, Failed> {
    let mut sql = said(node.sql_in("app").await)?;
    let rows = said(sql.rows("SELECT client, n FROM chaos").await)?;
    let number =
        |row: &[Option<String>], column: usize| -> Option<u32> { row.get(column)?.as_ref()?.parse().ok() };
    Ok(rows.iter().filter_map(|row| Some((number(row, 0)? as usize, number(row, 1)?))).collect())
}
