//! What it costs to choose a standby, by the number of nodes.
//!
//! `cargo bench --bench route`. The figures of the nodes are at hand: in the proxy each takes two atomic loads.

#![allow(clippy::unwrap_used, reason = "a bench program")]

use std::time::Duration;

use divan::{Bencher, black_box};
use pgsteer::config::{Fallback, NodeAddress, NodeSettings};
use pgsteer::metrics::{Average, Reading};
use pgsteer::route::{Floors, Load, Policy, Rng, Wants, target};
use pgsteer::topology::{Health, Moment, NodeId, ReadRefusal, Reads, Role, Topology};

/// Counts allocations beside the time: a choice must have none.
#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

/// A primary; all other nodes are standbys that qualify, the last of them just now.
fn topology(nodes: u16) -> Topology {
    let specs: Vec<_> =
        (0..nodes).map(|i| NodeSettings::new(NodeAddress::new(format!("n{i}"), 5432))).collect();
    let mut topology = Topology::unseen(&specs);
    topology.primary = Some(NodeId(0));
    topology.at = Moment::from_ms(60_000);
    for node in &mut topology.nodes {
        node.health = Health::Up;
        node.role = Role::Standby;
        node.reads = Reads::Qualified;
        node.qualified_since = Some(Moment::from_ms(u64::from(node.id.0) * 59_000 / u64::from(nodes)));
    }
    topology.nodes.first_mut().unwrap().reads = Reads::Refused(ReadRefusal::IsPrimary);
    topology
}

/// Different of each node, and a little old.
fn load(node: NodeId) -> Load {
    let micros = 400.0 + f32::from(node.0) * 30.0;
    Load { in_flight: node.index() % 3, latency: Some(Reading { micros, age_ms: 3 }) }
}

const POLICY: Policy<'_> =
    Policy { fallback: Fallback::Primary, zone: None, slow_start: Duration::from_secs(10), max_lag: None };

/// For a session that comes from nowhere.
#[divan::bench(args = [3, 5, 17, 64], sample_size = 1000)]
fn choose(bencher: Bencher, nodes: u16) {
    let topology = topology(nodes);
    let (mut floors, mut rng) = (Floors::default(), Rng::new(1));
    bencher.bench_local(|| {
        target(Wants::Standby, black_box(&topology), black_box(&POLICY), &mut floors, None, &load, &mut rng)
    });
}

/// For a session that has a standby already.
#[divan::bench(args = [3, 5, 17, 64], sample_size = 1000)]
fn stay(bencher: Bencher, nodes: u16) {
    let topology = topology(nodes);
    let (mut floors, mut rng) = (Floors::default(), Rng::new(1));
    bencher.bench_local(|| {
        let here = Some(NodeId(1));
        target(Wants::Standby, black_box(&topology), black_box(&POLICY), &mut floors, here, &load, &mut rng)
    });
}

/// A statement of a standby has ended.
#[divan::bench]
fn record(bencher: Bencher) {
    let average = Average::default();
    let mut now = 0u32;
    bencher.bench_local(|| {
        now = now.wrapping_add(1);
        average.record(black_box(Duration::from_micros(700)), now);
    });
}
