//! Reads the catalogues of databases: one connection of the monitoring role and one transaction for each look.
//!
//! In: requests of sessions, and time. Out: what is known of each database, published. Looks that sessions wait for go
//! before those of every minute; hints are collected for a moment. Must not know what the knowledge is used for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_postgres::Client;
use tracing::{debug, info, warn};

use super::super::directory::Directory;
use super::super::verifiers::best_node;
use super::{Catalogues, Known, Request, Wants, names, overrides, risks};
use crate::config::{NodeAddress, Settings, setup_sql};
use crate::drain::Tasks;
use crate::net::client::{self, ConnectError};
use crate::net::tls::ServerTlsContext;
use crate::sql::catalogue::{Catalogue, Facts, queries};
use crate::sql::hidden::{Risks, Source};
use crate::topology::Store;

/// How old what is known may become.
const AGE: Duration = Duration::from_mins(1);
/// How long a server's word that nothing has changed is believed: it may lose or delay what it counts.
const BELIEVED: Duration = Duration::from_mins(10);
/// Shortest time between two looks at one database that nobody waits for.
const GAP: Duration = Duration::from_secs(2);
/// When to look again after a failure that may pass.
const RETRY: Duration = Duration::from_secs(5);
/// Longest time for all queries of one database.
const LOAD: Duration = Duration::from_secs(20);

/// One state of the database, whatever happens meanwhile, and none of the role's own settings that could change an answer.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
    SET LOCAL search_path = pg_catalog; SET LOCAL standard_conforming_strings = on; \
    SET LOCAL jit = off; SET LOCAL statement_timeout = '20s'; SET LOCAL lock_timeout = '5s'";

/// Where the loader finds servers, and who uses what it loads.
pub struct Sources {
    /// The topology in force.
    pub store: Arc<Store>,
    /// TLS toward the servers.
    pub tls: Arc<ServerTlsContext>,
    /// The sessions: databases without any are forgotten.
    pub directory: Arc<Directory>,
}

/// The task that fills [`Catalogues`].
pub struct Loader {
    catalogues: Arc<Catalogues>,
    requests: mpsc::Receiver<Request>,
    sources: Sources,
    databases: HashMap<Box<str>, Place>,
    /// Databases that could not be read when last tried; told once.
    warned: HashSet<Box<str>>,
}

/// A database in use.
struct Place {
    /// Wanted by somebody beyond what the settings say, or once said.
    wants: Wants,
    /// When to look at it next.
    due: Instant,
    /// When the last look began.
    began: Option<Instant>,
    /// When all was read last, and what the server had counted before.
    read: Option<(Instant, Option<String>)>,
    waiting: Vec<oneshot::Sender<()>>,
}

/// What one look found; nothing when nothing has changed.
struct Found {
    /// What the server had counted before.
    changes: Option<String>,
    is_unchanged: bool,
    facts: Option<Facts>,
    risks: Option<Vec<Source>>,
}

/// Why a database could not be read.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// The server says no; `todo` says what to do.
    Refused { error: String, todo: String },
    /// There is no such database.
    Missing,
    /// It may be different the next time.
    Passing(String),
}

impl Loader {
    pub(super) fn new(
        catalogues: Arc<Catalogues>,
        requests: mpsc::Receiver<Request>,
        sources: Sources,
    ) -> Self {
        Self { catalogues, requests, sources, databases: HashMap::new(), warned: HashSet::new() }
    }

    /// Loads what is asked for, and again what is old, until shutdown.
    pub async fn run(mut self, tasks: Tasks) {
        loop {
            let due = self.databases.values().map(|place| place.due).min();
            tokio::select! {
                biased;
                () = tasks.stopping() => return,
                asked = self.requests.recv() => match asked {
                    Some(request) => self.note(request),
                    None => return,
                },
                () = self.catalogues.reloaded.notified() => self.reload(),
                () = tokio::time::sleep_until(due.unwrap_or_else(|| Instant::now() + AGE)) => {
                    self.look(&tasks).await;
                }
            }
        }
    }

    fn note(&mut self, request: Request) {
        let Request { database, wants, done } = request;
        let now = Instant::now();
        let place = self.databases.entry(database).or_insert_with(|| Place {
            wants: Wants::default(),
            due: now,
            began: None,
            read: None,
            waiting: Vec::new(),
        });
        place.wants = place.wants.and(wants);
        // Whoever asks knows of a change that may not have been counted yet.
        place.read = None;
        if let Some(done) = done {
            place.waiting.push(done);
            place.due = now;
        } else {
            place.due = place.due.min(place.began.map_or(now, |began| now.max(began + GAP)));
        }
    }

    fn reload(&mut self) {
        self.catalogues.set_unknown(&self.catalogues.settings.load().route);
        let now = Instant::now();
        self.databases.values_mut().for_each(|place| (place.due, place.read) = (now, None));
    }

    /// Loads the database that has waited longest, those first that sessions wait for.
    async fn look(&mut self, tasks: &Tasks) {
        let all = self.databases.iter();
        let first = all.min_by_key(|(_, place)| (place.waiting.is_empty(), place.due));
        let Some(database) = first.map(|(name, _)| name.clone()) else { return };
        let Some(mut place) = self.databases.remove(&database) else { return };
        if place.waiting.is_empty() && !self.sources.directory.uses(&database) {
            self.catalogues.forget(&database);
            return;
        }
        let settings = self.catalogues.settings.load_full();
        let now = Instant::now();
        // Sessions keep what they began with when the settings change.
        place.wants = place.wants.and(Wants::of(&settings));
        (place.began, place.due) = (Some(now), now + AGE);
        let askers = std::mem::take(&mut place.waiting);
        let known = place.read.as_ref().filter(|(when, _)| now.saturating_duration_since(*when) < BELIEVED);
        let known = known.and_then(|(_, changes)| changes.as_deref());
        let read = tokio::time::timeout(LOAD, self.read(&database, place.wants, known, &settings, tasks));
        let timed_out = || Failure::Passing(format!("no answer within {} s", LOAD.as_secs()));
        let read = read.await.unwrap_or_else(|_| Err(timed_out()));
        let keep = match read {
            Ok(found) if found.is_unchanged => true,
            Ok(found) => {
                place.read = Some((now, found.changes.clone()));
                self.learn(&database, found, &settings).await;
                true
            }
            Err(failure) => {
                place.read = None;
                if let Failure::Passing(_) = failure {
                    place.due = now + RETRY;
                }
                self.fail(&database, place.wants, &failure, &settings)
            }
        };
        if keep {
            self.databases.insert(database, place);
        }
        for asker in askers {
            // It may have given up meanwhile.
            let _ = asker.send(());
        }
    }

    async fn read(
        &self,
        database: &str,
        wants: Wants,
        known: Option<&str>,
        settings: &Settings,
        tasks: &Tasks,
    ) -> Result<Found, Failure> {
        let topology = self.sources.store.load();
        let node = best_node(&topology).and_then(|node| topology.node(node));
        let node = node.ok_or_else(|| Failure::Passing("no node answers".to_owned()))?;
        let client = connect(&node.spec.address, &self.sources.tls, database, settings, tasks).await?;
        query(&client, wants, known).await.map_err(|error| not_read(&error, &settings.cluster.monitor.user))
    }

    async fn learn(&mut self, database: &str, found: Found, settings: &Settings) {
        let generation = self.catalogues.next_generation();
        let overrides = overrides(&settings.route);
        // Large catalogues take milliseconds that the probers of this thread cannot spare.
        let known = tokio::task::spawn_blocking(move || Known {
            names: found.facts.map(|facts| Arc::new(Catalogue::new(&facts, overrides, generation))),
            risks: found.risks.map(|sources| Arc::new(Risks::new(&sources))),
        });
        if let Ok(known) = known.await {
            self.catalogues.publish(database, known);
        }
        if self.warned.remove(database) {
            info!(database, "the catalogue of this database can be read again");
        }
    }

    /// Tells it once; true when it is worth another try.
    fn fail(&mut self, database: &str, wants: Wants, failure: &Failure, settings: &Settings) -> bool {
        let (error, todo) = match failure {
            Failure::Missing => {
                debug!(database, "there is no such database to read the catalogue of");
                self.catalogues.forget(database);
                return false;
            }
            Failure::Refused { error, todo } => (error, todo.trim_end()),
            Failure::Passing(error) => (error, "it is tried again"),
        };
        let known = self.catalogues.known.load().get(database).cloned().unwrap_or_default();
        let is_refused = matches!(failure, Failure::Refused { .. });
        if known.has(wants) && !is_refused {
            debug!(database, error, "the catalogue of this database could not be read again");
        } else if self.warned.insert(database.into()) {
            let meaning = if wants.names {
                "the catalogue of this database is not known, so that its functions and tables count as writes"
            } else {
                "what the functions of this database leave in a session is not known"
            };
            warn!(database, error, todo, "{meaning}");
        }
        let nothing = || {
            let generation = self.catalogues.next_generation();
            Arc::new(Catalogue::new(&Facts::default(), overrides(&settings.route), generation))
        };
        // Sessions need not wait for it again; what was known stays good only while nobody says otherwise.
        let names = (wants.names && (is_refused || known.names.is_none())).then(nothing);
        let risks = (wants.risks && known.risks.is_none()).then(Arc::default);
        self.catalogues.publish(database, Known { names, risks });
        true
    }
}

/// Asks one node about one database, for those who do not keep what they learn; an error says what to do.
pub async fn look(
    address: &NodeAddress,
    tls: &ServerTlsContext,
    database: &str,
    settings: &Settings,
    tasks: &Tasks,
) -> Result<Catalogue, String> {
    let asked = async {
        let client = connect(address, tls, database, settings, tasks).await?;
        let found = query(&client, Wants { names: true, risks: false }, None).await;
        found.map_err(|error| not_read(&error, &settings.cluster.monitor.user))
    };
    match tokio::time::timeout(LOAD, asked).await {
        Ok(Ok(found)) => Ok(Catalogue::new(&found.facts.unwrap_or_default(), overrides(&settings.route), 1)),
        Ok(Err(Failure::Missing)) => Err(format!("there is no database \"{database}\"")),
        Ok(Err(Failure::Refused { error, todo })) => Err(format!("{error}; {}", todo.trim_end())),
        Ok(Err(Failure::Passing(error))) => Err(error),
        Err(_) => Err(format!("no answer within {} s", LOAD.as_secs())),
    }
}

async fn connect(
    address: &NodeAddress,
    tls: &ServerTlsContext,
    database: &str,
    settings: &Settings,
    tasks: &Tasks,
) -> Result<Client, Failure> {
    let monitor = &settings.cluster.monitor;
    let login = client::Login {
        user: &monitor.user,
        password: monitor.password.as_ref(),
        database,
        application_name: "pgsteer catalogue",
    };
    let deadline = Instant::now() + settings.cluster.connect_timeout;
    let (client, connection) = client::connect(address, tls, &login, deadline)
        .await
        .map_err(|error| not_connected(&error, &monitor.user, database))?;
    tasks.spawn(async move {
        // Its end shows in the client half; nothing else is to be known.
        let _ = connection.await;
    });
    Ok(client)
}

/// Reads what is wanted, unless the server has counted nothing since it said what is `known`.
async fn query(client: &Client, wants: Wants, known: Option<&str>) -> Result<Found, tokio_postgres::Error> {
    client.batch_execute(BEGIN).await?;
    // Before the first look at the catalogue: a change in between is then seen twice, and not missed.
    let changes: Option<String> = client.query_one(queries::CHANGES, &[]).await?.try_get(0)?;
    if changes.is_some() && changes.as_deref() == known {
        return Ok(Found { changes, is_unchanged: true, facts: None, risks: None });
    }
    let facts = if wants.names { Some(names::facts(client).await?) } else { None };
    let risks = if wants.risks { Some(risks::sources(client).await?) } else { None };
    Ok(Found { changes, is_unchanged: false, facts, risks })
}

fn not_connected(error: &ConnectError, user: &str, database: &str) -> Failure {
    let ConnectError::Login(login) = error else { return Failure::Passing(error.to_string()) };
    let todo = match login.code().map(tokio_postgres::error::SqlState::code) {
        Some("3D000") => return Failure::Missing,
        Some("42501") => setup_sql::connect_grant(user, database),
        Some("28000" | "28P01") => format!(
            "let it in by a line in pg_hba.conf of every node and reload: host {database} {} ADDRESS-OF-PGSTEER/32 \
             scram-sha-256",
            setup_sql::identifier(user)
        ),
        _ => return Failure::Passing(words(login)),
    };
    Failure::Refused { error: words(login), todo }
}

fn not_read(error: &tokio_postgres::Error, user: &str) -> Failure {
    match error.code().map(tokio_postgres::error::SqlState::code) {
        Some("42501") => Failure::Refused { error: words(error), todo: setup_sql::catalogue_grant(user) },
        _ => Failure::Passing(words(error)),
    }
}

fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} (SQLSTATE {})", error.message(), error.code().code()),
        None => error.to_string(),
    }
}
