//! The first bytes of a connection: encryption, cancel request, or a login's parameters (protocol, 55.2.1 and 55.2.11).
//!
//! In: an accepted socket. Out: a [`Phase`]; the stream comes back encrypted when the client asked for it. Nothing here
//! allocates more than one startup packet.

use std::num::NonZeroU32;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::config::{ClientTlsMode, Listen, ListenRole};
use crate::net::Stream;
use crate::net::tls::ClientTlsAcceptor;
use crate::wire::error::{PgError, SqlState};
use crate::wire::startup::{self, FirstPacket, GSSENC_REQUEST, Refusal, SSL_REQUEST, Startup};

/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// Bytes of the shortest first packet, which a request for encryption is: it is read by one call.
const HEAD_BYTES: usize = 8;

/// One listener as its connections see it.
pub struct Endpoint {
    /// The kind of node its sessions get.
    pub role: ListenRole,
    /// The limit of lag for its sessions if it has one of its own, milliseconds.
    pub max_lag: Option<NonZeroU32>,
    /// Whether TLS is offered or demanded.
    pub tls_mode: ClientTlsMode,
    /// The TLS side, unless the mode is off.
    pub acceptor: Option<Arc<ClientTlsAcceptor>>,
}

impl Endpoint {
    /// The endpoint of a configured listener.
    pub fn new(listen: &Listen, acceptor: Option<Arc<ClientTlsAcceptor>>) -> Self {
        let max_lag = NonZeroU32::new(listen.max_lag.as_millis().try_into().unwrap_or(u32::MAX));
        Self { role: listen.role, max_lag, tls_mode: listen.tls.mode, acceptor }
    }
}

/// What the first packets led to.
pub enum Phase {
    /// A login.
    Login(Stream, Startup),
    /// A cancel request; the connection is of no more use.
    Cancel {
        /// Process id as the client was told it.
        pid: i32,
        /// Secret as the client was told it.
        key: Vec<u8>,
    },
    /// The client broke the rules and is told why.
    Refused(Stream, Refusal),
    /// The client left, or nothing can be said to it.
    Closed,
}

/// Reads until a startup packet, a cancel request or the end. `packet_limit` in bytes.
pub async fn begin(mut stream: Stream, endpoint: &Endpoint, packet_limit: usize, deadline: Instant) -> Phase {
    // Each kind of encryption may be asked for once; none inside TLS.
    let (mut asked_tls, mut asked_gss) = (false, false);
    loop {
        let mut head = [0u8; HEAD_BYTES];
        let Ok(count) = read_some(&mut stream, &mut head).await else { return Phase::Closed };
        if head.first() == Some(&TLS_HANDSHAKE) && count > 0 && !stream.is_tls() {
            match encrypt(stream, endpoint, head.get(..count).unwrap_or_default(), true, deadline).await {
                Some(encrypted) => stream = encrypted,
                None => return Phase::Closed,
            }
            (asked_tls, asked_gss) = (true, true);
            continue;
        }
        let packet = match read_packet(&mut stream, head, count, packet_limit).await {
            Ok(Some(packet)) => packet,
            Ok(None) => return Phase::Closed,
            Err(refusal) => return Phase::Refused(stream, refusal),
        };
        match startup::parse(&packet) {
            Ok(FirstPacket::Ssl) if asked_tls => {
                return Phase::Refused(stream, startup::unsupported(SSL_REQUEST).into());
            }
            Ok(FirstPacket::Gss) if asked_gss => {
                return Phase::Refused(stream, startup::unsupported(GSSENC_REQUEST).into());
            }
            Ok(FirstPacket::Ssl) if endpoint.acceptor.is_some() => {
                (asked_tls, asked_gss) = (true, true);
                if stream.write_all(b"S").await.is_err() {
                    return Phase::Closed;
                }
                match encrypt(stream, endpoint, &[], false, deadline).await {
                    Some(encrypted) => stream = encrypted,
                    None => return Phase::Closed,
                }
            }
            Ok(request @ (FirstPacket::Ssl | FirstPacket::Gss)) => {
                asked_tls |= request == FirstPacket::Ssl;
                asked_gss |= request == FirstPacket::Gss;
                if stream.write_all(b"N").await.is_err() {
                    return Phase::Closed;
                }
            }
            Ok(FirstPacket::Cancel { pid, key }) => return Phase::Cancel { pid, key },
            Ok(FirstPacket::Startup(_))
                if endpoint.tls_mode == ClientTlsMode::Require && !is_safe(&stream) =>
            {
                let error = PgError::fatal(
                    SqlState::INVALID_AUTHORIZATION,
                    "this listener accepts only TLS connections",
                );
                let error = error.with_hint("Connect with sslmode=require or stronger.");
                return Phase::Refused(stream, error.into());
            }
            Ok(FirstPacket::Startup(startup)) => return Phase::Login(stream, startup),
            Err(refusal) => return Phase::Refused(stream, refusal),
        }
    }
}

/// A unix socket needs no TLS: nobody can listen in.
fn is_safe(stream: &Stream) -> bool {
    stream.is_tls() || stream.peer().is_some_and(|peer| peer.ip().is_none())
}

async fn encrypt(
    stream: Stream,
    endpoint: &Endpoint,
    received: &[u8],
    direct: bool,
    deadline: Instant,
) -> Option<Stream> {
    let acceptor = endpoint.acceptor.as_ref()?;
    match acceptor.accept(stream, received, direct, deadline).await {
        Ok(encrypted) => Some(encrypted),
        Err(error) => {
            tracing::debug!(%error, "TLS handshake with a client failed");
            None
        }
    }
}

async fn read_some(stream: &mut Stream, into: &mut [u8]) -> std::io::Result<usize> {
    match stream.read(into).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

/// Completes a packet of whose first bytes `count` are in `head`; `None` when the client left.
async fn read_packet(
    stream: &mut Stream,
    mut head: [u8; HEAD_BYTES],
    count: usize,
    limit: usize,
) -> Result<Option<Vec<u8>>, Refusal> {
    let missing = head.get_mut(count..4).unwrap_or_default();
    if !missing.is_empty() && stream.read_exact(missing).await.is_err() {
        return Ok(None);
    }
    let [a, b, c, d, ..] = head;
    let mut packet = vec![0; startup::packet_len([a, b, c, d], limit)?];
    // No packet is shorter than the head, so that nothing of a later one is in it.
    let (start, rest) = packet.split_at_mut(count.clamp(4, HEAD_BYTES));
    start.copy_from_slice(head.get(..start.len()).unwrap_or_default());
    let whole = rest.is_empty() || stream.read_exact(rest).await.is_ok();
    Ok(whole.then_some(packet))
}
