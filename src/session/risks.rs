//! What functions of each database leave in the session of their caller, for sessions that share backends.
//!
//! In: names of databases, as sessions log in to them. Out: their [`Risks`], read from the sources of functions over a
//! connection of the monitoring role, and read again every minute and after DDL that passes by. A database that the role
//! may not connect to is told once in the log: then only what statements show is seen.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_postgres::Client;
use tracing::warn;

use super::verifiers::best_node;
use crate::config::Settings;
use crate::drain::Tasks;
use crate::net::client;
use crate::net::tls::ServerTlsContext;
use crate::sql::hidden::{Risks, Source};
use crate::topology::Store;

/// How old what is known may become.
const AGE: Duration = Duration::from_mins(1);
/// Databases that may be waited for at the same time; the next look finds those that did not fit.
const QUEUE: usize = 64;
/// Longest wait of a session for what its database's functions do.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest time for all queries of one database.
const LOAD: Duration = Duration::from_secs(20);

/// Functions whose source holds a word of something that outlives a transaction. Those of PostgreSQL itself are known;
/// what those in C do cannot be read.
const SOURCES: &str = "SELECT p.oid, p.proname::text, concat(p.prosrc, ' ', pg_catalog.pg_get_function_sqlbody(p.oid)) \
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
    WHERE p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) \
    AND l.lanname NOT IN ('internal', 'c') AND concat(p.prosrc, ' ', pg_catalog.pg_get_function_sqlbody(p.oid)) \
    ~* '(advisory|set_config|setseed|\\mset\\M|\\mtemp|\\mlisten\\M|\\mhold\\M|\\mload\\M|\\mprepare\\M)'";

/// Functions that call one of those named.
const CALLERS: &str = "SELECT p.oid, p.proname::text, concat(p.prosrc, ' ', pg_catalog.pg_get_function_sqlbody(p.oid)) \
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
    WHERE p.pronamespace <> 'pg_catalog'::regnamespace AND l.lanname NOT IN ('internal', 'c') \
    AND EXISTS (SELECT FROM unnest($1::text[]) name WHERE pg_catalog.strpos( \
    lower(concat(p.prosrc, ' ', pg_catalog.pg_get_function_sqlbody(p.oid))), lower(name)) > 0)";

/// Tables with triggers, views and column defaults that call a function of those named, and which.
const RELATIONS: &str = "SELECT c.relname::text, p.proname::text FROM pg_catalog.pg_proc p JOIN ( \
    SELECT tgfoid AS function, tgrelid AS relation FROM pg_catalog.pg_trigger WHERE NOT tgisinternal \
    UNION SELECT d.refobjid, r.ev_class FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid \
    WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.refclassid = 'pg_catalog.pg_proc'::regclass \
    UNION SELECT d.refobjid, a.adrelid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attrdef a ON a.oid = d.objid \
    WHERE d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.refclassid = 'pg_catalog.pg_proc'::regclass \
    ) use ON use.function = p.oid JOIN pg_catalog.pg_class c ON c.oid = use.relation \
    WHERE p.proname = ANY ($1::text[])";

/// Rounds in which callers of callers are looked for.
const ROUNDS: usize = 8;

type Known = HashMap<Box<str>, Arc<Risks>>;

/// What is known of all databases in use; shared by all workers.
pub struct Catalogue {
    known: ArcSwap<Known>,
    version: AtomicU64,
    requests: mpsc::Sender<Request>,
}

struct Request {
    database: Box<str>,
    done: oneshot::Sender<()>,
}

/// The other end: to be run as a task on the control runtime.
pub struct Loader {
    catalogue: Arc<Catalogue>,
    requests: mpsc::Receiver<Request>,
    settings: Arc<ArcSwap<Settings>>,
    store: Arc<Store>,
    tls: Arc<ServerTlsContext>,
    /// Databases in use, and whether their last load failed.
    databases: HashMap<Box<str>, bool>,
}

impl Catalogue {
    /// Nothing is known yet.
    pub fn new(
        settings: Arc<ArcSwap<Settings>>,
        store: Arc<Store>,
        tls: Arc<ServerTlsContext>,
    ) -> (Arc<Self>, Loader) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let catalogue =
            Arc::new(Self { known: ArcSwap::default(), version: AtomicU64::new(0), requests: sender });
        let databases = HashMap::new();
        let loader = Loader { catalogue: Arc::clone(&catalogue), requests, settings, store, tls, databases };
        (catalogue, loader)
    }

    /// Grows whenever something new is known.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// What is known of a database.
    pub fn get(&self, database: &str) -> Option<Arc<Risks>> {
        self.known.load().get(database).map(Arc::clone)
    }

    /// The same, waited for a moment where nothing is known yet.
    pub async fn first(&self, database: &str) -> Option<Arc<Risks>> {
        if self.get(database).is_none() {
            self.refresh(database).await;
        }
        self.get(database)
    }

    /// Functions of a database have changed: waits until they have been read, for a moment at most.
    pub async fn refresh(&self, database: &str) {
        let (done, read) = oneshot::channel();
        let request = Request { database: database.into(), done };
        let asked = async {
            // Without a loader the process ends.
            if self.requests.send(request).await.is_ok() {
                let _ = read.await;
            }
        };
        // What comes later is found by the next lease.
        let _ = tokio::time::timeout(PATIENCE, asked).await;
    }

    fn publish(&self, database: &str, risks: Risks) {
        let mut known = Known::clone(&self.known.load());
        known.insert(database.into(), Arc::new(risks));
        self.known.store(Arc::new(known));
        self.version.fetch_add(1, Ordering::Release);
    }
}

impl Loader {
    /// Loads what is asked for, and again what is old, until shutdown.
    pub async fn run(mut self, tasks: Tasks) {
        let mut ticks = tokio::time::interval(AGE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut waiting: HashMap<Box<str>, Vec<oneshot::Sender<()>>> = HashMap::new();
            tokio::select! {
                () = tasks.stopping() => return,
                asked = self.requests.recv() => match asked {
                    Some(Request { database, done }) => waiting.entry(database).or_default().push(done),
                    None => return,
                },
                _ = ticks.tick() => {
                    waiting.extend(self.databases.keys().map(|database| (database.clone(), Vec::new())));
                }
            }
            // Each database once, however many sessions ask.
            while let Ok(Request { database, done }) = self.requests.try_recv() {
                waiting.entry(database).or_default().push(done);
            }
            for (database, askers) in waiting {
                self.load(database, &tasks).await;
                for asker in askers {
                    // It may have given up meanwhile.
                    let _ = asker.send(());
                }
            }
        }
    }

    async fn load(&mut self, database: Box<str>, tasks: &Tasks) {
        let failed_before = self.databases.get(&database).copied().unwrap_or(false);
        let loaded = tokio::time::timeout(LOAD, self.read(&database, tasks)).await;
        let failure = match loaded {
            Ok(Ok(risks)) => {
                self.catalogue.publish(&database, risks);
                None
            }
            Ok(Err(error)) => Some(error),
            Err(_) => Some(format!("no answer within {} s", LOAD.as_secs())),
        };
        if let Some(error) = failure.as_ref().filter(|_| !failed_before) {
            warn!(
                database = &*database,
                error, "what functions leave in a session is not known: the monitoring role cannot read it"
            );
            if self.catalogue.get(&database).is_none() {
                // Sessions need not wait for it again.
                self.catalogue.publish(&database, Risks::default());
            }
        }
        self.databases.insert(database, failure.is_some());
    }

    async fn read(&self, database: &str, tasks: &Tasks) -> Result<Risks, String> {
        let settings = self.settings.load_full();
        let topology = self.store.load();
        let node = best_node(&topology).and_then(|node| topology.node(node)).ok_or("no node answers")?;
        let login = client::Login {
            user: &settings.cluster.monitor.user,
            password: settings.cluster.monitor.password.as_ref(),
            database,
            application_name: "pgsteer catalogue",
        };
        let deadline = Instant::now() + settings.cluster.connect_timeout;
        let connected = client::connect(&node.spec.address, &self.tls, &login, deadline).await;
        let (client, connection) = connected.map_err(|error| error.to_string())?;
        tasks.spawn(async move {
            // Its end shows in the client half; nothing else is to be known.
            let _ = connection.await;
        });
        sources(&client).await.map(|sources| Risks::new(&sources)).map_err(|error| error.to_string())
    }
}

/// All functions and relations that may be of interest.
async fn sources(client: &Client) -> Result<Vec<Source>, tokio_postgres::Error> {
    let mut all: HashMap<u32, Source> = HashMap::new();
    let mut rows = client.query(SOURCES, &[]).await?;
    for _ in 0..ROUNDS {
        let before = all.len();
        for row in rows {
            all.insert(row.get(0), Source { name: row.get(1), text: row.get(2), calls: Vec::new() });
        }
        if all.len() == before {
            break;
        }
        rows = client.query(CALLERS, &[&risky(all.values())]).await?;
    }
    let mut sources: Vec<Source> = all.into_values().collect();
    let names = risky(&sources);
    if !names.is_empty() {
        for row in client.query(RELATIONS, &[&names]).await? {
            sources.push(Source { name: row.get(0), text: String::new(), calls: vec![row.get(1)] });
        }
    }
    Ok(sources)
}

/// The names of those that leave something; the others only hold a word that might have.
fn risky<'a>(sources: impl IntoIterator<Item = &'a Source>) -> Vec<String> {
    Risks::new(sources).names().map(str::to_owned).collect()
}
