//! Targets for small topologies written out by hand, and the spread over many choices.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{NodeLoad, Policy, Refusal, Rng, Target, Wants, still_good, target};
use crate::config::{Fallback, NodeAddress, NodeSettings};
use crate::topology::{Epoch, Health, Lsn, NodeId, ReadRefusal, Reads, Role, Topology};

/// In-flight work per node.
struct Busy(Vec<usize>);

impl NodeLoad for Busy {
    fn in_flight(&self, node: NodeId) -> usize {
        self.0.get(node.index()).copied().unwrap_or(0)
    }
}

const IDLE: Busy = Busy(Vec::new());

/// Node 0 is the primary, the others are standbys that qualify; all are up.
fn topology(nodes: u16, change: impl FnOnce(&mut [NodeSettings])) -> Topology {
    let mut specs: Vec<_> =
        (0..nodes).map(|i| NodeSettings::new(NodeAddress::new(format!("n{i}"), 5432))).collect();
    change(&mut specs);
    let mut topology = Topology::unseen(&specs);
    topology.primary = Some(NodeId(0));
    topology.epoch = Epoch(1);
    for node in &mut topology.nodes {
        let primary = node.id == NodeId(0);
        node.health = Health::Up;
        node.role = if primary { Role::Primary } else { Role::Standby };
        node.reads = if primary { Reads::Refused(ReadRefusal::IsPrimary) } else { Reads::Qualified };
        node.lsn = Some(Lsn(u64::from(node.id.0)));
    }
    topology
}

fn policy(fallback: Fallback) -> Policy {
    Policy { fallback, zone: None }
}

fn ask(wants: Wants, topology: &Topology, fallback: Fallback) -> Result<Target, Refusal> {
    target(wants, topology, &policy(fallback), None, &IDLE, &mut Rng::new(1))
}

fn refuse(topology: &mut Topology, node: usize, why: ReadRefusal) {
    topology.nodes[node].reads = Reads::Refused(why);
}

#[test]
fn writes_go_to_the_primary_and_nowhere_else() {
    let mut view = topology(3, |_| {});
    assert_eq!(ask(Wants::Primary, &view, Fallback::Primary), Ok(Target::Primary(NodeId(0))));
    view.nodes[0].health = Health::Suspect;
    assert_eq!(ask(Wants::Primary, &view, Fallback::Primary), Ok(Target::Primary(NodeId(0))));
    view.nodes[0].health = Health::Down;
    assert_eq!(ask(Wants::Primary, &view, Fallback::Primary), Err(Refusal::NoPrimary));
    view.primary = None;
    assert_eq!(ask(Wants::Primary, &view, Fallback::Primary), Err(Refusal::NoPrimary));
}

#[test]
fn reads_go_on_without_a_primary() {
    let mut view = topology(2, |_| {});
    view.primary = None;
    assert_eq!(ask(Wants::Standby, &view, Fallback::Primary), Ok(Target::Standby(NodeId(1))));
}

#[test]
fn without_a_fit_standby_the_policy_decides() {
    let mut view = topology(3, |_| {});
    refuse(&mut view, 1, ReadRefusal::Lagging);
    refuse(&mut view, 2, ReadRefusal::Lagging);
    assert_eq!(ask(Wants::Standby, &view, Fallback::Primary), Ok(Target::Primary(NodeId(0))));
    assert_eq!(ask(Wants::Standby, &view, Fallback::Error), Err(Refusal::NoStandby));
    assert_eq!(ask(Wants::Standby, &view, Fallback::LeastStale), Ok(Target::Standby(NodeId(2))));
    view.primary = None;
    assert_eq!(ask(Wants::Standby, &view, Fallback::Primary), Err(Refusal::NoStandby));
}

#[test]
fn the_least_stale_is_never_one_of_another_history() {
    let wrong = [
        ReadRefusal::Ahead,
        ReadRefusal::WrongTimeline,
        ReadRefusal::Zombie,
        ReadRefusal::Stranger,
        ReadRefusal::Starting,
        ReadRefusal::NotInRecovery,
    ];
    for why in wrong {
        let mut view = topology(3, |_| {});
        refuse(&mut view, 1, ReadRefusal::Lagging);
        refuse(&mut view, 2, why);
        assert_eq!(ask(Wants::Standby, &view, Fallback::LeastStale), Ok(Target::Standby(NodeId(1))), "{why}");
        view.nodes[1].health = Health::Down;
        assert_eq!(ask(Wants::Standby, &view, Fallback::LeastStale), Ok(Target::Primary(NodeId(0))), "{why}");
    }
}

#[test]
fn a_session_stays_while_its_standby_qualifies() {
    let view = topology(3, |_| {});
    let busy = Busy(vec![0, 0, 1000]);
    for seed in 0..50 {
        let stay = target(
            Wants::Standby,
            &view,
            &policy(Fallback::Primary),
            Some(NodeId(2)),
            &busy,
            &mut Rng::new(seed),
        );
        assert_eq!(stay, Ok(Target::Standby(NodeId(2))));
    }
    assert!(still_good(Wants::Standby, &view, NodeId(2), Epoch(0)), "an epoch does not end a read");
    assert!(!still_good(Wants::Standby, &view, NodeId(0), Epoch(1)));
}

#[test]
fn a_lease_on_the_primary_ends_with_its_epoch() {
    let mut view = topology(2, |_| {});
    assert!(still_good(Wants::Primary, &view, NodeId(0), Epoch(1)));
    assert!(!still_good(Wants::Primary, &view, NodeId(0), Epoch(0)));
    assert!(!still_good(Wants::Primary, &view, NodeId(1), Epoch(1)));
    view.nodes[0].health = Health::Down;
    assert!(!still_good(Wants::Primary, &view, NodeId(0), Epoch(1)));
}

#[test]
fn the_own_zone_is_preferred_but_not_required() {
    let mut view = topology(3, |specs| specs[2].zone = Some("b".to_owned()));
    let zoned = Policy { fallback: Fallback::Error, zone: Some("b".to_owned()) };
    let mut rng = Rng::new(7);
    for _ in 0..50 {
        let near = target(Wants::Standby, &view, &zoned, None, &IDLE, &mut rng);
        assert_eq!(near, Ok(Target::Standby(NodeId(2))));
    }
    refuse(&mut view, 2, ReadRefusal::Lagging);
    let far = target(Wants::Standby, &view, &zoned, None, &IDLE, &mut rng);
    assert_eq!(far, Ok(Target::Standby(NodeId(1))));
}

#[test]
fn the_busier_of_two_is_avoided_and_weights_count() {
    let view = topology(3, |_| {});
    let mut rng = Rng::new(3);
    for _ in 0..50 {
        let busy = Busy(vec![0, 5, 1]);
        let choice = target(Wants::Standby, &view, &policy(Fallback::Error), None, &busy, &mut rng);
        assert_eq!(choice, Ok(Target::Standby(NodeId(2))));
    }
    let view = topology(3, |specs| specs[1].weight = 300);
    let mut busy = Busy(vec![0; 3]);
    for _ in 0..4000 {
        let choice = target(Wants::Standby, &view, &policy(Fallback::Error), None, &busy, &mut rng).unwrap();
        busy.0[choice.node().index()] += 1;
    }
    assert!((2990..=3010).contains(&busy.0[1]), "three quarters by weight: {:?}", busy.0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is refused or down: a target is always one of the fit, and each fit one is used.
    #[test]
    fn only_the_fit_are_chosen(fit in prop::collection::vec(any::<bool>(), 1..8), seed in any::<u64>()) {
        let mut view = topology(fit.len() as u16 + 1, |_| {});
        for (i, fit) in fit.iter().enumerate() {
            if !fit {
                refuse(&mut view, i + 1, ReadRefusal::Down);
            }
        }
        let mut rng = Rng::new(seed);
        let mut used = BTreeMap::new();
        for _ in 0..400 {
            match target(Wants::Standby, &view, &policy(Fallback::Error), None, &IDLE, &mut rng) {
                Ok(choice) => {
                    prop_assert!(fit[choice.node().index() - 1]);
                    *used.entry(choice.node()).or_insert(0) += 1;
                }
                Err(refusal) => prop_assert!(refusal == Refusal::NoStandby && !fit.contains(&true)),
            }
        }
        prop_assert_eq!(used.len(), fit.iter().filter(|f| **f).count());
    }
}
