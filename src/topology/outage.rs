//! The report of every outage of writes: when and by what evidence it was noticed, when writes could go on and where, and
//! what became of the work meanwhile.
//!
//! In: each published topology, with time and figures. Out: one [`Outage`] when the last held session has gone on and the
//! figures stand still. It decides nothing.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::decide::Change;
use super::events::EventKind;
use super::moment::Moment;
use super::node::{Health, NodeId};
use super::position::{Epoch, Timeline};
use super::snapshot::{Fork, Topology};

/// How long the report of an outage waits for the first answer when nobody is held: perhaps nobody has anything to ask.
const SETTLED: Duration = Duration::from_secs(2);
/// So long nothing more must have been lost, held or run again: sessions hear of the new primary one after another.
const QUIET: Duration = Duration::from_millis(250);
/// How long it waits at most for held sessions.
const OVERDUE: Duration = Duration::from_secs(30);

/// Sessions lose their servers before the watcher is sure, or even in doubt: what is counted begins this long before.
const FORERUN: Duration = Duration::from_millis(500);

/// How an outage ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Ending {
    /// Another node was promoted.
    Promotion,
    /// The primary came back, or was restarted, in its place; or a switchover was given up.
    Return,
    /// Another node was promoted as planned.
    Switchover,
}

impl Ending {
    /// The lower-case word for SHOW, JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Ending::Promotion => "promotion",
            Ending::Return => "return",
            Ending::Switchover => "switchover",
        }
    }
}

/// What became of clients' work, counted since the start of the process or, in a report, since the outage began.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Statements that had to wait for a primary.
    pub held: u64,
    /// Of these: answered with 57P03 when `hold_timeout` was over.
    pub timed_out: u64,
    /// Reads run again elsewhere without the client's noticing.
    pub retried: u64,
    /// Open transactions replayed without the client's noticing.
    pub replayed: u64,
    /// Errors of ours that mean lost work, by SQLSTATE.
    pub failed: Vec<(&'static str, u64)>,
}

impl Tally {
    /// SQLSTATEs by which clients are told of a failover: not run, unknown, rolled back, in that order.
    pub const CODES: [&'static str; 3] = ["57P03", "08007", "40001"];

    /// What was added since `before`.
    fn since(&self, before: &Tally) -> Tally {
        let was =
            |code| before.failed.iter().find(|(other, _)| *other == code).map_or(0, |(_, count)| *count);
        let failed = self.failed.iter().map(|(code, count)| (*code, count.saturating_sub(was(*code))));
        Tally {
            held: self.held.saturating_sub(before.held),
            timed_out: self.timed_out.saturating_sub(before.timed_out),
            retried: self.retried.saturating_sub(before.retried),
            replayed: self.replayed.saturating_sub(before.replayed),
            failed: failed.filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// All errors together.
    pub fn failures(&self) -> u64 {
        self.failed.iter().map(|(_, count)| count).sum()
    }
}

/// One outage of writes, from the first evidence to the end.
#[derive(Clone, Debug)]
pub struct Outage {
    /// How it ended.
    pub ending: Ending,
    /// The primary that was lost.
    pub old: String,
    /// Who took writes after it.
    pub new: String,
    /// When the loss was noticed.
    pub noticed_at: SystemTime,
    /// By what.
    pub evidence: String,
    /// From the first evidence until writes were sent again: the promotion was seen, or the primary was back.
    pub writable_after: Duration,
    /// From the first evidence until the primary answered the first statement; `None` when nobody sent any.
    pub answered_after: Option<Duration>,
    /// The epoch after it.
    pub epoch: Epoch,
    /// The timeline after it.
    pub timeline: Option<Timeline>,
    /// Where the new timeline forked off, when the promotion was watched.
    pub fork: Option<Fork>,
    /// What became of the work.
    pub work: Tally,
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { old, new, evidence, writable_after, work, .. } = self;
        match self.ending {
            Ending::Promotion => write!(f, "failover {old} -> {new}, epoch {}", self.epoch)?,
            Ending::Return => write!(f, "{new} is back, epoch {}", self.epoch)?,
            Ending::Switchover => write!(f, "switchover {old} -> {new}, epoch {}", self.epoch)?,
        }
        if let Some(timeline) = self.timeline {
            write!(f, ", timeline {timeline}")?;
        }
        let (at, ms) = (humantime::format_rfc3339_millis(self.noticed_at), writable_after.as_millis());
        write!(f, ": loss noticed at {at} by \"{evidence}\", writable after {ms} ms, ")?;
        match self.answered_after {
            Some(answered) => write!(f, "first answer after {} ms", answered.as_millis())?,
            None => f.write_str("no statement since")?,
        }
        let Tally { held, retried, replayed, .. } = work;
        write!(f, "; held {held}, retried {retried}, replayed {replayed}, failed {}", work.failures())?;
        for (index, (code, count)) in work.failed.iter().enumerate() {
            write!(f, "{}{count} {code}", if index == 0 { " (" } else { ", " })?;
        }
        if work.failed.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

/// What the recorder is told with each topology.
pub struct Seen<'a> {
    /// As it was published.
    pub topology: &'a Topology,
    /// What changed with it.
    pub changes: &'a [Change],
    /// After the publication.
    pub now: Moment,
    /// The wall clock at that moment.
    pub wall: SystemTime,
    /// The figures of the whole process.
    pub tally: Tally,
    /// Sessions that wait for a primary, or ask whether the server lives that they have lost.
    pub held: u64,
    /// When the first statement after the outage was answered.
    pub first_answer: Option<Moment>,
}

/// An outage that is not over.
#[derive(Clone, Debug)]
struct Open {
    old: NodeId,
    began: Moment,
    evidence: String,
    /// New writes were held on purpose.
    planned: bool,
    before: Tally,
    /// When writes could go on.
    ended: Option<Moment>,
    /// The figures seen last, and since when they have been the same.
    still: (Moment, Tally),
}

impl Open {
    /// True when nothing has been added for a while.
    fn is_quiet(&mut self, seen: &Seen<'_>) -> bool {
        if self.still.1 != seen.tally {
            self.still = (seen.now, seen.tally.clone());
        }
        seen.now.since(self.still.0) >= QUIET
            && self.ended.is_some_and(|ended| seen.now.since(ended) >= QUIET)
    }
}

/// Follows the topology and writes the reports.
#[derive(Debug, Default)]
pub struct Recorder {
    /// Who took writes last.
    writable: Option<NodeId>,
    /// Since when and why the primary is in doubt.
    doubt: Option<(Moment, String)>,
    /// The figures when all was well, a forerun ago and since then.
    calm: Tally,
    recent: Option<(Moment, Tally)>,
    open: Option<Open>,
}

impl Recorder {
    /// Do writes begin, or begin again, with this topology?
    pub fn begins(&self, topology: &Topology) -> bool {
        let writable = topology.writable_primary();
        let waiting = self.open.as_ref().is_some_and(|open| open.ended.is_none());
        writable.is_some() && (waiting || writable != self.writable)
    }

    /// Takes in a published topology; the report of an outage that is over with it.
    pub fn see(&mut self, seen: &Seen<'_>) -> Option<Outage> {
        let writable = seen.topology.writable_primary();
        let settled = self.open.as_ref().and_then(|open| open.ended);
        let quiet = self.open.as_mut().is_some_and(|open| open.is_quiet(seen));
        let finished = match settled {
            // Lost again before all was settled: that is the next outage.
            Some(_) if writable != self.writable => self.finish(seen),
            Some(ended) => {
                let answered = seen.first_answer.is_some() || seen.now.since(ended) >= SETTLED;
                let done = seen.held == 0 && answered && quiet || seen.now.since(ended) >= OVERDUE;
                if done { self.finish(seen) } else { None }
            }
            None => None,
        };
        self.look(seen, writable);
        finished
    }

    fn look(&mut self, seen: &Seen<'_>, writable: Option<NodeId>) {
        match (&mut self.open, self.writable) {
            (Some(open), _) if open.ended.is_none() => {
                if writable.is_some() {
                    open.ended = Some(seen.now);
                    self.writable = writable;
                }
            }
            (Some(_), _) => {}
            (None, Some(old)) if writable != Some(old) => {
                let (began, evidence) = self.evidence(old, seen);
                let ended = writable.map(|_| seen.now);
                let (planned, before) = (seen.topology.held, self.calm.clone());
                let still = (seen.now, seen.tally.clone());
                self.open = Some(Open { old, began, evidence, planned, before, ended, still });
                self.writable = writable.or(self.writable);
            }
            (None, _) => {
                self.writable = writable;
                self.note_doubt(seen);
            }
        }
    }

    /// Remembers since when the primary is no longer beyond doubt, and the figures while it is.
    fn note_doubt(&mut self, seen: &Seen<'_>) {
        let primary = self.writable.and_then(|id| seen.topology.node(id));
        match primary {
            Some(node) if node.health != Health::Up => {
                self.doubt.get_or_insert_with(|| (seen.topology.at, node.reason.clone()));
            }
            _ => {
                self.doubt = None;
                let (since, _) = self.recent.get_or_insert_with(|| (seen.now, seen.tally.clone()));
                if seen.now.since(*since) >= FORERUN {
                    let recent = self.recent.replace((seen.now, seen.tally.clone()));
                    self.calm = recent.map(|(_, tally)| tally).unwrap_or_default();
                }
            }
        }
    }

    /// When the loss of `old` was noticed, and by what.
    fn evidence(&mut self, old: NodeId, seen: &Seen<'_>) -> (Moment, String) {
        if seen.topology.held {
            return (seen.topology.at, "a planned switchover".to_owned());
        }
        let change = seen.changes.iter().find(|change| change.kind == EventKind::Primary);
        let reason = seen.topology.node(old).map(|node| node.reason.clone()).unwrap_or_default();
        // "from -> to, epoch: why"
        let why = |change: &Change| change.text.split_once(": ").map_or("", |(_, why)| why).to_owned();
        let now = change.map_or(reason, why);
        match self.doubt.take() {
            Some((since, first)) if first == now => (since, first),
            Some((since, first)) => (since, format!("{first}; then {now}")),
            None => (seen.topology.at, now),
        }
    }

    fn finish(&mut self, seen: &Seen<'_>) -> Option<Outage> {
        let open = self.open.take()?;
        let (ended, new) = (open.ended?, self.writable?);
        let topology = seen.topology;
        let name = |id| topology.node(id).map(|node| node.name().to_owned()).unwrap_or_default();
        Some(Outage {
            ending: match open.planned {
                _ if new == open.old => Ending::Return,
                true => Ending::Switchover,
                false => Ending::Promotion,
            },
            old: name(open.old),
            new: name(new),
            noticed_at: seen.wall - seen.now.since(open.began),
            evidence: open.evidence,
            writable_after: ended.since(open.began),
            answered_after: seen.first_answer.map(|answer| answer.since(open.began)),
            epoch: topology.epoch,
            timeline: topology.timeline,
            fork: topology.fork.filter(|_| new != open.old),
            work: seen.tally.since(&open.before),
        })
    }
}

#[cfg(test)]
mod tests;
