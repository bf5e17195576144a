//! Step two: whose cluster it is, how far its history has got, who the primary is, and who is fenced.
//!
//! The highest timeline wins, whatever the node on a lower one says of itself. Two claims to one timeline are nobody's
//! until one of them is seen in recovery or a person decides.

use super::super::moment::Moment;
use super::super::node::NodeId;
use super::super::position::Timeline;
use super::{NodeState, Rules, State, absorb};

/// `ACCEPT node`: all others that claim its timeline are fenced.
pub(super) fn accept(state: &mut State, chosen: NodeId) {
    let Some(timeline) = state.node(chosen).and_then(claim) else { return };
    for (id, node) in (0..=u16::MAX).map(NodeId).zip(&mut state.nodes) {
        if id == chosen {
            node.fenced = false;
        } else if claim(node) == Some(timeline) {
            shut_out(node);
        }
    }
}

/// `ACCEPT TIMELINE n`: history ends there; nodes fenced for being below may be the primary again.
pub(super) fn accept_timeline(state: &mut State, timeline: Timeline) {
    state.mark = Some(timeline);
    for node in &mut state.nodes {
        node.disowned = evidence(node) > Some(timeline);
        if node.disowned {
            shut_out(node);
        } else if claim(node) == Some(timeline) {
            node.fenced = false;
        }
    }
    if state.primary_timeline.is_some_and(|t| t > timeline) {
        depose(state, "an operator lowered the timeline");
    }
}

/// The timeline on which this node says it takes writes.
fn claim(node: &NodeState) -> Option<Timeline> {
    let sample = &node.latest.as_ref()?.sample;
    if sample.in_recovery { None } else { sample.timeline }
}

/// The timeline that this node proves to exist.
fn evidence(node: &NodeState) -> Option<Timeline> {
    absorb::evidence(&node.latest.as_ref()?.sample)
}

/// Gives this node nothing any more, for what it claims now.
fn shut_out(node: &mut NodeState) {
    node.fenced = true;
    node.fenced_on = claim(node).max(node.fenced_on);
}

/// The identity to go by: fixed, or the one that all nodes seen so far agree on.
fn identity(state: &State) -> Result<Option<u64>, ()> {
    if state.identifier.is_some() {
        return Ok(state.identifier);
    }
    let mut all = state.nodes.iter().filter_map(|n| Some(n.latest.as_ref()?.sample.system_identifier));
    let first = all.next();
    if all.all(|i| Some(i) == first) { Ok(first) } else { Err(()) }
}

/// Decides who the primary is.
pub(super) fn elect(state: &mut State, now: Moment, rules: &Rules) {
    let Ok(identifier) = identity(state) else {
        let text = "the nodes belong to different clusters; set cluster.system_identifier to the right one";
        state.alarms.push(text.to_owned());
        text.clone_into(&mut state.no_primary);
        return;
    };
    let ours =
        |n: &NodeState| n.latest.as_ref().is_some_and(|l| Some(l.sample.system_identifier) == identifier);
    // Also what a node said between two decisions and has taken back since.
    let highest = state.nodes.iter().filter(|n| ours(n) && !n.disowned).filter_map(|n| n.proven).max();
    // Until an identity is fixed, what is remembered may turn out to be of strangers.
    let same = state.mark_of.is_none() || state.mark_of == identifier;
    state.mark = if same { state.mark.max(highest) } else { highest };
    state.mark_of = identifier;
    fence(state, identifier);
    let claims: Vec<NodeId> = state
        .ids()
        .filter(|(_, n)| ours(n) && !n.fenced && claim(n).is_some() && claim(n) == state.mark)
        .map(|(id, _)| id)
        .collect();
    match claims.as_slice() {
        [] => vacant(state),
        [only] => sole(state, *only, identifier, now, rules),
        several => contested(state, several, now, rules),
    }
}

/// Fences who is out of recovery on a timeline that is over, frees who follows the present one or has itself begun it.
fn fence(state: &mut State, identifier: Option<u64>) {
    let mark = state.mark;
    let claimed = state.nodes.iter().any(|n| !n.fenced && claim(n).is_some() && claim(n) == mark);
    for node in &mut state.nodes {
        if node.latest.as_ref().is_none_or(|l| Some(l.sample.system_identifier) != identifier) {
            continue;
        }
        node.disowned &= evidence(node) > mark;
        if node.disowned {
            continue;
        }
        node.proven = evidence(node);
        let begun = claim(node).is_some() && claim(node) == mark && claim(node) > node.fenced_on && !claimed;
        if claim(node).is_some_and(|t| Some(t) < mark) {
            shut_out(node);
        } else if node.fenced && (begun || follows(node, mark)) {
            node.fenced = false;
            node.fenced_on = None;
        }
    }
}

/// Reports strangers, and old primaries that go on since the last change.
pub(super) fn report(state: &mut State, rules: &Rules) {
    let mut alarms = Vec::new();
    if let (Some(set), Some(own)) = (rules.system_identifier, state.identifier)
        && set != own
    {
        alarms.push(format!("cluster.system_identifier is {set}, but the state file remembers {own}"));
    }
    for (node, spec) in state.nodes.iter().zip(&rules.nodes) {
        let Some(latest) = &node.latest else { continue };
        let name = &spec.name;
        if state.stranger(node) {
            let theirs = latest.sample.system_identifier;
            alarms.push(format!("{name} is of another cluster (system identifier {theirs}): not used"));
        } else if let (true, Some(old), Some(mark)) = (node.fenced, claim(node), state.mark)
            && latest.sent > state.epoch_since
        {
            alarms.push(format!("{name} takes writes on timeline {old}, the cluster is on {mark}: fenced"));
        }
    }
    state.alarms.append(&mut alarms);
}

/// Is this node in recovery on that timeline?
fn follows(node: &NodeState, timeline: Option<Timeline>) -> bool {
    let Some(latest) = &node.latest else { return false };
    let received = latest.sample.receiver.as_ref().and_then(|r| r.timeline);
    let restored = latest.sample.min_recovery_timeline.filter(|_| latest.sample.archive_fed);
    latest.sample.in_recovery && timeline.is_some() && (received == timeline || restored == timeline)
}

/// Nobody claims the highest timeline.
fn vacant(state: &mut State) {
    let Some(primary) = state.primary else {
        state.no_primary = match state.mark {
            _ if state.nodes.iter().all(|n| n.latest.is_none()) => "no node has answered yet".to_owned(),
            Some(mark) => format!("no node takes writes on timeline {mark}"),
            None => "no node takes writes".to_owned(),
        };
        return;
    };
    let why = match (state.node(primary), state.mark) {
        (Some(node), _) if node.latest.as_ref().is_some_and(|l| l.sample.in_recovery) => {
            "the old primary is in recovery now".to_owned()
        }
        (Some(node), _) if state.stranger(node) => "the old primary is another cluster now".to_owned(),
        (_, Some(mark)) => format!("timeline {mark} exists, its primary has not been seen yet"),
        _ => "the primary's timeline is gone".to_owned(),
    };
    depose(state, &why);
}

/// One node claims the highest timeline.
fn sole(state: &mut State, claimant: NodeId, identifier: Option<u64>, now: Moment, rules: &Rules) {
    let timeline = state.mark;
    if state.primary == Some(claimant) && state.primary_timeline == timeline {
        return;
    }
    if !fresh(state, claimant, now, rules) {
        let why = format!("the last evidence of timeline {} is too old", timeline.map_or(0, |t| t.0));
        return stay_vacant(state, why);
    }
    if let Err(why) = start_allows(state, now, rules) {
        return stay_vacant(state, why);
    }
    if let Some(old) = state.primary.filter(|old| *old != claimant) {
        // Silent or not, what it says from now on is of a branch that is over.
        if let Some(node) = state.nodes.get_mut(old.index()).filter(|n| claim(n).is_some()) {
            shut_out(node);
        }
    }
    state.identifier = identifier;
    state.primary = Some(claimant);
    state.last_primary = Some(claimant);
    state.primary_timeline = timeline;
    state.first_timeline = state.first_timeline.or(timeline);
    state.starting = false;
}

/// Two or more nodes claim the highest timeline.
fn contested(state: &mut State, claims: &[NodeId], now: Moment, rules: &Rules) {
    let names: Vec<&str> =
        claims.iter().filter_map(|id| rules.nodes.get(id.index())).map(|n| n.name.as_str()).collect();
    let timeline = state.mark.map_or(0, |t| t.0);
    let mut alarm = format!("{} all take writes on timeline {timeline}", names.join(" and "));
    let fork = |id: &NodeId| state.node(*id).and_then(|n| n.fork).filter(|f| Some(f.timeline) == state.mark);
    let incumbent = state.primary.filter(|p| state.primary_timeline == state.mark && claims.contains(p));
    let same_fork =
        incumbent.as_ref().and_then(fork).is_some_and(|f| claims.iter().all(|c| fork(c) == Some(f)));
    match incumbent {
        Some(primary) if same_fork && fresh(state, primary, now, rules) => {
            alarm.push_str(": the present primary is kept");
        }
        _ => {
            alarm.push_str(": nobody gets writes until one is in recovery or an operator says ACCEPT");
            stay_vacant(state, alarm.clone());
        }
    }
    state.alarms.push(alarm);
}

/// Was the node's claim asked for recently enough to act on?
fn fresh(state: &State, id: NodeId, now: Moment, rules: &Rules) -> bool {
    let latest = state.node(id).and_then(|n| n.latest.as_ref());
    latest.is_some_and(|l| now.since(l.sent) <= rules.fresh)
}

/// May the first primary of this process be accepted yet?
fn start_allows(state: &State, now: Moment, rules: &Rules) -> Result<(), String> {
    if !state.starting || now.since(state.started) >= rules.start_grace {
        return Ok(());
    }
    let wait = rules.start_grace.as_millis();
    if state.mark_remembered() {
        // A higher timeline may be a millisecond away on a node not asked yet.
        let all_tried = state.nodes.iter().all(|n| n.tried);
        return if all_tried { Ok(()) } else { Err("waiting for the first probe of every node".to_owned()) };
    }
    if state.nodes.iter().all(|n| n.latest.is_some()) {
        return Ok(());
    }
    Err(format!("not all nodes have answered and no timeline is remembered: waiting up to {wait} ms"))
}

fn stay_vacant(state: &mut State, why: String) {
    if state.primary.is_some() {
        depose(state, &why);
    }
    state.no_primary = why;
}

/// Takes the role from the primary; fenced as well when its timeline is over.
fn depose(state: &mut State, why: &str) {
    let Some(old) = state.primary.take() else { return };
    let over = state.primary_timeline < state.mark;
    if let Some(node) = state.nodes.get_mut(old.index()).filter(|n| over && claim(n).is_some()) {
        shut_out(node);
    }
    state.primary_timeline = None;
    why.clone_into(&mut state.no_primary);
}

impl State {
    /// Does the process know from an earlier life how far history had got?
    fn mark_remembered(&self) -> bool {
        self.persisted.is_some()
    }
}
