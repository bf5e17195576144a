//! A console connection: psql or a driver on the database `pgsteer`.
//!
//! In: a stream whose login has succeeded, and the state to look at. Out: the login's last messages, then one
//! answer a message until the client leaves. It must not authenticate, nor know what the commands do
//! (`answer`). The protocol's state machine is pgwire's; message framing, sizes and waiting are ours, so that
//! an idle connection holds no buffer: pgwire's `Framed` (two of 8 kB) lives only while messages are answered.

mod body;

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::ready;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::{SinkExt, StreamExt};
use pgwire::api::{ClientInfo, DefaultClient, NoopHandler, PgWireConnectionState};
use pgwire::error::PgWireError;
use pgwire::messages::{PgWireBackendMessage, ProtocolVersion};
use pgwire::tokio::server::{PgWireMessageServerCodec, process_error, process_message};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_util::codec::{Framed, FramedParts};
use tracing::debug;

use super::AdminState;
use super::answer::{Answerer, Prepared};
use super::command::{PARAMETERS, SERVER_VERSION};
use crate::metrics::{Gauge, Metrics};
use crate::wire::error::{PgError, SqlState};
use crate::wire::{encode, frame};

/// Who has logged in.
#[derive(Debug, Clone, Default)]
pub struct Login {
    /// The role, already checked against `admin.users`.
    pub user: String,
    /// The name the client gave itself; reported back as a server does.
    pub application_name: String,
    /// What BackendKeyData says; answers `SELECT pg_backend_pid()`.
    pub pid: i32,
    /// The cancel key, 4 bytes up to protocol 3.0.
    pub cancel_key: Vec<u8>,
}

/// Longest message: commands are short, and nobody needs to send a megabyte to a console.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Bytes read at once; lives on the stack of the reading call, not in the waiting task.
const READ_BYTES: usize = 4096;

type Codec = PgWireMessageServerCodec<Prepared>;
type Parts<S> = FramedParts<S, Codec>;

/// Serves one console connection until the client leaves or the tasks are told to stop.
///
/// AuthenticationOk has not been sent yet; `leftover` is what was read beyond the login.
pub async fn serve<S>(mut stream: S, leftover: BytesMut, login: Login, state: Arc<AdminState>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let write_limit = state.settings.load().limits.client_write_timeout;
    let user = login.user.clone();
    let hello = greeting(&login);
    match tokio::time::timeout(write_limit, write(&mut stream, &hello)).await {
        Ok(Ok(())) => {}
        _ => return,
    }
    drop(hello);
    let _counted = Counted::new(&state);
    let answerer = Arc::new(Answerer::new(login, Arc::clone(&state)));
    let mut parts = FramedParts::new::<PgWireBackendMessage>(stream, codec());
    parts.read_buf = leftover;
    debug!(user, "console opened");
    while let Some(next) = turn(parts, &answerer, &state, write_limit).await {
        parts = next;
    }
    debug!(user, "console closed");
}

/// One wait and what it brought. `None` when the connection has ended.
async fn turn<S>(
    mut parts: Parts<S>,
    answerer: &Arc<Answerer>,
    state: &AdminState,
    write_limit: Duration,
) -> Option<Parts<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let last_word = match next(&mut parts, state).await {
        Next::Message(b'X') | Next::Closed => None,
        Next::Message(_) => {
            // Boxed, so that an idle connection does not carry the state of an answer.
            let answer = Box::pin(answer(parts, Arc::clone(answerer)));
            // A client that takes nothing is cut off; commands have shorter limits of their own.
            return tokio::time::timeout(write_limit, answer).await.ok().flatten();
        }
        Next::Refused(error) => Some(error),
        Next::Stopping => Some(PgError::fatal(
            SqlState::ADMIN_SHUTDOWN,
            "terminating connection due to administrator command",
        )),
    };
    if let Some(error) = last_word {
        let mut out = Vec::new();
        error.encode(&mut out);
        // The connection ends in any case; a client that is gone does not read why.
        let _ = tokio::time::timeout(Duration::from_secs(1), write(&mut parts.io, &out)).await;
    }
    None
}

/// Counts the connection while it lives, also when its task is dropped at shutdown.
struct Counted(Arc<Metrics>);

impl Counted {
    fn new(state: &AdminState) -> Self {
        state.metrics.control().raise(Gauge::ConsoleSessions);
        Self(Arc::clone(&state.metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.control().lower(Gauge::ConsoleSessions);
    }
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// The messages that end a login (PostgreSQL protocol, 55.2.1).
fn greeting(login: &Login) -> Vec<u8> {
    const REPORTED: &[&str] = &[
        "client_encoding",
        "DateStyle",
        "default_transaction_read_only",
        "in_hot_standby",
        "integer_datetimes",
        "IntervalStyle",
        "is_superuser",
        "server_encoding",
        "standard_conforming_strings",
        "TimeZone",
    ];
    let mut out = Vec::with_capacity(512);
    encode::auth_ok(&mut out);
    encode::parameter_status(&mut out, "server_version", SERVER_VERSION);
    encode::parameter_status(&mut out, "application_name", &login.application_name);
    encode::parameter_status(&mut out, "session_authorization", &login.user);
    for (name, value) in PARAMETERS.iter().filter(|(name, _)| REPORTED.contains(name)) {
        encode::parameter_status(&mut out, name, value);
    }
    encode::backend_key_data(&mut out, login.pid, &login.cancel_key);
    encode::ready_for_query(&mut out, b'I');
    out
}

fn codec() -> Codec {
    // pgwire wants a socket address for its own use; ours never asks for it.
    let mut client = DefaultClient::new(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), false);
    client.set_protocol_version(ProtocolVersion::PROTOCOL3_0);
    client.set_state(PgWireConnectionState::ReadyForQuery);
    Codec::new(client)
}

/// What the wait for a client brought.
enum Next {
    /// The client is gone.
    Closed,
    /// A whole message of this type is at the front of the buffer.
    Message(u8),
    /// The client broke the protocol.
    Refused(PgError),
    /// The proxy ends.
    Stopping,
}

/// Waits until a whole message is in the buffer.
async fn next<S: AsyncRead + Unpin>(parts: &mut Parts<S>, state: &AdminState) -> Next {
    let mut stopping = pin!(state.tasks.stopping());
    loop {
        match whole_message(&parts.read_buf) {
            Ok(Some(tag)) => return Next::Message(tag),
            Ok(None) => {}
            Err(error) => return Next::Refused(error),
        }
        tokio::select! {
            biased;
            () = &mut stopping => return Next::Stopping,
            read = fill(&mut parts.io, &mut parts.read_buf) => match read {
                Ok(0) | Err(_) => return Next::Closed,
                Ok(_) => {}
            },
        }
    }
}

/// The type of the message at the front of `buf`, once all of it is there.
fn whole_message(buf: &[u8]) -> Result<Option<u8>, PgError> {
    let Some(tag) = buf.first() else { return Ok(None) };
    // What a client may send after login; c, d and f outside COPY are ignored, as by a server.
    if !b"BCDEFHPQSXcdf".contains(tag) {
        return Err(PgError::fatal(
            SqlState::PROTOCOL_VIOLATION,
            format!("invalid frontend message type {tag}"),
        ));
    }
    let header =
        frame::header(buf).map_err(|bad| PgError::fatal(SqlState::PROTOCOL_VIOLATION, bad.to_string()))?;
    let Some(header) = header else { return Ok(None) };
    if header.len > MESSAGE_BYTES_MAX {
        return Err(PgError::fatal(
            SqlState::PROTOCOL_VIOLATION,
            format!("message of {} bytes is too long for the console", header.len),
        )
        .with_detail(format!("The limit is {MESSAGE_BYTES_MAX} bytes.")));
    }
    let Some(body) = buf.get(frame::HEADER_LEN..header.len) else { return Ok(None) };
    if !body::is_well_formed(header.tag, body) {
        return Err(PgError::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message format"));
    }
    Ok(Some(header.tag))
}

/// Reads what is there into `buf`, which grows by no more than that; 0 at the end of the stream.
async fn fill<S: AsyncRead + Unpin>(io: &mut S, buf: &mut BytesMut) -> std::io::Result<usize> {
    poll_fn(|cx| {
        let mut space = [0_u8; READ_BYTES];
        let mut read = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut read))?;
        buf.extend_from_slice(read.filled());
        std::task::Poll::Ready(Ok(read.filled().len()))
    })
    .await
}

/// Answers the whole messages in the buffer, of which there is at least one. `None` when the connection has ended.
async fn answer<S>(parts: Parts<S>, answerer: Arc<Answerer>) -> Option<Parts<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let mut framed = Framed::from_parts(parts);
    while let Ok(Some(tag)) = whole_message(framed.read_buffer())
        && tag != b'X'
    {
        let failed = match tag {
            b'F' => {
                skip(framed.read_buffer_mut());
                let text = "the console has no functions to call";
                Err((PgError::error(SqlState::FEATURE_NOT_SUPPORTED, text).into(), false))
            }
            b'c' | b'd' | b'f' => {
                skip(framed.read_buffer_mut());
                Ok(())
            }
            _ => handle(&mut framed, Arc::clone(&answerer)).await,
        };
        if let Err((error, wait_for_sync)) = failed {
            let ends = error.is_fatal();
            process_error(&mut framed, error, wait_for_sync).await.ok()?;
            if ends {
                return None;
            }
        }
    }
    framed.flush().await.ok()?;
    let mut parts = framed.into_parts();
    parts.write_buf = BytesMut::new();
    // A rest of the next message is copied out of the large buffer; no rest leaves no buffer.
    parts.read_buf = BytesMut::from(parts.read_buf.as_ref());
    Some(parts)
}

/// Lets pgwire decode and dispatch one message. The error says whether the rest up to Sync is to be skipped.
async fn handle<S>(framed: &mut Framed<S, Codec>, answerer: Arc<Answerer>) -> Result<(), (PgWireError, bool)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let message = match framed.next().await {
        Some(Ok(message)) => message,
        // Not expected of a checked message; its errors are fatal.
        Some(Err(error)) => return Err((error, false)),
        None => return Err((PgWireError::IoError(std::io::ErrorKind::UnexpectedEof.into()), false)),
    };
    let wait_for_sync = message.is_extended_query();
    let none = Arc::new(NoopHandler);
    let (auth, copy, cancel) = (Arc::clone(&none), Arc::clone(&none), none);
    process_message(message, framed, auth, Arc::clone(&answerer), answerer, copy, cancel)
        .await
        .map_err(|error| (error, wait_for_sync))
}

/// Drops the message at the front.
fn skip(buf: &mut BytesMut) {
    if let Ok(Some(header)) = frame::header(buf) {
        buf.advance(header.len.min(buf.len()));
    }
}

#[cfg(test)]
mod tests;
