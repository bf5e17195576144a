//! One episode: stage and clients together, the verdict, and what is kept of it when it failed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::figures::Figures;
use crate::history::{Books, History, Over, Table};
use crate::line::Line;
use crate::oracle::{Terms, Violation, judge};
use crate::plan::{Plan, Random};
use crate::readers::{Reading, keep, listen, lock, read};
use crate::stage::{Stage, rows};
use crate::writers::{Writer, beat};

/// Clients of each proxy that write rows.
const WRITERS: usize = 8;
/// Clients of each proxy that write and wait for no standby.
const BEATS: usize = 3;
/// All clients of a proxy: with them three readers, and three with state of their own.
const CLIENTS: usize = WRITERS + BEATS + 6;
/// How long clients may take to end: a statement may be held.
const END_LIMIT: Duration = Duration::from_mins(1);
/// `cluster.max_lag` is a second; a machine that is busy with other things may notice late.
const STALE: Duration = Duration::from_secs(5);
/// `cluster.hold_timeout`
const HOLD: Duration = Duration::from_secs(30);
/// Lines of the history that are printed around a failure.
const AROUND: [usize; 2] = [30, 10];

/// Plays an episode; panics with everything that helps when a promise was broken.
pub async fn episode(plan: &Plan, figures: &mut Figures) {
    println!("{}", plan.words());
    let began = Instant::now();
    let books = Books::default();
    let guard = Replay(plan.clone());
    let mut stage = Stage::build(plan, WRITERS * plan.proxies, &books).await;
    let over = Over::default();
    let mut clients = start_clients(plan, &stage, &over).await;
    let mut failed = None;
    for step in &plan.steps {
        println!("{:7.1} s  {step:?}", began.elapsed().as_secs_f64());
        failed = stage.run(*step).await.err();
        if failed.is_some() || !books.open().complaints.is_empty() {
            break;
        }
    }
    over.set();
    let ended = tokio::time::timeout(END_LIMIT, async {
        while let Some(client) = clients.join_next().await {
            if let Err(error) = client {
                books.complain(format!("a client ended badly: {error}"));
            }
        }
    });
    if ended.await.is_err() {
        books.complain(format!("{} clients do not end", clients.len()));
    }
    if let Some(why) = failed {
        books.complain(why);
    }
    let table = table(&stage, &books).await;
    let &Plan { resolve, replay, listen, .. } = plan;
    let auto = plan.split == "auto";
    let terms = Terms { auto, resolve, replay, listen, stale: STALE, hold: HOLD };
    let history = books.open().clone();
    let violations = judge(&history, &table, &terms);
    let mut metrics = Vec::new();
    for proxy in &stage.proxies {
        metrics.push(proxy.metrics().await);
    }
    if !violations.is_empty() {
        let text = tell(&violations, &history);
        let kept = keep_logs(plan, &stage, &history, &text);
        drop(stage);
        panic!("{text}\nkept: {}", kept.display());
    }
    figures.add(plan, &history, CLIENTS * plan.proxies, &metrics, began.elapsed().as_secs_f64());
    for proxy in stage.proxies.drain(..) {
        proxy.stop().await;
    }
    drop(guard);
}

/// Says how to do it again, whatever has ended the episode.
struct Replay(Plan);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Plan { seed, steps, .. } = &self.0;
            eprintln!("to run it again: scripts/chaos.sh --seed {seed} --steps {}", steps.len());
        }
    }
}

async fn start_clients(plan: &Plan, stage: &Stage, over: &Over) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    let all = WRITERS * plan.proxies;
    for (index, proxy) in stage.proxies.iter().enumerate() {
        let (address, standbys) = (proxy.address(), proxy.standby_address());
        let random = |number: usize| Random::new(plan.seed, 100 + number as u64);
        let name = |what: &str| format!("{what} at proxy {}", index + 1);
        for number in 0..WRITERS {
            let client = index * WRITERS + number;
            let line = Line::login(&address, format!("writer {client}"), index, &stage.books).await;
            let writer = Writer { line, client, random: random(client), replay: plan.replay, next: 1 };
            clients.spawn(writer.run(over.clone()));
        }
        for number in 0..BEATS {
            let line = Line::login(&address, name(&format!("beat {number}")), index, &stage.books).await;
            clients.spawn(beat(line, index, over.clone()));
        }
        for (number, how) in [Reading::Hinted, Reading::Blocks, Reading::Endpoint].into_iter().enumerate() {
            let address = if matches!(how, Reading::Endpoint) { &standbys } else { &address };
            let line = Line::login(address, name(&format!("reader ({how:?})")), index, &stage.books).await;
            clients.spawn(read(line, how, all, random(500 + index * 10 + number), over.clone()));
        }
        clients.spawn(listen(address.clone(), index, stage.books.clone(), over.clone()));
        let line = Line::login(&address, name("lock"), index, &stage.books).await;
        clients.spawn(lock(line, 7000 + index, over.clone()));
        let line = Line::login(&address, name("temporary table"), index, &stage.books).await;
        clients.spawn(keep(line, over.clone()));
    }
    clients
}

async fn table(stage: &Stage, books: &Books) -> Table {
    let mut table = Table::new();
    match rows(stage.primary()).await {
        Ok(rows) => rows.into_iter().for_each(|row| *table.entry(row).or_default() += 1),
        Err(why) => books.complain(format!("the table cannot be read: {why}")),
    }
    table
}

/// The first of what is wrong, and what happened around it.
fn tell(violations: &[Violation], history: &History) -> String {
    let mut text = format!("{} promises broken:\n", violations.len());
    for violation in violations.iter().take(10) {
        let _ = writeln!(text, "  {}", violation.text);
    }
    let first = violations.first().map_or_else(Instant::now, |violation| violation.at);
    let mut journal: Vec<_> = history.journal.iter().collect();
    journal.sort_by_key(|entry| entry.at);
    let at = journal.partition_point(|entry| entry.at < first);
    text.push_str("around the first of them (milliseconds):\n");
    for entry in journal.iter().skip(at.saturating_sub(AROUND[0])).take(AROUND[0] + AROUND[1]) {
        let before = first.saturating_duration_since(entry.at).as_secs_f64() * -1000.0;
        let after = entry.at.saturating_duration_since(first).as_secs_f64() * 1000.0;
        let _ = writeln!(text, "  {:+9.1}  {}", before + after, entry.text);
    }
    text
}

/// Logs of all servers and proxies, and the whole history.
fn keep_logs(plan: &Plan, stage: &Stage, history: &History, verdict: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}", plan.seed));
    std::fs::create_dir_all(&dir).unwrap();
    for (index, proxy) in stage.proxies.iter().enumerate() {
        std::fs::write(dir.join(format!("proxy{}.log", index + 1)), proxy.log_text()).unwrap();
        std::fs::copy(proxy.config_file(), dir.join(format!("proxy{}.toml", index + 1))).unwrap();
    }
    for node in stage.cluster.nodes() {
        std::fs::copy(node.log(), dir.join(format!("{}.log", node.name()))).unwrap();
    }
    std::fs::write(dir.join("history.txt"), format!("{plan:#?}\n{history:#?}\n")).unwrap();
    std::fs::write(dir.join("verdict.txt"), verdict).unwrap();
    dir
}
