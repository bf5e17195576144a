//! A TCP link that can be slowed, stalled, made to swallow everything, closed or reset: the network's faults
//! without touching the machine's network.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pgsteer::demo::workspace::{HeldPorts, free_ports};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From whoever connected to the link's target.
    ToServer,
    /// The way back.
    ToClient,
}

/// What happens to bytes that go one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Pass,
    /// They pass that much later.
    Delay(Duration),
    /// They wait until the link passes again, as on a cut cable: TCP repeats them when it is mended.
    Stall,
    /// They are lost for good, and with them the connection's sense.
    Swallow,
}

/// How a connection ends by force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Close,
    Reset,
}

#[derive(Debug)]
struct State {
    modes: [watch::Sender<Mode>; 2],
    /// Counts forced ends; every connection watches it.
    ends: watch::Sender<(u64, End)>,
    bytes: [AtomicU64; 2],
    accepted: AtomicU64,
    open: AtomicU64,
}

/// A link on a port of its own to one target; ends with this value.
#[derive(Debug)]
pub struct Link {
    state: Arc<State>,
    target: SocketAddr,
    address: SocketAddr,
    _own: HeldPorts,
    accepting: Option<JoinHandle<()>>,
}

impl Link {
    /// Opens a link to 127.0.0.1:`port`.
    pub async fn to(port: u16) -> Self {
        let ends = watch::Sender::new((0, End::Close));
        let modes = [watch::Sender::new(Mode::Pass), watch::Sender::new(Mode::Pass)];
        let (bytes, accepted, open) = Default::default();
        let state = Arc::new(State { modes, ends, bytes, accepted, open });
        // Out of the range of client ports, so that `refuse` and `accept` find it free again.
        let own = free_ports(1).unwrap();
        let mut link = Self {
            state,
            target: ([127, 0, 0, 1], port).into(),
            address: ([127, 0, 0, 1], own[0]).into(),
            _own: own,
            accepting: None,
        };
        link.accept().await;
        link
    }

    /// Where to connect to.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes what happens one way, for open and coming connections.
    pub fn set(&self, way: Way, mode: Mode) {
        self.state.modes[way as usize].send_replace(mode);
    }

    /// The same for both ways.
    pub fn set_both(&self, mode: Mode) {
        self.set(Way::ToServer, mode);
        self.set(Way::ToClient, mode);
    }

    /// Nothing passes any more and nobody is told: a cut cable.
    pub fn cut(&self) {
        self.set_both(Mode::Stall);
    }

    /// Everything passes, what was stalled too.
    pub fn mend(&self) {
        self.set_both(Mode::Pass);
    }

    /// Ends all connections with RST.
    pub fn reset(&self) {
        self.state.ends.send_modify(|(count, end)| (*count, *end) = (*count + 1, End::Reset));
    }

    /// Ends all connections with FIN.
    pub fn close(&self) {
        self.state.ends.send_modify(|(count, end)| (*count, *end) = (*count + 1, End::Close));
    }

    /// New connections are refused (ECONNREFUSED) from now on; open ones are closed.
    pub async fn refuse(&mut self) {
        self.close();
        if let Some(task) = self.accepting.take() {
            task.abort();
            drop(task.await);
        }
    }

    /// The end of `refuse`.
    pub async fn accept(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let (state, target) = (Arc::clone(&self.state), self.target);
        self.accepting = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((client, _)) = accepted else { continue };
                        state.accepted.fetch_add(1, Ordering::Relaxed);
                        connections.spawn(connection(client, target, Arc::clone(&state)));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        }));
    }

    /// How many connections were ever accepted.
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::Relaxed)
    }

    /// How many connections are open.
    pub fn open(&self) -> u64 {
        self.state.open.load(Ordering::Relaxed)
    }

    /// How many bytes were delivered one way.
    pub fn bytes(&self, way: Way) -> u64 {
        self.state.bytes[way as usize].load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(task) = &self.accepting {
            task.abort();
        }
    }
}

async fn connection(client: TcpStream, target: SocketAddr, state: Arc<State>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    state.open.fetch_add(1, Ordering::Relaxed);
    let mut ends = state.ends.subscribe();
    ends.mark_unchanged();
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let mut up = Pump { from: client_read, to: server_write };
    let mut down = Pump { from: server_read, to: client_write };
    let ended = {
        let both = async { tokio::join!(up.run(Way::ToServer, &state), down.run(Way::ToClient, &state)) };
        tokio::select! {
            _ = both => End::Close,
            Ok(()) = ends.changed() => ends.borrow().1,
        }
    };
    if ended == End::Reset {
        for socket in [SockRef::from(up.from.as_ref()), SockRef::from(down.from.as_ref())] {
            // Fails only when the peer has reset the connection already.
            let set = socket.set_linger(Some(Duration::ZERO));
            drop(set);
        }
    }
    state.open.fetch_sub(1, Ordering::Relaxed);
}

struct Pump {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
}

impl Pump {
    async fn run(&mut self, way: Way, state: &State) {
        let moved = self.pump(way, state).await;
        if moved.is_err() {
            // The other way must end too, and the peer must hear of it, unless it hears nothing at all: a reset is a reset
            // of both.
            let mut mode = state.modes[way as usize].subscribe();
            let passes = mode.wait_for(|mode| !matches!(mode, Mode::Stall | Mode::Swallow)).await.is_ok();
            if !passes {
                return;
            }
            for socket in [SockRef::from(self.from.as_ref()), SockRef::from(self.to.as_ref())] {
                let shut = socket.shutdown(std::net::Shutdown::Both);
                drop(shut);
            }
        }
    }

    async fn pump(&mut self, way: Way, state: &State) -> io::Result<()> {
        let mut mode = state.modes[way as usize].subscribe();
        let mut buffer = vec![0; 65536];
        loop {
            let count = self.from.read(&mut buffer).await?;
            // FIN waits like any byte.
            let now = *mode.wait_for(|mode| *mode != Mode::Stall).await.map_err(io::Error::other)?;
            if let Mode::Delay(time) = now {
                tokio::time::sleep(time).await;
            }
            if now == Mode::Swallow {
                if count == 0 {
                    std::future::pending::<()>().await;
                }
                continue;
            }
            if count == 0 {
                return self.to.shutdown().await;
            }
            self.to.write_all(&buffer[..count]).await?;
            state.bytes[way as usize].fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}
