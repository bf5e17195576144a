//! What the proxy knows of a user's secret: from the settings, or fetched from the cluster by `auth.query` and kept.
//!
//! In: user names from logins. Out: a secret, or that there is no such user. Every login asks the cluster, so that a
//! changed password counts at once; logins that come while a query is under way share the next one. Look-ups run on the
//! control runtime, over one connection. Limits: `auth.cache_size` entries, `auth.cache_lifetime`. Must not know how the
//! client proves that it knows the secret.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use lru::LruCache;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::warn;

use crate::config::{Settings, StaticSecret};
use crate::metrics::{Counter, Metrics};
use crate::net::client;
use crate::net::tls::ServerTlsContext;
use crate::scram::md5;
use crate::scram::verifier::Verifier;
use crate::topology::{Health, NodeId, NodeView, Role, Store, Topology};

/// Look-ups that may wait at the same time; more logins are told to come back.
const QUEUE: usize = 1024;
/// PBKDF2 rounds of verifiers we make, as PostgreSQL's default `scram_iterations`.
const ITERATIONS: u32 = 4096;
/// Longest wait of a login for a look-up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// The same when a secret is kept from before: long enough for a busy server, short enough for a login in a failover.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(1);
/// Users asked for in one go.
const BATCH: usize = 64;
/// Tries of one batch.
const ATTEMPTS: u32 = 2;

/// A user's secret.
#[derive(Clone)]
pub enum UserSecret {
    /// `SCRAM-SHA-256$…`.
    Scram(Arc<Verifier>),
    /// `md5…`, equal to a password for md5 logins.
    Md5(Arc<str>),
    /// The password itself, from the settings.
    Password(crate::config::Secret),
}

/// Why a secret could not be looked up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No node can be asked and nothing is cached.
    #[error("no server can be asked for the user's secret")]
    NoNode,
    /// The query failed.
    #[error("{0}")]
    Failed(String),
    /// Too many logins wait, or the answer took too long.
    #[error("looking up the user took too long")]
    Overloaded,
}

impl LookupError {
    /// What a client may know: nothing of queries and nodes.
    pub fn told(&self) -> &'static str {
        match self {
            Self::NoNode => "No server answers.",
            Self::Failed(_) => "The look-up failed; the proxy's log says why.",
            Self::Overloaded => "The look-up took too long.",
        }
    }
}

type Answer = Result<Option<UserSecret>, LookupError>;

struct Request {
    user: String,
    reply: oneshot::Sender<Answer>,
}

struct Cached {
    secret: UserSecret,
    fetched: Instant,
}

/// The secrets of users, shared by all workers.
pub struct Verifiers {
    settings: Arc<ArcSwap<Settings>>,
    cache: Mutex<LruCache<String, Cached>>,
    requests: mpsc::Sender<Request>,
    metrics: Arc<Metrics>,
    /// Makes the mock verifiers of unknown users unguessable and stable.
    mock_key: [u8; 32],
    /// Verifiers of passwords in the settings, made once: the hashing takes milliseconds.
    derived: Mutex<HashMap<String, (crate::config::Secret, Arc<Verifier>)>>,
}

/// The other end: to be run as a task on the control runtime.
pub struct Lookups {
    settings: Arc<ArcSwap<Settings>>,
    store: Arc<Store>,
    tls: Arc<ServerTlsContext>,
    requests: mpsc::Receiver<Request>,
    metrics: Arc<Metrics>,
    connection: Option<Connection>,
}

/// Where look-ups are asked, with `auth.query` prepared.
struct Connection {
    node: NodeId,
    client: tokio_postgres::Client,
    statement: tokio_postgres::Statement,
    /// With what it was made: after a reload there is another.
    settings: Arc<Settings>,
}

impl Verifiers {
    /// An empty cache and the task that fills it. `mock_key` are random bytes of this process.
    pub fn new(
        settings: Arc<ArcSwap<Settings>>,
        store: Arc<Store>,
        tls: Arc<ServerTlsContext>,
        metrics: Arc<Metrics>,
        mock_key: [u8; 32],
    ) -> (Arc<Self>, Lookups) {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let size = NonZeroUsize::new(settings.load().auth.cache_size).unwrap_or(NonZeroUsize::MIN);
        let lookups = Lookups {
            settings: Arc::clone(&settings),
            store,
            tls,
            requests: receiver,
            metrics: Arc::clone(&metrics),
            connection: None,
        };
        let cache = Mutex::new(LruCache::new(size));
        let derived = Mutex::default();
        (Arc::new(Self { settings, cache, requests, metrics, mock_key, derived }), lookups)
    }

    /// A verifier that nothing matches, always the same for one name, so that nobody learns which users exist.
    pub fn mock(&self, user: &str) -> Verifier {
        Verifier::mock(user, &self.mock_key)
    }

    /// The verifier of a user whose password stands in the settings.
    pub async fn derived(
        &self,
        user: &str,
        password: &crate::config::Secret,
    ) -> std::io::Result<Arc<Verifier>> {
        let known = self.derived.lock().unwrap_or_else(PoisonError::into_inner).get(user).cloned();
        if let Some((_, verifier)) = known.filter(|(known, _)| known == password) {
            return Ok(verifier);
        }
        let mut salt = [0; 16];
        super::auth::random(&mut salt)?;
        let secret = password.clone();
        let made = tokio::task::spawn_blocking(move || {
            Verifier::from_password(secret.expose().as_bytes(), &salt, ITERATIONS)
        });
        let verifier = Arc::new(made.await.map_err(std::io::Error::other)?);
        let entry = (password.clone(), Arc::clone(&verifier));
        self.derived.lock().unwrap_or_else(PoisonError::into_inner).insert(user.to_owned(), entry);
        Ok(verifier)
    }

    /// The secret of `user` as the cluster holds it now; `None` when there is no such user or it has no password. A secret
    /// kept from before counts only while no server answers, and for `auth.cache_lifetime` at most.
    pub async fn lookup(&self, user: &str) -> Answer {
        let settings = self.settings.load_full();
        if let Some(known) = settings.auth.user(user) {
            return Ok(Some(match &known.secret {
                StaticSecret::Md5(hash) => UserSecret::Md5(hash.as_str().into()),
                StaticSecret::Password(password) => UserSecret::Password(password.clone()),
                StaticSecret::Verifier(verifier) => UserSecret::Scram(Arc::new(verifier.clone())),
            }));
        }
        if settings.auth.source != crate::config::AuthSource::Query {
            return Ok(None);
        }
        let kept = self.kept(user, settings.auth.cache_lifetime);
        let wait = if kept.is_some() { REFRESH_TIMEOUT } else { LOOKUP_TIMEOUT };
        match (self.ask(user, wait).await, kept) {
            (Ok(secret), _) => {
                self.keep(user, secret.as_ref());
                Ok(secret)
            }
            // No server can be asked: what was known last still counts, so that logins outlive a failover.
            (Err(_), Some(secret)) => {
                self.metrics.count(Counter::AuthCached);
                Ok(Some(secret))
            }
            (Err(error), None) => {
                self.metrics.count(Counter::AuthFailed);
                warn!(user, %error, "cannot look up a user's secret");
                Err(error)
            }
        }
    }

    /// Forgets everything, after a reload.
    pub fn forget_all(&self) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn kept(&self, user: &str, lifetime: Duration) -> Option<UserSecret> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache
            .get(user)
            .filter(|cached| cached.fetched.elapsed() < lifetime)
            .map(|cached| cached.secret.clone())
    }

    /// Names that do not exist are not kept: whoever tries many would push out those that do.
    fn keep(&self, user: &str, secret: Option<&UserSecret>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        match secret {
            Some(secret) => {
                let cached = Cached { secret: secret.clone(), fetched: Instant::now() };
                cache.put(user.to_owned(), cached);
            }
            None => drop(cache.pop(user)),
        }
    }

    /// The answer of a query that begins after this call.
    async fn ask(&self, user: &str, wait: Duration) -> Answer {
        let (reply, answer) = oneshot::channel();
        let request = Request { user: user.to_owned(), reply };
        let asked = async {
            self.requests.send(request).await.map_err(|_| LookupError::Overloaded)?;
            answer.await.map_err(|_| LookupError::Overloaded)?
        };
        tokio::time::timeout(wait, asked).await.unwrap_or(Err(LookupError::Overloaded))
    }
}

impl Lookups {
    /// Answers look-ups until all askers are gone.
    pub async fn run(mut self, tasks: crate::drain::Tasks) {
        let mut batch = Vec::new();
        loop {
            let count = tokio::select! {
                () = tasks.stopping() => return,
                count = self.requests.recv_many(&mut batch, BATCH) => count,
            };
            if count == 0 {
                return;
            }
            let mut waiting: HashMap<String, Vec<oneshot::Sender<Answer>>> = HashMap::new();
            for Request { user, reply } in batch.drain(..).filter(|request| !request.reply.is_closed()) {
                waiting.entry(user).or_default().push(reply);
            }
            self.serve(waiting, &tasks).await;
        }
    }

    /// Asks once for each user, however many logins wait for it.
    async fn serve(
        &mut self,
        waiting: HashMap<String, Vec<oneshot::Sender<Answer>>>,
        tasks: &crate::drain::Tasks,
    ) {
        let (users, askers): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        let answers = match tokio::time::timeout(LOOKUP_TIMEOUT, self.answers(&users, tasks)).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => vec![Err(error); users.len()],
            Err(_) => {
                self.connection = None;
                vec![Err(LookupError::Overloaded); users.len()]
            }
        };
        for (answer, askers) in answers.into_iter().zip(askers) {
            for asker in askers {
                // The login may have given up meanwhile.
                let _ = asker.send(answer.clone());
            }
        }
    }

    /// One answer for each user, or the reason why nobody can be asked. A connection may have broken unnoticed, so a
    /// failure is tried once more; a node that is not the best one any more is not waited for.
    async fn answers(
        &mut self,
        users: &[String],
        tasks: &crate::drain::Tasks,
    ) -> Result<Vec<Answer>, LookupError> {
        let store = Arc::clone(&self.store);
        let mut changes = store.subscribe();
        let mut failures = 0;
        loop {
            let node = best_node(&store.load()).ok_or(LookupError::NoNode)?;
            let moved =
                async { while best_node(&store.load()) == Some(node) && changes.changed().await.is_ok() {} };
            let answers = tokio::select! {
                biased;
                answers = self.ask(node, users, tasks) => answers,
                () = moved => {
                    self.connection = None;
                    continue;
                }
            };
            let failed = answers.as_ref().map_or(true, |answers| answers.iter().any(Result::is_err));
            if !failed {
                return answers;
            }
            self.connection = None;
            failures += 1;
            if failures == ATTEMPTS {
                return answers;
            }
        }
    }

    async fn ask(
        &mut self,
        node: NodeId,
        users: &[String],
        tasks: &crate::drain::Tasks,
    ) -> Result<Vec<Answer>, LookupError> {
        let settings = self.settings.load_full();
        let usable = |one: &Connection| {
            one.node == node && !one.client.is_closed() && Arc::ptr_eq(&one.settings, &settings)
        };
        if !self.connection.as_ref().is_some_and(usable) {
            self.connection = Some(self.connect(node, settings, tasks).await?);
        }
        let Some(Connection { client, statement, settings, .. }) = self.connection.as_ref() else {
            return Err(LookupError::NoNode);
        };
        let query = settings.auth.query.as_str();
        let one = async |user: &String| {
            let rows = client.query(statement, &[user]).await.map_err(|error| failed(query, &error, None))?;
            self.metrics.count(Counter::AuthFetched);
            read_secret(user, rows.first())
        };
        // All in one packet: the driver sends what is asked before the first answer is there.
        Ok(futures_util::future::join_all(users.iter().map(one)).await)
    }

    async fn connect(
        &self,
        node: NodeId,
        settings: Arc<Settings>,
        tasks: &crate::drain::Tasks,
    ) -> Result<Connection, LookupError> {
        let topology = self.store.load();
        let spec = topology.node(node).map(|view| Arc::clone(&view.spec)).ok_or(LookupError::NoNode)?;
        let login = client::Login {
            user: &settings.auth.query_user,
            password: settings.auth.query_password.as_ref(),
            database: &settings.auth.query_database,
            application_name: "pgsteer auth",
        };
        let deadline = Instant::now() + settings.cluster.connect_timeout;
        let (client, connection) = client::connect(&spec.address, &self.tls, &login, deadline)
            .await
            .map_err(|error| LookupError::Failed(format!("{}: {error}", spec.name)))?;
        tasks.spawn(async move {
            // Its end shows in the client half; nothing else is to be known.
            let _ = connection.await;
        });
        let query = settings.auth.query.as_str();
        let statement = match client.prepare(query).await {
            Ok(statement) => statement,
            Err(error) if is_missing(&error) => client
                .prepare(CATALOGUE_QUERY)
                .await
                .map_err(|second| failed(query, &error, Some(&second)))?,
            Err(error) => return Err(failed(query, &error, None)),
        };
        Ok(Connection { node, client, statement, settings })
    }
}

/// The primary, else a standby that serves reads, else any that answers (roles change seldom), else one of several that say
/// they are the primary: somebody has to log in to the console to decide between them.
pub(super) fn best_node(topology: &Topology) -> Option<NodeId> {
    let reads = || topology.read_nodes().next().map(|node| node.id);
    let up = |role: Role| {
        let found = |node: &&NodeView| node.role == role && node.health == Health::Up;
        topology.nodes.iter().find(found).map(|node| node.id)
    };
    let rest = || up(Role::Standby).or_else(|| up(Role::Unknown));
    topology.writable_primary().or_else(reads).or_else(rest)
}

fn failed(query: &str, error: &tokio_postgres::Error, second: Option<&tokio_postgres::Error>) -> LookupError {
    let words = |error: &tokio_postgres::Error| match error.as_db_error() {
        Some(error) => format!("{} (SQLSTATE {})", error.message(), error.code().code()),
        None => error.to_string(),
    };
    let mut text = format!("auth.query `{query}` failed: {}", words(error));
    if let Some(second) = second {
        // Writing to a String cannot fail.
        let _ = write!(text, "; pg_authid: {}", words(second));
    }
    LookupError::Failed(text)
}

fn read_secret(user: &str, row: Option<&tokio_postgres::Row>) -> Answer {
    let Some(row) = row else { return Ok(None) };
    // One column is the secret; of more, the first is the name.
    let column = usize::from(row.len() > 1);
    let text: Option<&str> = row.try_get(column).map_err(|error| LookupError::Failed(error.to_string()))?;
    Ok(text.and_then(|text| parse_secret(user, text)))
}

/// For a superuser, when the function has not been made.
const CATALOGUE_QUERY: &str = "SELECT rolname::text, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END \
     FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin";

/// True when the function or its schema does not exist (42883, 3F000).
fn is_missing(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| matches!(code.code(), "42883" | "3F000"))
}

fn parse_secret(user: &str, text: &str) -> Option<UserSecret> {
    if md5::is_stored(text) {
        return Some(UserSecret::Md5(text.into()));
    }
    match Verifier::parse(text) {
        Ok(verifier) => Some(UserSecret::Scram(Arc::new(verifier))),
        Err(error) => {
            warn!(user, %error, "the cluster holds a secret of an unknown form for this user");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_apart_by_their_form() {
        let verifier = Verifier::from_password(b"secret", b"0123456789abcdef", 4096).to_text();
        assert!(matches!(parse_secret("a", &verifier), Some(UserSecret::Scram(_))));
        let hash = md5::stored("a", b"secret");
        assert!(matches!(parse_secret("a", &hash), Some(UserSecret::Md5(_))));
        assert!(parse_secret("a", "plain").is_none());
    }
}
