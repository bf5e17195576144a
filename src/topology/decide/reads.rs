//! Step three: which standbys may serve reads.
//!
//! On the primary's branch, by way of senders that are on it too, and not too far behind by the proxy's own history.
//! When nothing is left to measure by, the last verdict holds for a while: nothing new is being committed.

use std::time::Duration;

use super::super::lag::{Measured, Ring};
use super::super::moment::Moment;
use super::super::node::{Health, Lag, NodeId, ReadRefusal, Reads};
use super::super::observe::Receiver;
use super::super::position::{Lsn, Timeline};
use super::{Latest, NodeState, Rules, State};

/// How long a qualified standby may be without a receiver before it is out. The receiver notices a primary's death
/// up to some 100 ms before or after the prober does (measured: 60 to 167 ms); without this every failover would
/// throw the standbys out just when they are needed. Lag is judged all the while.
const RECEIVER_GRACE: Duration = Duration::from_secs(1);

/// What lag is measured against.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Basis {
    /// Nothing: neither a primary nor anybody who streams from one. The last verdict holds.
    Frozen,
    /// The primary's own samples.
    Primary,
    /// What receivers are sent: the primary is silent here but lives for others.
    Receivers,
}

/// Judges all standbys.
pub(super) fn judge(state: &mut State, now: Moment, rules: &Rules) {
    feed(state, now, rules);
    ahead(state, rules);
    let basis = basis(state, now, rules);
    match basis {
        Basis::Frozen => state.frozen_since = state.frozen_since.or(Some(now)),
        Basis::Primary | Basis::Receivers => state.frozen_since = None,
    }
    let frozen_out = state.frozen_since.is_some_and(|since| now.since(since) > rules.frozen_limit);
    let on_branch = on_branch(state, now, rules);
    let timeline = state.timeline();
    let mut verdicts = Vec::with_capacity(state.nodes.len());
    for ((id, node), branch) in state.ids().zip(on_branch) {
        let lag = measure(state, node, basis, now, rules);
        let was = node.reads.is_some_and(Reads::qualified);
        let reads = match branch {
            Err(why) if basis == Basis::Frozen && was && why == ReadRefusal::NotStreaming => Ok(()),
            Err(why) => Err(why),
            Ok(()) if basis == Basis::Frozen && was => Ok(()),
            Ok(()) if state.first_timeline.is_none() => Err(ReadRefusal::LagUnknown),
            Ok(()) => limit(lag, was, rules),
        };
        let reads = if frozen_out { reads.and(Err(ReadRefusal::LagUnknown)) } else { reads };
        verdicts.push((id, reads, if basis == Basis::Frozen { node.lag } else { known(lag) }));
    }
    for (id, reads, lag) in verdicts {
        let Some(node) = state.nodes.get_mut(id.index()) else { continue };
        node.qualified_since = reads.ok().and(node.qualified_since.or(Some(now)));
        node.reads = Some(reads.map_or_else(Reads::Refused, |()| Reads::Qualified));
        node.lag = lag;
        if let (Some(latest), Some(timeline)) = (&node.latest, timeline)
            && streams(latest, timeline)
        {
            node.streamed = Some((latest.at, timeline));
        }
    }
}

/// Adds the latest samples to the histories.
fn feed(state: &mut State, now: Moment, rules: &Rules) {
    let primary = state.primary.and_then(|p| state.node(p)).and_then(|n| n.latest.as_ref());
    let written = primary.and_then(|l| Some((l.sent, l.sample.flush?, l.sample.start_time)));
    if let Some((sent, flush, start)) = written {
        if state.written_start.replace(start) != Some(start) {
            state.written.clear();
        }
        state.written.push(sent, flush);
    }
    let Some(timeline) = state.timeline() else { return };
    let fresh = |l: &&Latest| now.since(l.sent) <= rules.fresh;
    let sent_by = |l: &Latest| {
        let receiver = l.sample.receiver.as_ref()?;
        (streams(l, timeline)).then(|| receiver.latest_end.max(l.sample.received))?
    };
    let ours = state.nodes.iter().filter(|n| n.health != Health::Down && !state.stranger(n) && !n.fenced);
    let relayed =
        ours.filter_map(|n| n.latest.as_ref()).filter(fresh).filter_map(|l| Some((l.sent, sent_by(l)?)));
    if let Some((sent, lsn)) = relayed.max_by_key(|(sent, lsn)| (*lsn, *sent)) {
        // Receivers flap; what one of them once had stays written.
        let lsn = state.relayed.newest().map_or(lsn, |newest| newest.max(lsn));
        state.relayed.push(sent, lsn);
    }
}

fn streams(latest: &Latest, timeline: Timeline) -> bool {
    let receiver = latest.sample.receiver.as_ref().filter(|_| latest.sample.in_recovery);
    receiver.is_some_and(|r| r.streaming && r.timeline == Some(timeline))
}

/// Marks who has replayed more than the primary has ever written: it is on another branch, answers for ever, shows
/// no lag and never follows. Only a primary's sample sent after the standby's answer proves it.
fn ahead(state: &mut State, rules: &Rules) {
    let timeline = state.primary_timeline;
    let primary = state.primary.and_then(|p| state.node(p)).and_then(|n| n.latest.clone());
    let identifier = state.identifier;
    let mut alarms = Vec::new();
    for (node, spec) in state.nodes.iter_mut().zip(&rules.nodes) {
        let Some(latest) = node.latest.as_ref().filter(|l| l.sample.in_recovery) else {
            node.ahead = None;
            continue;
        };
        if Some(latest.sample.system_identifier) != identifier {
            continue;
        }
        if node.ahead.is_some_and(|found| found != (latest.sample.start_time, timeline)) {
            node.ahead = None;
        }
        if let (Some(primary), Some(replayed)) = (&primary, latest.sample.replayed)
            && primary.sent > latest.at
            && primary.sample.flush.is_some_and(|flush| replayed > flush)
        {
            node.ahead = Some((latest.sample.start_time, timeline));
        }
        if node.ahead.is_some() {
            alarms
                .push(format!("{} has replayed what the primary never wrote: it must be rebuilt", spec.name));
        }
    }
    state.alarms.append(&mut alarms);
}

fn basis(state: &State, now: Moment, rules: &Rules) -> Basis {
    let fresh = |l: &Latest| now.since(l.sent) <= rules.fresh;
    let primary = state.primary.and_then(|p| state.node(p)).filter(|n| n.health != Health::Down);
    if primary.and_then(|n| n.latest.as_ref()).is_some_and(fresh) {
        return Basis::Primary;
    }
    let Some(timeline) = state.timeline() else { return Basis::Frozen };
    let streaming = state.nodes.iter().any(|n| {
        let usable = n.health != Health::Down && !n.fenced && !state.stranger(n);
        usable && n.latest.as_ref().is_some_and(|l| fresh(l) && streams(l, timeline))
    });
    if streaming { Basis::Receivers } else { Basis::Frozen }
}

/// Who is on the primary's branch: directly, or by way of a standby that is. Lag is not looked at.
fn on_branch(state: &State, now: Moment, rules: &Rules) -> Vec<Result<(), ReadRefusal>> {
    let mut verdicts = vec![Err(ReadRefusal::Starting); state.nodes.len()];
    // A chain of n standbys is settled after n rounds.
    for _ in 0..state.nodes.len() {
        let good = |sender: NodeId| {
            state.primary.or(state.last_primary) == Some(sender)
                || verdicts.get(sender.index()).is_some_and(|v: &Result<(), ReadRefusal>| v.is_ok())
        };
        let next: Vec<_> =
            state.ids().map(|(id, node)| examine(state, id, node, &good, now, rules)).collect();
        if next == verdicts {
            break;
        }
        verdicts = next;
    }
    verdicts
}

fn examine(
    state: &State,
    id: NodeId,
    node: &NodeState,
    good: &dyn Fn(NodeId) -> bool,
    now: Moment,
    rules: &Rules,
) -> Result<(), ReadRefusal> {
    let latest = match &node.latest {
        _ if state.stranger(node) => return Err(ReadRefusal::Stranger),
        _ if node.fenced => return Err(ReadRefusal::Zombie),
        _ if state.primary == Some(id) => return Err(ReadRefusal::IsPrimary),
        None => return Err(ReadRefusal::Starting),
        _ if node.health == Health::Down => return Err(ReadRefusal::Down),
        Some(latest) if !latest.sample.in_recovery => return Err(ReadRefusal::NotInRecovery),
        Some(_) if node.ahead.is_some() => return Err(ReadRefusal::Ahead),
        Some(latest) => latest,
    };
    let timeline = state.timeline().ok_or(ReadRefusal::LagUnknown)?;
    match &latest.sample.receiver {
        Some(receiver) => receives(receiver, node, timeline, good, now, rules),
        None if latest.sample.archive_fed => restores(state, latest, timeline),
        None => stopped(node, timeline, now),
    }
}

fn receives(
    receiver: &Receiver,
    node: &NodeState,
    timeline: Timeline,
    good: &dyn Fn(NodeId) -> bool,
    now: Moment,
    rules: &Rules,
) -> Result<(), ReadRefusal> {
    match receiver.timeline {
        Some(theirs) if theirs != timeline => Err(ReadRefusal::WrongTimeline),
        _ if !receiver.streaming || receiver.timeline.is_none() => stopped(node, timeline, now),
        _ => match sender(receiver, rules) {
            Some(sender) if !good(sender) => Err(ReadRefusal::WrongSender),
            // Not mappable: whether it is ahead was judged by position, and lag is judged next.
            Some(_) | None => Ok(()),
        },
    }
}

/// Without a receiver: only for a moment, and only who was streaming on this very timeline.
fn stopped(node: &NodeState, timeline: Timeline, now: Moment) -> Result<(), ReadRefusal> {
    let was = node.reads.is_some_and(Reads::qualified);
    match node.streamed {
        Some((at, on)) if was && on == timeline && now.since(at) <= RECEIVER_GRACE => Ok(()),
        // Frozen verdicts are lifted by the caller only if nothing but the receiver is missing.
        Some((_, on)) if on != timeline => Err(ReadRefusal::WrongTimeline),
        _ => Err(ReadRefusal::NotStreaming),
    }
}

/// An archive-fed standby is on the branch if it has restored from it; before any promotion there is no other.
fn restores(state: &State, latest: &Latest, timeline: Timeline) -> Result<(), ReadRefusal> {
    let promoted = state.first_timeline != Some(timeline);
    if promoted && latest.sample.min_recovery_timeline != Some(timeline) {
        return Err(ReadRefusal::WrongTimeline);
    }
    Ok(())
}

/// The node that this receiver is fed by, when its spelling of the address is one we know.
fn sender(receiver: &Receiver, rules: &Rules) -> Option<NodeId> {
    let host = receiver.sender_host.as_deref()?;
    let port = receiver.sender_port;
    let known = rules.nodes.iter().position(|n| {
        let own = n.address.host.eq_ignore_ascii_case(host) && port.is_none_or(|p| p == n.address.port);
        own || n.replication_address.as_deref().is_some_and(|address| spelled(address, host, port))
    })?;
    u16::try_from(known).ok().map(NodeId)
}

/// Is `address` ("host" or "host:port") this host and port?
fn spelled(address: &str, host: &str, port: Option<u16>) -> bool {
    if address.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some((name, number)) = address.rsplit_once(':') else { return false };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case(host) && port.is_none_or(|p| number.parse() == Ok(p))
}

fn measure(state: &State, node: &NodeState, basis: Basis, now: Moment, rules: &Rules) -> Measured {
    let ring: &Ring = match basis {
        Basis::Primary => &state.written,
        Basis::Receivers => &state.relayed,
        Basis::Frozen => return Measured::Unknown,
    };
    let Some(latest) = node.latest.as_ref().filter(|l| l.sample.in_recovery && !state.stranger(node)) else {
        return Measured::Unknown;
    };
    let Some(replayed) = latest.sample.replayed.filter(|lsn| *lsn > Lsn(0)) else { return Measured::Unknown };
    // A sample speaks for the moment it came, as long as the next one is not overdue.
    let at = if now.since(latest.sent) <= rules.fresh { latest.at } else { now };
    ring.behind(replayed, at)
}

fn known(lag: Measured) -> Option<Lag> {
    match lag {
        Measured::Known(lag) | Measured::AtLeast(lag) => Some(lag),
        Measured::Unknown => None,
    }
}

/// Out above the limits, in again below half of them: a standby at the edge does not flap.
fn limit(lag: Measured, was: bool, rules: &Rules) -> Result<(), ReadRefusal> {
    let within = |lag: Lag, part: u32| {
        lag.time <= rules.max_lag / part && lag.bytes <= rules.max_lag_bytes / u64::from(part)
    };
    match lag {
        Measured::Unknown => Err(ReadRefusal::LagUnknown),
        Measured::Known(lag) if lag.bytes == 0 => Ok(()),
        Measured::Known(lag) if within(lag, if was { 1 } else { 2 }) => Ok(()),
        Measured::AtLeast(lag) if within(lag, 1) => Err(ReadRefusal::LagUnknown),
        Measured::Known(_) | Measured::AtLeast(_) => Err(ReadRefusal::Lagging),
    }
}
