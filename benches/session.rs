//! What a session does besides moving bytes: its book-keeping per round trip, its login, its backend.
//!
//! `cargo bench --bench session`. The pool is measured against a server of a few lines in the same process, which is
//! asked nothing while the clock runs.

#![allow(clippy::unwrap_used, reason = "a bench program")]

mod traffic;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use divan::{Bencher, black_box};
use pgsteer::config::{NodeAddress, Settings, TlsMode};
use pgsteer::drain::Tasks;
use pgsteer::metrics::Metrics;
use pgsteer::net::tls::ServerTlsContext;
use pgsteer::pool::{Claim, Credentials, PoolKey, Registry, Seat, StartupSet, Statements, Verdict};
use pgsteer::scram::client::{Binding, Client, Secret};
use pgsteer::scram::server::{Offer, Server};
use pgsteer::scram::{NONCE_BYTES, Verifier};
use pgsteer::session::sharing::{Plan, Sharing};
use pgsteer::session::state::State;
use pgsteer::topology::{Epoch, Health, NodeId, Nudges, Role, Store, Topology};
use pgsteer::wire::frame;
use pgsteer::wire::frontend::Kind;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::time::Instant;

/// Counts allocations beside the time: the hot path must have none.
#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench(args = ["simple", "extended", "prepared"])]
fn books_of_a_round_trip(bencher: Bencher, mode: &str) {
    let (up, down) = traffic::round_trip(mode);
    let mut state = State::new(1 << 20);
    bencher.bench_local(|| {
        let mut rest = black_box(&up[..]);
        while let Some((found, next)) = frame::split(rest).unwrap() {
            let message = &rest[..rest.len() - next.len()];
            state.client_message(Kind::of(found.tag).unwrap(), message, true);
            rest = next;
        }
        let mut rest = black_box(&down[..]);
        while let Some((found, next)) = frame::split(rest).unwrap() {
            state.server_message(found.tag, found.body);
            rest = next;
        }
        assert!(state.is_quiet());
    });
}

/// The client's messages as the relay shows them to the books of transaction mode, which say how each is sent.
fn translate(state: &mut State, up: &[u8], mut send: impl FnMut(&State, Plan, &[u8])) {
    let mut rest = up;
    while let Some((found, next)) = frame::split(rest).unwrap() {
        let kind = Kind::of(found.tag).unwrap();
        let message = &rest[..rest.len() - next.len()];
        assert!(!state.must_wait(kind, found.body));
        let plan = state.translate(kind, message, true);
        send(state, plan, message);
        rest = next;
    }
}

/// Has a statement prepared, with whatever else the books want of the server for it.
fn prepare(state: &mut State) {
    let mut sent = Vec::new();
    translate(state, &traffic::prepare(), |state, plan, message| {
        sent.extend_from_slice(state.translated());
        match plan {
            Plan::Pass => sent.extend_from_slice(message),
            Plan::Head(head) => sent.extend_from_slice(&message[head..]),
            Plan::Instead => {}
        }
    });
    let (mut answers, mut rest) = (Vec::new(), &sent[..]);
    while let Some((found, next)) = frame::split(rest).unwrap() {
        traffic::answer(&mut answers, found.tag, found.body);
        rest = next;
    }
    answered(state, &answers);
    assert!(state.is_quiet());
}

fn answered(state: &mut State, down: &[u8]) {
    let mut rest = down;
    while let Some((found, next)) = frame::split(rest).unwrap() {
        state.server_message(found.tag, found.body);
        rest = next;
    }
}

/// The same where backends are shared: a backend is taken with its statements, names are translated, and it is given
/// back.
#[divan::bench(args = ["simple", "extended", "prepared"])]
fn books_of_a_shared_round_trip(bencher: Bencher, mode: &str) {
    let (up, down) = traffic::round_trip(mode);
    let mut state = State::new(1 << 20);
    let mut sharing = Sharing::new(1, true);
    sharing.take(Box::new(Statements::new(200)));
    state.sharing = Some(Box::new(sharing));
    prepare(&mut state);
    bencher.bench_local(|| {
        translate(&mut state, black_box(&up), |_, plan, _| _ = black_box(plan));
        answered(&mut state, black_box(&down));
        assert!(state.is_quiet());
        let sharing = state.sharing.as_mut().unwrap();
        let carried = sharing.give().unwrap();
        sharing.take(carried);
    });
}

/// Our side of a client's SCRAM login, without the client's work.
#[divan::bench]
fn scram_login(bencher: Bencher) {
    let verifier = Verifier::from_password(b"secret", &[7; 16], 4096);
    let client_nonce = [1; NONCE_BYTES];
    let exchange = || {
        Server::first(
            &Client::new(&client_nonce, Binding::None).first(),
            verifier.clone(),
            &[2; 18],
            Offer::Plain,
        )
    };
    // The proof depends on nothing that changes: the slow derivation is done once.
    let (_, server_first) = exchange().unwrap();
    let challenge = Client::new(&client_nonce, Binding::None).on_server_first(&server_first).unwrap();
    let (answer, _) = challenge.answer(&Secret::Password(b"secret"));
    bencher.bench_local(|| {
        let (server, _) = exchange().unwrap();
        server.finish(black_box(&answer)).unwrap().0
    });
}

async fn pool() -> Arc<Registry> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = NodeAddress::new("127.0.0.1", listener.local_addr().unwrap().port());
    let mut settings = Settings::with_nodes([address]);
    settings.cluster.tls.mode = TlsMode::Off;
    settings.pool.warm = 0;
    let tasks = Tasks::new();
    let servers = tasks.clone();
    tasks.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // It ends with the bench.
            servers.spawn(async move { drop(traffic::serve(socket).await) });
        }
    });
    let mut topology = Topology::unseen(&settings.cluster.nodes);
    (topology.epoch, topology.primary) = (Epoch(1), Some(NodeId(0)));
    for node in &mut topology.nodes {
        (node.health, node.role) = (Health::Up, Role::Primary);
    }
    Registry::new(
        Arc::new(ArcSwap::from_pointee(settings)),
        Arc::new(Store::new(topology)),
        Arc::new(Nudges::new(1)),
        Arc::new(ServerTlsContext::off()),
        Metrics::new(1, &["node".to_owned()]),
        tasks,
    )
}

fn key() -> Arc<PoolKey> {
    let set = StartupSet::new([("client_encoding", "UTF8")]);
    Arc::new(PoolKey { node: NodeId(0), database: "db".into(), user: "u".into(), set })
}

/// That many idle backends, and as many seats at their pool.
async fn seats(registry: &Arc<Registry>, count: usize) -> Vec<Seat> {
    let deadline = Instant::now() + Duration::from_mins(5);
    let credentials = Arc::new(Credentials::None);
    let mut backends = Vec::new();
    for _ in 0..count {
        backends.push(registry.lease(&key(), Claim::Full, &credentials, deadline).await.unwrap());
    }
    let seats = backends.iter().map(|backend| Seat::new(registry, backend, Claim::Full)).collect();
    for backend in backends {
        registry.release(backend, Verdict::Clean);
    }
    seats
}

/// What every transaction of transaction mode pays: an idle backend is taken and given back, while that many other
/// threads do nothing but the same.
#[divan::bench(args = [0, 1])]
fn checkout_and_checkin(bencher: Bencher, others: usize) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let registry = runtime.block_on(pool());
    let turn = |seat: &Seat| registry.release(seat.try_lease().unwrap(), Verdict::Clean);
    let seats = runtime.block_on(seats(&registry, 1 + others));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seat in &seats[1..] {
            scope.spawn(|| {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                let _inside = runtime.enter();
                while !done.load(Ordering::Relaxed) {
                    turn(seat);
                }
            });
        }
        let _inside = runtime.enter();
        bencher.bench_local(|| turn(&seats[0]));
        done.store(true, Ordering::Relaxed);
    });
}

/// The way of a session that has no seat yet.
#[divan::bench]
fn lease_and_release(bencher: Bencher) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (registry, key) = (runtime.block_on(pool()), key());
    let credentials = Arc::new(Credentials::None);
    let deadline = Instant::now() + Duration::from_mins(5);
    let turn = || {
        runtime.block_on(async {
            let backend = registry.lease(&key, Claim::Full, &credentials, deadline).await.unwrap();
            registry.release(backend, Verdict::Clean);
        });
    };
    turn();
    bencher.bench_local(turn);
}
