//! What the runs have cost: counted from histories and from the proxies' own metrics, told as text and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::history::{Failure, Fate, History, Phase};
use crate::plan::Plan;

/// Metrics of the proxies that are added up, with what they say.
const METRICS: [(&str, &str); 7] = [
    ("pgsteer_holds_started_total", "statements and logins held"),
    ("pgsteer_holds_ended_total{result=\"timed_out\"}", "of them, in vain"),
    ("pgsteer_commits_resolved_total", "commits looked up"),
    ("pgsteer_transactions_replayed_total", "transactions run again"),
    ("pgsteer_listened_again_total", "listeners that listen again"),
    ("pgsteer_reads_rerun_total", "reads run again"),
    ("pgsteer_sessions_moved_total", "sessions that went on at another node"),
];

/// Of one kind of step.
#[derive(Debug, Default)]
struct Kind {
    times: u64,
    /// Clients that were connected meanwhile, summed up.
    clients: u64,
    errors: BTreeMap<String, u64>,
    /// Milliseconds, one for each proxy and promotion.
    gaps: Vec<f64>,
}

/// Of all episodes so far.
#[derive(Debug, Default)]
pub struct Figures {
    episodes: u64,
    acknowledged: u64,
    refused: u64,
    unknown: u64,
    reads: u64,
    reads_on_standbys: u64,
    strays: u64,
    kinds: BTreeMap<String, Kind>,
    /// The failovers among them, by the options of `[retry]` that are on.
    options: BTreeMap<&'static str, Kind>,
    metrics: BTreeMap<String, f64>,
    seconds: f64,
}

impl Figures {
    /// Adds an episode.
    pub fn add(
        &mut self,
        plan: &Plan,
        history: &History,
        clients: usize,
        metrics: &[BTreeMap<String, f64>],
        seconds: f64,
    ) {
        self.episodes += 1;
        self.seconds += seconds;
        for attempt in &history.attempts {
            match attempt.fate {
                Fate::Acknowledged { .. } => self.acknowledged += 1,
                Fate::Refused => self.refused += 1,
                Fate::Unknown => self.unknown += 1,
            }
        }
        self.reads += history.sights.len() as u64;
        self.reads_on_standbys += history.sights.iter().filter(|sight| sight.on_standby).count() as u64;
        self.strays += history.strays.len() as u64;
        let options = match (plan.resolve, plan.replay) {
            (false, false) => "none",
            (true, false) => "resolve_commit",
            (false, true) => "transactions",
            (true, true) => "both",
        };
        for window in &history.windows {
            let errors = history.failures.iter().filter(|one| window.overlaps(one.ended, one.ended));
            let errors: Vec<&str> = errors.map(word).collect();
            self.kinds.entry(window.kind.clone()).or_default().add(clients, &errors);
            if history.reigns.iter().any(|reign| reign.kind == window.kind && reign.kind != PLANNED) {
                self.options.entry(options).or_default().add(clients, &errors);
            }
        }
        self.add_gaps(history);
        for samples in metrics {
            for (name, value) in samples {
                let family = name.split('{').next().unwrap_or_default();
                if METRICS.iter().any(|(known, _)| known == name || *known == family) {
                    *self.metrics.entry(name.clone()).or_default() += value;
                }
            }
        }
    }

    /// From the first moment without recovery to the first write that the new primary acknowledged through each proxy; by
    /// clients that wait for no standby, where nothing but the primary was lost.
    fn add_gaps(&mut self, history: &History) {
        for reign in history.reigns.iter().filter(|reign| reign.is_plain) {
            let kind = self.kinds.entry(reign.kind.clone()).or_default();
            for proxy in 0..reign.seen.len() {
                let first = history
                    .beats
                    .iter()
                    .find(|beat| beat.proxy == proxy && beat.port == reign.port && beat.at > reign.asked);
                if let Some(first) = first {
                    kind.gaps.push(first.at.saturating_duration_since(reign.writable).as_secs_f64() * 1000.0);
                }
            }
        }
    }

    fn all_gaps(&self) -> Vec<f64> {
        // In a switchover the moment at which the new primary could write is not known.
        let kinds = self.kinds.iter().filter(|(name, _)| *name != PLANNED);
        kinds.flat_map(|(_, kind)| kind.gaps.iter().copied()).collect()
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        let kinds: BTreeMap<&str, Value> = self
            .kinds
            .iter()
            .map(|(name, kind)| {
                let value = json!({
                    "times": kind.times,
                    "errors_per_100_clients": kind.rates(),
                    "write_gap_ms": spread(&kind.gaps),
                });
                (name.as_str(), value)
            })
            .collect();
        let options: BTreeMap<&str, Value> = self
            .options
            .iter()
            .map(|(name, kind)| {
                (*name, json!({ "failovers": kind.times, "errors_per_100_clients": kind.rates() }))
            })
            .collect();
        json!({
            "episodes": self.episodes,
            "seconds": self.seconds.round(),
            "writes": {
                "acknowledged": self.acknowledged, "refused": self.refused, "unknown": self.unknown,
            },
            "reads": { "all": self.reads, "on_standbys": self.reads_on_standbys },
            "rows_only_on_an_old_primary": self.strays,
            "write_gap_ms": spread(&self.all_gaps()),
            "steps": kinds,
            "retry": options,
            "metrics": self.metrics,
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} episodes in {:.0} s: {} transactions acknowledged, {} refused, {} unknown; {} reads, {} of them on \
             standbys; {} rows left on old primaries\n",
            self.episodes,
            self.seconds,
            self.acknowledged,
            self.refused,
            self.unknown,
            self.reads,
            self.reads_on_standbys,
            self.strays,
        );
        let codes: BTreeSet<&String> = self.kinds.values().flat_map(|kind| kind.errors.keys()).collect();
        let _ = write!(text, "\n| what | times | first write, ms: median / p99 |");
        for code in &codes {
            let _ = write!(text, " {code} |");
        }
        let _ = writeln!(text, "\n|---|---|---|{}", "---|".repeat(codes.len()));
        for (name, kind) in &self.kinds {
            let _ = write!(text, "| {name} | {} | {} |", kind.times, words(&kind.gaps));
            let rates = kind.rates();
            for code in &codes {
                let _ = write!(text, " {:.1} |", rates.get(code.as_str()).unwrap_or(&0.0));
            }
            text.push('\n');
        }
        for (name, kind) in &self.options {
            let _ = write!(text, "| all failovers, retry: {name} | {} | |", kind.times);
            let rates = kind.rates();
            for code in &codes {
                let _ = write!(text, " {:.1} |", rates.get(code.as_str()).unwrap_or(&0.0));
            }
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "\nerrors are for each time and 100 clients; first write after all promotions but the planned: {} ms",
            words(&self.all_gaps())
        );
        for (name, what) in METRICS {
            let samples =
                self.metrics.iter().filter(|(key, _)| *key == name || key.split('{').next() == Some(name));
            for (key, value) in samples {
                let _ = writeln!(text, "{what}: {value} ({key})");
            }
        }
        text
    }
}

/// What is told as planned by the console.
const PLANNED: &str = "SwitchOver";

/// Under what an error is counted: what a session had on its server only goes with it, whatever is done.
fn word(failure: &Failure) -> &str {
    if failure.phase == Phase::State { "state lost" } else { &failure.code }
}

impl Kind {
    fn add(&mut self, clients: usize, errors: &[&str]) {
        self.times += 1;
        self.clients += clients as u64;
        for error in errors {
            *self.errors.entry((*error).to_owned()).or_default() += 1;
        }
    }

    fn rates(&self) -> BTreeMap<&str, f64> {
        let rate = |count: u64| count as f64 * 100.0 / self.clients.max(1) as f64;
        self.errors.iter().map(|(code, count)| (code.as_str(), rate(*count))).collect()
    }
}

fn quantile(values: &[f64], part: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * part).ceil() as usize).copied()
}

fn spread(gaps: &[f64]) -> Value {
    json!({
        "count": gaps.len(),
        "median": quantile(gaps, 0.5),
        "p99": quantile(gaps, 0.99),
        "worst": quantile(gaps, 1.0),
    })
}

fn words(gaps: &[f64]) -> String {
    match (quantile(gaps, 0.5), quantile(gaps, 0.99)) {
        (Some(median), Some(most)) => format!("{median:.1} / {most:.1} ({})", gaps.len()),
        _ => "-".to_owned(),
    }
}
