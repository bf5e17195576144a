//! Accept loops and workers: from a listening socket to a session on the least-loaded thread.
//!
//! In: bound listeners and the shared parts. Out: running sessions. A session lives and dies on one worker; only the
//! accepted socket crosses threads. Must not know what a session does.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use bytes::BytesMut;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::admin::{AdminState, Pulse, console};
use crate::metrics::{Counter, Gauge};
use crate::net::listener::{AcceptedSocket, Listener};
use crate::session::context::{Context, Shared};
use crate::session::directory::LoginGuard;
use crate::session::login::{self, ConsoleLogin, Outcome};
use crate::session::startup::Endpoint;

/// Accepted sockets that may wait for a worker; beyond it new ones are closed.
const HANDOVER_MAX: usize = 1024;

/// An accepted socket on its way to a worker.
struct Accepted {
    socket: AcceptedSocket,
    endpoint: Arc<Endpoint>,
    guard: Option<LoginGuard>,
    load: LoadGuard,
}

/// Counts a connection on its worker until it ends.
struct LoadGuard(Arc<AtomicUsize>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The way to one worker thread.
struct Lane {
    sender: mpsc::Sender<Accepted>,
    load: Arc<AtomicUsize>,
}

/// The worker threads.
pub struct Workers {
    lanes: Vec<Lane>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts one thread per pulse, each with a runtime of its own.
    pub fn start(shared: &Shared, admin: &Arc<AdminState>) -> std::io::Result<Self> {
        let mut workers = Self { lanes: Vec::new(), threads: Vec::new() };
        for (index, pulse) in admin.pulses.iter().enumerate() {
            let (sender, receiver) = mpsc::channel(HANDOVER_MAX);
            let worker = Worker {
                shared: shared.clone(),
                admin: Arc::clone(admin),
                index,
                pulse: Arc::clone(pulse),
                receiver,
            };
            let thread =
                std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || worker.run())?;
            workers.lanes.push(Lane { sender, load: Arc::default() });
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Accepts on `listener` until `closing`.
    pub async fn accept(
        self: Arc<Self>,
        mut listener: Listener,
        endpoint: Arc<Endpoint>,
        shared: Shared,
        closing: CancellationToken,
    ) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = closing.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "a listener cannot accept");
                    return;
                }
            };
            let limit = shared.settings.load().limits.max_logins_per_address;
            let guard = match peer.ip() {
                None => None,
                Some(address) => {
                    let guard = shared.directory.begin_login(address, limit);
                    if guard.is_none() {
                        shared.metrics.count(Counter::RefusedPerAddress);
                        debug!(%address, limit, "too many logins under way from one address");
                        continue;
                    }
                    guard
                }
            };
            self.hand_over(socket, &endpoint, guard);
        }
    }

    fn hand_over(&self, socket: AcceptedSocket, endpoint: &Arc<Endpoint>, guard: Option<LoginGuard>) {
        let Some(lane) = self.lanes.iter().min_by_key(|lane| lane.load.load(Ordering::Relaxed)) else {
            return;
        };
        lane.load.fetch_add(1, Ordering::Relaxed);
        let load = LoadGuard(Arc::clone(&lane.load));
        let accepted = Accepted { socket, endpoint: Arc::clone(endpoint), guard, load };
        if lane.sender.try_send(accepted).is_err() {
            warn!("a worker does not keep up with new connections: one was closed");
        }
    }

    /// Lets the threads end and waits for them.
    pub fn join(self) {
        drop(self.lanes);
        for thread in self.threads {
            if thread.join().is_err() {
                error!("a worker thread panicked");
            }
        }
    }
}

struct Worker {
    shared: Shared,
    admin: Arc<AdminState>,
    index: usize,
    pulse: Arc<Pulse>,
    receiver: mpsc::Receiver<Accepted>,
}

impl Worker {
    fn run(self) {
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => {
                error!(%error, worker = self.index, "cannot make a worker's runtime");
                return;
            }
        };
        runtime.block_on(self.work());
    }

    async fn work(mut self) {
        let ctx = Context::new(&self.shared, self.index);
        let tasks = self.shared.tasks.clone();
        tasks.spawn_local(Arc::clone(&self.pulse).run(tasks.clone()));
        loop {
            let accepted = tokio::select! {
                () = tasks.stopping() => break,
                accepted = self.receiver.recv() => accepted,
            };
            let Some(accepted) = accepted else { break };
            tasks.spawn_local(connection(Rc::clone(&ctx), Arc::clone(&self.admin), accepted));
        }
        // The runtime goes down with this thread: what is still releasing its backend gets its time first.
        tasks.over().await;
    }
}

/// One connection from its first byte to its last.
async fn connection(ctx: Rc<Context>, admin: Arc<AdminState>, accepted: Accepted) {
    let Accepted { socket, endpoint, guard, load: _load } = accepted;
    let stream = match socket.into_stream() {
        Ok(stream) => stream,
        Err(error) => {
            warn!(%error, "cannot use an accepted socket");
            return;
        }
    };
    // Boxed: a login needs much more room than the session that follows.
    let outcome = Box::pin(login::login(Rc::clone(&ctx), stream, &endpoint, guard)).await;
    match outcome {
        Outcome::Session(session, _place) => session.run().await,
        Outcome::Console(login, _place) => {
            ctx.metrics.raise(Gauge::ConsoleSessions);
            // Boxed: it is rare, and larger than all that a session keeps.
            Box::pin(serve_console(*login, admin)).await;
            ctx.metrics.lower(Gauge::ConsoleSessions);
        }
        Outcome::Done => {}
    }
}

async fn serve_console(login: ConsoleLogin, admin: Arc<AdminState>) {
    let ConsoleLogin { stream, user, application, pid, key } = login;
    let login = console::Login { user, application_name: application, pid, cancel_key: key };
    console::serve(stream, BytesMut::new(), login, admin).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The future that an `async fn` of three arguments returns, in bytes.
    fn future_bytes<A, B, C, F: Future>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_stays_small() {
        assert!(future_bytes(connection) <= 512, "{}", future_bytes(connection));
    }
}
