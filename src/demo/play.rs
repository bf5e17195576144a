//! The demonstration itself: build, load, kill, promote, rejoin, audit.
//! In: the options. Out: an outcome. The proxy is another process of the same program.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Config;

use super::DemoArgs;
use super::cluster::{Cluster, Rejoin, Spec};
use super::error::DemoError;
use super::load::{Kind, Ledger, Load, Served, TABLE_SQL};
use super::node::{Node, Promote, quoted};
use super::outcome::{Failover, Outcome};
use super::programs::Programs;
use super::proxy::Proxy;
use super::setup::Logins;
use super::steps::Steps;
use super::view::View;
use super::wait::until;
use super::workspace::{HeldPorts, free_ports};
use crate::drain::Tasks;

/// Hot standbys beside the primary.
const STANDBYS: usize = 2;

/// What a client does between two statements: the load shall show, not benchmark.
const PAUSE: Duration = Duration::from_millis(5);

/// How long the cluster and the proxy may take for anything that the play waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many new readers may come until one of them is sent to the node that is back.
const NEW_READERS: usize = 6;

/// How long a new reader is given to be answered there.
const NEW_READER_PATIENCE: Duration = Duration::from_secs(1);

/// Commits wait until one standby has them on disk, so that a crash can lose no acknowledged write.
const SYNCHRONOUS: &str = "ANY 1 (*)";

/// Everything that runs.
struct Stage {
    cluster: Cluster,
    proxy: Proxy,
    ports: Ports,
    _held: HeldPorts,
    steps: Steps,
    view: View,
}

/// The clients at work.
struct Crew {
    load: Load,
    ledger: Ledger,
    tasks: Tasks,
}

/// Ports of the proxy.
#[derive(Debug, Clone, Copy)]
struct Ports {
    primary: u16,
    standby: u16,
    http: u16,
}

/// Plays it all; with `--keep` the servers stay.
pub async fn play(args: &DemoArgs, steps: Steps) -> Result<Outcome, DemoError> {
    let began = Instant::now();
    let stage = set_up(args, steps).await?;
    steps.line(&stage.instructions());
    let crew = stage.start_load(args).await?;
    let acted = stage.act(args, &crew).await;
    crew.tasks.stop();
    let all_ended = crew.tasks.ended(PATIENCE).await;
    stage.view.close();
    let (failover, gaps) = acted?;
    if !all_ended {
        return Err(stage.proxy.complain("some clients never got an answer"));
    }
    let mut outcome = stage.outcome(&crew.ledger, failover, gaps).await?;
    outcome.seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    stage.leave(args).await?;
    Ok(outcome)
}

async fn set_up(args: &DemoArgs, steps: Steps) -> Result<Stage, DemoError> {
    let programs = Arc::new(Programs::find(args.bindir.as_deref()).await?);
    let account = programs.account.as_ref().map_or(String::new(), |a| format!(", servers run as {}", a.name));
    steps.line(&format!("PostgreSQL {} in {}{account}", programs.version, programs.dir.display()));
    let spec = Spec { prefix: "pgsteer-demo-".to_owned(), ..Spec::new(STANDBYS, Logins::random()?) };
    let cluster = Cluster::create(&programs, spec, steps).await?;
    let primary = cluster.node(0)?;
    let prepare = async {
        cluster.set_synchronous(primary, Some(SYNCHRONOUS)).await?;
        primary.sql_in("app").await?.run(&format!("SET ROLE app; {TABLE_SQL}")).await
    };
    steps.step("synchronous replication, table for the load", prepare).await?;
    let held = free_ports(3)?;
    let ports = match &held[..] {
        [primary, standby, http] => Ports { primary: *primary, standby: *standby, http: *http },
        _ => return Err(DemoError::Setup("no free ports".to_owned())),
    };
    let program = std::env::current_exe().map_err(DemoError::io("finding this program"))?;
    let file = proxy_file(&cluster, ports, usize::from(args.clients));
    let proxy = Proxy::start(&program, cluster.path(), &file, ports.http)?;
    steps.step("starting pgsteer in front", proxy.wait_ready()).await?;
    Ok(Stage { cluster, proxy, ports, _held: held, steps, view: View::new(steps) })
}

/// The configuration a person would write for this cluster.
fn proxy_file(cluster: &Cluster, ports: Ports, clients: usize) -> String {
    let mut text = format!(
        "[cluster]\nstate_file = {:?}\ntls = {{ mode = \"off\" }}\n",
        cluster.path().join("state").display().to_string()
    );
    let monitor = &cluster.logins().monitor;
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n[cluster.monitor]\nuser = \"pgsteer\"\npassword = \"{monitor}\"");
    for node in cluster.nodes() {
        let (name, address) = (node.name(), node.address());
        let _ = writeln!(text, "\n[[cluster.node]]\nname = \"{name}\"\naddress = \"{address}\"");
    }
    for (port, role) in [(ports.primary, "primary"), (ports.standby, "standby")] {
        let _ = writeln!(text, "\n[[listen]]\naddress = \"127.0.0.1:{port}\"\nrole = \"{role}\"");
    }
    let http = ports.http;
    let _ = writeln!(text, "\n[pool]\nsize = {}", clients + 20);
    let _ = writeln!(text, "\n[admin]\nhttp = \"127.0.0.1:{http}\"\nusers = [\"postgres\"]");
    text
}

/// When what happened, for the gaps.
struct Gaps {
    asked: Instant,
    writable: Instant,
}

impl Stage {
    /// Lines to try in another terminal.
    fn instructions(&self) -> String {
        let Logins { app, superuser, .. } = self.cluster.logins();
        let Ports { primary, standby, http } = self.ports;
        let line = |password: &str, port: u16, user: &str, database: &str| {
            format!("  PGPASSWORD={password} psql -h 127.0.0.1 -p {port} -U {user} {database}")
        };
        format!(
            "\nTry it from another terminal\n{}   # the primary, whoever it is\n{}   # a standby\n\
             {} -c 'SHOW NODES'   # the console\n  http://127.0.0.1:{http}/topology  /metrics  /readyz\n\
             Commits wait for one standby ({SYNCHRONOUS}), so that a crash can lose no acknowledged write.\n",
            line(app, primary, "app", "app"),
            line(app, standby, "app", "app"),
            line(superuser, primary, "postgres", "pgsteer"),
        )
    }

    async fn start_load(&self, args: &DemoArgs) -> Result<Crew, DemoError> {
        let login = |port: u16| {
            let mut config = Config::new();
            config.host("127.0.0.1").port(port).user("app").dbname("app");
            config.password(&self.cluster.logins().app).application_name("pgsteer-demo").clone()
        };
        let clients = usize::from(args.clients);
        let load = Load {
            write_to: login(self.ports.primary),
            read_from: login(self.ports.standby),
            writers: clients / 2,
            readers: clients - clients / 2,
            pause: PAUSE,
        };
        let text = format!("{} writers and {} readers log in through pgsteer", load.writers, load.readers);
        let tasks = Tasks::new();
        let ledger = self.steps.step(&text, load.start(&tasks)).await?;
        Ok(Crew { load, ledger, tasks })
    }

    /// Load, failover, load.
    async fn act(
        &self,
        args: &DemoArgs,
        crew: &Crew,
    ) -> Result<(Option<(Failover, HashMap<u16, Served>)>, Option<Gaps>), DemoError> {
        let watch = || async {
            tokio::time::sleep(Duration::from_secs(args.seconds)).await;
        };
        self.view.during(&self.proxy, &crew.ledger, watch()).await;
        if args.no_failover {
            return Ok((None, None));
        }
        let (failover, before, gaps) =
            self.view.during(&self.proxy, &crew.ledger, self.fail_over(crew)).await?;
        self.view.during(&self.proxy, &crew.ledger, watch()).await;
        Ok((Some((failover, before)), Some(gaps)))
    }

    async fn fail_over(&self, crew: &Crew) -> Result<(Failover, HashMap<u16, Served>, Gaps), DemoError> {
        let lost = self.cluster.node(0)?;
        let standbys: Vec<&Node> = self.cluster.nodes().iter().skip(1).collect();
        self.view.event(&format!("SIGKILL to every process of {}, the primary", lost.name()));
        let killed = lost.kill()?;
        for standby in &standbys {
            let nothing_more = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
            standby.wait_for(nothing_more, "0", PATIENCE).await?;
        }
        let new = self.cluster.most_advanced(&standbys).await?;
        let before = crew.ledger.summary().served;
        self.view.event(&format!("pg_ctl promote on {}, which has received most", new.name()));
        let asked = Instant::now();
        let writable = new.promote_and_wait(Promote::PgCtl).await?;
        let gaps = Gaps { asked, writable };
        let mut failover = Failover {
            killed: lost.name().to_owned(),
            promoted: new.name().to_owned(),
            decision_ms: ms(asked - killed),
            promotion_ms: ms(writable - asked),
            ..Failover::default()
        };
        self.first_write(&crew.ledger, &gaps).await?;
        self.follow(&standbys, new).await?;
        let repair = Instant::now();
        failover.rejoined_by = self.bring_back(lost, new, crew).await?;
        failover.rejoin_ms = ms(repair.elapsed());
        Ok((failover, before, gaps))
    }

    async fn first_write(&self, ledger: &Ledger, gaps: &Gaps) -> Result<(), DemoError> {
        let first = until("the first write on the new primary", PATIENCE, async || {
            Ok(ledger.first_ack_after(gaps.asked))
        });
        let first = first.await.map_err(|error| self.proxy.complain(&error.to_string()))?;
        let gap = ms(first.saturating_duration_since(gaps.writable));
        self.view.event(&format!("first write acknowledged {gap:.1} ms after the new primary was writable"));
        Ok(())
    }

    /// The other standbys follow the new primary; from then on commits wait for one again.
    async fn follow(&self, standbys: &[&Node], new: &Node) -> Result<(), DemoError> {
        for standby in standbys.iter().filter(|standby| standby.name() != new.name()) {
            self.cluster.repoint(standby, new).await?;
            self.view.event(&format!("{} follows {}", standby.name(), new.name()));
        }
        self.cluster.set_synchronous(new, Some(SYNCHRONOUS)).await
    }

    async fn bring_back(&self, lost: &Node, new: &Node, crew: &Crew) -> Result<String, DemoError> {
        let how = match self.cluster.rejoin(lost, new).await? {
            Rejoin::Rewound => "pg_rewind".to_owned(),
            Rejoin::BaseBackup(why) => {
                let reason = why.lines().next().unwrap_or_default().to_owned();
                self.view.event(&format!("no pg_rewind: {reason}"));
                "pg_basebackup".to_owned()
            }
        };
        self.view.event(&format!("{} is back as a standby of {} ({how})", lost.name(), new.name()));
        let reads = || crew.ledger.summary().served.get(&lost.port()).map_or(0, |served| served.reads);
        let before = reads();
        let what = format!("reads on {} through pgsteer", lost.name());
        self.seen_as_standby(lost).await?;
        // Sessions stay at the standby they have; new ones go to one of those that have least to do.
        for count in 1..=NEW_READERS {
            crew.load.add(Kind::Reader, &crew.ledger, &crew.tasks).await?;
            let serves =
                until(&what, NEW_READER_PATIENCE, async || Ok((reads() > before).then_some(()))).await;
            if serves.is_ok() {
                self.view.event(&format!("{} serves again: new reader number {count}", lost.name()));
                return Ok(how);
            }
        }
        Err(self.proxy.complain(&format!("no {what}, though {NEW_READERS} new readers came")))
    }

    /// Waits until the proxy sends reads to that node.
    async fn seen_as_standby(&self, node: &Node) -> Result<(), DemoError> {
        let what = format!("pgsteer to take {} as a standby", node.name());
        let seen = until(&what, PATIENCE, async || {
            let page = self.proxy.topology().await?;
            let nodes = page.get("nodes").and_then(serde_json::Value::as_array);
            let ours = nodes.into_iter().flatten().find(|seen| seen["name"] == node.name());
            Ok(ours.filter(|seen| seen["role"] == "standby" && seen["reads"] == "qualified").map(drop))
        });
        seen.await.map_err(|error| self.proxy.complain(&error.to_string()))
    }

    async fn outcome(
        &self,
        ledger: &Ledger,
        failover: Option<(Failover, HashMap<u16, Served>)>,
        gaps: Option<Gaps>,
    ) -> Result<Outcome, DemoError> {
        let (failover, before) =
            failover.map_or((None, None), |(failover, before)| (Some(failover), Some(before)));
        let name = failover.as_ref().map_or("node1", |failover| failover.promoted.as_str());
        let primary = self.cluster.nodes().iter().find(|node| node.name() == name);
        let primary = primary.ok_or_else(|| DemoError::Setup("there is no primary".to_owned()))?;
        let audit = ledger.audit(&mut primary.sql_in("app").await?).await?;
        let summary = ledger.summary();
        let (on_primary, on_standbys) = self.by_role(&summary.served, before.as_ref(), primary);
        let first = gaps.as_ref().and_then(|gaps| ledger.first_ack_after(gaps.asked));
        let last = gaps.as_ref().and_then(|gaps| ledger.last_ack_before(gaps.asked));
        let after = |from: Option<Instant>| Some(ms(first?.saturating_duration_since(from?)));
        Ok(Outcome {
            postgresql: self.cluster.programs().version.clone(),
            clients: summary.clients,
            connections_lost: summary.lost_connections,
            writes_acknowledged: summary.acknowledged,
            writes_lost: audit.lost,
            writes_doubled: audit.doubled,
            writes_undead: audit.undead,
            writes_in_doubt: summary.in_doubt,
            writes_in_doubt_applied: audit.doubt_applied,
            statements_on_primary: on_primary,
            statements_on_standbys: on_standbys,
            errors: summary.errors,
            longest_read_gap_ms: ms(summary.longest_read_gap),
            write_gap_ms: after(gaps.map(|gaps| gaps.writable)),
            outage_ms: after(last),
            failover,
            ..Outcome::default()
        })
    }

    /// Statements on the primary of the time, and on each node as a standby. `before` is what had been
    /// served when the primary had died and nothing was promoted yet.
    fn by_role(
        &self,
        served: &HashMap<u16, Served>,
        before: Option<&HashMap<u16, Served>>,
        primary: &Node,
    ) -> (u64, BTreeMap<String, u64>) {
        let all = |served: &HashMap<u16, Served>, node: &Node| {
            served.get(&node.port()).map_or(0, |served| served.reads + served.writes)
        };
        let mut on_primary = 0;
        let mut on_standbys = BTreeMap::new();
        for (index, node) in self.cluster.nodes().iter().enumerate() {
            let total = all(served, node);
            let early = before.map_or(total, |before| all(before, node));
            let as_primary = match (index == 0, node.name() == primary.name()) {
                (true, true) => total,
                (true, false) => early,
                (false, true) => total - early,
                (false, false) => 0,
            };
            on_primary += as_primary;
            if total > as_primary || index > 0 {
                on_standbys.insert(node.name().to_owned(), total - as_primary);
            }
        }
        (on_primary, on_standbys)
    }

    /// Stops everything and removes the folder, or leaves it with a script that does.
    async fn leave(self, args: &DemoArgs) -> Result<(), DemoError> {
        if args.keep {
            let script = self.write_stop_script()?;
            self.steps.line(&self.instructions());
            self.steps
                .line(&format!("Everything keeps running; to stop and remove it: {}", script.display()));
            self.proxy.keep();
            self.cluster.keep();
            return Ok(());
        }
        let Self { cluster, proxy, steps, .. } = self;
        steps.step("stopping pgsteer", async { proxy.stop().await.map(drop) }).await?;
        steps.step("stopping the servers, removing the folder", cluster.stop()).await
    }

    fn write_stop_script(&self) -> Result<PathBuf, DemoError> {
        let path = self.cluster.path().join("stop.sh");
        let folder = quoted(&self.cluster.path().display().to_string());
        let text = STOP_SCRIPT.replace("FOLDER", &folder).replace("PROXY", &self.proxy.pid().to_string());
        std::fs::write(&path, text).map_err(DemoError::io(format!("writing {}", path.display())))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).map_err(DemoError::io("making stop.sh a program"))?;
        Ok(path)
    }
}

/// Ends what works in the folder: the proxy, then the servers, then whoever is left; removes the folder.
const STOP_SCRIPT: &str = r#"#!/bin/sh
# Ends the proxy and the servers of this demonstration and removes their folder.
folder=FOLDER
cd /
ours() { find /proc -maxdepth 2 -name cwd \( -lname "$folder" -o -lname "$folder/*" \) 2>/dev/null; }
kill -s TERM PROXY 2>/dev/null
for file in "$folder"/*/postmaster.pid; do
    [ -f "$file" ] && kill -s INT "$(head -n 1 "$file")" 2>/dev/null
done
for round in 1 2 3 4 5 6 7 8 9 10; do
    [ -z "$(ours)" ] && break
    sleep 1
done
for link in $(ours); do
    pid=${link#/proc/}
    kill -s KILL "${pid%/cwd}" 2>/dev/null
done
rm -rf "$folder"
"#;

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_have_two_decimals() {
        assert!((ms(Duration::from_micros(12_345)) - 12.35).abs() < 1e-9);
    }
}
