//! The only place that knows all parts: builds, wires, orders start and stop.
//!
//! In: settings. Out: a running proxy with a handle to stop it. Nothing is global: two proxies can run in one process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin::{self, AdminState, Command, Pulse};
use crate::config::Settings;
use crate::control::accept::accept;
use crate::control::hooks::Hooks;
use crate::control::switchover::{Parts, Switchover};
use crate::drain::Tasks;
use crate::health::{self, HealthHandle, Surroundings};
use crate::metrics::Metrics;
use crate::net::listener::{self, Listener};
use crate::net::tls::{ClientTlsAcceptor, ServerTlsContext};
use crate::pool::Registry;
use crate::reload::Reloader;
pub use crate::reload::SetLevel;
use crate::serve::Workers;
use crate::session::catalogues::{Catalogues, Sources};
use crate::session::context::Shared;
use crate::session::directory::{Directory, Signal};
use crate::session::startup::Endpoint;
use crate::session::verifiers::Verifiers;
use crate::topology::{EventKind, EventLog, Nudges, Store, Topology};

/// Orders of the console that may wait.
const COMMANDS: usize = 16;
/// Time for what is left after the drain deadline.
const LAST_GRACE: Duration = Duration::from_secs(3);
/// One window of the latency summaries.
const WINDOW: Duration = Duration::from_mins(1);

/// Why the proxy cannot start; every reason in one text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// A running proxy.
pub struct App {
    shared: Shared,
    admin: Arc<AdminState>,
    reloader: Arc<Reloader>,
    workers: Arc<Workers>,
    hooks: Arc<Hooks>,
    switchover: Arc<Switchover>,
    /// Stops the accept loops, before anything else stops.
    closing: CancellationToken,
    accepting: Tasks,
}

/// What is bound before anything starts, so that every failure is known at once.
struct Bound {
    listeners: Vec<(Listener, Arc<Endpoint>)>,
    acceptors: Vec<Option<Arc<ClientTlsAcceptor>>>,
    http: Option<TcpListener>,
    server_tls: Arc<ServerTlsContext>,
}

impl App {
    /// Binds everything and starts on the current runtime; `path` is read again by a reload.
    pub async fn start(
        settings: Settings,
        path: Option<PathBuf>,
        set_level: SetLevel,
    ) -> Result<Self, StartError> {
        let bound = bind(&settings).await?;
        let worker_count = settings.workers;
        let names: Vec<String> = settings.cluster.nodes.iter().map(|node| node.name.clone()).collect();
        let tasks = Tasks::new();
        let metrics = Metrics::new(worker_count, &names);
        let store = Arc::new(Store::new(Topology::unseen(&settings.cluster.nodes)));
        let nudges = Arc::new(Nudges::new(names.len()));
        let events = Arc::new(EventLog::new());
        let around = Surroundings {
            store: Arc::clone(&store),
            nudges: Arc::clone(&nudges),
            events: Arc::clone(&events),
            metrics: Arc::clone(&metrics),
            tls: Arc::clone(&bound.server_tls),
        };
        let health = health::start(&tasks, &settings, around);
        let directory = Arc::new(Directory::new(settings.pool.max_clients));
        let http = bound.http;
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let tls = Arc::clone(&bound.server_tls);
        let registry = Registry::new(
            Arc::clone(&settings),
            Arc::clone(&store),
            Arc::clone(&nudges),
            Arc::clone(&tls),
            Arc::clone(&metrics),
            tasks.clone(),
        );
        let verifiers = start_lookups(&settings, &store, Arc::clone(&tls), &metrics, &tasks)?;
        let sources = Sources { store: Arc::clone(&store), tls, directory: Arc::clone(&directory) };
        let (catalogues, loader) = Catalogues::new(Arc::clone(&settings), sources);
        tasks.spawn(loader.run(tasks.clone()));
        let shared =
            Shared { settings, store, nudges, registry, directory, verifiers, catalogues, metrics, tasks };
        let (commands, orders) = mpsc::channel(COMMANDS);
        let admin = Arc::new(admin_state(&shared, events, commands, worker_count));
        let workers = Workers::start(&shared, &admin).map_err(|error| StartError(error.to_string()))?;
        let (hooks, switchover) = control(&shared, &admin, &health, &bound.server_tls);
        let reloader = Arc::new(Reloader {
            path,
            shared: shared.clone(),
            health,
            server_tls: bound.server_tls,
            acceptors: bound.acceptors,
            set_level,
        });
        let app = Self {
            shared,
            hooks,
            switchover,
            admin,
            reloader,
            workers: Arc::new(workers),
            closing: CancellationToken::new(),
            accepting: Tasks::new(),
        };
        app.spawn_upkeep(orders);
        app.open(bound.listeners, http);
        Ok(app)
    }

    /// The tasks of the control runtime that are not a part of their own.
    fn spawn_upkeep(&self, orders: mpsc::Receiver<Command>) {
        let tasks = &self.shared.tasks;
        tasks.spawn(broadcast(self.shared.clone()));
        tasks.spawn(rotate(self.shared.clone()));
        tasks.spawn(Arc::clone(&self.hooks).watch());
        tasks.spawn(obey(
            orders,
            self.shared.clone(),
            Arc::clone(&self.reloader),
            Arc::clone(&self.admin.events),
            Arc::clone(&self.switchover),
        ));
    }

    fn open(&self, listeners: Vec<(Listener, Arc<Endpoint>)>, http: Option<TcpListener>) {
        if let Some(listener) = http {
            self.shared.tasks.spawn(admin::http::serve(listener, Arc::clone(&self.admin)));
        }
        for (listener, endpoint) in listeners {
            let accept = Arc::clone(&self.workers).accept(
                listener,
                endpoint,
                self.shared.clone(),
                self.closing.clone(),
            );
            self.accepting.spawn(accept);
        }
        self.admin.listening.store(true, Ordering::Relaxed);
    }

    /// Reads the configuration again, as SIGHUP does.
    pub fn reload(&self) {
        let result = self.reloader.reload();
        note_reload(&self.admin.events, &result);
    }

    /// Drains and stops: no new clients, idle sessions end, transactions finish until `limits.drain_timeout`.
    pub async fn stop(self) {
        self.admin.listening.store(false, Ordering::Relaxed);
        self.closing.cancel();
        self.accepting.ended(LAST_GRACE).await;
        let limit = self.shared.settings.load().limits.drain_timeout;
        let directory = &self.shared.directory;
        info!(sessions = directory.len(), limit_s = limit.as_secs_f64(), "draining");
        directory.signal_all(Signal::Drain);
        if tokio::time::timeout(limit, directory.emptied()).await.is_err() {
            warn!(sessions = directory.len(), "drain deadline passed, ending what is left");
            directory.signal_all(Signal::Cut);
            let _ = tokio::time::timeout(LAST_GRACE, directory.emptied()).await;
        }
        self.shared.tasks.stop();
        if !self.shared.tasks.ended(LAST_GRACE).await {
            warn!(tasks = self.shared.tasks.len(), "some tasks did not end in time");
            self.shared.tasks.abandon();
        }
        if let Ok(workers) = Arc::try_unwrap(self.workers) {
            workers.join();
        }
        info!("stopped");
    }
}

async fn bind(settings: &Settings) -> Result<Bound, StartError> {
    let mut errors = Vec::new();
    let mut listeners = Vec::new();
    let mut acceptors = Vec::new();
    for listen in &settings.listen {
        let acceptor = match ClientTlsAcceptor::load(&listen.tls) {
            Ok(acceptor) => acceptor.map(Arc::new),
            Err(error) => {
                errors.push(format!("listener {}: {error}", listen.address));
                None
            }
        };
        acceptors.push(acceptor.clone());
        let endpoint = Arc::new(Endpoint::new(listen, acceptor));
        match listener::bind(&listen.address).await {
            Ok(bound) => {
                info!(address = %listen.address, role = ?listen.role, "listening");
                listeners.extend(bound.into_iter().map(|listener| (listener, Arc::clone(&endpoint))));
            }
            Err(error) => errors.push(format!("cannot listen on {}: {error}", listen.address)),
        }
    }
    let http = match settings.admin.http {
        None => None,
        Some(address) => match TcpListener::bind(address).await {
            Ok(listener) => Some(listener),
            Err(error) => {
                errors.push(format!("cannot listen on admin.http {address}: {error}"));
                None
            }
        },
    };
    let server_tls = ServerTlsContext::load(&settings.cluster.tls)
        .map(Arc::new)
        .map_err(|error| errors.push(format!("cluster.tls: {error}")));
    match (errors.is_empty(), server_tls) {
        (true, Ok(server_tls)) => Ok(Bound { listeners, acceptors, http, server_tls }),
        _ => Err(StartError(errors.join("\n"))),
    }
}

fn start_lookups(
    settings: &Arc<ArcSwap<Settings>>,
    store: &Arc<Store>,
    tls: Arc<ServerTlsContext>,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> Result<Arc<Verifiers>, StartError> {
    let mut mock_key = [0; 32];
    crate::session::random(&mut mock_key).map_err(|error| StartError(format!("no random bytes: {error}")))?;
    let (verifiers, lookups) =
        Verifiers::new(Arc::clone(settings), Arc::clone(store), tls, Arc::clone(metrics), mock_key);
    tasks.spawn(lookups.run(tasks.clone()));
    Ok(verifiers)
}

fn admin_state(
    shared: &Shared,
    events: Arc<EventLog>,
    commands: mpsc::Sender<Command>,
    workers: usize,
) -> AdminState {
    AdminState {
        settings: Arc::clone(&shared.settings),
        store: Arc::clone(&shared.store),
        events,
        registry: Arc::clone(&shared.registry),
        directory: Arc::clone(&shared.directory),
        catalogues: Arc::clone(&shared.catalogues),
        metrics: Arc::clone(&shared.metrics),
        commands,
        tasks: shared.tasks.clone(),
        listening: Arc::new(AtomicBool::new(false)),
        pulses: (0..workers).map(|_| Pulse::new()).collect(),
        started: SystemTime::now(),
    }
}

/// What is done about the primary beside watching it.
fn control(
    shared: &Shared,
    admin: &AdminState,
    health: &HealthHandle,
    tls: &Arc<ServerTlsContext>,
) -> (Arc<Hooks>, Arc<Switchover>) {
    let hooks = Hooks::new(
        Arc::clone(&shared.settings),
        Arc::clone(&shared.store),
        Arc::clone(&admin.events),
        Arc::clone(&shared.metrics),
        shared.tasks.clone(),
    );
    let switchover = Switchover::new(Parts {
        settings: Arc::clone(&shared.settings),
        store: Arc::clone(&shared.store),
        directory: Arc::clone(&shared.directory),
        registry: Arc::clone(&shared.registry),
        health: health.clone(),
        hooks: Arc::clone(&hooks),
        tls: Arc::clone(tls),
        tasks: shared.tasks.clone(),
    });
    (hooks, switchover)
}

/// Tells pools and sessions about every material change of the topology.
async fn broadcast(shared: Shared) {
    let mut versions = shared.store.subscribe();
    loop {
        tokio::select! {
            () = shared.tasks.stopping() => return,
            changed = versions.changed() => if changed.is_err() { return },
        }
        let topology = shared.store.load();
        shared.metrics.set_epoch(topology.epoch.0);
        shared.registry.on_topology(&topology);
        shared.directory.signal_all(Signal::Topology);
    }
}

async fn rotate(shared: Shared) {
    loop {
        tokio::select! {
            () = shared.tasks.stopping() => return,
            () = tokio::time::sleep(WINDOW) => shared.metrics.rotate(),
        }
    }
}

/// Carries out what the console orders.
async fn obey(
    mut orders: mpsc::Receiver<Command>,
    shared: Shared,
    reloader: Arc<Reloader>,
    events: Arc<EventLog>,
    switchover: Arc<Switchover>,
) {
    loop {
        let order = tokio::select! {
            () = shared.tasks.stopping() => return,
            order = orders.recv() => order,
        };
        // Whoever gave the order may have left: then the answer is nobody's.
        match order {
            None => return,
            Some(Command::Accept { order, reply }) => {
                let (store, health, events) =
                    (Arc::clone(&shared.store), reloader.health.clone(), Arc::clone(&events));
                shared.tasks.spawn(async move {
                    drop(reply.send(accept(&order, &store, &health, &events).await));
                });
            }
            Some(Command::Kill { session, reply }) => drop(reply.send(shared.directory.kill(session))),
            Some(Command::Promote { order, reply }) => {
                let switchover = Arc::clone(&switchover);
                // It goes on when nobody waits for it any more.
                shared.tasks.spawn(async move { drop(reply.send(switchover.promote(&order).await)) });
            }
            Some(Command::Reload { reply }) => {
                let result = reloader.reload();
                note_reload(&events, &result);
                drop(reply.send(result));
            }
        }
    }
}

fn note_reload(events: &EventLog, result: &Result<Vec<crate::config::Change>, String>) {
    let text = match result {
        Ok(changes) => format!("configuration reloaded, {} changes", changes.len()),
        Err(_) => "configuration not reloaded: the file has errors".to_owned(),
    };
    events.push(EventKind::Configuration, None, text);
}
