//! Outages of each kind, told from the first doubt to the last held session.

use super::super::node::Role;
use super::*;
use crate::config::Settings;

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);

/// A recorder and what it is shown.
struct Lab {
    recorder: Recorder,
    topology: Topology,
    tally: Tally,
    held: u64,
    first_answer: Option<u64>,
}

impl Lab {
    /// A is the primary and all is well.
    fn new() -> Self {
        let mut topology = Topology::unseen(&Settings::for_tests().cluster.nodes);
        topology.nodes.iter_mut().for_each(|node| node.health = Health::Up);
        topology.nodes[0].role = Role::Primary;
        (topology.primary, topology.epoch, topology.timeline) = (Some(A), Epoch(1), Some(Timeline(1)));
        let tally = Tally { held: 10, failed: vec![("40001", 3)], ..Tally::default() };
        let mut lab = Self { recorder: Recorder::default(), topology, tally, held: 0, first_answer: None };
        assert!([0, 500, 999].iter().all(|ms| lab.at(*ms, &[]).is_none()));
        lab
    }

    fn at(&mut self, ms: u64, changes: &[Change]) -> Option<Outage> {
        self.topology.at = Moment::from_ms(ms);
        self.recorder.see(&Seen {
            topology: &self.topology,
            changes,
            now: Moment::from_ms(ms),
            wall: SystemTime::UNIX_EPOCH + Duration::from_millis(100_000 + ms),
            tally: self.tally.clone(),
            held: self.held,
            first_answer: self.first_answer.map(Moment::from_ms),
        })
    }

    fn health(&mut self, node: usize, health: Health, why: &str) {
        self.topology.nodes[node].health = health;
        why.clone_into(&mut self.topology.nodes[node].reason);
    }

    fn promote(&mut self) -> [Change; 1] {
        (self.topology.primary, self.topology.epoch) = (Some(B), Epoch(2));
        self.topology.timeline = Some(Timeline(2));
        let text = "a -> b, epoch 2: it takes writes on a timeline above 1".to_owned();
        [Change { kind: EventKind::Primary, node: Some(B), text, bad: false }]
    }
}

#[test]
fn a_failover_is_told_from_the_first_doubt_to_the_last_held_session() {
    let mut lab = Lab::new();
    lab.health(0, Health::Suspect, "connection lost");
    assert!(lab.at(1000, &[]).is_none());
    // What sessions lose before the watcher is sure is of this outage, too.
    lab.tally.failed = vec![("40001", 4), ("08007", 1)];
    lab.health(0, Health::Down, "connection refused");
    assert!(lab.at(1010, &[]).is_none());
    lab.held = 7;
    lab.tally.held = 17;
    assert!(!lab.recorder.begins(&lab.topology));
    let changes = lab.promote();
    assert!(lab.recorder.begins(&lab.topology));
    assert!(lab.at(2000, &changes).is_none(), "held sessions go on first");
    assert!(!lab.recorder.begins(&lab.topology));
    (lab.held, lab.first_answer) = (0, Some(2005));
    assert!(lab.at(2249, &[]).is_none());
    lab.tally.failed = vec![("40001", 5), ("08007", 1)];
    assert!(lab.at(2260, &[]).is_none(), "others have not heard of it yet");
    assert!(lab.at(2509, &[]).is_none());
    let outage = lab.at(2510, &[]).unwrap();
    assert_eq!(outage.ending, Ending::Promotion);
    assert_eq!(outage.noticed_at, SystemTime::UNIX_EPOCH + Duration::from_secs(101));
    assert_eq!(outage.work.failed, [("40001", 2), ("08007", 1)]);
    insta::assert_snapshot!(outage.to_string(), @r#"failover 127.0.0.1:5432 -> 127.0.0.1:5433, epoch 2, timeline 2: loss noticed at 1970-01-01T00:01:41.000Z by "connection lost; then connection refused", writable after 1000 ms, first answer after 1005 ms; held 7, retried 0, replayed 0, failed 3 (2 40001, 1 08007)"#);
    assert!(lab.at(9000, &[]).is_none(), "told once");
}

#[test]
fn a_promotion_without_a_warning_is_its_own_evidence() {
    let mut lab = Lab::new();
    let changes = lab.promote();
    assert!(lab.at(1500, &changes).is_none());
    assert!(lab.at(1600, &[]).is_none(), "somebody may still ask");
    let outage = lab.at(3600, &[]).unwrap();
    insta::assert_snapshot!(outage.to_string(), @r#"failover 127.0.0.1:5432 -> 127.0.0.1:5433, epoch 2, timeline 2: loss noticed at 1970-01-01T00:01:41.500Z by "it takes writes on a timeline above 1", writable after 0 ms, no statement since; held 0, retried 0, replayed 0, failed 0"#);
}

#[test]
fn a_restart_in_place_is_an_outage_and_a_moment_of_doubt_is_none() {
    let mut lab = Lab::new();
    lab.health(0, Health::Suspect, "an answer is late");
    assert!(lab.at(1100, &[]).is_none());
    lab.health(0, Health::Up, "");
    assert!(lab.at(1200, &[]).is_none() && lab.at(9000, &[]).is_none());
    lab.health(0, Health::Down, "57P03 the database system is shutting down");
    assert!(lab.at(10_000, &[]).is_none());
    lab.health(0, Health::Up, "");
    assert!(lab.recorder.begins(&lab.topology));
    lab.first_answer = Some(10_420);
    assert!(lab.at(10_400, &[]).is_none());
    let outage = lab.at(10_650, &[]).unwrap();
    insta::assert_snapshot!(outage.to_string(), @r#"127.0.0.1:5432 is back, epoch 1, timeline 1: loss noticed at 1970-01-01T00:01:50.000Z by "57P03 the database system is shutting down", writable after 400 ms, first answer after 420 ms; held 0, retried 0, replayed 0, failed 0"#);
}

#[test]
fn the_next_outage_does_not_wait_for_the_last_to_settle() {
    let mut lab = Lab::new();
    lab.health(0, Health::Down, "connection refused");
    lab.at(1000, &[]);
    lab.held = 1;
    let changes = lab.promote();
    assert!(lab.at(2000, &changes).is_none());
    lab.health(1, Health::Down, "no answer");
    assert_eq!(lab.at(2500, &[]).unwrap().writable_after, Duration::from_secs(1));
    (lab.held, lab.first_answer) = (0, None);
    lab.health(1, Health::Up, "");
    assert!(lab.at(2800, &[]).is_none());
    let second = lab.at(5000, &[]).unwrap();
    assert_eq!((second.ending, second.evidence.as_str()), (Ending::Return, "no answer"));
    assert_eq!(second.writable_after, Duration::from_millis(300));
}

#[test]
fn a_switchover_is_told_as_one() {
    let mut lab = Lab::new();
    lab.topology.held = true;
    assert!(lab.at(2000, &[]).is_none());
    lab.topology.held = false;
    let changes = lab.promote();
    lab.first_answer = Some(2150);
    assert!(lab.at(2140, &changes).is_none());
    let outage = lab.at(2390, &[]).unwrap();
    insta::assert_snapshot!(outage.to_string(), @r#"switchover 127.0.0.1:5432 -> 127.0.0.1:5433, epoch 2, timeline 2: loss noticed at 1970-01-01T00:01:42.000Z by "a planned switchover", writable after 140 ms, first answer after 150 ms; held 0, retried 0, replayed 0, failed 0"#);
}

#[test]
fn nothing_is_reported_of_the_first_primary() {
    let mut lab = Lab::new();
    lab.recorder = Recorder::default();
    assert!(lab.recorder.begins(&lab.topology));
    assert!(lab.at(0, &[]).is_none() && lab.at(10_000, &[]).is_none());
}
