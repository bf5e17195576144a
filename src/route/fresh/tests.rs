//! One test per rule, on topologies whose samples are written out by hand.

use super::*;
use crate::config::{NodeAddress, NodeSettings};
use crate::topology::{Fork, Health, Reads, Role, Sampled};

const P: NodeId = NodeId(0);
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

/// P is the primary, A and B are standbys; every node has one prober connection, numbered 1 to 3.
struct Lab {
    view: Topology,
    links: [u64; 3],
    number: u64,
    floors: Floors,
}

impl Lab {
    /// All are at 100.
    fn new() -> Self {
        let node = |i| NodeSettings::new(NodeAddress::new(format!("n{i}"), 5432));
        let mut view = Topology::unseen(&[node(0), node(1), node(2)]);
        (view.primary, view.timeline) = (Some(P), Some(Timeline(1)));
        for node in &mut view.nodes {
            (node.health, node.reads, node.timeline) = (Health::Up, Reads::Qualified, Some(Timeline(1)));
            node.role = if node.id == P { Role::Primary } else { Role::Standby };
        }
        let mut lab = Lab { view, links: [1, 2, 3], number: 0, floors: Floors::default() };
        for node in [P, A, B] {
            lab.sample(node, 100);
        }
        lab
    }

    fn sample(&mut self, node: NodeId, lsn: u64) {
        self.number += 1;
        let primary = self.view.primary == Some(node);
        let sampled = Sampled { number: self.number, lsn: Lsn(lsn) };
        self.view.nodes[node.index()].samples.push(self.links[node.index()], primary, sampled);
    }

    /// The prober connection is lost; the next sample comes by another.
    fn cut(&mut self, node: NodeId) {
        self.view.nodes[node.index()].samples.void(self.links[node.index()]);
        self.links[node.index()] = self.number + 1;
    }

    fn promote(&mut self, node: NodeId) {
        self.view.primary = Some(node);
        self.view.timeline = self.view.timeline.map(|t| Timeline(t.0 + 1));
        self.view.nodes[node.index()].timeline = self.view.timeline;
    }

    /// A reply that was sent and read between two probes.
    fn mark(&self, node: NodeId) -> Mark {
        Mark { node, since: self.number, number: self.number }
    }

    fn write(&mut self) {
        self.floors.wrote(self.mark(self.view.primary.unwrap()));
    }

    fn read(&mut self, node: NodeId) {
        self.floors.read(self.mark(node));
    }

    fn serves(&mut self, node: NodeId) -> Fresh {
        self.floors.serves(&self.view, &self.view.nodes[node.index()])
    }

    fn position(&mut self) -> Option<(u32, u64)> {
        self.floors.position(&self.view).map(|(timeline, lsn)| (timeline.0, lsn.0))
    }
}

const fn behind(lsn: u64) -> Fresh {
    Fresh::NotYet(Lsn(lsn))
}

#[test]
fn a_session_costs_one_line_of_cache() {
    assert!(size_of::<Floors>() <= 64, "{}", size_of::<Floors>());
}

#[test]
fn who_has_done_nothing_is_bound_by_nothing() {
    let mut lab = Lab::new();
    lab.cut(A);
    lab.cut(P);
    assert_eq!((lab.serves(A), lab.serves(B)), (Fresh::Yes, Fresh::Yes));
}

#[test]
fn an_own_write_is_covered_by_the_first_sample_sent_after_it() {
    let mut lab = Lab::new();
    lab.write();
    assert_eq!((lab.serves(P), lab.serves(A)), (Fresh::Yes, Fresh::Unknown));
    lab.sample(A, 500);
    assert_eq!(lab.serves(A), Fresh::Unknown, "no sample of the primary says how far it is enough");
    lab.sample(P, 200);
    lab.sample(P, 900);
    assert_eq!((lab.serves(A), lab.serves(B)), (Fresh::Yes, behind(200)), "the first one, not the latest");
    lab.sample(B, 199);
    assert_eq!(lab.serves(B), behind(200));
    lab.sample(B, 200);
    assert_eq!(lab.serves(B), Fresh::Yes);
    lab.write();
    assert_eq!(lab.serves(B), Fresh::Unknown, "another write");
}

#[test]
fn a_standby_that_was_lost_from_sight_serves_after_its_next_sample() {
    let mut lab = Lab::new();
    lab.write();
    lab.sample(P, 200);
    lab.sample(A, 300);
    assert_eq!(lab.serves(A), Fresh::Yes);
    lab.cut(A);
    assert_eq!(lab.serves(A), Fresh::Unknown);
    lab.sample(A, 150);
    assert_eq!(lab.serves(A), behind(200), "restarted: it went back in time");
}

#[test]
fn a_read_binds_to_its_node_until_that_is_sampled() {
    let mut lab = Lab::new();
    lab.sample(P, 900);
    lab.read(A);
    assert_eq!((lab.serves(A), lab.serves(B), lab.serves(P)), (Fresh::Yes, Fresh::Unknown, Fresh::Yes));
    lab.sample(A, 300);
    assert_eq!((lab.serves(A), lab.serves(B)), (Fresh::Yes, behind(300)));
    lab.sample(B, 300);
    assert_eq!(lab.serves(B), Fresh::Yes);
}

#[test]
fn a_read_from_a_standby_that_may_have_restarted_is_covered_by_the_primary() {
    let mut lab = Lab::new();
    lab.read(A);
    lab.cut(A);
    lab.sample(A, 90);
    assert_eq!(lab.serves(A), Fresh::Unknown, "its sample is of another life");
    lab.sample(B, 250);
    lab.sample(P, 200);
    assert_eq!((lab.serves(A), lab.serves(B)), (behind(200), Fresh::Yes));
}

#[test]
fn a_connection_opened_while_the_read_ran_proves_nothing() {
    let mut lab = Lab::new();
    let since = lab.number;
    lab.cut(A);
    lab.sample(A, 90);
    lab.floors.read(Mark { node: A, since, number: lab.number });
    lab.sample(A, 95);
    assert_eq!(lab.serves(A), Fresh::Unknown);
}

#[test]
fn a_read_from_the_primary_binds_like_a_write_but_promises_an_end() {
    let mut lab = Lab::new();
    let nearly = |lab: &Lab| lab.floors.nearly(&lab.view, &lab.view.nodes[A.index()]);
    lab.write();
    lab.read(P);
    assert_eq!((lab.serves(A), nearly(&lab)), (Fresh::Unknown, false));
    lab.sample(P, 200);
    lab.read(P);
    assert_eq!((lab.serves(A), nearly(&lab)), (Fresh::Unknown, false), "the write has not arrived");
    lab.sample(A, 200);
    assert_eq!((lab.serves(A), nearly(&lab)), (Fresh::Unknown, true));
    lab.floors.gave_up(lab.number);
    lab.sample(P, 300);
    assert_eq!((lab.serves(A), nearly(&lab)), (behind(300), false));
    lab.sample(A, 300);
    assert_eq!(lab.serves(A), Fresh::Yes);
}

#[test]
fn what_is_declared_a_read_binds_like_a_write_and_promises_an_end() {
    let mut lab = Lab::new();
    let nearly = |lab: &Lab| lab.floors.nearly(&lab.view, &lab.view.nodes[A.index()]);
    lab.write();
    lab.sample(P, 200);
    lab.sample(A, 200);
    for position in [300, 400] {
        lab.floors.declared(lab.mark(P));
        assert_eq!((lab.serves(A), nearly(&lab)), (Fresh::Unknown, true));
        lab.sample(P, position);
        assert_eq!(lab.serves(A), behind(position));
        lab.sample(A, position);
        assert_eq!(lab.serves(A), Fresh::Yes);
    }
}

#[test]
fn after_a_promotion_the_new_primary_says_what_is_left() {
    let mut lab = Lab::new();
    lab.write();
    lab.sample(P, 900);
    assert_eq!(lab.serves(B), behind(900));
    lab.view.primary = None;
    assert_eq!(lab.serves(B), behind(900), "until somebody is the primary nothing changes");
    lab.promote(A);
    lab.sample(A, 400);
    assert_eq!(lab.serves(B), behind(400), "the rest is lost");
    lab.sample(B, 400);
    assert_eq!((lab.serves(B), lab.position()), (Fresh::Yes, Some((2, 400))));
}

#[test]
fn a_mark_of_the_old_primary_waits_for_a_sample_of_the_new_one() {
    let mut lab = Lab::new();
    lab.promote(A);
    lab.sample(A, 400);
    lab.floors.wrote(lab.mark(P));
    lab.sample(B, 999);
    assert_eq!(lab.serves(B), Fresh::Unknown);
    lab.sample(A, 500);
    assert_eq!(lab.serves(B), Fresh::Yes);
}

#[test]
fn after_a_restart_in_place_nobody_waits_for_what_was_not_flushed() {
    let mut lab = Lab::new();
    lab.write();
    lab.sample(P, 900);
    lab.sample(A, 880);
    assert_eq!(lab.serves(A), behind(900));
    lab.cut(P);
    assert_eq!(lab.serves(A), behind(900), "what was sampled stays true of the past");
    lab.sample(P, 870);
    assert_eq!(lab.serves(A), Fresh::Yes);
}

#[test]
fn reads_go_on_while_the_primary_is_lost() {
    let mut lab = Lab::new();
    lab.write();
    lab.sample(P, 200);
    lab.sample(A, 200);
    lab.cut(P);
    assert_eq!(lab.serves(A), Fresh::Yes, "the floor is found in what was sampled before");
    lab.read(A);
    lab.view.primary = None;
    lab.sample(A, 210);
    lab.sample(B, 205);
    assert_eq!((lab.serves(A), lab.serves(B)), (Fresh::Yes, behind(210)));
    lab.promote(A);
    lab.sample(A, 220);
    assert_eq!((lab.serves(A), lab.serves(B)), (Fresh::Yes, behind(220)), "found anew on the new branch");
}

#[test]
fn the_position_to_hand_over_has_all_that_was_written_and_read() {
    let mut lab = Lab::new();
    assert_eq!(lab.position(), Some((1, 100)), "nothing done: as far as the primary has got");
    lab.write();
    assert_eq!(lab.position(), None);
    lab.sample(P, 200);
    lab.sample(P, 300);
    assert_eq!(lab.position(), Some((1, 200)));
    lab.sample(A, 250);
    lab.read(A);
    assert_eq!(lab.position(), None);
    lab.sample(A, 260);
    assert_eq!(lab.position(), Some((1, 260)));
    lab.view.primary = None;
    assert_eq!(lab.position(), None, "a position needs a timeline");
}

#[test]
fn a_required_position_binds_until_it_is_taken_back() {
    let mut lab = Lab::new();
    lab.floors.require(None, Lsn(150));
    assert_eq!((lab.serves(A), lab.serves(P)), (behind(150), Fresh::Yes));
    lab.floors.require(Some(Timeline(2)), Lsn(50));
    assert_eq!(lab.serves(A), behind(50), "of a timeline nobody is on yet");
    lab.floors.relax();
    assert_eq!(lab.serves(A), Fresh::Yes);
    lab.floors.require(Some(Timeline(1)), Lsn(100));
    assert_eq!(lab.serves(A), Fresh::Yes);
}

#[test]
fn a_required_position_beyond_a_fork_ends_there() {
    let mut lab = Lab::new();
    lab.floors.require(None, Lsn(900));
    assert_eq!(lab.serves(B), behind(900));
    lab.promote(A);
    lab.sample(A, 400);
    assert_eq!(lab.serves(B), behind(400), "the promotion was not watched: what the new primary began with");
    lab.view.fork = Some(Fork { timeline: Timeline(2), lsn: Lsn(380) });
    lab.sample(B, 390);
    assert_eq!(lab.serves(B), Fresh::Yes);
    lab.floors.require(Some(Timeline(1)), Lsn(10));
    assert_eq!(lab.serves(B), Fresh::Yes, "long before the fork");
}
