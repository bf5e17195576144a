//! From an address to a backend that is ready for queries: dial, startup, authentication, parameters.
//!
//! In: where, who, with which credentials, until when. Out: the connection and what the server told of itself, or why
//! not. It counts nothing and decides nothing about pools.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::credentials::Credentials;
use super::error::{LeaseError, ServerError};
use super::key::PoolKey;
use super::messages::{Messages, garbage, send};
use super::params::Params;
use crate::config::{NodeAddress, Secret, TlsMode};
use crate::net::tls::ServerTlsContext;
use crate::net::{DialError, Stream, dial, dial_plain};
use crate::scram::client::{Binding, Challenge, Client};
use crate::scram::{self, ClientKey, ScramError, md5};
use crate::wire::backend::{self, Authentication};
use crate::wire::encode;
use crate::wire::error::{PgError, SqlState};
use crate::wire::startup::{PROTOCOL_3_0, PROTOCOL_3_2};

/// Derived keys kept: one per user whose password is configured.
const KEYS_KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);
/// Derivations at the same time: each keeps a core busy for milliseconds, and sessions want the cores too.
const DERIVATIONS: usize = 2;
/// First server version that speaks protocol 3.2 (longer cancel keys).
const SPEAKS_3_2: u32 = 180_000;

/// A logged-in connection.
#[derive(Debug)]
pub(super) struct LoggedIn {
    pub(super) stream: Stream,
    pub(super) params: Params,
    pub(super) pid: i32,
    pub(super) cancel_key: Vec<u8>,
}

/// Where and as whom.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) address: &'a NodeAddress,
    pub(super) key: &'a PoolKey,
    pub(super) credentials: &'a Credentials,
    /// `server_version_num`, when the prober knows it.
    pub(super) version: Option<u32>,
    pub(super) deadline: Instant,
}

/// Logs in; keeps derived keys between logins.
pub(super) struct Doorman {
    keys: Mutex<LruCache<KeyName, (Secret, ClientKey)>>,
    derivations: Semaphore,
}

/// User, salt and rounds.
type KeyName = (String, Vec<u8>, u32);

impl From<std::io::Error> for LeaseError {
    fn from(error: std::io::Error) -> Self {
        Self::Node(error.into())
    }
}

impl From<ScramError> for LeaseError {
    fn from(error: ScramError) -> Self {
        let detail = "The node and the proxy must hold the same verifier for this user.";
        Self::Login(
            PgError::fatal(SqlState::INVALID_AUTHORIZATION, format!("login at the server failed: {error}"))
                .with_detail(detail),
        )
    }
}

/// The server wants what we do not have.
fn no_secret(method: &str, known: &Credentials) -> LeaseError {
    let have = match known {
        Credentials::ClientKey(_) => "a SCRAM key",
        Credentials::Md5(_) => "an md5 hash",
        Credentials::None => "no secret",
        Credentials::Password(_) => "a password",
    };
    LeaseError::Login(
        PgError::fatal(
            SqlState::INVALID_AUTHORIZATION,
            format!("the server asks for {method}, but the proxy has {have} for this user"),
        )
        .with_hint("Configure the user's server_password, or change pg_hba.conf of the server."),
    )
}

impl Doorman {
    pub(super) fn new() -> Self {
        Self { keys: Mutex::new(LruCache::new(KEYS_KEPT)), derivations: Semaphore::new(DERIVATIONS) }
    }

    /// Forgets derived keys, since passwords may have been changed.
    pub(super) fn forget(&self) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Connects and logs in.
    pub(super) async fn open(
        &self,
        attempt: &Attempt<'_>,
        tls: &ServerTlsContext,
    ) -> Result<LoggedIn, LeaseError> {
        let stream = dial(attempt.address, tls, attempt.deadline).await.map_err(LeaseError::Node)?;
        let encrypted = stream.is_tls();
        match self.log_in(stream, attempt).await {
            // libpq's `prefer`: the server's rules may let this user in without TLS only.
            Err(LeaseError::Server(error))
                if encrypted
                    && tls.mode() == TlsMode::Prefer
                    && error.code == SqlState::INVALID_AUTHORIZATION =>
            {
                let stream = dial_plain(attempt.address, attempt.deadline).await.map_err(LeaseError::Node)?;
                self.log_in(stream, attempt).await
            }
            other => other,
        }
    }

    async fn log_in(&self, stream: Stream, attempt: &Attempt<'_>) -> Result<LoggedIn, LeaseError> {
        match timeout_at(attempt.deadline, self.exchange(stream, attempt)).await {
            Ok(result) => result,
            Err(_) => Err(LeaseError::Node(DialError::Timeout)),
        }
    }

    async fn exchange(&self, mut stream: Stream, attempt: &Attempt<'_>) -> Result<LoggedIn, LeaseError> {
        let mut out = Vec::with_capacity(256);
        let version = match attempt.version {
            Some(version) if version >= SPEAKS_3_2 => PROTOCOL_3_2,
            _ => PROTOCOL_3_0,
        };
        let who = [("user", attempt.key.user.as_str()), ("database", attempt.key.database.as_str())];
        encode::startup_packet(&mut out, version, who.into_iter().chain(attempt.key.set.iter()));
        send(&mut stream, &out).await?;
        let mut messages = Messages::default();
        self.authenticate(&mut stream, &mut messages, attempt).await?;
        let mut logged_in = LoggedIn { stream, params: Params::default(), pid: 0, cancel_key: Vec::new() };
        while !logged_in.take(&mut messages).await? {}
        if messages.is_drained() { Ok(logged_in) } else { Err(garbage("words after ReadyForQuery").into()) }
    }

    /// Until AuthenticationOk.
    async fn authenticate(
        &self,
        stream: &mut Stream,
        messages: &mut Messages,
        attempt: &Attempt<'_>,
    ) -> Result<(), LeaseError> {
        let mut proven = false;
        loop {
            let message = messages.next(stream).await?;
            let body = match message.tag {
                b'R' => message.body,
                b'E' => return Err(LeaseError::Server(ServerError::new(message.body))),
                // NegotiateProtocolVersion: an older minor version will do. Notices before the login mean nothing.
                b'v' | b'N' => continue,
                tag => return Err(garbage(format_args!("message 0x{tag:02x} during the login")).into()),
            };
            let mut out = Vec::new();
            match backend::authentication(body).ok_or_else(|| garbage("truncated authentication request"))? {
                Authentication::Ok => return Ok(()),
                // One question, one answer: a server must not collect more than that.
                _ if proven => return Err(garbage("asked for another proof").into()),
                Authentication::Cleartext => match attempt.credentials {
                    Credentials::Password(password) => encode::password(&mut out, password.expose()),
                    other => return Err(no_secret("a cleartext password", other)),
                },
                Authentication::Md5(salt) => encode::password(&mut out, md5_answer(attempt, salt)?),
                Authentication::Sasl(offered) => {
                    let end_point = stream.tls_info().and_then(|info| info.end_point);
                    let binding = Binding::choose(&offered, end_point)
                        .ok_or(ScramError::Unsupported("the server offers no SCRAM-SHA-256"))?;
                    self.scram(stream, messages, attempt, binding).await?;
                    proven = true;
                    continue;
                }
                Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => {
                    return Err(garbage("SASL out of turn").into());
                }
                Authentication::Other(kind) => return Err(no_secret(method_name(kind), attempt.credentials)),
            }
            proven = true;
            let sent = send(stream, &out).await;
            zeroize::Zeroize::zeroize(&mut out);
            sent?;
        }
    }

    async fn scram(
        &self,
        stream: &mut Stream,
        messages: &mut Messages,
        attempt: &Attempt<'_>,
        binding: Binding,
    ) -> Result<(), LeaseError> {
        if matches!(attempt.credentials, Credentials::Md5(_) | Credentials::None) {
            return Err(no_secret("SCRAM-SHA-256", attempt.credentials));
        }
        let mut nonce = [0; scram::NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| ScramError::Unsupported("the system has no randomness"))?;
        let client = Client::new(&nonce, binding);
        let mut out = Vec::new();
        encode::sasl_initial(&mut out, client.mechanism(), &client.first());
        send(stream, &out).await?;
        let challenge = match sasl(messages, stream).await? {
            Sasl::Continue(first) => client.on_server_first(&first)?,
            Sasl::Final(_) => return Err(garbage("SASL ended early").into()),
        };
        let (message, proof) = match attempt.credentials {
            Credentials::ClientKey(key) => challenge.answer(&scram::Secret::ClientKey(key)),
            Credentials::Password(password) => {
                let key = self.derived(&attempt.key.user, password, &challenge).await;
                challenge.answer(&scram::Secret::ClientKey(&key))
            }
            other => return Err(no_secret("SCRAM-SHA-256", other)),
        };
        out.clear();
        encode::sasl_response(&mut out, &message);
        send(stream, &out).await?;
        match sasl(messages, stream).await? {
            Sasl::Final(last) => Ok(proof.on_server_final(&last)?),
            Sasl::Continue(_) => Err(garbage("SASL does not end").into()),
        }
    }

    /// The keys of a password for the server's salt: from the cache, else derived on a thread where nobody waits.
    async fn derived(&self, user: &str, password: &Secret, challenge: &Challenge) -> ClientKey {
        let name = (user.to_owned(), challenge.salt.clone(), challenge.iterations);
        if let Some((known, key)) = self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(&name)
            && known == password
        {
            return key.clone();
        }
        // The semaphore is never closed, and without its permit the derivation is as right.
        let _turn = self.derivations.acquire().await;
        let (secret, salt, iterations) = (password.clone(), name.1.clone(), name.2);
        let derive = move || scram::derive(secret.expose().as_bytes(), &salt, iterations);
        let key = match tokio::task::spawn_blocking(derive).await {
            Ok(key) => key,
            // Only when the runtime is shutting down.
            Err(_) => scram::derive(password.expose().as_bytes(), &name.1, name.2),
        };
        let kept = (password.clone(), key.clone());
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).put(name, kept);
        key
    }
}

fn md5_answer(attempt: &Attempt<'_>, salt: [u8; 4]) -> Result<String, LeaseError> {
    let stored = match attempt.credentials {
        Credentials::Md5(stored) => Arc::from(stored.as_str()),
        Credentials::Password(password) => {
            Arc::<str>::from(md5::stored(&attempt.key.user, password.expose().as_bytes()))
        }
        other => return Err(no_secret("an md5 password", other)),
    };
    md5::response(&stored, salt).ok_or_else(|| no_secret("an md5 password", &Credentials::None))
}

/// What we cannot do, by the code of the authentication request.
fn method_name(kind: i32) -> &'static str {
    match kind {
        2 => "Kerberos V5",
        7 | 8 => "GSSAPI",
        9 => "SSPI",
        _ => "an unknown authentication method",
    }
}

enum Sasl {
    Continue(Vec<u8>),
    Final(Vec<u8>),
}

async fn sasl(messages: &mut Messages, stream: &mut Stream) -> Result<Sasl, LeaseError> {
    let message = messages.next(stream).await?;
    match (message.tag, backend::authentication(message.body)) {
        (b'E', _) => Err(LeaseError::Server(ServerError::new(message.body))),
        (b'R', Some(Authentication::SaslContinue(data))) => Ok(Sasl::Continue(data.to_vec())),
        (b'R', Some(Authentication::SaslFinal(data))) => Ok(Sasl::Final(data.to_vec())),
        _ => Err(garbage("SASL message expected").into()),
    }
}

impl LoggedIn {
    /// Takes one message after AuthenticationOk; true at ReadyForQuery.
    async fn take(&mut self, messages: &mut Messages) -> Result<bool, LeaseError> {
        let message = messages.next(&mut self.stream).await?;
        match message.tag {
            b'S' => {
                let (name, value) = backend::parameter_status(message.body)
                    .ok_or_else(|| garbage("unreadable ParameterStatus"))?;
                self.params.set(name, value);
            }
            b'K' => {
                let (pid, key) = backend::backend_key_data(message.body)
                    .ok_or_else(|| garbage("unreadable BackendKeyData"))?;
                (self.pid, self.cancel_key) = (pid, key.to_vec());
            }
            b'N' | b'v' => {}
            b'E' => return Err(LeaseError::Server(ServerError::new(message.body))),
            b'Z' if message.body == b"I" => return Ok(true),
            tag => return Err(garbage(format_args!("message 0x{tag:02x} during the login")).into()),
        }
        Ok(false)
    }
}
