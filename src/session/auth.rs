//! Proves that a client is who it says: SCRAM-SHA-256 (-PLUS), md5, password, certificate or trust, by the first rule
//! that matches.
//!
//! In: a stream behind its startup packet. Out: how the user's backends log in. An unknown user goes through the same
//! exchange as a wrong password (`Verifier::mock`), so that neither bytes nor time tell them apart.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::context::Context;
use super::verifiers::{LookupError, UserSecret};
use crate::config::{Secret, Settings, StaticSecret, hba};
use crate::metrics::Counter;
use crate::net::Stream;
use crate::net::tls::common_name;
use crate::pool::Credentials;
use crate::scram::server::{Offer, Server};
use crate::scram::verifier::Verifier;
use crate::scram::{NONCE_BYTES, ScramError, md5};
use crate::wire::error::{PgError, SqlState};
use crate::wire::startup::Startup;
use crate::wire::{encode, frame};

/// Longest message of a login, bytes: SCRAM's are a few hundred.
const MESSAGE_MAX: usize = 4096;

/// Why a login failed: what the client is told, and how it is counted.
pub struct AuthError {
    /// `None` when the client has left.
    pub tell: Option<PgError>,
    /// The counter of the reason.
    pub counter: Counter,
}

impl AuthError {
    fn new(counter: Counter, error: PgError) -> Self {
        Self { tell: Some(error), counter }
    }

    fn gone() -> Self {
        Self { tell: None, counter: Counter::LoginClientGone }
    }
}

impl From<std::io::Error> for AuthError {
    fn from(_: std::io::Error) -> Self {
        Self::gone()
    }
}

/// Runs the exchange that the rules ask for.
pub async fn authenticate(
    ctx: &Context,
    stream: &mut Stream,
    startup: &Startup,
    database: &str,
) -> Result<Arc<Credentials>, AuthError> {
    let settings = ctx.settings.load_full();
    let attempt = hba::Attempt {
        address: stream.peer().and_then(|peer| peer.ip()),
        tls: stream.is_tls(),
        database,
        user: &startup.user,
    };
    let login = Exchange { ctx, stream, user: &startup.user, settings: &settings };
    match settings.auth.decide(&attempt) {
        None => Err(no_rule(&attempt)),
        Some(hba::Method::Reject) => Err(rejected(&attempt)),
        Some(hba::Method::Trust) => Ok(Arc::new(login.upstream(Credentials::None))),
        Some(hba::Method::Cert) => login.certificate(),
        Some(hba::Method::Md5) => login.md5().await,
        Some(hba::Method::Password) => login.password().await,
        Some(hba::Method::ScramSha256) => login.scram_at_once().await,
    }
}

fn who(attempt: &hba::Attempt<'_>) -> String {
    let host = attempt.address.map_or("[local]".to_owned(), |address| address.to_string());
    let encryption = if attempt.tls { "SSL encryption" } else { "no encryption" };
    format!("host \"{host}\", user \"{}\", database \"{}\", {encryption}", attempt.user, attempt.database)
}

fn no_rule(attempt: &hba::Attempt<'_>) -> AuthError {
    let text = format!("no [[auth.rule]] entry for {}", who(attempt));
    AuthError::new(Counter::LoginNoRule, PgError::fatal(SqlState::INVALID_AUTHORIZATION, text))
}

fn rejected(attempt: &hba::Attempt<'_>) -> AuthError {
    let text = format!("an [[auth.rule]] entry rejects connection for {}", who(attempt));
    AuthError::new(Counter::LoginNoRule, PgError::fatal(SqlState::INVALID_AUTHORIZATION, text))
}

struct Exchange<'a> {
    ctx: &'a Context,
    stream: &'a mut Stream,
    user: &'a str,
    settings: &'a Settings,
}

impl Exchange<'_> {
    /// What the settings know for the way upstream, else what the login has shown.
    fn upstream(&self, shown: Credentials) -> Credentials {
        let Some(known) = self.settings.auth.user(self.user) else { return shown };
        match (&known.server_password, &known.secret) {
            (Some(password), _) | (None, StaticSecret::Password(password)) => {
                Credentials::Password(password.clone())
            }
            (None, StaticSecret::Md5(stored)) => Credentials::Md5(stored.clone()),
            (None, StaticSecret::Verifier(_)) => shown,
        }
    }

    /// 28P01 in the server's words, whatever was wrong.
    fn denied(&self, known: bool) -> AuthError {
        let counter = if known { Counter::LoginPassword } else { Counter::LoginUnknownUser };
        let text = format!("password authentication failed for user \"{}\"", self.user);
        AuthError::new(counter, PgError::fatal(SqlState::INVALID_PASSWORD, text))
    }

    fn certificate(self) -> Result<Arc<Credentials>, AuthError> {
        let certificate = self.stream.tls_info().and_then(|info| info.peer_certificate);
        if certificate.and_then(|der| common_name(&der)).as_deref() == Some(self.user) {
            return Ok(Arc::new(self.upstream(Credentials::None)));
        }
        let text = format!("certificate authentication failed for user \"{}\"", self.user);
        Err(AuthError::new(Counter::LoginPassword, PgError::fatal(SqlState::INVALID_AUTHORIZATION, text)))
    }

    /// Sends one message and reads the client's answer, the body of a `p` message.
    async fn ask(&mut self, message: &[u8]) -> Result<Vec<u8>, AuthError> {
        self.stream.write_all(message).await?;
        self.stream.flush().await?;
        let mut head = [0u8; frame::HEADER_LEN];
        self.stream.read_exact(&mut head).await?;
        let violation = |text: String| {
            AuthError::new(Counter::ViolationClient, PgError::fatal(SqlState::PROTOCOL_VIOLATION, text))
        };
        let header = frame::header(&head).map_err(|bad| violation(bad.to_string()))?;
        let Some(header) = header else { return Err(AuthError::gone()) };
        if header.tag == b'X' {
            return Err(AuthError::gone());
        }
        if header.tag != b'p' {
            // Codes 10 and 11 ask for SASL (PostgreSQL protocol, 55.7); the server names what it asked for.
            let sasl = matches!(message.get(5..9), Some([0, 0, 0, 10 | 11]));
            let asked = if sasl { "SASL" } else { "password" };
            return Err(violation(format!("expected {asked} response, got message type {}", header.tag)));
        }
        if header.body_len() > MESSAGE_MAX {
            return Err(violation("password response is too long".to_owned()));
        }
        let mut body = vec![0; header.body_len()];
        self.stream.read_exact(&mut body).await?;
        Ok(body)
    }

    async fn ask_password(&mut self) -> Result<Secret, AuthError> {
        let mut message = Vec::new();
        encode::auth_cleartext(&mut message);
        let mut body = zeroize::Zeroizing::new(self.ask(&message).await?);
        while body.last() == Some(&0) {
            body.pop();
        }
        if body.is_empty() {
            let text = "empty password returned by client";
            return Err(AuthError::new(
                Counter::LoginPassword,
                PgError::fatal(SqlState::INVALID_PASSWORD, text),
            ));
        }
        Ok(Secret::new(String::from_utf8_lossy(&body).into_owned()))
    }

    async fn password(mut self) -> Result<Arc<Credentials>, AuthError> {
        let secret = secret_of(self.ctx, self.user).await?;
        let given = self.ask_password().await?;
        let fits = match secret.clone() {
            Some(UserSecret::Password(password)) => password == given,
            Some(UserSecret::Md5(stored)) => md5::stored(self.user, given.expose().as_bytes()) == *stored,
            Some(UserSecret::Scram(verifier)) => matches(verifier, given.clone()).await,
            None => {
                matches(Arc::new(self.ctx.verifiers.mock(self.user)), given.clone()).await;
                false
            }
        };
        if fits {
            Ok(Arc::new(self.upstream(Credentials::Password(given))))
        } else {
            Err(self.denied(secret.is_some()))
        }
    }

    /// md5, unless the user's secret is a SCRAM verifier: then SCRAM, as in PostgreSQL.
    async fn md5(mut self) -> Result<Arc<Credentials>, AuthError> {
        let secret = secret_of(self.ctx, self.user).await?;
        let stored = match &secret {
            Some(UserSecret::Scram(_)) | None => return self.scram(secret).await,
            Some(UserSecret::Md5(stored)) => stored.to_string(),
            Some(UserSecret::Password(password)) => md5::stored(self.user, password.expose().as_bytes()),
        };
        let mut salt = [0; 4];
        random(&mut salt)?;
        let mut message = Vec::new();
        encode::auth_md5(&mut message, salt);
        let answer = self.ask(&message).await?;
        let answer = answer.strip_suffix(b"\0").unwrap_or(&answer);
        if md5::verify(&stored, salt, answer) {
            Ok(Arc::new(self.upstream(Credentials::Md5(stored))))
        } else {
            Err(self.denied(true))
        }
    }

    /// The user is looked up while the client answers the first question, which is the same for everybody.
    async fn scram_at_once(mut self) -> Result<Arc<Credentials>, AuthError> {
        let (secret, first) = tokio::join!(secret_of(self.ctx, self.user), self.scram_first());
        self.scram_last(secret?, first?).await
    }

    async fn scram(mut self, secret: Option<UserSecret>) -> Result<Arc<Credentials>, AuthError> {
        let first = self.scram_first().await?;
        self.scram_last(secret, first).await
    }

    async fn scram_last(
        mut self,
        secret: Option<UserSecret>,
        first: SaslFirst,
    ) -> Result<Arc<Credentials>, AuthError> {
        let (verifier, known) = match secret {
            Some(UserSecret::Scram(verifier)) => ((*verifier).clone(), true),
            Some(UserSecret::Password(password)) => {
                let derived = self.ctx.verifiers.derived(self.user, &password).await;
                ((*derived.map_err(|_| AuthError::gone())?).clone(), true)
            }
            // An md5 secret cannot answer SCRAM; a server runs a mock exchange then, too.
            Some(UserSecret::Md5(_)) | None => (self.ctx.verifiers.mock(self.user), false),
        };
        let (server, reply) = first.against(verifier)?;
        let mut message = Vec::new();
        encode::auth_sasl_continue(&mut message, &reply);
        let answer = self.ask(&message).await?;
        match server.finish(&answer) {
            Ok((last, key)) if known => {
                message.clear();
                encode::auth_sasl_final(&mut message, &last);
                self.stream.write_all(&message).await?;
                Ok(Arc::new(self.upstream(Credentials::ClientKey(key))))
            }
            Err(error @ (ScramError::Malformed(_) | ScramError::Downgrade | ScramError::Binding)) => {
                Err(AuthError::new(
                    Counter::ViolationClient,
                    PgError::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()),
                ))
            }
            Ok(_) | Err(_) => Err(self.denied(known)),
        }
    }

    /// Offers the mechanisms and takes the client's first message.
    async fn scram_first(&mut self) -> Result<SaslFirst, AuthError> {
        let end_point = self.stream.tls_info().and_then(|info| info.end_point);
        let mut message = Vec::new();
        match end_point {
            Some(_) => encode::auth_sasl(&mut message, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]),
            None => encode::auth_sasl(&mut message, &["SCRAM-SHA-256"]),
        }
        Ok(SaslFirst { body: self.ask(&message).await?, end_point })
    }
}

/// A client's SASLInitialResponse and what its connection can be bound to.
struct SaslFirst {
    body: Vec<u8>,
    end_point: Option<Vec<u8>>,
}

impl SaslFirst {
    /// The exchange with that verifier, and our challenge.
    fn against(&self, verifier: Verifier) -> Result<(Server, Vec<u8>), AuthError> {
        let violation = |text: &str| {
            AuthError::new(Counter::ViolationClient, PgError::fatal(SqlState::PROTOCOL_VIOLATION, text))
        };
        let (mechanism, data) =
            initial_response(&self.body).ok_or_else(|| violation("malformed SASL response"))?;
        let offer = match (mechanism, &self.end_point) {
            (b"SCRAM-SHA-256-PLUS", Some(hash)) => Offer::Plus(hash),
            (b"SCRAM-SHA-256", Some(_)) => Offer::PlainButBindable,
            (b"SCRAM-SHA-256", None) => Offer::Plain,
            _ => return Err(violation("client selected an invalid SASL authentication mechanism")),
        };
        let mut nonce = [0; NONCE_BYTES];
        random(&mut nonce)?;
        Server::first(data, verifier, &nonce, offer).map_err(|error| violation(&error.to_string()))
    }
}

async fn secret_of(ctx: &Context, user: &str) -> Result<Option<UserSecret>, AuthError> {
    ctx.verifiers.lookup(user).await.map_err(|error: LookupError| {
        let told = PgError::fatal(SqlState::CANNOT_CONNECT_NOW, "cannot look up the user's secret now");
        AuthError::new(Counter::LoginLookup, told.with_detail(error.told()))
    })
}

/// Mechanism and data of a SASLInitialResponse.
fn initial_response(mut body: &[u8]) -> Option<(&[u8], &[u8])> {
    let mechanism = crate::wire::startup::take_cstr(&mut body)?;
    let (len, data) = body.split_first_chunk::<4>()?;
    (i32::from_be_bytes(*len) == data.len() as i32).then_some((mechanism, data))
}

/// Hashes for milliseconds: not on a thread that relays.
async fn matches(verifier: Arc<Verifier>, password: Secret) -> bool {
    let hashed =
        tokio::task::spawn_blocking(move || verifier.matches(password.expose().as_bytes()).is_some());
    hashed.await.unwrap_or(false)
}

/// Fills `bytes` from the system's random source.
pub fn random(bytes: &mut [u8]) -> std::io::Result<()> {
    getrandom::fill(bytes).map_err(|error| std::io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_responses_are_read_or_refused() {
        assert_eq!(initial_response(b"M\0\0\0\0\x02ab"), Some((&b"M"[..], &b"ab"[..])));
        for bad in [&b"M\0\0\0\0\x03ab"[..], b"M", b"M\0\0", b"M\0\xff\xff\xff\xff"] {
            assert_eq!(initial_response(bad).filter(|(_, data)| !data.is_empty()), None);
        }
    }
}
