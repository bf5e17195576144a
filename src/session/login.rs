//! From an accepted socket to a session: first packets, authentication, the first backend, and what a server says at the
//! end of a login.
//!
//! In: a socket and the endpoint it came in by. Out: a [`Session`] that is ready to run, a console connection, or
//! nothing. While no primary is there a known kind of login is answered from memory; its first statement waits.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tracing::{debug, info};

use super::attach::NoBackend;
use super::auth::{self, AuthError};
use super::cancel;
use super::context::Context;
use super::directory::{Facts, LoginGuard, Place};
use super::run::{End, Login, Session};
use super::startup::{self, Endpoint, Phase};
use crate::config::{ListenRole, Settings, Split};
use crate::metrics::{Counter, Gauge, Latency};
use crate::net::Stream;
use crate::pool::{Credentials, StartupSet};
use crate::route::Wants;
use crate::wire::encode;
use crate::wire::error::{PgError, Severity, SqlState};
use crate::wire::startup::{PROTOCOL_3_2, Refusal, Startup, option_settings};

/// Bytes of the secret told to a client: 4 fit every protocol, 32 need 3.2.
const KEY_BYTES: [usize; 2] = [4, 32];
/// Room for what a client is told at the end of its login, bytes.
const GREETING_BYTES: usize = 512;

/// What an accepted socket became.
pub enum Outcome {
    /// A session and the place it holds among `max_clients`.
    Session(Box<Session>, Place),
    /// A login at the console's database: nothing has been sent after the proof.
    Console(Box<ConsoleLogin>, Place),
    /// It is over.
    Done,
}

/// A console connection behind its authentication.
pub struct ConsoleLogin {
    /// The client.
    pub stream: Stream,
    /// The user, one of `admin.users`.
    pub user: String,
    /// `application_name` as the client sent it.
    pub application: String,
    /// Process id to tell the client.
    pub pid: i32,
    /// Secret to tell the client.
    pub key: Vec<u8>,
}

/// Reads and proves, at most for `limits.login_timeout`.
pub async fn login(
    ctx: Rc<Context>,
    stream: Stream,
    endpoint: &Endpoint,
    guard: Option<LoginGuard>,
) -> Outcome {
    let settings = ctx.settings.load_full();
    let began = Instant::now();
    let deadline = began + settings.limits.login_timeout;
    ctx.metrics.raise(Gauge::LoginsInProgress);
    let proof = Box::pin(prove(&ctx, stream, endpoint, &settings, deadline));
    let proven = tokio::time::timeout_at(deadline, proof).await;
    ctx.metrics.lower(Gauge::LoginsInProgress);
    drop(guard);
    let proven = match proven {
        Ok(Some(proven)) => proven,
        Ok(None) => return Outcome::Done,
        Err(_) => {
            ctx.metrics.count(Counter::LoginTimeout);
            return Outcome::Done;
        }
    };
    Box::pin(enter(ctx, proven, endpoint, &settings, began)).await
}

/// A client that is who it says.
struct Proven {
    stream: Stream,
    startup: Startup,
    credentials: Arc<Credentials>,
    place: Place,
    wants: Wants,
    database: String,
}

async fn prove(
    ctx: &Rc<Context>,
    stream: Stream,
    endpoint: &Endpoint,
    settings: &Settings,
    deadline: Instant,
) -> Option<Proven> {
    let phase = startup::begin(stream, endpoint, settings.limits.max_startup_packet, deadline).await;
    let (mut stream, startup) = match phase {
        Phase::Login(stream, startup) => (stream, startup),
        Phase::Cancel { pid, key } => {
            cancel::forward(ctx, pid, &key).await;
            return None;
        }
        Phase::Refused(mut stream, refusal) => {
            ctx.metrics.count(Counter::ViolationClient);
            debug!(%refusal, "a connection was refused before its login");
            if let Refusal::Told(error) = &refusal {
                tell(&mut stream, error).await;
            }
            return None;
        }
        Phase::Closed => return None,
    };
    let Some(place) = ctx.directory.admit() else {
        ctx.metrics.count(Counter::RefusedMaxClients);
        tell(&mut stream, &PgError::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already"))
            .await;
        return None;
    };
    if let Some(unknown) = &startup.negotiate {
        let mut message = Vec::new();
        encode::negotiate_protocol_version(&mut message, startup.version, unknown);
        stream.write_all(&message).await.ok()?;
    }
    if startup.replication.as_deref().is_some_and(wants_replication) {
        let error =
            PgError::fatal(SqlState::FEATURE_NOT_SUPPORTED, "replication connections are not relayed");
        tell(&mut stream, &error.with_hint("Connect to the node itself.")).await;
        return None;
    }
    let (wants, database) = declared(&startup, endpoint, settings);
    match auth::authenticate(ctx, &mut stream, &startup, &database).await {
        Ok(credentials) => Some(Proven { stream, startup, credentials, place, wants, database }),
        Err(error) => {
            deny(ctx, &mut stream, &startup, error).await;
            None
        }
    }
}

async fn deny(ctx: &Context, stream: &mut Stream, startup: &Startup, error: AuthError) {
    ctx.metrics.count(error.counter);
    let Some(told) = error.tell else { return };
    info!(
        user = startup.user,
        database = startup.database,
        address = %address_text(stream),
        sqlstate = %told.code,
        "login failed: {}",
        told.message
    );
    tell(stream, &told).await;
}

fn address_text(stream: &Stream) -> String {
    stream.peer().map(|peer| peer.to_string()).unwrap_or_default()
}

/// Sends a last message and closes.
async fn tell(stream: &mut Stream, error: &PgError) {
    let mut message = Vec::new();
    error.encode(&mut message);
    // The client may be gone: then nobody is to be told.
    if stream.write_all(&message).await.is_ok() && stream.flush().await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

/// `replication` takes booleans and `database`; false means an ordinary session.
fn wants_replication(value: &str) -> bool {
    !is_false(value)
}

fn is_false(value: &str) -> bool {
    ["off", "false", "no", "0", "f", "n", "of"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

fn is_true(value: &str) -> bool {
    ["on", "true", "yes", "1", "t", "y", "tr", "tru", "ye"]
        .iter()
        .any(|word| value.trim().eq_ignore_ascii_case(word))
}

/// What the client asked for, and the database it means.
fn declared(startup: &Startup, endpoint: &Endpoint, settings: &Settings) -> (Wants, String) {
    let mut read_only = endpoint.role == ListenRole::Standby;
    let mut database = startup.database.clone();
    if settings.route.split != Split::Off {
        let suffix = &settings.route.database_suffix;
        if let Some(bare) =
            database.strip_suffix(suffix.as_str()).filter(|bare| !suffix.is_empty() && !bare.is_empty())
        {
            database = bare.to_owned();
            read_only = true;
        }
        read_only |= asks_for_read_only(startup);
    }
    (if read_only { Wants::Standby } else { Wants::Primary }, database)
}

/// `default_transaction_read_only=on` as a parameter or in `options`; the last one counts.
fn asks_for_read_only(startup: &Startup) -> bool {
    const NAME: &str = "default_transaction_read_only";
    let options = startup.param("options").map(option_settings).unwrap_or_default();
    let in_options = options.iter().rev().find(|(name, _)| name == NAME).map(|(_, value)| is_true(value));
    let param =
        startup.params.iter().find(|(name, _)| name.eq_ignore_ascii_case(NAME)).map(|(_, v)| is_true(v));
    param.or(in_options).unwrap_or(false)
}

async fn enter(
    ctx: Rc<Context>,
    proven: Proven,
    endpoint: &Endpoint,
    settings: &Settings,
    began: Instant,
) -> Outcome {
    let key_bytes = KEY_BYTES[usize::from(proven.startup.version >= PROTOCOL_3_2)];
    let mut key = vec![0; key_bytes + 4];
    if auth::random(&mut key).is_err() {
        return Outcome::Done;
    }
    let pid = key.split_off(key_bytes).try_into().unwrap_or([0; 4]);
    // Out of the range of real process ids: told only while there is no server to take one from.
    let pid = i32::from_be_bytes(pid) | 0x4000_0000;
    let pid = pid & i32::MAX;
    if proven.startup.database == settings.admin.database {
        return console(&ctx, proven, settings, pid, key).await;
    }
    let Proven { stream, startup, credentials, place, wants, database } = proven;
    let application = startup.param("application_name").unwrap_or_default().to_owned();
    let mut set = StartupSet::new(startup.params.clone());
    if wants == Wants::Standby {
        // Really set on every backend, so that falling back to the primary does not make the endpoint writable.
        set.insert("default_transaction_read_only", "on");
    }
    let facts = Facts {
        user: startup.user.clone(),
        database: database.clone(),
        address: stream.peer().and_then(|peer| peer.ip()),
        application: application.clone(),
        read_only: wants == Wants::Standby,
        tls: stream.is_tls(),
    };
    let entry = ctx.directory.enter(facts, pid, key);
    let login = Login { database, user: startup.user, set, credentials, wants, max_lag: endpoint.max_lag };
    let mut session = Box::new(Session::new(Rc::clone(&ctx), stream, entry, login));
    if !application.is_empty() {
        session.state.params.give_name(&application);
    }
    let _ = endpoint;
    match session.log_in().await {
        Ok(()) => {
            ctx.metrics.count(Counter::LoginOk);
            ctx.metrics.record(Latency::Connect, began.elapsed());
            Outcome::Session(session, place)
        }
        Err(end) => {
            Box::pin(session.finish(end)).await;
            Outcome::Done
        }
    }
}

async fn console(ctx: &Context, proven: Proven, settings: &Settings, pid: i32, key: Vec<u8>) -> Outcome {
    let Proven { mut stream, startup, place, .. } = proven;
    if !settings.admin.users.contains(&startup.user) {
        ctx.metrics.count(Counter::LoginDatabase);
        let text = format!("user \"{}\" may not use the console", startup.user);
        let error = PgError::fatal(SqlState::INVALID_AUTHORIZATION, text);
        tell(&mut stream, &error.with_hint("Name the user in admin.users.")).await;
        return Outcome::Done;
    }
    ctx.metrics.count(Counter::LoginOk);
    let application = startup.param("application_name").unwrap_or_default().to_owned();
    Outcome::Console(Box::new(ConsoleLogin { stream, user: startup.user, application, pid, key }), place)
}

impl Session {
    /// Takes the first backend, or remembers what one says, and greets the client.
    async fn log_in(&mut self) -> Result<(), End> {
        encode::auth_ok(&mut self.replies);
        let timeout = self.ctx.settings.load().cluster.hold_timeout;
        self.logging_in = true;
        self.ctx.catalogues.first(&self.login.database).await;
        if self.is_sharing() {
            self.learn_risks();
        }
        let known = self.is_sharing() && self.answer_from_memory();
        let found = if known { Ok(()) } else { self.find_backend(Instant::now() + timeout).await };
        self.logging_in = false;
        match found {
            Ok(()) => {
                self.greet();
                Ok(())
            }
            Err(no_backend) => Err(self.login_failed(no_backend)),
        }
    }

    fn login_failed(&mut self, no_backend: NoBackend) -> End {
        let counter = match &no_backend {
            NoBackend::End(_) => Counter::LoginClientGone,
            NoBackend::Refused(error) if error.code == SqlState::TOO_MANY_CONNECTIONS => {
                Counter::LoginWaitTimeout
            }
            _ => Counter::LoginServer,
        };
        self.ctx.metrics.count(counter);
        match no_backend {
            NoBackend::End(end) => end,
            NoBackend::Refused(error) => End::Told(PgError { severity: Severity::Fatal, ..error }),
            NoBackend::RefusedByServer(error, bytes) => {
                info!(
                    user = self.login.user,
                    database = self.login.database,
                    "the server refused a login: {error}"
                );
                End::ToldByServer(bytes)
            }
        }
    }

    /// True when a login of this kind has succeeded before: what the server said then is said again.
    pub(super) fn answer_from_memory(&mut self) -> bool {
        let login = &self.login;
        let registry = &self.ctx.registry;
        let known = registry.cached_login(&login.database, &login.user, &login.set, &login.credentials);
        let Some(params) = known else { return false };
        self.state.params.adopt(&params, &[]);
        self.state.params.report_given_name(&params);
        true
    }

    /// The end of a login as a server sends it: parameters, key, ready.
    fn greet(&mut self) {
        self.replies.reserve(GREETING_BYTES);
        for (name, value) in self.state.params.all_reported() {
            encode::parameter_status(&mut self.replies, name, value);
        }
        let standby = if self.login.wants == Wants::Standby { "on" } else { "off" };
        encode::parameter_status(&mut self.replies, "in_hot_standby", standby);
        // The isolation tester and drivers compare it with pg_backend_pid().
        if let Some(attached) = self.attached.as_ref().filter(|_| !self.is_sharing()) {
            self.entry.set_pid(attached.backend.pid);
        }
        encode::backend_key_data(&mut self.replies, self.entry.pid(), self.entry.key());
        encode::ready_for_query(&mut self.replies, b'I');
    }
}

/// The address of a client that counts against the limit of logins; unix sockets do not.
pub fn counted_address(stream: &Stream) -> Option<IpAddr> {
    stream.peer().and_then(|peer| peer.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientTlsMode;

    fn wants(database: &str, params: &[(&str, &str)], role: ListenRole) -> (Wants, String) {
        let mut settings = Settings::for_tests();
        settings.route.database_suffix = "_ro".to_owned();
        let startup = Startup {
            database: database.into(),
            params: params.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
            ..Startup::default()
        };
        let endpoint = Endpoint { role, tls_mode: ClientTlsMode::Off, max_lag: None, acceptor: None };
        declared(&startup, &endpoint, &settings)
    }

    #[test]
    fn read_only_is_declared_by_listener_suffix_or_parameter() {
        use ListenRole::{Primary, Standby};
        assert_eq!(wants("app", &[], Primary), (Wants::Primary, "app".into()));
        assert_eq!(wants("app", &[], Standby), (Wants::Standby, "app".into()));
        assert_eq!(wants("app_ro", &[], Primary), (Wants::Standby, "app".into()));
        assert_eq!(wants("_ro", &[], Primary), (Wants::Primary, "_ro".into()));
        for options in ["-c default_transaction_read_only=on", "--default-transaction-read-only=true"] {
            assert_eq!(wants("app", &[("options", options)], Primary).0, Wants::Standby, "{options}");
        }
        let off = "-c default_transaction_read_only=on -c default_transaction_read_only=off";
        assert_eq!(wants("app", &[("options", off)], Primary).0, Wants::Primary);
        assert_eq!(wants("app", &[("default_transaction_read_only", "on")], Primary).0, Wants::Standby);
    }
}
