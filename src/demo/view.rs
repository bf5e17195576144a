//! The live picture of the demonstration: nodes, roles, lag, who serves what.
//! In: the proxy's `/topology` and the load's ledger. Out: a block that repaints itself on a terminal, one
//! line a second elsewhere. Decides nothing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::load::{Ledger, Served, Summary};
use super::proxy::Proxy;
use super::steps::Steps;

/// On a terminal a person reads numbers that change four times a second at most.
const REPAINT: Duration = Duration::from_millis(250);

/// In a log one line a second tells enough.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// What the picture needs of `/topology`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// The nodes in the order of the configuration.
    pub nodes: Vec<SeenNode>,
    /// Conditions a person must look at.
    pub alarms: Vec<String>,
}

/// What the picture needs of a node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SeenNode {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// `primary`, `standby`, …
    pub role: String,
    /// `up`, `suspect` or `down`.
    pub health: String,
    /// `qualified`, or why it serves no reads.
    pub reads: String,
    /// Behind the primary; none is unknown.
    pub lag_ms: Option<f64>,
    /// The timeline it writes or receives.
    pub timeline: Option<u32>,
}

impl SeenNode {
    fn port(&self) -> u16 {
        self.address.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0)
    }

    fn serves(&self) -> &str {
        match (self.role.as_str(), self.health.as_str(), self.reads.as_str()) {
            ("primary", "up", _) => "writes",
            ("standby", "up", "qualified") => "reads",
            _ => "nothing",
        }
    }
}

/// The figures of the last picture, to make rates of.
#[derive(Debug)]
struct Last {
    at: Instant,
    served: HashMap<u16, Served>,
    /// Lines of the block that the next picture goes over.
    painted: usize,
}

/// The picture; shared by the play and the painter.
#[derive(Debug)]
pub struct View {
    steps: Steps,
    began: Instant,
    last: Mutex<Last>,
}

impl View {
    /// An empty picture.
    pub fn new(steps: Steps) -> Self {
        let began = Instant::now();
        let last = Last { at: began, served: HashMap::new(), painted: 0 };
        Self { steps, began, last: Mutex::new(last) }
    }

    /// Does the work and paints meanwhile.
    pub async fn during<T>(&self, proxy: &Proxy, ledger: &Ledger, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut painting = pin!(self.paint(proxy, ledger));
        // Both are polled: the painter's look at a page delays nothing.
        tokio::select! {
            result = &mut work => result,
            never = &mut painting => match never {},
        }
    }

    /// Says that something has happened.
    pub fn event(&self, text: &str) {
        let mut last = self.last();
        self.steps.print(&self.above(last.painted));
        last.painted = 0;
        self.steps.line(&format!("{:6.1} s  {text}", self.began.elapsed().as_secs_f64()));
    }

    /// What comes now is not part of the picture any more: leaves it standing.
    pub fn close(&self) {
        self.last().painted = 0;
    }

    async fn paint(&self, proxy: &Proxy, ledger: &Ledger) -> std::convert::Infallible {
        let terminal = self.steps.is_terminal();
        let mut tick = tokio::time::interval(if terminal { REPAINT } else { LINE_EVERY });
        tick.tick().await;
        loop {
            let seen = match proxy.topology().await {
                Ok(page) => serde_json::from_value(page).unwrap_or_default(),
                Err(_) => Seen::default(),
            };
            self.show(&seen, &ledger.summary(), terminal);
            tick.tick().await;
        }
    }

    fn show(&self, seen: &Seen, summary: &Summary, terminal: bool) {
        let mut last = self.last();
        let seconds = last.at.elapsed().as_secs_f64().max(0.001);
        let rates = rates(&last.served, &summary.served, seconds);
        if terminal {
            let picture = picture(seen, summary, &rates);
            self.steps.print(&format!("{}{picture}", self.above(last.painted)));
            last.painted = picture.lines().count();
        } else {
            let seconds = self.began.elapsed().as_secs_f64();
            self.steps.line(&format!("{seconds:6.1} s  {}", line(seen, summary, &rates)));
        }
        last.at = Instant::now();
        last.served.clone_from(&summary.served);
    }

    /// Back to the first line of the block, and everything below erased.
    fn above(&self, painted: usize) -> String {
        if painted == 0 || !self.steps.is_terminal() {
            return String::new();
        }
        format!("\x1b[{painted}A\x1b[J")
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Statements a second by the server's port.
type Rates = HashMap<u16, (f64, f64)>;

fn rates(before: &HashMap<u16, Served>, now: &HashMap<u16, Served>, seconds: f64) -> Rates {
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    now.iter()
        .map(|(port, served)| {
            let old = before.get(port).copied().unwrap_or_default();
            (*port, (rate(served.writes, old.writes), rate(served.reads, old.reads)))
        })
        .collect()
}

fn errors(summary: &Summary) -> String {
    if summary.errors.is_empty() {
        return "no errors".to_owned();
    }
    let each = summary.errors.iter().map(|(code, count)| format!("{count} x {code}"));
    format!("errors: {}", each.collect::<Vec<_>>().join(", "))
}

/// The block for a terminal.
fn picture(seen: &Seen, summary: &Summary, rates: &Rates) -> String {
    let mut text = format!(
        "\n  {:<8}{:<18}{:<9}{:<9}{:>4}{:>11}  {:<9}{:>10}{:>10}\n",
        "node", "address", "role", "health", "tli", "lag", "serves", "writes/s", "reads/s"
    );
    for node in &seen.nodes {
        let (writes, reads) = rates.get(&node.port()).copied().unwrap_or_default();
        let timeline = node.timeline.map_or("-".to_owned(), |timeline| timeline.to_string());
        let lag = node.lag_ms.map_or("-".to_owned(), |lag| format!("{lag:.1} ms"));
        let colour = match node.serves() {
            "writes" => "\x1b[32m",
            "reads" => "\x1b[36m",
            _ => "\x1b[31m",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {colour}{:<8}{:<18}{:<9}{:<9}{timeline:>4}{lag:>11}  {:<9}{writes:>10.0}{reads:>10.0}\x1b[0m",
            node.name,
            node.address,
            node.role,
            node.health,
            node.serves(),
        );
    }
    let _ = writeln!(
        text,
        "  {} clients connected, {} lost; {} writes acknowledged; {} reads; {}",
        summary.connected,
        summary.lost_connections,
        summary.acknowledged,
        summary.reads,
        errors(summary)
    );
    for alarm in &seen.alarms {
        let _ = writeln!(text, "  \x1b[31malarm: {alarm}\x1b[0m");
    }
    text
}

/// The same in one line.
fn line(seen: &Seen, summary: &Summary, rates: &Rates) -> String {
    let nodes = seen.nodes.iter().map(|node| {
        let (writes, reads) = rates.get(&node.port()).copied().unwrap_or_default();
        let lag = node.lag_ms.map_or(String::new(), |lag| format!(" lag {lag:.1} ms"));
        format!("{} {} {}{lag} {:.0} w/s {:.0} r/s", node.name, node.role, node.health, writes, reads)
    });
    let nodes: Vec<String> = nodes.collect();
    format!("{}; {} connections lost; {}", nodes.join(" | "), summary.lost_connections, errors(summary))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        let text = r#"{"epoch": 1, "nodes": [
            {"name": "node1", "address": "127.0.0.1:10001", "role": "primary", "health": "up",
             "reads": "primary", "timeline": 1, "lag_ms": null, "weight": 100},
            {"name": "node2", "address": "127.0.0.1:10002", "role": "standby", "health": "up",
             "reads": "qualified", "timeline": 1, "lag_ms": 0.24}]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn tells_who_serves_what() {
        let seen = seen();
        let serves: Vec<&str> = seen.nodes.iter().map(SeenNode::serves).collect();
        assert_eq!(serves, ["writes", "reads"]);
        let figures = HashMap::from([(10002, Served { writes: 0, reads: 50 })]);
        let rates = rates(&HashMap::new(), &figures, 0.5);
        let text = line(&seen, &Summary::default(), &rates);
        assert!(text.contains("node2 standby up lag 0.2 ms 0 w/s 100 r/s"), "{text}");
        assert_eq!(picture(&seen, &Summary::default(), &rates).lines().count(), 5);
    }

    #[test]
    fn a_page_that_says_less_is_no_error() {
        let seen: Seen = serde_json::from_str("{}").unwrap();
        assert!(seen.nodes.is_empty());
    }
}
