//! Whole clusters with a will of their own: kills, freezes, promotions, late and reordered answers, by the thousand.
//!
//! What must hold is checked after every decision, whatever happened before. The model keeps the truth; the decider
//! only sees what probes bring, late and out of order.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::tests::{primary, rules, standby};
use super::*;
use crate::topology::observe::{Failure, Seen};

/// One thing that happens in the cluster or between it and the proxy.
#[derive(Clone, Debug)]
enum Step {
    /// Probe a node; the answer is delivered after so many further steps.
    Probe {
        node: u16,
        delay: u8,
    },
    Kill(u16),
    Freeze(u16),
    /// Comes back as it was: a killed primary as a primary, a frozen one likewise.
    Revive(u16),
    Promote(u16),
    /// Follow the truest primary (pg_rewind or a new base backup).
    Rejoin(u16),
    Write(u16),
    Replay(u16),
    Pass(u16),
}

#[derive(Clone, Debug)]
struct Server {
    up: bool,
    frozen: bool,
    /// `Some`: follows that node.
    follows: Option<u16>,
    timeline: u32,
    lsn: u64,
    start: i64,
}

impl Server {
    fn sample(&self) -> Sample {
        let sample = match self.follows {
            Some(sender) => standby(self.timeline, self.lsn, NodeId(sender)),
            None => primary(self.timeline, self.lsn),
        };
        Sample { start_time: self.start, ..sample }
    }
}

struct World {
    servers: Vec<Server>,
    state: Option<State>,
    rules: Rules,
    now: Moment,
    /// Observations on their way, with the step at which they arrive.
    mail: Vec<(usize, Observation)>,
    step: usize,
    /// Per epoch, every primary ever published.
    primaries: HashMap<u64, HashSet<NodeId>>,
    epoch: u64,
    /// Highest timeline that any delivered sample proved.
    proven: u32,
    /// Timeline of the last primary published.
    followed: u32,
    /// Per node, when the latest delivered claim to be a primary was sent, and on which timeline.
    claims: HashMap<NodeId, (Moment, u32)>,
    /// True positions of whoever was last published as primary, with their times.
    written: Vec<(Moment, u64)>,
    written_start: i64,
    /// The youngest replayed position delivered per node, by sending.
    replayed: HashMap<NodeId, (Moment, u64)>,
}

const NODES: u16 = 3;

impl World {
    fn new() -> Self {
        let rules = rules(NODES);
        let now = Moment::from_ms(10_000);
        let server = |i: u16| Server {
            up: true,
            frozen: false,
            follows: (i > 0).then_some(0),
            timeline: 1,
            lsn: 1000,
            start: 1,
        };
        World {
            servers: (0..NODES).map(server).collect(),
            state: Some(State::new(&rules, None, now)),
            rules,
            now,
            mail: Vec::new(),
            step: 0,
            primaries: HashMap::new(),
            epoch: 0,
            proven: 0,
            followed: 0,
            claims: HashMap::new(),
            written: Vec::new(),
            written_start: 0,
            replayed: HashMap::new(),
        }
    }

    fn run(&mut self, step: &Step) {
        self.step += 1;
        self.now = self.now + Duration::from_millis(3);
        match *step {
            Step::Probe { node, delay } => self.probe(node, delay),
            Step::Kill(node) => self.servers[usize::from(node)].up = false,
            Step::Freeze(node) => self.servers[usize::from(node)].frozen = true,
            Step::Revive(node) => {
                let server = &mut self.servers[usize::from(node)];
                server.start += i64::from(!server.up);
                (server.up, server.frozen) = (true, false);
            }
            Step::Promote(node) => self.promote(node),
            Step::Rejoin(node) => self.rejoin(node),
            Step::Write(node) => {
                let server = &mut self.servers[usize::from(node)];
                if server.up && !server.frozen && server.follows.is_none() {
                    server.lsn += 64;
                }
            }
            Step::Replay(node) => self.replay(node),
            Step::Pass(ms) => self.now = self.now + Duration::from_millis(ms.into()),
        }
        self.deliver();
    }

    fn probe(&mut self, node: u16, delay: u8) {
        let server = &self.servers[usize::from(node)];
        let sent = self.now;
        let (seen, at) = match (server.up, server.frozen) {
            (false, _) => (Seen::Failed(Failure::Refused), sent),
            (_, true) => {
                let limit = Duration::from_millis(500);
                (Seen::Failed(Failure::Silent(limit)), sent + limit)
            }
            _ => (Seen::Sample(Box::new(server.sample())), sent),
        };
        let (number, link) = (self.step as u64, server.start as u64);
        let observation = Observation { node: NodeId(node), number, link, sent, at, seen };
        self.mail.push((self.step + usize::from(delay), observation));
    }

    fn promote(&mut self, node: u16) {
        let server = &mut self.servers[usize::from(node)];
        if server.up && !server.frozen && server.follows.is_some() {
            server.follows = None;
            server.timeline += 1;
            server.lsn += 32;
        }
    }

    fn rejoin(&mut self, node: u16) {
        let best = (0..NODES).filter(|i| *i != node && self.servers[usize::from(*i)].follows.is_none());
        let Some(best) = best.max_by_key(|i| self.servers[usize::from(*i)].timeline) else { return };
        let (timeline, lsn) = (self.servers[usize::from(best)].timeline, self.servers[usize::from(best)].lsn);
        let server = &mut self.servers[usize::from(node)];
        *server =
            Server { up: true, frozen: false, follows: Some(best), timeline, lsn, start: server.start + 1 };
    }

    fn replay(&mut self, node: u16) {
        let Some(from) = self.servers[usize::from(node)].follows else { return };
        let (lsn, timeline) = (self.servers[usize::from(from)].lsn, self.servers[usize::from(from)].timeline);
        let server = &mut self.servers[usize::from(node)];
        if server.up && !server.frozen && timeline == server.timeline && lsn > server.lsn {
            server.lsn = lsn;
        }
    }

    fn deliver(&mut self) {
        let step = self.step;
        let (due, later): (Vec<_>, Vec<_>) = self.mail.drain(..).partition(|(at, _)| *at <= step);
        self.mail = later;
        for (_, observation) in &due {
            self.now = self.now.max(observation.at);
            self.remember(observation);
        }
        let inputs: Vec<Input> = due.into_iter().map(|(_, o)| Input::Seen(o)).collect();
        let (state, outcome) = decide(self.state.take().unwrap(), &inputs, self.now, &self.rules);
        self.check(&state, &outcome);
        self.state = Some(state);
    }

    fn remember(&mut self, observation: &Observation) {
        let Seen::Sample(sample) = &observation.seen else { return };
        let timeline = sample.timeline.or(sample.receiver.as_ref().and_then(|r| r.timeline));
        let node = observation.node;
        let younger = self.claims.get(&node).is_none_or(|(sent, _)| *sent <= observation.sent)
            && self.replayed.get(&node).is_none_or(|(sent, _)| *sent <= observation.sent);
        if !younger {
            return;
        }
        self.proven = self.proven.max(timeline.map_or(0, |t| t.0));
        if sample.in_recovery {
            self.claims.remove(&node);
            self.replayed.insert(node, (observation.sent, sample.replayed.unwrap().0));
        } else {
            self.claims.insert(node, (observation.sent, sample.timeline.unwrap().0));
            self.replayed.remove(&node);
            if self.state.as_ref().unwrap().primary == Some(node) {
                if self.written_start != sample.start_time {
                    // Rebuilt unseen: what was written before is of another branch.
                    self.written.clear();
                    self.written_start = sample.start_time;
                }
                self.written.push((observation.sent, sample.flush.unwrap().0));
            }
        }
    }

    fn check(&mut self, state: &State, outcome: &Outcome) {
        let view = &outcome.topology;
        assert!(view.epoch.0 >= self.epoch, "an epoch only grows");
        if view.epoch.0 > self.epoch {
            assert!(outcome.material);
            self.written.clear();
        }
        let new_epoch = std::mem::replace(&mut self.epoch, view.epoch.0) != view.epoch.0;
        if let Some(primary) = view.primary {
            let seen = self.primaries.entry(view.epoch.0).or_default();
            seen.insert(primary);
            assert_eq!(seen.len(), 1, "one epoch, one primary");
            let (sent, timeline) = self.claims[&primary];
            assert!(timeline >= self.proven, "a primary on {timeline} though {} exists", self.proven);
            assert!(timeline >= self.followed, "never back to a lower timeline");
            self.followed = timeline;
            if new_epoch {
                assert!(self.now.since(sent) <= self.rules.fresh, "a primary by old evidence");
                assert!(outcome.persist.is_some() || state.persisted.unwrap().timeline.0 >= timeline);
            }
        }
        for node in &view.nodes {
            if matches!(node.role, Role::Zombie | Role::Stranger) {
                assert_ne!(view.writable_primary(), Some(node.id));
                assert!(!node.reads.qualified());
            }
            assert_eq!(node.qualified_since.is_some(), node.reads.qualified());
            assert!(node.qualified_since <= Some(view.at) && view.at == self.now);
            if node.reads.qualified() {
                self.check_reads(view, node);
            }
        }
    }

    fn check_reads(&self, view: &Topology, node: &NodeView) {
        assert!(node.role == Role::Standby && node.health != Health::Down);
        let Some((sent, replayed)) = self.replayed.get(&node.id) else { panic!("never seen in recovery") };
        let primary = view.primary.and_then(|p| view.node(p));
        let Some(primary) = primary.filter(|p| p.health == Health::Up) else { return };
        let fresh =
            self.claims.get(&primary.id).is_some_and(|(sent, _)| self.now.since(*sent) <= self.rules.fresh);
        if fresh {
            // What the primary had written a lag limit before the standby was asked must be there.
            let limit = self.rules.max_lag;
            let due =
                self.written.iter().filter(|(at, _)| sent.since(*at) > limit).map(|(_, lsn)| *lsn).max();
            assert!(due.is_none_or(|lsn| lsn <= *replayed), "beyond the lag limit");
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES;
    prop_oneof![
        12 => (node.clone(), prop_oneof![4 => Just(0u8), 1 => 0u8..12])
            .prop_map(|(node, delay)| Step::Probe { node, delay }),
        1 => node.clone().prop_map(Step::Kill),
        1 => node.clone().prop_map(Step::Freeze),
        2 => node.clone().prop_map(Step::Revive),
        1 => node.clone().prop_map(Step::Promote),
        1 => node.clone().prop_map(Step::Rejoin),
        5 => node.clone().prop_map(Step::Write),
        4 => node.prop_map(Step::Replay),
        3 => prop_oneof![3 => 1u16..200, 1 => 200u16..3000].prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_there_is_one_truth_at_a_time(steps in prop::collection::vec(step(), 1..250)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
    }

    /// Liveness: once things are calm and one node is right, it is the primary and the others serve reads.
    #[test]
    fn calm_weather_brings_back_everything(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        let best = (0..NODES).max_by_key(|i| (world.servers[usize::from(*i)].timeline, *i)).unwrap();
        // Above every timeline there ever was, as a promotion by an operator who knows would make it.
        let top = world.servers.iter().map(|s| s.timeline).max().unwrap().max(world.proven) + 1;
        let server = &mut world.servers[usize::from(best)];
        *server = Server { up: true, frozen: false, follows: None, timeline: top, lsn: 1 << 20, start: 99 };
        for node in (0..NODES).filter(|n| *n != best) {
            world.run(&Step::Rejoin(node));
        }
        world.run(&Step::Pass(6000));
        for _ in 0..8 {
            for node in 0..NODES {
                world.run(&Step::Replay(node));
                world.run(&Step::Probe { node, delay: 0 });
                world.run(&Step::Pass(30));
            }
        }
        let view = world.state.as_ref().unwrap().topology();
        prop_assert_eq!(view.writable_primary(), Some(NodeId(best)));
        prop_assert_eq!(view.read_nodes().count(), usize::from(NODES) - 1);
        prop_assert!(view.alarms.is_empty());
    }
}
