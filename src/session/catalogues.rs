//! What is known of the databases in use: what a standby may be asked for there, and what functions leave in the session
//! of their caller.
//!
//! In: names of databases, as sessions log in to them. Out: their [`Catalogue`] when `route.split` is `auto`, their
//! [`Risks`] in transaction mode. Both are read over one connection of the monitoring role ([`Loader`]), again every
//! minute while the database has sessions, after DDL that passes by and when a verdict has proved wrong. Of a database
//! that the role may not read only the configuration and PostgreSQL's own functions are known; the log says so once.

mod loader;
mod names;
mod risks;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot};

pub use loader::{Loader, Sources, look};
pub use names::facts;

use super::split::Distrusted;
use crate::config::{PoolMode, Route, Settings, Split};
use crate::sql::catalogue::{Catalogue, Facts, Overrides};
use crate::sql::hidden::Risks;

/// Requests that may wait at the same time; each is of a session that waits or has run DDL.
const QUEUE: usize = 64;
/// Longest wait of a session for what its database holds.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same of a person who asks.
const LONG_PATIENCE: Duration = Duration::from_secs(10);

/// What is known of one database; `None` while it has not been wanted.
#[derive(Clone, Default)]
struct Known {
    names: Option<Arc<Catalogue>>,
    risks: Option<Arc<Risks>>,
}

impl Known {
    fn has(&self, wants: Wants) -> bool {
        (self.names.is_some() || !wants.names) && (self.risks.is_some() || !wants.risks)
    }
}

/// What sessions need to know of their database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wants {
    names: bool,
    risks: bool,
}

impl Wants {
    fn of(settings: &Settings) -> Self {
        Self {
            names: settings.route.split == Split::Auto,
            risks: settings.pool.mode == PoolMode::Transaction || settings.route.split == Split::Auto,
        }
    }

    fn and(self, other: Self) -> Self {
        Self { names: self.names || other.names, risks: self.risks || other.risks }
    }
}

/// What is known of all databases in use; shared by all workers.
pub struct Catalogues {
    settings: Arc<ArcSwap<Settings>>,
    known: ArcSwap<HashMap<Box<str>, Known>>,
    /// The answer for every other database.
    unknown: ArcSwap<Catalogue>,
    version: AtomicU64,
    requests: mpsc::Sender<Request>,
    reloaded: Notify,
    /// Statements that look like reads and that a standby has refused.
    pub distrusted: Distrusted,
}

/// What a session tells the loader.
struct Request {
    database: Box<str>,
    /// What is to be known beyond what the settings want.
    wants: Wants,
    /// Who waits for it; `None`: it can wait a little itself.
    done: Option<oneshot::Sender<()>>,
}

impl Catalogues {
    /// Nothing is known yet. The loader is to be run as a task of the control runtime.
    pub fn new(settings: Arc<ArcSwap<Settings>>, sources: Sources) -> (Arc<Self>, Loader) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let unknown = Catalogue::unknown(overrides(&settings.load().route));
        let catalogues = Arc::new(Self {
            settings,
            known: ArcSwap::default(),
            unknown: ArcSwap::from_pointee(unknown),
            version: AtomicU64::new(0),
            requests: sender,
            reloaded: Notify::new(),
            distrusted: Distrusted::default(),
        });
        let loader = Loader::new(Arc::clone(&catalogues), requests, sources);
        (catalogues, loader)
    }

    /// Grows whenever something new is known of any database. One atomic load: to be asked before each use of the rest.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// What a standby may be asked for in a database. While that is not known: the configuration and PostgreSQL's own
    /// functions.
    pub fn get(&self, database: &str) -> Arc<Catalogue> {
        let known = self.known.load();
        known.get(database).and_then(|known| known.names.clone()).unwrap_or_else(|| self.unknown.load_full())
    }

    /// What functions of a database leave in the session of their caller; `None` while nothing is known.
    pub fn risks(&self, database: &str) -> Option<Arc<Risks>> {
        self.known.load().get(database).and_then(|known| known.risks.clone())
    }

    /// At a login: waits for a moment where what sessions need to know of the database is not known yet.
    pub async fn first(&self, database: &str) {
        let wants = Wants::of(&self.settings.load());
        if !self.known.load().get(database).cloned().unwrap_or_default().has(wants) {
            self.refresh(database).await;
        }
    }

    /// Something in a database has changed: waits until all of it has been read again, for a moment at most. What comes
    /// later shows in [`Catalogues::version`]. False when the moment was too short.
    pub async fn refresh(&self, database: &str) -> bool {
        self.ask(database, Wants::default(), PATIENCE).await
    }

    /// The same whatever `route.split` is: for those who only want to look. What is wanted once is read again for as long
    /// as the database has sessions.
    pub async fn look(&self, database: &str) -> Arc<Catalogue> {
        self.ask(database, Wants { names: true, risks: false }, LONG_PATIENCE).await;
        self.get(database)
    }

    /// Something in a database may have changed, or a verdict has proved wrong: it will be read again soon, however often
    /// this is called. Does not wait.
    pub fn outdated(&self, database: &str) {
        let request = Request { database: database.into(), wants: Wants::default(), done: None };
        // With so many requests before it, it is the next look of every minute that finds the change.
        let _ = self.requests.try_send(request);
    }

    /// The configuration has changed: what it says of functions counts from now on.
    pub fn reloaded(&self) {
        self.reloaded.notify_one();
    }

    async fn ask(&self, database: &str, wants: Wants, patience: Duration) -> bool {
        let (done, read) = oneshot::channel();
        let request = Request { database: database.into(), wants, done: Some(done) };
        let asked = async {
            // Without a loader the process ends.
            if self.requests.send(request).await.is_ok() {
                let _ = read.await;
            }
        };
        // Whoever waits no longer goes on with what is known.
        tokio::time::timeout(patience, asked).await.is_ok()
    }

    /// The next catalogue of a database gets this generation.
    fn next_generation(&self) -> u64 {
        self.version() + 1
    }

    /// Only what differs from what was known counts as new: sessions judge their statements again for it.
    fn publish(&self, database: &str, new: Known) {
        let old = self.known.load().get(database).cloned().unwrap_or_default();
        let names = newer(old.names.as_ref(), new.names, Catalogue::answers_as);
        let risks = newer(old.risks.as_ref(), new.risks, Risks::eq);
        if names.is_none() && risks.is_none() {
            return;
        }
        let mut known = HashMap::clone(&self.known.load());
        let both = Known { names: names.or(old.names), risks: risks.or(old.risks) };
        known.insert(database.into(), both);
        self.known.store(Arc::new(known));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Nobody uses the database any more.
    fn forget(&self, database: &str) {
        let mut known = HashMap::clone(&self.known.load());
        if known.remove(database).is_some() {
            self.known.store(Arc::new(known));
        }
    }

    fn set_unknown(&self, route: &Route) {
        let unknown = Catalogue::new(&Facts::default(), overrides(route), self.next_generation());
        if !self.unknown.load().answers_as(&unknown) {
            self.unknown.store(Arc::new(unknown));
            self.version.fetch_add(1, Ordering::Release);
        }
    }
}

fn newer<T>(old: Option<&Arc<T>>, new: Option<Arc<T>>, same: impl Fn(&T, &T) -> bool) -> Option<Arc<T>> {
    new.filter(|new| !old.is_some_and(|old| same(old, new)))
}

/// What the configuration says of functions.
pub fn overrides(route: &Route) -> Overrides {
    let (read, write) = (&route.read_functions, &route.write_functions);
    Overrides::new(read.iter().map(String::as_str), write.iter().map(String::as_str))
}
