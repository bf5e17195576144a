//! Step one: what was seen becomes health and the latest sample of a node.
//!
//! Evidence counts by when its question was sent: an answer that was under way for long, or overtaken by another, moves
//! nothing back.

use super::super::node::Health;
use super::super::observe::{Failure, Observation, Sample, Seen};
use super::super::origin::Origin;
use super::super::position::Timeline;
use super::super::samples::Sampled;
use super::super::snapshot::Fork;
use super::{FAST_LINGER, Latest, NodeState, State};

/// Answered probes in a row before a standby that was down counts as up: one answer may be luck. A node out of
/// recovery needs one, since somebody is waiting for it.
const STREAK_BACK: u32 = 3;

/// Lost connections in a row that count as down. One is no proof (`pg_terminate_backend` on the monitor).
const CUTS_DOWN: u32 = 2;

/// Takes in one observation.
pub(super) fn observation(state: &mut State, seen: &Observation) {
    let primary = state.primary == Some(seen.node);
    let Some(node) = state.nodes.get_mut(seen.node.index()) else { return };
    match &seen.seen {
        Seen::Beat => answered(node, seen, false),
        Seen::Sample(sample) => {
            let writable = !sample.in_recovery;
            if take(node, seen, sample) {
                answered(node, seen, writable);
            }
        }
        Seen::Late => suspect(node, "an answer is late"),
        Seen::Trouble => {
            suspect(node, "trouble reported by a session");
            if primary {
                // The first of a server's processes has died: the others follow, and so may a promotion.
                state.fast_until = state.fast_until.max(seen.at + FAST_LINGER);
            }
        }
        Seen::Failed(failure) => failed(node, seen, failure),
    }
}

fn suspect(node: &mut NodeState, why: &str) {
    if node.health == Health::Up {
        node.health = Health::Suspect;
        why.clone_into(&mut node.health_reason);
    }
}

fn answered(node: &mut NodeState, seen: &Observation, writable: bool) {
    if node.failed_sent.is_some_and(|failed| failed > seen.sent) {
        return;
    }
    node.answered_sent = node.answered_sent.max(Some(seen.sent));
    node.cuts = 0;
    node.streak = node.streak.saturating_add(1);
    node.probe_time = Some(seen.at.since(seen.sent));
    // A beat alone does not end the first wait: nothing is known about a node without a sample.
    if node.latest.is_none() {
        return;
    }
    let first = !std::mem::replace(&mut node.tried, true);
    if node.health != Health::Down || first || writable || node.streak >= STREAK_BACK {
        node.health = Health::Up;
        node.health_reason.clear();
    }
}

/// Keeps a sample unless a younger one is known. A promotion seen between two samples gives the fork.
fn take(node: &mut NodeState, seen: &Observation, sample: &Sample) -> bool {
    if node.latest.as_ref().is_some_and(|before| before.sent > seen.sent) {
        return false;
    }
    node.origin = origin(node, sample);
    if let Some(before) = &node.latest {
        let promoted = before.sample.in_recovery && !sample.in_recovery;
        if promoted && before.sample.system_identifier == sample.system_identifier {
            let fork = sample.timeline.zip(sample.replayed);
            node.fork = fork.map(|(timeline, lsn)| Fork { timeline, lsn });
        } else if sample.in_recovery || node.fork.is_some_and(|f| Some(f.timeline) != sample.timeline) {
            node.fork = None;
        }
        let went_back = before.sample.replayed > sample.replayed;
        if before.sample.start_time != sample.start_time || went_back {
            // A restarted standby goes back in time; what was true of it before is void.
            node.ahead = None;
            node.streamed = None;
            node.reads = None;
        }
    }
    let lsn = if sample.in_recovery { sample.replayed } else { sample.insert };
    match lsn {
        Some(lsn) => {
            node.samples.push(seen.link, !sample.in_recovery, Sampled { number: seen.number, lsn });
        }
        None => node.samples.void(seen.link),
    }
    node.proven = node.proven.max(evidence(sample));
    node.latest = Some(Latest { sample: sample.clone(), sent: seen.sent, at: seen.at });
    true
}

/// How the life of a primary began in which it has given this sample: as before, or only now.
fn origin(node: &NodeState, sample: &Sample) -> Option<Origin> {
    let timeline = sample.timeline.filter(|_| !sample.in_recovery)?;
    let (start_time, fork) = (sample.start_time, sample.replayed);
    let is_same =
        |origin: &Origin| (origin.timeline, origin.start_time, origin.fork) == (timeline, start_time, fork);
    if node.origin.as_ref().is_some_and(is_same) {
        return node.origin;
    }
    let before = node.latest.as_ref().map(|latest| &latest.sample);
    let parent = match before {
        Some(before) if before.in_recovery => node.streamed.map(|(_, timeline)| timeline),
        Some(before) => before.timeline,
        None => None,
    };
    let previous_start = before.map(|before| before.start_time);
    Some(Origin { timeline, parent, start_time, previous_start, fork, next_xid: sample.next_xid })
}

/// The timeline that a sample proves to exist.
pub(super) fn evidence(sample: &Sample) -> Option<Timeline> {
    if sample.in_recovery { sample.receiver.as_ref()?.timeline } else { sample.timeline }
}

fn failed(node: &mut NodeState, seen: &Observation, failure: &Failure) {
    node.samples.void(seen.link);
    if node.answered_sent.is_some_and(|answered| answered > seen.sent) {
        return;
    }
    node.tried = true;
    node.streak = 0;
    node.failed_sent = node.failed_sent.max(Some(seen.sent));
    let down = match failure {
        Failure::Crowded => node.health == Health::Down,
        Failure::Cut(_) => {
            node.cuts += 1;
            node.cuts >= CUTS_DOWN || node.health == Health::Down
        }
        Failure::Denied(_)
        | Failure::Refused
        | Failure::Silent(_)
        | Failure::Unavailable(_)
        | Failure::Unreachable(_) => true,
    };
    node.health = if down { Health::Down } else { Health::Suspect };
    node.health_reason = failure.to_string();
}
