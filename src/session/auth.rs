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
use crate::wire::startup::{Startup, take_cstr};
use crate::wire::{encode, frame};

/// What a client is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Password,
    Sasl,
}

impl Asked {
    /// What a server calls the answer.
    fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Sasl => "SASL",
        }
    }

    /// The largest length field of the answer (`PG_MAX_AUTH_TOKEN_LENGTH`, `PG_MAX_SASL_MESSAGE_LENGTH`).
    fn limit(self) -> usize {
        match self {
            Self::Password => 65_535,
            Self::Sasl => 1024,
        }
    }
}

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
        AuthError::new(counter, wrong_password(self.user))
    }

    fn certificate(self) -> Result<Arc<Credentials>, AuthError> {
        let certificate = self.stream.tls_info().and_then(|info| info.peer_certificate);
        if certificate.and_then(|der| common_name(&der)).as_deref() == Some(self.user) {
            return Ok(Arc::new(self.upstream(Credentials::None)));
        }
        let text = format!("certificate authentication failed for user \"{}\"", self.user);
        Err(AuthError::new(Counter::LoginPassword, PgError::fatal(SqlState::INVALID_AUTHORIZATION, text)))
    }

    /// Sends one message and reads the client's answer, the body of a `p` message. The type counts as soon as it is there;
    /// an answer that is cut off or too long is a wrong password, as to a server.
    async fn ask(&mut self, message: &[u8], asked: Asked) -> Result<Vec<u8>, AuthError> {
        self.stream.write_all(message).await?;
        self.stream.flush().await?;
        let mut head = [0u8; frame::HEADER_LEN];
        let count = self.stream.read(&mut head).await?;
        let [tag, length @ ..] = &mut head;
        if count == 0 {
            return Err(AuthError::gone());
        }
        if *tag != b'p' {
            // Who says Terminate only wanted to know whether a password is needed.
            let counter = if *tag == b'X' { Counter::LoginClientGone } else { Counter::ViolationClient };
            let text = format!("expected {} response, got message type {tag}", asked.name());
            return Err(AuthError::new(counter, violation(text)));
        }
        let missing = length.get_mut(count - 1..).unwrap_or_default();
        let whole = self.stream.read_exact(missing).await.is_ok();
        let length = u32::from_be_bytes(*length) as usize;
        if !whole || !(4..=asked.limit()).contains(&length) {
            return Err(self.unreadable());
        }
        let mut body = vec![0; length - 4];
        if self.stream.read_exact(&mut body).await.is_err() {
            return Err(self.unreadable());
        }
        Ok(body)
    }

    fn unreadable(&self) -> AuthError {
        AuthError::new(Counter::ViolationClient, wrong_password(self.user))
    }

    async fn ask_password(&mut self) -> Result<Secret, AuthError> {
        let mut message = Vec::new();
        encode::auth_cleartext(&mut message);
        let body = zeroize::Zeroizing::new(self.ask(&message, Asked::Password).await?);
        Ok(Secret::new(String::from_utf8_lossy(password_text(&body)?).into_owned()))
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
        let answer = self.ask(&message, Asked::Password).await?;
        if md5::verify(&stored, salt, password_text(&answer)?) {
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
        let answer = self.ask(&message, Asked::Sasl).await?;
        match server.finish(&answer) {
            Ok((last, key)) if known => {
                message.clear();
                encode::auth_sasl_final(&mut message, &last);
                self.stream.write_all(&message).await?;
                Ok(Arc::new(self.upstream(Credentials::ClientKey(key))))
            }
            Ok(_) | Err(ScramError::Failed) => Err(self.denied(known)),
            Err(error) => Err(AuthError::new(Counter::ViolationClient, told(&error))),
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
        Ok(SaslFirst { body: self.ask(&message, Asked::Sasl).await?, end_point })
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
        let refused = |error| AuthError::new(Counter::ViolationClient, error);
        let mut rest = &self.body[..];
        let mechanism =
            take_cstr(&mut rest).ok_or_else(|| refused(violation("invalid string in message")))?;
        let offer = match (mechanism, &self.end_point) {
            (b"SCRAM-SHA-256-PLUS", Some(hash)) => Offer::Plus(hash),
            (b"SCRAM-SHA-256", Some(_)) => Offer::PlainButBindable,
            (b"SCRAM-SHA-256", None) => Offer::Plain,
            _ => {
                let text = "client selected an invalid SASL authentication mechanism";
                return Err(refused(violation(text)));
            }
        };
        let data = initial_data(rest).map_err(|text| refused(violation(text)))?;
        let mut nonce = [0; NONCE_BYTES];
        random(&mut nonce)?;
        Server::first(data, verifier, &nonce, offer).map_err(|error| refused(told(&error)))
    }
}

async fn secret_of(ctx: &Context, user: &str) -> Result<Option<UserSecret>, AuthError> {
    ctx.verifiers.lookup(user).await.map_err(|error: LookupError| {
        let told = PgError::fatal(SqlState::CANNOT_CONNECT_NOW, "cannot look up the user's secret now");
        AuthError::new(Counter::LoginLookup, told.with_detail(error.told()))
    })
}

/// The data of a SASLInitialResponse, which stand behind the mechanism; else what the server says.
fn initial_data(body: &[u8]) -> Result<&[u8], &'static str> {
    let (len, data) = body.split_first_chunk::<4>().ok_or("insufficient data left in message")?;
    match usize::try_from(i32::from_be_bytes(*len)) {
        Ok(len) if len == data.len() => Ok(data),
        Ok(len) if len < data.len() => Err("invalid message format"),
        _ => Err("insufficient data left in message"),
    }
}

/// The password in the body of a PasswordMessage.
fn password_text(body: &[u8]) -> Result<&[u8], AuthError> {
    match body.split_last() {
        Some((0, [])) => Err(AuthError::new(
            Counter::LoginPassword,
            PgError::fatal(SqlState::INVALID_PASSWORD, "empty password returned by client"),
        )),
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(AuthError::new(Counter::ViolationClient, violation("invalid password packet size"))),
    }
}

fn violation(text: impl Into<String>) -> PgError {
    PgError::fatal(SqlState::PROTOCOL_VIOLATION, text)
}

fn wrong_password(user: &str) -> PgError {
    let text = format!("password authentication failed for user \"{user}\"");
    PgError::fatal(SqlState::INVALID_PASSWORD, text)
}

/// What a server says about a SCRAM message that it does not take.
fn told(error: &ScramError) -> PgError {
    match error {
        ScramError::Malformed(what) => {
            violation("malformed SCRAM message").with_detail(format!("What is wrong: {what}."))
        }
        ScramError::Unsupported(text) => PgError::fatal(SqlState::FEATURE_NOT_SUPPORTED, *text),
        ScramError::Downgrade | ScramError::Binding => {
            PgError::fatal(SqlState::INVALID_AUTHORIZATION, error.to_string())
        }
        _ => violation(error.to_string()),
    }
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
        assert_eq!(initial_data(b"\0\0\0\x02ab"), Ok(&b"ab"[..]));
        assert_eq!(initial_data(b"\0\0\0\x01ab"), Err("invalid message format"));
        for bad in [&b"\0\0\0\x03ab"[..], b"", b"\0\0", b"\xff\xff\xff\xff"] {
            assert_eq!(initial_data(bad), Err("insufficient data left in message"));
        }
    }

    #[test]
    fn passwords_end_with_their_only_zero() {
        assert_eq!(password_text(b"secret\0").ok(), Some(&b"secret"[..]));
        for (bad, code) in [
            (&b"\0"[..], SqlState::INVALID_PASSWORD),
            (b"", SqlState::PROTOCOL_VIOLATION),
            (b"secret", SqlState::PROTOCOL_VIOLATION),
            (b"sec\0ret\0", SqlState::PROTOCOL_VIOLATION),
        ] {
            assert_eq!(password_text(bad).err().and_then(|error| error.tell).unwrap().code, code);
        }
    }
}
