//! What the proxy knows of a user's secret: from the settings, or fetched from the cluster by `auth.query` and kept.
//!
//! In: user names from logins. Out: a secret, or that there is no such user. Look-ups run one after the other on the
//! control runtime, over one connection; logins wait for their answer. Limits: `auth.cache_size` entries,
//! `auth.cache_lifetime`. Must not know how the client proves that it knows the secret.

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
use crate::topology::{Health, NodeId, Role, Store};

/// Look-ups that may wait at the same time; more logins are told to come back.
const QUEUE: usize = 1024;
/// PBKDF2 rounds of verifiers we make, as PostgreSQL's default `scram_iterations`.
const ITERATIONS: u32 = 4096;
/// Longest wait of a login for a look-up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

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
    secret: Option<UserSecret>,
    until: Instant,
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
    connection: Option<(NodeId, tokio_postgres::Client)>,
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

    /// The secret of `user`; `None` when there is no such user or it has no password.
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
        if let Some(secret) = self.cached(user, Some(Instant::now())) {
            self.metrics.count(Counter::AuthCached);
            return Ok(secret);
        }
        let answer = self.ask(user).await;
        match &answer {
            Ok(secret) => self.keep(user, secret.clone(), settings.auth.cache_lifetime),
            // No server can be asked: what was known last still counts, so that logins outlive a failover.
            Err(error) => {
                self.metrics.count(Counter::AuthFailed);
                if let Some(secret) = self.cached(user, None) {
                    return Ok(secret);
                }
                warn!(user, %error, "cannot look up a user's secret");
            }
        }
        answer
    }

    /// Forgets a secret that turned out to be old.
    pub fn forget(&self, user: &str) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).pop(user);
    }

    /// Forgets everything, after a reload.
    pub fn forget_all(&self) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    #[expect(clippy::option_option, reason = "not known, or known not to exist")]
    fn cached(&self, user: &str, fresh_at: Option<Instant>) -> Option<Option<UserSecret>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = cache.get(user)?;
        fresh_at.is_none_or(|now| now < cached.until).then(|| cached.secret.clone())
    }

    fn keep(&self, user: &str, secret: Option<UserSecret>, lifetime: Duration) {
        // A user that does not exist may be created any moment.
        let lifetime = if secret.is_some() { lifetime } else { lifetime.min(Duration::from_secs(1)) };
        let cached = Cached { secret, until: Instant::now() + lifetime };
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).put(user.to_owned(), cached);
    }

    async fn ask(&self, user: &str) -> Answer {
        let (reply, answer) = oneshot::channel();
        let request = Request { user: user.to_owned(), reply };
        let asked = async {
            self.requests.send(request).await.map_err(|_| LookupError::Overloaded)?;
            answer.await.map_err(|_| LookupError::Overloaded)?
        };
        tokio::time::timeout(LOOKUP_TIMEOUT, asked).await.unwrap_or(Err(LookupError::Overloaded))
    }
}

impl Lookups {
    /// Answers look-ups until all askers are gone. `spawn` runs a connection's driver.
    pub async fn run(mut self, tasks: crate::drain::Tasks) {
        loop {
            let request = tokio::select! {
                () = tasks.stopping() => return,
                request = self.requests.recv() => request,
            };
            let Some(request) = request else { return };
            if request.reply.is_closed() {
                continue;
            }
            let answer = tokio::time::timeout(LOOKUP_TIMEOUT, self.answer(&request.user, &tasks)).await;
            let answer = answer.unwrap_or_else(|_| {
                self.connection = None;
                Err(LookupError::Overloaded)
            });
            // The login may have given up meanwhile.
            let _ = request.reply.send(answer);
        }
    }

    async fn answer(&mut self, user: &str, tasks: &crate::drain::Tasks) -> Answer {
        self.connect(tasks).await?;
        let Some((_, connection)) = self.connection.as_ref() else { return Err(LookupError::NoNode) };
        let settings = self.settings.load_full();
        let rows = match connection.query(settings.auth.query.as_str(), &[&user]).await {
            Ok(rows) => rows,
            Err(error) if is_missing(&error) => connection
                .query(CATALOGUE_QUERY, &[&user])
                .await
                .map_err(|second| self.failed(&error, Some(&second)))?,
            Err(error) => {
                let failed = self.failed(&error, None);
                self.connection = None;
                return Err(failed);
            }
        };
        self.metrics.count(Counter::AuthFetched);
        let Some(row) = rows.first() else { return Ok(None) };
        // One column is the secret; of more, the first is the name.
        let column = usize::from(row.len() > 1);
        let text: Option<&str> =
            row.try_get(column).map_err(|error| LookupError::Failed(error.to_string()))?;
        Ok(text.and_then(|text| parse_secret(user, text)))
    }

    fn failed(&self, error: &tokio_postgres::Error, second: Option<&tokio_postgres::Error>) -> LookupError {
        let words = |error: &tokio_postgres::Error| match error.as_db_error() {
            Some(error) => format!("{} (SQLSTATE {})", error.message(), error.code().code()),
            None => error.to_string(),
        };
        let query = &self.settings.load().auth.query;
        let mut text = format!("auth.query `{query}` failed: {}", words(error));
        if let Some(second) = second {
            // Writing to a String cannot fail.
            let _ = write!(text, "; pg_authid: {}", words(second));
        }
        LookupError::Failed(text)
    }

    /// Makes sure there is a connection to the best node: the primary, else a standby that serves reads, else any that
    /// answers (roles change seldom).
    async fn connect(&mut self, tasks: &crate::drain::Tasks) -> Result<(), LookupError> {
        let topology = self.store.load();
        let standby = || topology.read_nodes().next().map(|node| node.id);
        let any = || {
            topology
                .nodes
                .iter()
                .find(|node| node.role == Role::Standby && node.health == Health::Up)
                .map(|n| n.id)
        };
        let node = topology.writable_primary().or_else(standby).or_else(any).ok_or(LookupError::NoNode)?;
        if self.connection.as_ref().is_some_and(|(at, client)| *at == node && !client.is_closed()) {
            return Ok(());
        }
        self.connection = None;
        let settings = self.settings.load_full();
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
        self.connection = Some((node, client));
        Ok(())
    }
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
