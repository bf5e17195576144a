//! One test per trap: a small cluster written out by hand, each step one observation.

use std::time::Duration;

use super::*;
use crate::config::NodeAddress;
use crate::topology::observe::{Failure, Receiver, Seen};
use crate::topology::{Lsn, ReadRefusal, Reads};

const IDENTITY: u64 = 42;
const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const C: NodeId = NodeId(2);

pub(super) fn rules(nodes: u16) -> Rules {
    let node = |i| Arc::new(NodeSettings::new(NodeAddress::new(format!("n{i}"), 5432)));
    Rules {
        nodes: (0..nodes).map(node).collect(),
        max_lag: Duration::from_secs(1),
        max_lag_bytes: 1 << 20,
        start_grace: Duration::from_secs(5),
        frozen_limit: Duration::from_mins(1),
        fresh: Duration::from_millis(600),
        system_identifier: None,
    }
}

pub(super) fn primary(timeline: u32, lsn: u64) -> Sample {
    Sample {
        system_identifier: IDENTITY,
        server_version_num: 150_020,
        start_time: 1,
        timeline: Some(Timeline(timeline)),
        insert: Some(Lsn(lsn)),
        flush: Some(Lsn(lsn)),
        ..Sample::default()
    }
}

pub(super) fn standby(timeline: u32, lsn: u64, sender: NodeId) -> Sample {
    Sample {
        system_identifier: IDENTITY,
        server_version_num: 150_020,
        start_time: 1,
        in_recovery: true,
        replayed: Some(Lsn(lsn)),
        received: Some(Lsn(lsn)),
        receiver: Some(Receiver {
            streaming: true,
            timeline: Some(Timeline(timeline)),
            sender_host: Some(format!("n{}", sender.0)),
            sender_port: Some(5432),
            latest_end: Some(Lsn(lsn)),
        }),
        ..Sample::default()
    }
}

fn orphan(lsn: u64) -> Sample {
    Sample { receiver: None, ..standby(1, lsn, A) }
}

fn promoted(timeline: u32, lsn: u64, fork: u64) -> Sample {
    Sample { replayed: Some(Lsn(fork)), ..primary(timeline, lsn) }
}

/// A cluster under test: each call is one decision.
struct Lab {
    rules: Rules,
    state: Option<State>,
    now: Moment,
    outcome: Option<Outcome>,
    /// Number of the last probe.
    number: u64,
    /// The prober connection of each node.
    links: Vec<u64>,
}

impl Lab {
    fn new(nodes: u16) -> Self {
        Lab::with(rules(nodes), None)
    }

    fn with(rules: Rules, mark: Option<Mark>) -> Self {
        let now = Moment::from_ms(1000);
        let links = vec![1; rules.nodes.len()];
        Lab { state: Some(State::new(&rules, mark, now)), rules, now, outcome: None, number: 1, links }
    }

    /// A primary on timeline 1 with two standbys that stream from it.
    fn healthy() -> Self {
        let mut lab = Lab::new(3);
        lab.all(100);
        assert_eq!((lab.view().primary, lab.view().epoch), (Some(A), Epoch(1)));
        assert!(lab.reads(B).qualified() && lab.reads(C).qualified());
        lab
    }

    fn all(&mut self, lsn: u64) {
        self.sample(A, primary(1, lsn));
        self.sample(B, standby(1, lsn, A));
        self.sample(C, standby(1, lsn, A));
    }

    fn input(&mut self, input: Input) -> &Outcome {
        let state = self.state.take().unwrap();
        let (state, outcome) = decide(state, &[input], self.now, &self.rules);
        self.state = Some(state);
        self.outcome.insert(outcome)
    }

    fn seen_at(&mut self, node: NodeId, sent: Moment, seen: Seen) -> &Outcome {
        let at = self.now;
        self.number += 1;
        let (number, link) = (self.number, self.links[node.index()]);
        if matches!(seen, Seen::Failed(_)) {
            self.links[node.index()] = number + 1;
        }
        self.input(Input::Seen(Observation { node, number, link, sent, at, seen }))
    }

    fn seen(&mut self, node: NodeId, seen: Seen) -> &Outcome {
        self.pass(2);
        let sent = self.now - Duration::from_millis(1);
        self.seen_at(node, sent, seen)
    }

    fn sample(&mut self, node: NodeId, sample: Sample) -> &Outcome {
        self.seen(node, Seen::Sample(Box::new(sample)))
    }

    fn fail(&mut self, node: NodeId, failure: Failure) -> &Outcome {
        self.seen(node, Seen::Failed(failure))
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
    }

    fn view(&self) -> &Topology {
        &self.outcome.as_ref().unwrap().topology
    }

    fn role(&self, node: NodeId) -> Role {
        self.view().node(node).unwrap().role
    }

    fn health(&self, node: NodeId) -> Health {
        self.view().node(node).unwrap().health
    }

    fn reads(&self, node: NodeId) -> Reads {
        self.view().node(node).unwrap().reads
    }

    fn refused(&self, node: NodeId) -> ReadRefusal {
        match self.reads(node) {
            Reads::Refused(why) => why,
            Reads::Qualified => panic!("{node:?} qualifies"),
        }
    }
}

fn mark(timeline: u32) -> Mark {
    Mark { system_identifier: IDENTITY, timeline: Timeline(timeline) }
}

mod start {
    use super::*;

    #[test]
    fn every_node_is_down_until_it_has_answered() {
        let mut lab = Lab::new(2);
        lab.fail(B, Failure::Refused);
        assert_eq!((lab.health(A), lab.health(B), lab.view().primary), (Health::Down, Health::Down, None));
        assert!(lab.view().starting());
    }

    #[test]
    fn without_a_state_a_silent_node_is_waited_for() {
        let mut lab = Lab::new(2);
        lab.fail(B, Failure::Refused);
        lab.sample(A, primary(1, 100));
        assert_eq!(lab.view().primary, None, "the refused node may be on a higher timeline");
        lab.pass(4900);
        lab.sample(A, primary(1, 100));
        assert_eq!(lab.view().primary, None);
        lab.pass(100);
        lab.sample(A, primary(1, 100));
        assert_eq!(lab.view().primary, Some(A));
        let outcome = lab.outcome.unwrap();
        assert_eq!(outcome.persist, Some(mark(1)), "durable before the epoch is seen");
        assert!(outcome.material);
    }

    #[test]
    fn with_all_answers_nobody_waits() {
        let mut lab = Lab::new(2);
        lab.sample(A, primary(1, 100));
        assert_eq!(lab.view().primary, None);
        lab.sample(B, standby(1, 100, A));
        assert_eq!(lab.view().primary, Some(A));
    }

    #[test]
    fn with_a_state_one_try_of_each_node_is_enough() {
        let mut lab = Lab::with(rules(2), Some(mark(1)));
        lab.sample(A, primary(1, 100));
        assert_eq!(lab.view().primary, None, "the other has not been asked yet");
        lab.fail(B, Failure::Refused);
        assert_eq!(lab.view().primary, Some(A));
        assert_eq!(lab.outcome.unwrap().persist, None, "already known");
    }

    #[test]
    fn a_primary_below_the_remembered_timeline_is_fenced_at_once() {
        let mut lab = Lab::with(rules(1), Some(mark(2)));
        lab.pass(9000);
        lab.sample(A, primary(1, 100));
        assert_eq!((lab.view().primary, lab.role(A)), (None, Role::Zombie));
        assert_eq!(lab.view().alarms.len(), 1);
        lab.input(Input::AcceptTimeline(Timeline(1)));
        lab.sample(A, primary(1, 100));
        assert_eq!(lab.view().primary, Some(A), "an operator says that it is a restore");
    }

    #[test]
    fn standbys_prove_a_timeline_too() {
        let mut lab = Lab::new(2);
        lab.sample(A, primary(1, 100));
        lab.sample(B, standby(2, 100, C));
        assert_eq!((lab.view().primary, lab.role(A)), (None, Role::Zombie));
    }

    #[test]
    fn the_higher_of_two_primaries_wins() {
        let mut lab = Lab::new(2);
        lab.sample(A, primary(1, 900));
        lab.sample(B, primary(2, 100));
        assert_eq!((lab.view().primary, lab.role(A)), (Some(B), Role::Zombie));
    }

    #[test]
    fn old_evidence_makes_no_primary() {
        let mut lab = Lab::new(1);
        lab.pass(5000);
        let sent = lab.now - Duration::from_millis(700);
        lab.seen_at(A, sent, Seen::Sample(Box::new(primary(1, 100))));
        assert_eq!(lab.view().primary, None);
        lab.sample(A, primary(1, 100));
        assert_eq!(lab.view().primary, Some(A));
    }
}

mod identity {
    use super::*;

    fn stranger(sample: Sample) -> Sample {
        Sample { system_identifier: 7, ..sample }
    }

    #[test]
    fn without_an_identity_two_clusters_have_no_primary() {
        let mut lab = Lab::new(2);
        lab.sample(A, primary(1, 100));
        lab.sample(B, stranger(primary(9, 100)));
        assert_eq!(lab.view().primary, None);
        assert_eq!(lab.view().alarms.len(), 1);
    }

    #[test]
    fn a_stranger_is_never_used_and_its_timeline_counts_for_nothing() {
        let mut lab = Lab::with(Rules { system_identifier: Some(IDENTITY), ..rules(3) }, None);
        lab.sample(A, primary(1, 100));
        lab.sample(B, stranger(primary(9, 100)));
        lab.sample(C, stranger(standby(1, 100, A)));
        assert_eq!((lab.view().primary, lab.view().timeline), (Some(A), Some(Timeline(1))));
        assert_eq!((lab.role(B), lab.refused(C)), (Role::Stranger, ReadRefusal::Stranger));
        assert_eq!(lab.view().alarms.len(), 2);
    }

    #[test]
    fn a_node_that_becomes_a_stranger_loses_the_primary_role() {
        let mut lab = Lab::healthy();
        lab.sample(A, stranger(primary(1, 100)));
        assert_eq!((lab.view().primary, lab.role(A), lab.view().epoch), (None, Role::Stranger, Epoch(2)));
    }

    #[test]
    fn the_state_file_wins_over_the_setting() {
        let lab = Lab::with(Rules { system_identifier: Some(7), ..rules(1) }, Some(mark(1)));
        assert_eq!(lab.state.unwrap().identifier, Some(IDENTITY));
    }
}

mod promotion {
    use super::*;

    #[test]
    fn a_promoted_standby_replaces_a_silent_primary_in_one_step() {
        let mut lab = Lab::healthy();
        lab.seen(A, Seen::Late);
        assert_eq!((lab.health(A), lab.view().primary), (Health::Suspect, Some(A)));
        assert!(lab.outcome.as_ref().unwrap().fast, "standbys are watched closely now");
        assert!(!lab.outcome.as_ref().unwrap().material, "nobody has to wake up for a late answer");
        let outcome = lab.sample(B, promoted(2, 160, 120));
        assert_eq!(outcome.persist, Some(mark(2)));
        assert_eq!((outcome.topology.primary, outcome.topology.epoch), (Some(B), Epoch(2)));
        assert_eq!(outcome.topology.fork, Some(Fork { timeline: Timeline(2), lsn: Lsn(120) }));
        assert_eq!(lab.role(A), Role::Zombie);
        let told = &lab.outcome.as_ref().unwrap().changes[0];
        assert!(told.text.contains("n0:5432 (timeline 1) -> n1:5432 (timeline 2), epoch 2"), "{}", told.text);
    }

    #[test]
    fn a_live_primary_on_a_lower_timeline_is_replaced_too() {
        let mut lab = Lab::healthy();
        lab.sample(B, promoted(2, 160, 120));
        lab.sample(A, primary(1, 500));
        assert_eq!((lab.view().primary, lab.role(A)), (Some(B), Role::Zombie));
        assert_eq!(lab.view().alarms.len(), 1);
    }

    #[test]
    fn a_silent_primary_keeps_its_role_and_its_epoch() {
        let mut lab = Lab::healthy();
        lab.fail(A, Failure::Silent(Duration::from_millis(500)));
        assert_eq!((lab.view().primary, lab.view().epoch), (Some(A), Epoch(1)));
        assert_eq!((lab.role(A), lab.health(A)), (Role::Primary, Health::Down));
        assert_eq!(lab.view().writable_primary(), None, "new work waits");
        lab.sample(A, primary(1, 100));
        assert_eq!((lab.view().writable_primary(), lab.view().epoch), (Some(A), Epoch(1)));
    }

    #[test]
    fn a_restart_in_place_is_waited_for() {
        let mut lab = Lab::healthy();
        lab.fail(A, Failure::Cut("server closed the connection".into()));
        assert_eq!(lab.health(A), Health::Suspect, "one lost connection is no proof");
        lab.fail(A, Failure::Unavailable("the database system is starting up".into()));
        assert_eq!((lab.view().primary, lab.health(A)), (Some(A), Health::Down));
        lab.sample(A, Sample { start_time: 2, ..primary(1, 100) });
        assert_eq!((lab.view().writable_primary(), lab.view().epoch), (Some(A), Epoch(1)));
    }

    #[test]
    fn a_primary_seen_in_recovery_is_none_and_the_next_one_is_a_new_epoch() {
        let mut lab = Lab::healthy();
        lab.sample(A, orphan(100));
        assert_eq!((lab.view().primary, lab.view().epoch, lab.role(A)), (None, Epoch(2), Role::Standby));
        lab.sample(B, promoted(2, 160, 100));
        assert_eq!((lab.view().primary, lab.view().epoch), (Some(B), Epoch(3)));
    }

    #[test]
    fn the_same_node_on_a_higher_timeline_is_a_new_epoch() {
        let mut lab = Lab::healthy();
        lab.sample(A, Sample { start_time: 2, ..primary(2, 100) });
        assert_eq!((lab.view().primary, lab.view().epoch), (Some(A), Epoch(2)));
    }

    #[test]
    fn a_timeline_proven_by_a_standby_ends_the_old_primary_before_the_new_one_is_seen() {
        let mut lab = Lab::healthy();
        let outcome = lab.sample(C, standby(2, 130, B));
        assert_eq!((outcome.topology.primary, outcome.persist), (None, Some(mark(2))));
        lab.sample(B, promoted(2, 160, 120));
        assert_eq!(lab.view().primary, Some(B));
    }

    #[test]
    fn a_zombie_stays_fenced_until_it_follows_the_new_timeline() {
        let mut lab = Lab::healthy();
        lab.sample(B, promoted(2, 160, 120));
        lab.sample(C, standby(2, 160, B));
        for sample in [primary(1, 999), orphan(120), standby(1, 120, B)] {
            lab.sample(A, sample);
            assert_eq!((lab.role(A), lab.view().primary), (Role::Zombie, Some(B)));
            assert_eq!(lab.refused(A), ReadRefusal::Zombie);
        }
        lab.sample(B, promoted(2, 160, 120));
        lab.sample(A, standby(2, 160, B));
        assert_eq!((lab.role(A), lab.reads(A)), (Role::Standby, Reads::Qualified));
    }

    #[test]
    fn an_answer_that_was_under_way_for_long_moves_nothing_back() {
        let mut lab = Lab::healthy();
        let before = lab.now;
        lab.pass(50);
        lab.sample(B, promoted(2, 160, 120));
        lab.seen_at(B, before, Seen::Sample(Box::new(standby(1, 110, A))));
        assert_eq!((lab.view().primary, lab.view().epoch), (Some(B), Epoch(2)));
        lab.seen_at(B, before, Seen::Failed(Failure::Refused));
        assert_eq!(lab.health(B), Health::Up);
    }

    /// B was promoted beside A, and an operator has said that this never happened.
    fn disowned() -> Lab {
        let mut lab = Lab::healthy();
        lab.sample(B, promoted(2, 160, 120));
        lab.sample(A, primary(1, 500));
        lab.input(Input::AcceptTimeline(Timeline(1)));
        lab.sample(B, promoted(2, 170, 120));
        lab.sample(A, primary(1, 510));
        lab
    }

    #[test]
    fn a_timeline_disowned_by_mistake_is_taken_back() {
        let mut lab = disowned();
        assert_eq!(lab.view().primary, Some(A));
        lab.input(Input::AcceptTimeline(Timeline(2)));
        lab.sample(B, promoted(2, 180, 120));
        lab.sample(A, primary(1, 520));
        assert_eq!((lab.view().primary, lab.role(A)), (Some(B), Role::Zombie));
        assert_eq!(lab.view().timeline, Some(Timeline(2)));
    }

    #[test]
    fn an_accidental_promotion_can_be_disowned() {
        let mut lab = disowned();
        assert_eq!((lab.view().primary, lab.role(B), lab.view().epoch), (Some(A), Role::Zombie, Epoch(3)));
        assert_eq!(lab.view().timeline, Some(Timeline(1)));
        lab.sample(B, standby(1, 510, A));
        assert_eq!((lab.role(B), lab.reads(B)), (Role::Standby, Reads::Qualified));
    }
}

mod contest {
    use super::*;

    #[test]
    fn two_on_one_timeline_with_different_forks_have_no_primary() {
        let mut lab = Lab::healthy();
        lab.sample(B, promoted(2, 160, 120));
        lab.sample(C, promoted(2, 160, 110));
        assert_eq!((lab.view().primary, lab.view().alarms.len()), (None, 1));
        lab.fail(B, Failure::Refused);
        lab.pass(10_000);
        lab.sample(C, promoted(2, 190, 110));
        assert_eq!(lab.view().primary, None, "the silent one may have taken writes");
        lab.sample(B, standby(2, 190, C));
        assert_eq!(lab.view().primary, Some(C), "one was seen in recovery");
    }

    #[test]
    fn unknown_forks_have_no_primary_either() {
        let mut lab = Lab::healthy();
        lab.sample(B, Sample { replayed: None, ..promoted(1, 100, 0) });
        assert_eq!(lab.view().primary, None);
    }

    #[test]
    fn equal_forks_keep_the_incumbent_while_it_is_fresh() {
        let mut lab = Lab::healthy();
        lab.sample(B, promoted(2, 160, 120));
        lab.sample(C, promoted(2, 160, 120));
        assert_eq!((lab.view().primary, lab.view().epoch, lab.view().alarms.len()), (Some(B), Epoch(2), 1));
        lab.pass(700);
        lab.sample(C, promoted(2, 160, 120));
        assert_eq!(lab.view().primary, None, "silent: its word is worth no more than the other's");
    }

    #[test]
    fn an_operator_decides() {
        let mut lab = Lab::healthy();
        lab.sample(B, promoted(2, 160, 120));
        lab.sample(C, promoted(2, 160, 110));
        lab.input(Input::Accept(C));
        assert_eq!((lab.view().primary, lab.role(B)), (Some(C), Role::Zombie));
    }
}

mod health {
    use super::*;

    #[test]
    fn a_standby_that_was_down_needs_three_answers() {
        let mut lab = Lab::healthy();
        lab.fail(B, Failure::Refused);
        for expected in [Health::Down, Health::Down, Health::Up] {
            lab.sample(B, standby(1, 100, A));
            assert_eq!(lab.health(B), expected);
        }
        assert!(lab.reads(B).qualified());
    }

    #[test]
    fn two_lost_connections_without_an_answer_are_down() {
        let mut lab = Lab::healthy();
        lab.fail(B, Failure::Cut("reset".into()));
        assert!(lab.reads(B).qualified());
        lab.fail(B, Failure::Cut("reset".into()));
        assert_eq!((lab.health(B), lab.refused(B)), (Health::Down, ReadRefusal::Down));
    }

    #[test]
    fn a_node_too_crowded_for_the_monitor_is_not_down() {
        let mut lab = Lab::healthy();
        lab.fail(A, Failure::Cut("reset".into()));
        lab.fail(A, Failure::Crowded);
        assert_eq!((lab.health(A), lab.view().writable_primary()), (Health::Suspect, Some(A)));
    }

    #[test]
    fn beats_alone_do_not_prove_a_new_node() {
        let mut lab = Lab::new(1);
        lab.seen(A, Seen::Beat);
        assert_eq!(lab.health(A), Health::Down);
        lab.sample(A, primary(1, 1));
        lab.seen(A, Seen::Late);
        lab.seen(A, Seen::Beat);
        assert_eq!(lab.health(A), Health::Up);
    }
}

mod reads {
    use super::*;

    #[test]
    fn an_idle_primary_ages_no_standby() {
        let mut lab = Lab::healthy();
        for _ in 0..100 {
            lab.pass(100);
            lab.all(100);
        }
        assert_eq!(lab.view().node(B).unwrap().lag, Some(Lag::default()));
        assert!(lab.reads(B).qualified());
    }

    #[test]
    fn a_lost_prober_connection_voids_what_a_standby_has() {
        let mut lab = Lab::healthy();
        let latest = |lab: &Lab, node| {
            let sampled = lab.view().node(node).unwrap().samples.latest();
            sampled.map(|s| (s.number, s.lsn.0))
        };
        let (number, era) = (lab.number, lab.view().era().unwrap());
        assert_eq!((latest(&lab, A), latest(&lab, C)), (Some((number - 2, 100)), Some((number, 100))));
        lab.fail(B, Failure::Cut("closed".to_owned()));
        assert!(lab.reads(B).qualified(), "one lost connection does not make it unfit");
        assert_eq!(latest(&lab, B), None);
        lab.sample(B, standby(1, 90, A));
        assert_eq!(latest(&lab, B), Some((lab.number, 90)));
        assert_eq!(lab.view().era(), Some(era));
        lab.fail(A, Failure::Silent(Duration::from_millis(500)));
        assert_eq!((latest(&lab, A), lab.view().era()), (None, Some(era)));
        let first = |lab: &Lab| lab.view().node(A).unwrap().samples.first_after(number - 3);
        assert_eq!(first(&lab).map(|s| s.lsn), Some(Lsn(100)), "what it wrote before is still known");
        lab.sample(A, primary(1, 95));
        assert_eq!(lab.view().era(), Some(lab.number), "nothing from before can be compared with this");
    }

    #[test]
    fn an_era_is_one_life_as_the_primary() {
        let mut lab = Lab::healthy();
        let era = lab.view().era();
        lab.sample(A, primary(1, 300));
        assert_eq!(lab.view().era(), era);
        lab.fail(A, Failure::Refused);
        lab.sample(C, standby(2, 110, B));
        assert_eq!((lab.view().primary, lab.view().era()), (None, None));
        lab.sample(B, promoted(2, 120, 110));
        assert_eq!((lab.view().primary, lab.view().era()), (Some(B), Some(lab.number)));
    }

    #[test]
    fn qualified_since_counts_from_the_last_return() {
        let mut lab = Lab::healthy();
        let since = |lab: &Lab| lab.view().node(B).unwrap().qualified_since;
        let first = since(&lab).unwrap();
        assert!(first <= lab.now);
        lab.pass(100);
        lab.all(200);
        assert_eq!(since(&lab), Some(first), "another good answer changes nothing");
        lab.sample(A, primary(1, 100 << 20));
        lab.sample(B, standby(1, 200, A));
        assert_eq!((lab.refused(B), since(&lab)), (ReadRefusal::Lagging, None));
        lab.sample(B, standby(1, 100 << 20, A));
        assert_eq!(since(&lab), Some(lab.now));
    }

    #[test]
    fn a_lagging_standby_is_out_and_back_at_once_when_it_has_caught_up() {
        let mut lab = Lab::healthy();
        for step in 1..=11 {
            lab.pass(100);
            lab.sample(A, primary(1, 100 + step));
            lab.sample(B, standby(1, 100, A));
        }
        assert_eq!(lab.refused(B), ReadRefusal::Lagging);
        lab.sample(B, standby(1, 105, A));
        assert_eq!(lab.refused(B), ReadRefusal::Lagging, "below the limit, above half of it");
        lab.sample(B, standby(1, 111, A));
        assert!(lab.reads(B).qualified());
        lab.sample(A, primary(1, 3 << 20));
        lab.sample(B, standby(1, 111, A));
        assert_eq!(lab.refused(B), ReadRefusal::Lagging, "in bytes");
    }

    #[test]
    fn a_hung_receiver_is_seen_though_it_claims_to_stream() {
        let mut lab = Lab::healthy();
        for step in 1..=11 {
            lab.pass(100);
            lab.sample(A, primary(1, 100 + step));
            lab.sample(C, standby(1, 100, A));
        }
        assert_eq!(
            lab.refused(C),
            ReadRefusal::Lagging,
            "receive-replay is 0 and replay_lag stale: neither is asked"
        );
    }

    #[test]
    fn a_standby_ahead_of_the_primary_is_out_and_stays_out() {
        let mut lab = Lab::healthy();
        lab.sample(C, standby(1, 150, A));
        lab.sample(B, promoted(2, 140, 120));
        lab.sample(C, standby(2, 150, B));
        assert_ne!(lab.role(C), Role::Zombie);
        lab.sample(B, promoted(2, 140, 120));
        assert_eq!(lab.refused(C), ReadRefusal::Ahead);
        lab.sample(B, promoted(2, 900, 120));
        lab.sample(C, standby(2, 150, B));
        assert_eq!(lab.refused(C), ReadRefusal::Ahead, "the primary has passed it, history has not healed");
        assert_eq!(lab.view().alarms.len(), 1);
        lab.sample(C, Sample { start_time: 2, ..standby(2, 900, B) });
        assert!(lab.reads(C).qualified(), "rebuilt");
    }

    #[test]
    fn a_newer_standby_sample_is_not_ahead_of_an_older_primary_sample() {
        let mut lab = Lab::healthy();
        lab.sample(C, standby(1, 150, A));
        assert!(lab.reads(C).qualified());
    }

    #[test]
    fn others_serve_nothing_on_the_old_timeline() {
        let mut lab = Lab::healthy();
        lab.sample(B, promoted(2, 160, 120));
        lab.sample(C, standby(1, 120, A));
        assert_eq!(lab.refused(C), ReadRefusal::WrongTimeline);
        lab.sample(C, orphan(120));
        assert_eq!(lab.refused(C), ReadRefusal::WrongTimeline);
        lab.sample(B, promoted(2, 160, 120));
        lab.sample(C, standby(2, 160, B));
        assert!(lab.reads(C).qualified());
    }

    #[test]
    fn a_chain_is_followed_and_breaks_with_its_link() {
        let mut lab = Lab::new(3);
        lab.sample(A, primary(1, 100));
        lab.sample(C, standby(1, 100, B));
        lab.sample(B, standby(1, 100, A));
        assert!(lab.reads(C).qualified());
        lab.fail(B, Failure::Refused);
        assert_eq!(lab.refused(C), ReadRefusal::WrongSender);
    }

    #[test]
    fn a_circle_of_standbys_proves_nothing() {
        let mut lab = Lab::new(3);
        lab.sample(A, primary(1, 100));
        lab.sample(C, standby(1, 100, B));
        lab.sample(B, standby(1, 100, C));
        assert_eq!(lab.refused(B), ReadRefusal::WrongSender);
        assert_eq!(lab.refused(C), ReadRefusal::WrongSender);
    }

    #[test]
    fn a_sender_under_another_name_is_judged_by_position_or_by_its_setting() {
        let named = |host: &str| {
            let mut sample = standby(1, 100, A);
            sample.receiver.as_mut().unwrap().sender_host = Some(host.to_owned());
            sample
        };
        let mut lab = Lab::new(3);
        let mut spec = (*lab.rules.nodes[2]).clone();
        spec.replication_address = Some("[fd00::3]:5432".to_owned());
        lab.rules.nodes[2] = Arc::new(spec);
        lab.sample(A, primary(1, 100));
        lab.sample(C, Sample { in_recovery: true, ..orphan(100) });
        lab.sample(B, named("10.0.0.1"));
        assert!(lab.reads(B).qualified());
        lab.sample(B, named("fd00::3"));
        assert_eq!(lab.refused(B), ReadRefusal::WrongSender, "that is C, which does not stream");
    }

    #[test]
    fn no_receiver_no_reads_after_a_moment() {
        let mut lab = Lab::healthy();
        lab.sample(B, orphan(100));
        assert!(lab.reads(B).qualified(), "the primary may have died a moment ago");
        lab.pass(1100);
        lab.sample(A, primary(1, 100));
        lab.sample(B, orphan(100));
        assert_eq!(lab.refused(B), ReadRefusal::NotStreaming);
    }

    #[test]
    fn a_role_without_pg_monitor_shows_no_timeline_and_so_no_reads() {
        let mut lab = Lab::new(2);
        lab.sample(A, primary(1, 100));
        let receiver = Some(Receiver::default());
        lab.sample(B, Sample { receiver, ..standby(1, 100, A) });
        assert_eq!(lab.refused(B), ReadRefusal::NotStreaming);
    }

    #[test]
    fn archive_fed_is_judged_by_lag_and_after_a_promotion_by_its_timeline() {
        let archive = |lsn, timeline| Sample {
            archive_fed: true,
            min_recovery_timeline: Some(Timeline(timeline)),
            ..orphan(lsn)
        };
        let mut lab = Lab::healthy();
        lab.sample(A, primary(1, 100));
        lab.sample(C, archive(100, 1));
        assert!(lab.reads(C).qualified());
        lab.sample(B, promoted(2, 100, 100));
        lab.sample(C, archive(100, 1));
        assert_eq!(lab.refused(C), ReadRefusal::WrongTimeline);
        lab.sample(C, archive(100, 2));
        assert!(lab.reads(C).qualified());
    }

    #[test]
    fn with_a_silent_primary_receivers_are_the_measure() {
        let mut lab = Lab::healthy();
        lab.fail(A, Failure::Silent(Duration::from_millis(500)));
        for step in 1..=20 {
            lab.pass(100);
            lab.sample(B, standby(1, 100 + step, A));
            lab.sample(C, standby(1, 100, A));
        }
        assert!(lab.reads(B).qualified(), "proves that the primary lives for others");
        assert_eq!(lab.refused(C), ReadRefusal::Lagging);
    }

    #[test]
    fn what_the_dead_primary_kept_for_itself_is_no_lag() {
        let mut lab = Lab::healthy();
        lab.sample(A, primary(1, 500));
        lab.fail(A, Failure::Silent(Duration::from_millis(500)));
        for _ in 0..50 {
            lab.pass(100);
            lab.sample(B, standby(1, 100, A));
            lab.sample(C, standby(1, 100, A));
        }
        assert!(lab.reads(B).qualified() && lab.reads(C).qualified());
    }

    #[test]
    fn the_verdict_is_frozen_while_nobody_streams_but_not_for_ever() {
        let mut lab = Lab::healthy();
        lab.fail(A, Failure::Refused);
        for _ in 0..590 {
            lab.sample(B, orphan(100));
            lab.sample(C, orphan(100));
            lab.pass(96);
            assert!(lab.reads(B).qualified() && lab.reads(C).qualified());
        }
        lab.pass(3000);
        lab.sample(B, orphan(100));
        assert_eq!(lab.refused(B), ReadRefusal::LagUnknown);
        assert_eq!(lab.refused(C), ReadRefusal::LagUnknown);
    }

    #[test]
    fn a_standby_restarted_while_frozen_has_lost_its_verdict() {
        let mut lab = Lab::healthy();
        lab.fail(A, Failure::Refused);
        lab.sample(B, Sample { start_time: 2, ..orphan(90) });
        assert!(!lab.reads(B).qualified());
        assert!(lab.reads(C).qualified());
    }

    #[test]
    fn a_receiver_lost_before_the_primary_is_known_dead_changes_nothing() {
        let mut lab = Lab::healthy();
        lab.sample(B, orphan(100));
        lab.pass(60);
        lab.sample(C, orphan(100));
        lab.fail(A, Failure::Cut("eof".into()));
        lab.fail(A, Failure::Refused);
        lab.pass(5000);
        lab.sample(B, orphan(100));
        lab.sample(C, orphan(100));
        assert!(lab.reads(B).qualified() && lab.reads(C).qualified());
    }

    #[test]
    fn unknown_is_not_zero() {
        let mut lab = Lab::new(2);
        lab.sample(B, standby(1, 50, A));
        lab.sample(A, primary(1, 100));
        assert_eq!(lab.view().primary, Some(A));
        assert_eq!(lab.refused(B), ReadRefusal::LagUnknown, "its position is from before the first sample");
        lab.sample(B, standby(1, 100, A));
        assert!(lab.reads(B).qualified());
    }
}

#[test]
fn writes_are_held_until_somebody_says_so_or_another_primary_is_there() {
    let mut lab = Lab::healthy();
    assert!(lab.input(Input::Hold(true)).material && lab.view().held);
    assert_eq!((lab.view().primary, lab.view().writable_primary()), (Some(A), None));
    lab.all(200);
    assert!(lab.view().held && lab.outcome.as_ref().unwrap().fast);
    assert!(lab.reads(B).qualified(), "reads go on");
    assert!(lab.input(Input::Hold(false)).material);
    assert_eq!(lab.view().writable_primary(), Some(A));
    lab.input(Input::Hold(true));
    lab.sample(B, promoted(2, 300, 200));
    assert_eq!((lab.view().held, lab.view().writable_primary()), (false, Some(B)));
}
