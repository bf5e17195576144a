//! The registry against scripted servers: leases, hand-over, limits, resets, epochs, warm standbys.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, timeout};

use super::fake::{FakeServer, Mood, Seen};
use super::*;
use crate::config::{Settings, TlsMode};
use crate::drain::Tasks;
use crate::metrics::{Counter, Metrics};
use crate::net::tls::ServerTlsContext;
use crate::topology::{Epoch, Health, NodeId, Nudges, Role, Store, Topology};
use crate::wire::error::SqlState;

/// A registry over some servers, the first of which is the primary.
struct World {
    registry: Arc<Registry>,
    servers: Vec<FakeServer>,
    store: Arc<Store>,
    nudges: Arc<Nudges>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    credentials: Arc<Credentials>,
}

fn topology(settings: &Settings, primary: u16, epoch: u64) -> Topology {
    let mut topology = Topology::unseen(&settings.cluster.nodes);
    topology.epoch = Epoch(epoch);
    topology.primary = Some(NodeId(primary));
    for node in &mut topology.nodes {
        node.health = Health::Up;
        node.role = if node.id == NodeId(primary) { Role::Primary } else { Role::Standby };
    }
    topology
}

impl World {
    async fn new(moods: &[Mood], tune: impl FnOnce(&mut Settings)) -> Self {
        let mut servers = Vec::new();
        for (index, mood) in moods.iter().enumerate() {
            servers.push(FakeServer::start(*mood, index > 0).await);
        }
        let mut settings = Settings::with_nodes(servers.iter().map(|server| server.address.clone()));
        settings.cluster.tls.mode = TlsMode::Off;
        settings.pool.warm = 0;
        tune(&mut settings);
        let store = Arc::new(Store::new(topology(&settings, 0, 1)));
        let names: Vec<String> = settings.cluster.nodes.iter().map(|node| node.name.clone()).collect();
        let (metrics, nudges) = (Metrics::new(1, &names), Arc::new(Nudges::new(names.len())));
        let tasks = Tasks::new();
        let registry = Registry::new(
            Arc::new(ArcSwap::from_pointee(settings)),
            Arc::clone(&store),
            Arc::clone(&nudges),
            Arc::new(ServerTlsContext::off()),
            Arc::clone(&metrics),
            tasks.clone(),
        );
        Self { registry, servers, store, nudges, metrics, tasks, credentials: Arc::new(Credentials::None) }
    }

    async fn lease(&self, key: &Arc<PoolKey>) -> Result<Backend, LeaseError> {
        self.lease_within(key, Duration::from_secs(5)).await
    }

    async fn lease_within(&self, key: &Arc<PoolKey>, limit: Duration) -> Result<Backend, LeaseError> {
        self.registry.lease(key, Claim::Full, &self.credentials, Instant::now() + limit).await
    }

    fn seen(&self, node: usize) -> &Seen {
        &self.servers[node].seen
    }

    fn publish(&self, primary: u16, epoch: u64) {
        self.store.publish(topology(&self.registry.settings.load(), primary, epoch));
    }

    /// Counted over all pools: active, idle, opening, closing, waiting.
    fn counts(&self) -> [usize; 5] {
        let add = |sum: [usize; 5], row: &PoolRow| {
            let one = [row.active, row.idle, row.opening, row.closing, row.waiting];
            std::array::from_fn(|at| sum[at] + one[at])
        };
        self.registry.rows().iter().fold([0; 5], add)
    }

    /// A round of the janitor after an idle timeout of a millisecond.
    fn age(&self) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2) {
            std::thread::yield_now();
        }
        self.registry.tidy();
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = timeout(Duration::from_secs(5), wait).await;
        assert!(waited.is_ok(), "{what}: {:?}", self.registry.rows());
    }
}

fn key(node: u16, set: &str) -> Arc<PoolKey> {
    let set = StartupSet::new([("search_path", set)]);
    Arc::new(PoolKey { node: NodeId(node), database: "db".into(), user: "u".into(), set })
}

#[tokio::test]
async fn without_a_lifetime_a_backend_serves_one_session() {
    let world = World::new(&[Mood::Good], |settings| settings.pool.lifetime = Duration::ZERO).await;
    let first = world.lease(&key(0, "a")).await.unwrap();
    world.registry.release(first, Verdict::Reset);
    world.until("closed", |world| world.counts() == [0; 5]).await;
    let second = world.lease(&key(0, "a")).await.unwrap();
    assert_eq!(second.pid, 2);
    assert_eq!(Seen::count(&world.seen(0).discards), 0);
    world.registry.release(second, Verdict::Close);
}

#[tokio::test]
async fn a_backend_is_reset_and_used_again() {
    let world = World::new(&[Mood::Good], |_| {}).await;
    let first = world.lease(&key(0, "a")).await.unwrap();
    assert_eq!((first.pid, first.params.get("TimeZone")), (1, Some("UTC")));
    assert_eq!(world.registry.in_flight(NodeId(0)), 1);
    assert!(first.opened_on_primary);
    let id = first.id;
    world.registry.release(first, Verdict::Reset);
    assert_eq!(world.registry.in_flight(NodeId(0)), 0);
    world.until("reset", |world| world.counts() == [0, 1, 0, 0, 0]).await;
    let again = world.lease(&key(0, "a")).await.unwrap();
    assert_eq!(again.id, id);
    assert_eq!(Seen::count(&world.seen(0).discards), 1);
    assert_eq!(world.registry.backend_rows()[0].state, BackendState::Active);
    world.registry.release(again, Verdict::Close);
    world.until("closed", |world| world.counts() == [0; 5]).await;
    assert!(world.registry.backend_rows().is_empty());
    let secret = Arc::new(Credentials::None);
    let cached = world.registry.cached_login("db", "u", &key(0, "a").set, &secret).unwrap();
    assert_eq!(cached.get("TimeZone"), Some("UTC"));
    assert!(world.registry.cached_login("db", "u", &StartupSet::default(), &secret).is_none());
}

#[tokio::test]
async fn what_is_not_clean_is_closed() {
    for mood in [Mood::Drifts, Mood::Mute] {
        let world = World::new(&[mood], |settings| {
            settings.pool.reset_timeout = Duration::from_millis(50);
        })
        .await;
        let backend = world.lease(&key(0, "a")).await.unwrap();
        world.registry.release(backend, Verdict::Reset);
        world.until("closed", |world| world.metrics.total(Counter::BackendDirty) == 1).await;
        world.until("forgotten", |world| world.counts() == [0; 5]).await;
    }
    let world = World::new(&[Mood::Good], |_| {}).await;
    let mut backend = world.lease(&key(0, "a")).await.unwrap();
    backend.note_parameter("TimeZone", "Mars");
    assert_eq!(backend.parameter("TimeZone"), Some("Mars"));
    world.registry.release(backend, Verdict::Reset);
    world.until("closed", |world| world.metrics.total(Counter::BackendDirty) == 1).await;
}

#[tokio::test]
async fn a_late_cancel_hits_the_reset_and_not_the_next_client() {
    let world = World::new(&[Mood::CancelledOnce], |_| {}).await;
    let backend = world.lease(&key(0, "a")).await.unwrap();
    let pass = backend.cancels.enter().unwrap();
    world.registry.release(backend, Verdict::Reset);
    sleep(Duration::from_millis(20)).await;
    assert_eq!(Seen::count(&world.seen(0).discards), 0, "waits for the cancel to end");
    drop(pass);
    world.until("reset", |world| world.counts() == [0, 1, 0, 0, 0]).await;
    assert_eq!(Seen::count(&world.seen(0).discards), 1, "the cancelled one was run again");
}

#[tokio::test]
async fn a_vanished_client_has_its_query_cancelled() {
    let world = World::new(&[Mood::Mute], |_| {}).await;
    let backend = world.lease(&key(0, "a")).await.unwrap();
    world.registry.release(backend, Verdict::CancelAndClose);
    world.until("cancelled", |world| Seen::count(&world.seen(0).cancels) == 1).await;
    world.until("closed", |world| world.counts() == [0; 5]).await;
    assert_eq!(world.metrics.total(Counter::CancelForwarded), 1);
}

#[tokio::test]
async fn waiters_are_served_in_turn_and_leave_without_trace() {
    let world = World::new(&[Mood::Good], |settings| settings.pool.size = 1).await;
    let held = world.lease(&key(0, "a")).await.unwrap();
    let timed_out = world.lease_within(&key(0, "a"), Duration::from_millis(10)).await;
    assert!(matches!(timed_out, Err(LeaseError::Timeout)));
    assert_eq!(world.counts(), [1, 0, 0, 0, 0]);
    let (pool, credentials) = (key(0, "a"), &world.credentials);
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut first = Box::pin(world.registry.lease(&pool, Claim::Full, credentials, deadline));
    let mut second = Box::pin(world.registry.lease(&pool, Claim::Full, credentials, deadline));
    for future in [&mut first, &mut second] {
        assert!(timeout(Duration::from_millis(5), future).await.is_err());
    }
    assert_eq!(world.counts()[4], 2);
    // Handed to the first, which is dropped in that very instant: it goes on to the second.
    world.registry.release(held, Verdict::Clean);
    drop(first);
    let backend = second.await.unwrap();
    assert_eq!(world.counts(), [1, 0, 0, 0, 0]);
    world.registry.release(backend, Verdict::Clean);
    assert_eq!(world.counts(), [0, 1, 0, 0, 0]);
    assert_eq!(Seen::count(&world.seen(0).logins), 1);
}

#[tokio::test]
async fn a_dropped_login_gives_its_place_back() {
    let world = World::new(&[Mood::Good], |settings| settings.pool.size = 1).await;
    let (pool, credentials) = (key(0, "a"), &world.credentials);
    let mut opening = Box::pin(world.registry.lease(
        &pool,
        Claim::Full,
        credentials,
        Instant::now() + Duration::from_secs(5),
    ));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(opening.as_mut().poll(&mut cx).is_pending());
    assert_eq!(world.counts(), [0, 0, 1, 0, 0]);
    drop(opening);
    assert_eq!(world.counts(), [0; 5]);
}

#[tokio::test]
async fn a_leaked_backend_is_counted_and_its_place_is_free() {
    let world = World::new(&[Mood::Good], |settings| settings.pool.size = 1).await;
    drop(world.lease(&key(0, "a")).await.unwrap());
    assert_eq!(world.metrics.total(Counter::BackendLeaked), 1);
    assert_eq!(world.registry.in_flight(NodeId(0)), 0);
    let next = world.lease(&key(0, "a")).await.unwrap();
    world.registry.release(next, Verdict::Close);
}

#[tokio::test]
async fn another_set_makes_room_at_the_limit() {
    let world = World::new(&[Mood::Good], |settings| settings.pool.size = 1).await;
    let backend = world.lease(&key(0, "a")).await.unwrap();
    world.registry.release(backend, Verdict::Clean);
    let other = world.lease(&key(0, "b")).await.unwrap();
    assert_eq!(world.metrics.total(Counter::BackendEvicted), 1);
    assert_eq!(Seen::count(&world.seen(0).most_open), 1, "the old one was gone before the new one came");
    world.registry.release(other, Verdict::Clean);
}

#[tokio::test]
async fn a_crowd_never_passes_the_limits() {
    let world = World::new(&[Mood::Good], |settings| {
        settings.pool.size = 5;
        settings.pool.max_connecting_per_node = 2;
    })
    .await;
    let sets = [key(0, "a"), key(0, "b"), key(0, "c")];
    let clients = (0..60usize).map(|number| {
        let (world, key) = (&world, &sets[number % 3]);
        async move {
            for round in 0..5 {
                let backend = world.lease(key).await.unwrap();
                assert_eq!(&backend.key, key);
                tokio::task::yield_now().await;
                let verdict = [Verdict::Clean, Verdict::Reset, Verdict::Close][(number + round) % 3];
                world.registry.release(backend, verdict);
            }
        }
    });
    timeout(Duration::from_secs(30), futures_util::future::join_all(clients)).await.unwrap();
    assert!(Seen::count(&world.seen(0).most_open) <= 5);
    world.until("calm", |world| world.counts()[0] == 0 && world.counts()[3] == 0).await;
    assert_eq!(world.metrics.total(Counter::BackendLeaked), 0);
    assert_eq!(world.counts()[4], 0);
}

#[tokio::test]
async fn the_servers_own_words_reach_the_client() {
    let world = World::new(&[Mood::Full], |_| {}).await;
    let Err(LeaseError::Server(error)) = world.lease(&key(0, "a")).await else { panic!() };
    assert_eq!(error.code, SqlState::TOO_MANY_CONNECTIONS);
    let mut out = Vec::new();
    LeaseError::Server(error).encode(&mut out);
    assert_eq!(out[0], b'E');
    assert!(String::from_utf8_lossy(&out).contains("sorry, too many clients already"));
    assert_eq!(world.counts(), [0; 5]);
}

#[tokio::test]
async fn garbage_from_a_server_is_a_clear_error() {
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"R\0\0\0\x03",
        b"R\xff\xff\xff\xff",
        b"R\0\0\0\x06\0\0",
        b"R\0\0\0\x0c\0\0\0\x0aABC",
        b"R\0\0\0\x08\0\0\0\x07",
        b"R\0\0\0\x08\0\0\0\0S\0\0\0\x05x",
        b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05T",
        b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05Ixxxxxxxx",
        b"S\x3f\xff\xff\xff",
        b"",
    ] {
        let world = World::new(&[Mood::Garbage(bytes)], |_| {}).await;
        let error = world.lease(&key(0, "a")).await.unwrap_err();
        assert!(matches!(error, LeaseError::Node(_) | LeaseError::Login(_)), "{bytes:?} {error:?}");
        assert_eq!(world.counts(), [0; 5]);
    }
}

#[tokio::test]
async fn an_idle_backend_that_was_told_to_go_is_not_handed_out() {
    let world = World::new(&[Mood::Farewell], |_| {}).await;
    let backend = world.lease(&key(0, "a")).await.unwrap();
    let mut first = backend.id;
    world.registry.release(backend, Verdict::Clean);
    sleep(Duration::from_millis(60)).await;
    for _ in 0..2 {
        let backend = world.lease(&key(0, "a")).await.unwrap();
        assert_ne!(backend.id, first);
        first = backend.id;
        world.registry.release(backend, Verdict::Clean);
        sleep(Duration::from_millis(60)).await;
    }
    assert!(world.nudges.take(NodeId(0)).trouble());
}

#[tokio::test]
async fn backends_of_an_old_primary_die_with_their_epoch() {
    let world = World::new(&[Mood::Good, Mood::Good], |_| {}).await;
    let (idle, busy) = (world.lease(&key(0, "a")).await.unwrap(), world.lease(&key(0, "a")).await.unwrap());
    let standby = world.lease(&key(1, "a")).await.unwrap();
    assert!(!standby.opened_on_primary);
    world.registry.release(idle, Verdict::Clean);
    world.publish(1, 2);
    world.until("retired", |world| world.metrics.total(Counter::BackendEpoch) == 1).await;
    world.registry.release(busy, Verdict::Clean);
    world.until("retired too", |world| world.metrics.total(Counter::BackendEpoch) == 2).await;
    let id = standby.id;
    world.registry.release(standby, Verdict::Clean);
    let promoted = world.lease(&key(1, "a")).await.unwrap();
    assert_eq!(promoted.id, id, "opened before the promotion: still good");
    world.registry.release(promoted, Verdict::Clean);
    // A new login at a node that says it is in recovery although it is the primary: not for writes.
    let Err(LeaseError::Epoch) = world.lease(&key(1, "b")).await else { panic!() };
}

#[tokio::test]
async fn those_who_wait_for_an_old_primary_are_sent_away() {
    let world = World::new(&[Mood::Good, Mood::Good], |settings| settings.pool.size = 1).await;
    let held = world.lease(&key(0, "a")).await.unwrap();
    let waiting_key = key(0, "a");
    let (waited, ()) = tokio::join!(world.lease(&waiting_key), async {
        world.until("waiting", |world| world.counts()[4] == 1).await;
        world.publish(1, 2);
    });
    assert!(matches!(waited, Err(LeaseError::Epoch)));
    world.registry.release(held, Verdict::Close);
}

#[tokio::test]
async fn standbys_are_kept_warm_for_keys_in_use() {
    let world = World::new(&[Mood::Good, Mood::Good, Mood::Good], |settings| settings.pool.warm = 2).await;
    let backend = world.lease(&key(0, "a")).await.unwrap();
    world.until("warm", |world| world.counts() == [1, 4, 0, 0, 0]).await;
    assert_eq!(Seen::count(&world.seen(0).logins), 1, "none on the primary");
    world.publish(1, 2);
    sleep(Duration::from_millis(50)).await;
    let logins = Seen::count(&world.seen(1).logins);
    let moved = world.lease(&key(1, "a")).await.unwrap();
    assert_eq!(Seen::count(&world.seen(1).logins), logins, "served by a warm one");
    world.registry.release(backend, Verdict::Close);
    world.registry.release(moved, Verdict::Clean);
}

#[tokio::test]
async fn pools_in_use_keep_their_min_idle() {
    let world = World::new(&[Mood::Good, Mood::Good], |settings| {
        settings.pool.min_idle = 2;
        settings.pool.idle_timeout = Duration::from_millis(1);
    })
    .await;
    let backend = world.lease(&key(0, "a")).await.unwrap();
    let seat = Seat::new(&world.registry, &backend, Claim::Full);
    world.registry.release(backend, Verdict::Clean);
    // One was there; the other is opened ahead, on the node where the pool is used. Neither goes for its idle time.
    world.until("two idle", |world| world.counts() == [0, 2, 0, 0, 0]).await;
    world.age();
    assert_eq!(world.counts(), [0, 2, 0, 0, 0]);
    let (first, second) = (seat.try_lease().unwrap(), seat.try_lease().unwrap());
    assert!(seat.try_lease().is_none());
    world.registry.release(first, Verdict::Clean);
    world.registry.release(second, Verdict::Close);
    world.until("a new one", |world| Seen::count(&world.seen(0).logins) == 3).await;
    world.until("two idle again", |world| world.counts() == [0, 2, 0, 0, 0]).await;
    assert_eq!(Seen::count(&world.seen(1).logins), 0);
    assert_eq!(world.metrics.total(Counter::BackendIdle), 0);
    drop(seat);
    world.until("closed", |world| world.counts() == [0; 5]).await;
    assert_eq!(world.metrics.total(Counter::BackendIdle), 2);
}

#[tokio::test]
async fn warm_standbys_stay_warm_while_sessions_are_there() {
    let world = World::new(&[Mood::Good, Mood::Good], |settings| {
        settings.pool.warm = 1;
        settings.pool.idle_timeout = Duration::from_millis(1);
    })
    .await;
    let backend = world.lease(&key(0, "a")).await.unwrap();
    let seat = Seat::new(&world.registry, &backend, Claim::Full);
    world.registry.release(backend, Verdict::Clean);
    world.until("a warm one", |world| world.counts() == [0, 2, 0, 0, 0]).await;
    world.age();
    assert_eq!(world.counts(), [0, 2, 0, 0, 0]);
    // A session that is idle for longer than the backends may be: the promotion finds the warm one.
    world.publish(1, 2);
    let promoted = world.lease(&key(1, "a")).await.unwrap();
    assert_eq!((promoted.pid, Seen::count(&world.seen(1).logins)), (1, 1));
    assert!(seat.try_lease().is_none(), "the old primary has none left");
    world.registry.release(promoted, Verdict::Close);
}

#[tokio::test]
async fn lifetimes_differ_by_up_to_a_fifth() {
    let world = World::new(&[Mood::Good], |settings| settings.pool.lifetime = Duration::from_secs(100)).await;
    let began = Instant::now();
    let mut backends = Vec::new();
    for _ in 0..10 {
        backends.push(world.lease(&key(0, "a")).await.unwrap());
    }
    let ages: Vec<u64> = backends.iter().map(|one| (one.expires - began).as_secs()).collect();
    assert!(ages.iter().all(|age| (80..=105).contains(age)), "{ages:?}");
    assert!(ages.iter().max().unwrap() - ages.iter().min().unwrap() >= 10, "{ages:?}");
    for mut backend in backends {
        // Aged in the hands of a session: not used again.
        backend.expires = began;
        world.registry.release(backend, Verdict::Clean);
    }
    assert_eq!(world.metrics.total(Counter::BackendLifetime), 10);
    world.until("closed", |world| world.counts() == [0; 5]).await;
}

#[tokio::test]
async fn backends_are_opened_together_and_not_too_many_at_once() {
    let world = World::new(&[Mood::Slow], |settings| settings.pool.max_connecting_per_node = 3).await;
    let pool = key(0, "a");
    let leases = futures_util::future::join_all((0..9).map(|_| world.lease(&pool))).await;
    assert_eq!(Seen::count(&world.seen(0).most_logging_in), 3);
    for backend in leases {
        world.registry.release(backend.unwrap(), Verdict::Close);
    }
}

#[tokio::test]
async fn a_full_queue_and_its_deadline_are_told() {
    let world = World::new(&[Mood::Good], |settings| {
        (settings.pool.size, settings.pool.max_waiters) = (1, 1);
    })
    .await;
    let held = world.lease(&key(0, "a")).await.unwrap();
    let pool = key(0, "a");
    let (first, second) = tokio::join!(
        world.lease_within(&pool, Duration::from_millis(50)),
        world.lease_within(&pool, Duration::from_secs(5)),
    );
    assert!(matches!(first, Err(LeaseError::Timeout)));
    assert!(matches!(second, Err(LeaseError::QueueFull)));
    let row = &world.registry.rows()[0];
    assert!(row.wait_p99 >= Duration::from_millis(45), "{row:?}");
    world.registry.release(held, Verdict::Close);
}

#[tokio::test]
async fn shutdown_closes_what_is_idle() {
    let world = World::new(&[Mood::Good], |_| {}).await;
    let (idle, busy) = (world.lease(&key(0, "a")).await.unwrap(), world.lease(&key(0, "a")).await.unwrap());
    world.registry.release(idle, Verdict::Clean);
    world.tasks.stop();
    world.until("idle one closed", |world| world.counts()[1] == 0).await;
    world.registry.release(busy, Verdict::Reset);
    assert!(world.tasks.ended(Duration::from_secs(5)).await);
    assert_eq!(world.metrics.total(Counter::BackendLeaked), 0);
    world.until("the server sees the end", |world| Seen::count(&world.seen(0).open) == 0).await;
}

#[tokio::test]
async fn another_threads_idle_backend_is_taken_over() {
    let world = World::new(&[Mood::Good], |_| {}).await;
    let backend = world.lease(&key(0, "a")).await.unwrap();
    world.registry.release(backend, Verdict::Clean);
    let (registry, credentials) = (Arc::clone(&world.registry), Arc::clone(&world.credentials));
    let other = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let deadline = Instant::now() + Duration::from_secs(5);
            let mut backend =
                registry.lease(&key(0, "a"), Claim::Full, &credentials, deadline).await.unwrap();
            let mut out = Vec::new();
            crate::wire::encode::query(&mut out, "");
            super::messages::send(&mut backend.stream, &out).await.unwrap();
            let mut answer = [0; 11];
            backend.stream.read_exact(&mut answer).await.unwrap();
            registry.release(backend, Verdict::Clean);
            answer
        })
    });
    while !other.is_finished() {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(&other.join().unwrap(), b"I\0\0\0\x04Z\0\0\0\x05I");
    assert_eq!(Seen::count(&world.seen(0).logins), 1);
}
