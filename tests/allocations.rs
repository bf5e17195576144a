//! Heap use of sessions, counted exactly: none for a round trip, little for an idle session.
//!
//! A real session between two sockets; the server is a few lines that have an answer to everything. The
//! counts are those of the thread that runs the session, which also is the proxy's way: a session lives on one thread.

#![allow(clippy::unwrap_used, reason = "a test program")]

#[path = "../benches/traffic/mod.rs"]
mod traffic;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pgsteer::config::{
    AuthSource, ClientTlsMode, ListenAddress, ListenRole, NodeAddress, PoolMode, Settings, TlsMode,
};
use pgsteer::drain::Tasks;
use pgsteer::metrics::Metrics;
use pgsteer::net::listener::{self, Listener};
use pgsteer::net::tls::ServerTlsContext;
use pgsteer::pool::Registry;
use pgsteer::session::catalogues::{Catalogues, Sources};
use pgsteer::session::context::{Context, Shared};
use pgsteer::session::directory::Directory;
use pgsteer::session::login::{self, Outcome};
use pgsteer::session::startup::Endpoint;
use pgsteer::session::verifiers::Verifiers;
use pgsteer::topology::{Epoch, Health, NodeId, Nudges, Role, Store, Topology};
use pgsteer::wire::encode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

/// Sessions that are weighed together.
const SESSIONS: usize = 200;

fn runtime() -> LocalRuntime {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap()
}

/// Everything that sessions share, with one primary that is up.
fn shared(node: SocketAddr, mode: PoolMode) -> Shared {
    let mut settings = Settings::with_nodes([NodeAddress::new("127.0.0.1", node.port())]);
    settings.cluster.tls.mode = TlsMode::Off;
    settings.auth.source = AuthSource::Trust;
    settings.pool.mode = mode;
    (settings.pool.warm, settings.pool.size, settings.pool.max_backends_per_node) = (0, SESSIONS, SESSIONS);
    let mut topology = Topology::unseen(&settings.cluster.nodes);
    (topology.epoch, topology.primary) = (Epoch(1), Some(NodeId(0)));
    for node in &mut topology.nodes {
        (node.health, node.role) = (Health::Up, Role::Primary);
    }
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let (store, nudges) = (Arc::new(Store::new(topology)), Arc::new(Nudges::new(1)));
    let (metrics, tls) = (Metrics::new(1, &["node".to_owned()]), Arc::new(ServerTlsContext::off()));
    let tasks = Tasks::new();
    let (verifiers, _) = Verifiers::new(
        Arc::clone(&settings),
        Arc::clone(&store),
        Arc::clone(&tls),
        Arc::clone(&metrics),
        [0; 32],
    );
    let directory = Arc::new(Directory::new(SESSIONS));
    let sources =
        Sources { store: Arc::clone(&store), tls: Arc::clone(&tls), directory: Arc::clone(&directory) };
    let (catalogues, _) = Catalogues::new(Arc::clone(&settings), sources);
    let registry = Registry::new(
        Arc::clone(&settings),
        Arc::clone(&store),
        Arc::clone(&nudges),
        tls,
        Arc::clone(&metrics),
        tasks.clone(),
    );
    Shared { settings, store, nudges, registry, directory, verifiers, catalogues, metrics, tasks }
}

/// A server in a thread of its own.
fn server() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            let tasks = Tasks::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                // It ends with its client.
                tasks.spawn(async move { drop(traffic::serve(socket).await) });
            }
        });
    });
    address
}

/// Serves the next client as a task of this thread.
async fn serve(ctx: &Rc<Context>, listener: &mut Listener) {
    let (socket, _) = listener.accept().await.unwrap();
    let (ctx, stream) = (Rc::clone(ctx), socket.into_stream().unwrap());
    let tasks = ctx.tasks.clone();
    tasks.spawn_local(async move {
        let endpoint = Endpoint {
            role: ListenRole::Primary,
            tls_mode: ClientTlsMode::Off,
            max_lag: None,
            acceptor: None,
        };
        if let Outcome::Session(session, _place) = Box::pin(login::login(ctx, stream, &endpoint, None)).await
        {
            session.run().await;
        }
    });
}

fn startup() -> Vec<u8> {
    let mut packet = Vec::new();
    let params = [("user", "u"), ("database", "d"), ("client_encoding", "UTF8")];
    encode::startup_packet(&mut packet, 3 << 16, params.into_iter());
    packet
}

async fn listen() -> (Listener, SocketAddr) {
    let any = ListenAddress::Tcp { host: "127.0.0.1".to_owned(), port: 0 };
    let listener = listener::bind(&any).await.unwrap().remove(0);
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Reads until a ReadyForQuery of an idle session has come.
async fn until_ready(client: &mut TcpStream, room: &mut [u8]) {
    let mut end = 0;
    while !room[..end].ends_with(b"Z\0\0\0\x05I") {
        let count = client.read(&mut room[end..]).await.unwrap();
        assert!(count > 0, "the session ended");
        end += count;
    }
}

fn allocations_of_round_trips(pooling: PoolMode, mode: &str) -> u64 {
    let (request, _) = traffic::round_trip(mode);
    let node = server();
    let runtime = runtime();
    let (mut client, shared) = runtime.block_on(async {
        let shared = shared(node, pooling);
        let ctx = Context::new(&shared, 0);
        let (mut listener, address) = listen().await;
        let (client, ()) = tokio::join!(TcpStream::connect(address), serve(&ctx, &mut listener));
        let mut client = client.unwrap();
        client.write_all(&startup()).await.unwrap();
        until_ready(&mut client, &mut [0; 4096]).await;
        client.write_all(&traffic::prepare()).await.unwrap();
        until_ready(&mut client, &mut [0; 4096]).await;
        (client, shared)
    });
    // Out here: a runtime puts large futures on the heap.
    let mut room = [0; 4096];
    let mut round = || {
        let trips = async {
            for _ in 0..100 {
                client.write_all(&request).await.unwrap();
                until_ready(&mut client, &mut room).await;
            }
        };
        allocation_counter::measure(|| runtime.block_on(trips)).count_total
    };
    // The first round fills the pools of buffers. The pools' janitor runs here, too, twice a second, and may allocate: what
    // round trips need would be in every round.
    round();
    let fewest = (0..20).map(|_| round()).min().unwrap();
    drop(shared);
    fewest
}

#[test]
fn a_round_trip_allocates_nothing() {
    for pooling in [PoolMode::Session, PoolMode::Transaction] {
        for mode in ["simple", "extended", "prepared"] {
            let count = allocations_of_round_trips(pooling, mode);
            assert_eq!(count, 0, "a hundred round trips, {mode} with {pooling:?}");
        }
    }
}

#[test]
fn an_idle_session_is_small() {
    let node = server();
    let runtime = runtime();
    let (shared, ctx, mut listener, address) = runtime.block_on(async {
        let shared = shared(node, PoolMode::Session);
        let ctx = Context::new(&shared, 0);
        let (listener, address) = listen().await;
        (shared, ctx, listener, address)
    });
    let clients = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let log_in = |_| {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client.write_all(&startup()).unwrap();
            let (mut room, mut end) = ([0; 4096], 0);
            while !room[..end].ends_with(b"Z\0\0\0\x05I") {
                end += client.read(&mut room[end..]).unwrap();
            }
            client
        };
        (0..SESSIONS).map(log_in).collect::<Vec<_>>()
    });
    let counted = allocation_counter::measure(|| {
        runtime.block_on(async {
            for _ in 0..SESSIONS {
                serve(&ctx, &mut listener).await;
            }
            while !clients.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    });
    assert_eq!(shared.directory.len(), SESSIONS);
    let each = counted.bytes_current / SESSIONS as i64;
    eprintln!(
        "an idle session with its backend: {each} bytes in {} allocations",
        counted.count_current / SESSIONS as i64
    );
    assert!(each <= 4096, "{each} bytes");
}
