//! Step four: what changed between two views, in words, and whether anybody has to wake up for it.

use super::super::events::EventKind;
use super::super::node::{Health, Lag, NodeView, ReadRefusal, Reads, Role};
use super::super::snapshot::Topology;
use super::{Change, NodeState, State};

/// Why a node is what it is.
pub(super) fn reason(state: &State, node: &NodeState, role: Role) -> String {
    if !node.health_reason.is_empty() {
        return node.health_reason.clone();
    }
    let Some(latest) = &node.latest else { return "not seen yet".to_owned() };
    match role {
        Role::Primary => "takes writes on the highest timeline".to_owned(),
        Role::Standby => match (node.reads, node.lag) {
            (Some(Reads::Refused(why)), Some(lag)) if why == ReadRefusal::Lagging => {
                format!("{why}: {}", behind(lag))
            }
            (Some(Reads::Refused(why)), _) => why.to_string(),
            (_, Some(lag)) if lag.bytes > 0 => behind(lag),
            _ => "has replayed everything".to_owned(),
        },
        Role::Stranger => format!("system identifier {}", latest.sample.system_identifier),
        Role::Unknown => state.no_primary.clone(),
        Role::Zombie if latest.sample.in_recovery => {
            "was a primary; not yet on the present timeline".to_owned()
        }
        Role::Zombie => "an old primary; its timeline is over".to_owned(),
    }
}

fn behind(lag: Lag) -> String {
    format!("at most {} ms and {} bytes behind", lag.time.as_millis(), lag.bytes)
}

/// What changed from the last view to `next`, and whether it is more than figures.
pub(super) fn compare(state: &State, next: &Topology) -> (Vec<Change>, bool) {
    let before = &state.view;
    let mut changes = Vec::new();
    primary(state, next, &mut changes);
    for (old, new) in before.nodes.iter().zip(&next.nodes) {
        node(old, new, &mut changes);
    }
    for alarm in next.alarms.iter().filter(|a| !before.alarms.contains(a)) {
        changes.push(Change { kind: EventKind::Alarm, node: None, text: alarm.clone(), bad: true });
    }
    for alarm in before.alarms.iter().filter(|a| !next.alarms.contains(a)) {
        changes.push(Change {
            kind: EventKind::Alarm,
            node: None,
            text: format!("over: {alarm}"),
            bad: false,
        });
    }
    let material = !changes.is_empty()
        || before.epoch != next.epoch
        || before.timeline != next.timeline
        || before.system_identifier != next.system_identifier
        || before.starting != next.starting
        || before.held != next.held
        || before.nodes.iter().zip(&next.nodes).any(|(old, new)| {
            old.timeline != new.timeline
                || old.start_time != new.start_time
                || old.server_version_num != new.server_version_num
        });
    (changes, material)
}

fn primary(state: &State, next: &Topology, changes: &mut Vec<Change>) {
    let before = &state.view;
    if before.epoch == next.epoch {
        return;
    }
    let describe = |t: &Topology| match t.primary.and_then(|p| t.node(p)) {
        Some(node) => format!("{} (timeline {})", node.name(), node.timeline.map_or(0, |t| t.0)),
        None => "none".to_owned(),
    };
    let why = match (next.primary, before.timeline) {
        (None, _) => state.no_primary.clone(),
        (Some(_), Some(old)) if next.timeline > Some(old) && !before.starting => {
            let fork = next.fork.map(|f| format!(", forked at {}", f.lsn)).unwrap_or_default();
            format!("it takes writes on a timeline above {old}{fork}")
        }
        (Some(_), _) => "it takes writes on the highest timeline known".to_owned(),
    };
    let text = format!("{} -> {}, epoch {}: {why}", describe(before), describe(next), next.epoch);
    changes.push(Change { kind: EventKind::Primary, node: next.primary, text, bad: next.primary.is_none() });
}

fn node(old: &NodeView, new: &NodeView, changes: &mut Vec<Change>) {
    let mut push = |kind, text, bad| changes.push(Change { kind, node: Some(new.id), text, bad });
    let (down, was_down) = (new.health == Health::Down, old.health == Health::Down);
    if down != was_down {
        let text = format!(
            "{} -> {}: {}",
            word(was_down),
            word(down),
            if down { &new.reason } else { "it answers" }
        );
        push(EventKind::Node, text, down);
    }
    if old.role != new.role {
        let bad = matches!(new.role, Role::Zombie | Role::Stranger);
        push(EventKind::Node, format!("{} -> {}: {}", old.role, new.role, new.reason), bad);
    }
    if old.reads.qualified() != new.reads.qualified() {
        let text = match new.reads {
            Reads::Qualified => format!("serves reads: {}", new.reason),
            Reads::Refused(why) => format!("serves no reads: {why} ({})", new.reason),
        };
        push(EventKind::Reads, text, !new.reads.qualified() && new.role != Role::Primary);
    } else if let (Reads::Refused(was), Reads::Refused(why)) = (old.reads, new.reads)
        && was != why
        && new.role == Role::Standby
        && !down
    {
        push(EventKind::Reads, format!("serves no reads: {was} -> {why}"), false);
    }
}

fn word(down: bool) -> &'static str {
    if down { "down" } else { "up" }
}
