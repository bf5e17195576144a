//! Targets for small topologies written out by hand, and the spread over many choices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::{Floors, Load, Mark, NodeLoad, Policy, Refusal, Rng, Target, Wants, shares, still_good, target};
use crate::config::{Fallback, NodeAddress, NodeSettings};
use crate::metrics::Reading;
use crate::topology::{Epoch, Health, Lag, Lsn, Moment, NodeId, ReadRefusal, Reads, Role, Sampled, Topology};

/// What is known of each node.
pub(super) struct Known(pub(super) Vec<Load>);

impl NodeLoad for Known {
    fn load(&self, node: NodeId) -> Load {
        self.0.get(node.index()).copied().unwrap_or_default()
    }
}

const IDLE: Known = Known(Vec::new());

/// So much work in flight at each node.
fn busy<const N: usize>(in_flight: [usize; N]) -> Known {
    Known(in_flight.map(|in_flight| Load { in_flight, latency: None }).to_vec())
}

/// Latencies of the nodes, milliseconds, with nothing in flight.
fn slow<const N: usize>(millis: [u64; N]) -> Known {
    Known(millis.map(|ms| Load { in_flight: 0, latency: Some(reading(ms, 0)) }).to_vec())
}

fn reading(ms: u64, age_ms: u32) -> Reading {
    Reading { micros: ms as f32 * 1000.0, age_ms }
}

/// Node 0 is the primary, the others are standbys that qualify; all are up.
pub(super) fn topology(nodes: u16, change: impl FnOnce(&mut [NodeSettings])) -> Topology {
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

pub(super) fn policy(fallback: Fallback) -> Policy<'static> {
    Policy { fallback, zone: None, slow_start: Duration::from_secs(10), max_lag: None }
}

/// How often each node is chosen for a thousand sessions that come from nowhere.
fn spread(topology: &Topology, policy: &Policy<'_>, load: &dyn NodeLoad) -> Vec<u32> {
    let mut rng = Rng::new(5);
    let mut chosen = vec![0; topology.nodes.len()];
    for _ in 0..1000 {
        let choice =
            target(Wants::Standby, topology, policy, &mut Floors::default(), None, load, &mut rng).unwrap();
        chosen[choice.node().index()] += 1;
    }
    chosen
}

/// Where a session at `current` goes, by 50 different draws.
fn moves(topology: &Topology, policy: &Policy<'_>, current: u16, load: &dyn NodeLoad) -> Vec<u16> {
    let go = |seed| {
        target(
            Wants::Standby,
            topology,
            policy,
            &mut Floors::default(),
            Some(NodeId(current)),
            load,
            &mut Rng::new(seed),
        )
    };
    let mut to: Vec<u16> = (0..50).map(|seed| go(seed).unwrap().node().0).collect();
    to.dedup();
    to
}

fn ask(wants: Wants, topology: &Topology, fallback: Fallback) -> Result<Target, Refusal> {
    target(wants, topology, &policy(fallback), &mut Floors::default(), None, &IDLE, &mut Rng::new(1))
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
    let policy = policy(Fallback::Primary);
    assert_eq!(moves(&view, &policy, 2, &busy([0, 0, 3])), [2], "busier, but not by far");
    assert_eq!(moves(&view, &policy, 2, &slow([0, 1, 3])), [2], "slower, but not by far");
    assert!(still_good(Wants::Standby, &view, NodeId(2), Epoch(0)), "an epoch does not end a read");
    assert!(!still_good(Wants::Standby, &view, NodeId(0), Epoch(1)));
}

#[test]
fn a_session_leaves_a_standby_that_is_far_worse() {
    let view = topology(3, |_| {});
    let policy = policy(Fallback::Primary);
    assert_eq!(moves(&view, &policy, 2, &busy([0, 0, 4])), [1]);
    assert_eq!(moves(&view, &policy, 2, &slow([0, 1, 5])), [1]);
    let mut alone = view.clone();
    refuse(&mut alone, 1, ReadRefusal::Lagging);
    assert_eq!(moves(&alone, &policy, 2, &slow([0, 1, 5])), [2], "there is no other");
}

/// A topology whose nodes were sampled at these positions after the session's last write.
fn written(positions: [u64; 3]) -> (Topology, Floors) {
    let mut view = topology(3, |_| {});
    for (node, lsn) in view.nodes.iter_mut().zip(positions) {
        let number = 2 + u64::from(node.id.0);
        node.samples.push(number, node.id == NodeId(0), Sampled { number, lsn: Lsn(lsn) });
    }
    let mut floors = Floors::default();
    floors.wrote(Mark { node: NodeId(0), since: 1, number: 1 });
    (view, floors)
}

#[test]
fn only_a_standby_with_the_sessions_own_writes_is_a_candidate() {
    let (view, mut floors) = written([200, 199, 200]);
    let mut rng = Rng::new(1);
    let mut choose = |view: &Topology, current| {
        target(Wants::Standby, view, &policy(Fallback::Error), &mut floors, current, &IDLE, &mut rng)
    };
    for _ in 0..50 {
        assert_eq!(choose(&view, Some(NodeId(1))), Ok(Target::Standby(NodeId(2))));
    }
    let (mut view, _) = written([200, 199, 150]);
    let far = Err(Refusal::NotFresh { nearly: false });
    assert_eq!(choose(&view, None), far, "they are fit: no case for the fallback");
    refuse(&mut view, 1, ReadRefusal::Lagging);
    refuse(&mut view, 2, ReadRefusal::Lagging);
    assert_eq!(choose(&view, None), Err(Refusal::NoStandby));
}

#[test]
fn the_least_stale_is_not_behind_the_session() {
    let (mut view, mut floors) = written([200, 150, 199]);
    refuse(&mut view, 1, ReadRefusal::Lagging);
    refuse(&mut view, 2, ReadRefusal::Lagging);
    let (policy, mut rng) = (policy(Fallback::LeastStale), Rng::new(1));
    let mut choose =
        |floors: &mut Floors| target(Wants::Standby, &view, &policy, floors, None, &IDLE, &mut rng);
    assert_eq!(choose(&mut floors), Ok(Target::Primary(NodeId(0))));
    assert_eq!(choose(&mut Floors::default()), Ok(Target::Standby(NodeId(2))));
}

#[test]
fn a_session_may_set_its_own_limit_of_lag() {
    let mut view = topology(4, |_| {});
    let lag = |ms, at_least| Some(Lag { time: Duration::from_millis(ms), bytes: 1, at_least });
    (view.nodes[1].lag, view.nodes[2].lag, view.nodes[3].lag) = (lag(50, false), lag(3000, false), None);
    refuse(&mut view, 2, ReadRefusal::Lagging);
    let fit = |view: &Topology, ms: Option<u64>| {
        let policy = Policy { max_lag: ms.map(Duration::from_millis), ..policy(Fallback::Error) };
        let mut rng = Rng::new(1);
        let mut choose =
            |_| target(Wants::Standby, view, &policy, &mut Floors::default(), None, &IDLE, &mut rng).ok();
        (0..50).filter_map(&mut choose).map(|t| t.node().0).collect::<BTreeSet<_>>()
    };
    assert_eq!(fit(&view, None), BTreeSet::from([1, 3]), "as the cluster says");
    assert_eq!(fit(&view, Some(5000)), BTreeSet::from([1, 2]), "unknown lag is within no limit");
    assert_eq!(fit(&view, Some(50)), BTreeSet::from([1]));
    assert_eq!(fit(&view, Some(49)), BTreeSet::new());
    view.nodes[2].lag = lag(3000, true);
    assert_eq!(fit(&view, Some(5000)), BTreeSet::from([1]), "a lower bound is not known either");
    (view.nodes[2].lag, view.nodes[2].health) = (lag(3000, false), Health::Up);
    for why in
        [ReadRefusal::Down, ReadRefusal::WrongTimeline, ReadRefusal::WrongSender, ReadRefusal::LagUnknown]
    {
        refuse(&mut view, 2, why);
        assert_eq!(fit(&view, Some(5000)), BTreeSet::from([1]), "{why}");
    }
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
    let mut view = topology(4, |specs| specs[2].zone = Some("b".to_owned()));
    let zoned = Policy { zone: Some("b"), ..policy(Fallback::Error) };
    assert_eq!(spread(&view, &zoned, &slow([0, 1, 4, 1])), [0, 0, 1000, 0]);
    assert_eq!(moves(&view, &zoned, 1, &IDLE), [2], "home again");
    let far = spread(&view, &zoned, &slow([0, 1, 5, 1]));
    assert!(far[2] == 0 && far[1] > 450 && far[3] > 450, "no use in a near one that is slow: {far:?}");
    let mut tried = slow([0, 1, 20, 1]);
    tried.0[2].latency = Some(reading(20, 15_000));
    let tried = spread(&view, &zoned, &tried);
    assert!((100..250).contains(&tried[2]), "tried again, it does not get everything: {tried:?}");
    refuse(&mut view, 2, ReadRefusal::Lagging);
    assert_eq!(spread(&view, &zoned, &IDLE)[2], 0);
    let elsewhere = Policy { zone: Some("c"), ..zoned };
    assert!(spread(&view, &elsewhere, &IDLE)[3] > 450, "a zone without a node changes nothing");
}

#[test]
fn the_busier_of_two_is_avoided_and_weights_count() {
    let view = topology(3, |_| {});
    let policy = policy(Fallback::Error);
    assert_eq!(spread(&view, &policy, &busy([0, 5, 1])), [0, 0, 1000]);
    let view = topology(3, |specs| specs[1].weight = 300);
    let quiet = spread(&view, &policy, &IDLE);
    assert!((700..800).contains(&quiet[1]), "by weight when nothing is in flight: {quiet:?}");
    let mut rng = Rng::new(3);
    let mut load = busy([0; 3]);
    for _ in 0..4000 {
        let choice =
            target(Wants::Standby, &view, &policy, &mut Floors::default(), None, &load, &mut rng).unwrap();
        load.0[choice.node().index()].in_flight += 1;
    }
    let held = load.0[1].in_flight;
    assert!((2990..=3010).contains(&held), "three quarters by weight: {held}");
}

#[test]
fn latency_divides_the_work_and_the_far_slower_gets_none() {
    let view = topology(3, |_| {});
    let policy = policy(Fallback::Error);
    let twice = spread(&view, &policy, &slow([0, 1, 2]));
    assert!((290..380).contains(&twice[2]), "{twice:?}");
    assert_eq!(spread(&view, &policy, &slow([0, 1, 5]))[2], 0);
    let micros = |micros| Load { in_flight: 0, latency: Some(Reading { micros, age_ms: 0 }) };
    let small = Known([0.0, 300.0, 2000.0].map(micros).to_vec());
    assert!(spread(&view, &policy, &small)[2] > 90, "many times slower, and nobody would notice");
    let mut load = slow([0, 1, 100]);
    load.0[1].in_flight = 99;
    assert_eq!(spread(&view, &policy, &load)[2], 0, "a hundred times slower is as good as 100 in flight");
    load.0[1].in_flight = 100;
    assert_eq!(spread(&view, &policy, &load)[2], 1000);
    let tiny = Known([0.0, 30.0, 240.0].map(micros).to_vec());
    assert!(spread(&view, &policy, &tiny)[2] > 450, "microseconds are noise");
}

#[test]
fn what_is_not_known_counts_as_the_best_and_what_is_old_fades_towards_it() {
    let view = topology(3, |_| {});
    let policy = policy(Fallback::Error);
    let mut load = slow([0, 8, 0]);
    load.0[2].latency = None;
    assert!((450..550).contains(&spread(&view, &policy, &load)[2]));
    load.0[2].latency = Some(reading(80, 5000));
    assert_eq!(spread(&view, &policy, &load)[2], 0, "40 ms is what is left");
    load.0[2].latency = Some(reading(80, 12_500));
    let tried = spread(&view, &policy, &load)[2];
    assert!((300..420).contains(&tried), "14 ms: {tried}");
    load.0[2].latency = Some(reading(80, 3_600_000));
    assert!((450..550).contains(&spread(&view, &policy, &load)[2]), "never better than the best");
}

#[test]
fn a_standby_that_returns_starts_slowly() {
    let mut view = topology(3, |_| {});
    view.at = Moment::from_ms(60_000);
    view.nodes[1].qualified_since = Some(Moment::from_ms(1000));
    let mut part = |served_ms| {
        view.nodes[2].qualified_since = Some(view.at - Duration::from_millis(served_ms));
        spread(&view, &policy(Fallback::Error), &IDLE)[2]
    };
    let grows = [part(0), part(5000), part(9999), part(10_000)];
    assert!((25..75).contains(&grows[0]), "{grows:?}");
    assert!((280..380).contains(&grows[1]), "{grows:?}");
    assert!(grows[2] > 450 && grows[3] > 450, "{grows:?}");
    view.nodes[2].qualified_since = Some(view.at);
    let off = Policy { slow_start: Duration::ZERO, ..policy(Fallback::Error) };
    assert!(spread(&view, &off, &IDLE)[2] > 450);
    refuse(&mut view, 1, ReadRefusal::Down);
    assert_eq!(spread(&view, &policy(Fallback::Error), &IDLE)[2], 1000, "it is all there is");
}

#[test]
fn sessions_that_stay_do_not_all_go_to_the_one_that_returns() {
    let mut view = topology(4, |_| {});
    view.at = Moment::from_ms(60_000);
    let mut newcomers = |served_ms| {
        view.nodes[3].qualified_since = Some(view.at - Duration::from_millis(served_ms));
        let (mut load, mut rng) = (busy([0, 100, 100, 0]), Rng::new(9));
        for _ in 0..90 {
            let choice = target(
                Wants::Standby,
                &view,
                &policy(Fallback::Error),
                &mut Floors::default(),
                None,
                &load,
                &mut rng,
            )
            .unwrap();
            load.0[choice.node().index()].in_flight += 1;
        }
        load.0[3].in_flight
    };
    let first = newcomers(0);
    assert!((1..=9).contains(&first), "{first}");
    let whole = newcomers(10_000);
    assert!(whole >= 45, "what it would be without a slow start: {whole}");
}

#[test]
fn shares_are_what_the_choices_come_to() {
    let mut view = topology(5, |specs| specs[1].weight = 200);
    refuse(&mut view, 4, ReadRefusal::Lagging);
    let load = slow([0, 1, 2, 9, 1]);
    let shares = shares(&view, &policy(Fallback::Error), &load);
    let nodes: Vec<u16> = shares.iter().map(|share| share.node.0).collect();
    assert_eq!(nodes, [1, 2], "the slow one and the one that does not qualify get none");
    assert!((shares[0].part - 0.8).abs() < 1e-3 && (shares[1].part - 0.2).abs() < 1e-3, "{shares:?}");
    let chosen = spread(&view, &policy(Fallback::Error), &load);
    assert!((760..840).contains(&chosen[1]), "{chosen:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is known of the nodes: a target is always one of the fit, and there is one as soon as one is fit.
    #[test]
    fn only_the_fit_are_chosen(
        nodes in prop::collection::vec((any::<bool>(), 0usize..50, prop::option::of((1u64..100_000, 0u32..100_000)),
            1u32..=1000, 0u64..20_000, any::<bool>()), 1..40),
        current in prop::option::of(0u16..41),
        zone in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut view = topology(nodes.len() as u16 + 1, |specs| {
            for (spec, node) in specs[1..].iter_mut().zip(&nodes) {
                spec.weight = node.3;
                spec.zone = node.5.then(|| "here".to_owned());
            }
        });
        view.at = Moment::from_ms(20_000);
        let mut known = vec![Load::default()];
        for (i, (fit, in_flight, latency, _, since, _)) in nodes.iter().enumerate() {
            if !fit {
                refuse(&mut view, i + 1, ReadRefusal::Down);
            }
            view.nodes[i + 1].qualified_since = Some(Moment::from_ms(*since));
            known.push(Load { in_flight: *in_flight, latency: latency.map(|(ms, age)| reading(ms, age)) });
        }
        let (load, mut rng) = (Known(known), Rng::new(seed));
        let policy = Policy { zone: zone.then_some("here"), ..policy(Fallback::Error) };
        let any_fit = nodes.iter().any(|node| node.0);
        for _ in 0..20 {
            match target(Wants::Standby, &view, &policy, &mut Floors::default(), current.map(NodeId), &load, &mut rng) {
                Ok(choice) => prop_assert!(nodes[choice.node().index() - 1].0),
                Err(refusal) => prop_assert!(refusal == Refusal::NoStandby && !any_fit),
            }
        }
        let shares = shares(&view, &policy, &load);
        let all: f32 = shares.iter().map(|share| share.part).sum();
        prop_assert_eq!(shares.is_empty(), !any_fit);
        prop_assert!(shares.is_empty() || (all - 1.0).abs() < 1e-3, "{}", all);
        prop_assert!(shares.iter().all(|share| share.part > 0.0 && nodes[share.node.index() - 1].0));
    }

    /// Nodes about which nothing differs get the same, however many there are.
    #[test]
    fn alike_nodes_are_used_alike(count in 1u16..40, seed in any::<u64>()) {
        let view = topology(count + 1, |_| {});
        let (mut rng, mut used) = (Rng::new(seed), BTreeMap::new());
        let each = 100;
        for _ in 0..u32::from(count) * each {
            let choice = target(Wants::Standby, &view, &policy(Fallback::Error), &mut Floors::default(), None, &IDLE, &mut rng).unwrap();
            *used.entry(choice.node()).or_insert(0) += 1;
        }
        prop_assert_eq!(used.len(), usize::from(count));
        // Seven standard deviations of a binomial distribution.
        prop_assert!(used.values().all(|n| (30..=170).contains(n)), "{:?}", used);
    }
}
