//! From a node's address to a connected stream, with TLS as libpq would have it.
//!
//! In: address, TLS context, deadline. Out: a stream ready for the first packet, or why not. It sends nothing but
//! SSLRequest.

use std::io;
use std::time::Duration;

use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::tls::{ServerTlsContext, Upstream};
use super::{Peer, Plain, Stream};
use crate::config::{NodeAddress, TlsMode};
use crate::wire::encode;

/// Silence after which the kernel asks whether the peer is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Time between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Questions without an answer before the connection is dead.
const KEEPALIVE_RETRIES: u32 = 3;

/// Why a node could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody listens there (ECONNREFUSED, or no socket file).
    #[error("connection refused")]
    Refused,
    /// The deadline passed.
    #[error("timed out")]
    Timeout,
    /// The name has no address.
    #[error("cannot resolve the host name: {0}")]
    Resolve(io::Error),
    /// TLS failed: the certificate is not trusted, or the handshake broke.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server does not support TLS, but the configuration requires it.
    #[error("server does not support TLS, but TLS was required")]
    NoTls,
    /// Anything else that the socket said.
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Io(error),
        }
    }
}

/// Connects to a node: all addresses of its name in turn, then TLS as the context says. Unix sockets never have TLS,
/// whatever the mode, as in libpq.
pub async fn dial(
    address: &NodeAddress,
    tls: &ServerTlsContext,
    deadline: Instant,
) -> Result<Stream, DialError> {
    timeout_at(deadline, dial_as(address, &tls.current(), deadline)).await.unwrap_or(Err(DialError::Timeout))
}

/// Connects without TLS: libpq's second attempt in mode `prefer`, when the server's rules let nobody in over TLS.
pub async fn dial_plain(address: &NodeAddress, deadline: Instant) -> Result<Stream, DialError> {
    let connected = timeout_at(deadline, connect(address, deadline)).await;
    connected.unwrap_or(Err(DialError::Timeout)).map(Stream::Plain)
}

async fn dial_as(address: &NodeAddress, tls: &Upstream, deadline: Instant) -> Result<Stream, DialError> {
    let mut plain = connect(address, deadline).await?;
    let Some(config) = tls.config.as_ref().filter(|_| !address.is_unix()) else {
        return Ok(Stream::Plain(plain));
    };
    let optional = tls.mode == TlsMode::Prefer;
    let failed = match ask(&mut plain).await? {
        b'S' => {
            let name = server_name(address, &plain)?;
            match TlsConnector::from(config.clone()).connect(name, plain).await {
                Ok(stream) => return Ok(Stream::Dialled(Box::new(stream))),
                Err(error) => DialError::Tls(error.to_string()),
            }
        }
        b'N' if optional => return Ok(Stream::Plain(plain)),
        b'N' => return Err(DialError::NoTls),
        // The text of an error here comes from nobody we know (CVE-2024-10977): it is not shown.
        b'E' => DialError::Tls("the server answered the request for TLS with an error".to_owned()),
        _ => {
            return Err(DialError::Tls("the server is no PostgreSQL: wrong answer to SSLRequest".to_owned()));
        }
    };
    if optional { Ok(Stream::Plain(connect(address, deadline).await?)) } else { Err(failed) }
}

/// Sends SSLRequest and reads exactly one byte: what follows in plain text would be injected (CVE-2021-23222).
async fn ask(plain: &mut Plain) -> io::Result<u8> {
    let mut request = Vec::with_capacity(8);
    encode::ssl_request(&mut request);
    plain.write_all(&request).await?;
    plain.read_u8().await
}

/// The name for SNI and verification. A host that is no valid DNS name can be dialled without verification; its address
/// stands in then.
fn server_name(address: &NodeAddress, plain: &Plain) -> Result<ServerName<'static>, DialError> {
    ServerName::try_from(address.host.clone()).or_else(|_| {
        let ip = plain.peer().and_then(|peer| peer.ip());
        ip.map(|ip| ServerName::IpAddress(ip.into()))
            .ok_or_else(|| DialError::Tls(format!("{} is not a valid host name", address.host)))
    })
}

async fn connect(address: &NodeAddress, deadline: Instant) -> Result<Plain, DialError> {
    if address.is_unix() {
        let path = format!("{}/.s.PGSQL.{}", address.host, address.port);
        return match UnixStream::connect(path).await {
            Ok(socket) => Ok(Plain::Unix(socket)),
            // A stopped server removes its socket file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(DialError::Refused),
            Err(error) => Err(error.into()),
        };
    }
    let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await;
    let addresses: Vec<_> = found.map_err(DialError::Resolve)?.collect();
    let mut failed = DialError::Resolve(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for (tried, one) in addresses.iter().enumerate() {
        // Each address gets an equal share of what is left, so that a dead first one does not eat it all.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = Instant::now() + left / (addresses.len() - tried) as u32;
        match timeout_at(share, TcpStream::connect(one)).await {
            Ok(Ok(socket)) => {
                socket.set_nodelay(true)?;
                keep_alive(&SockRef::from(&socket))?;
                return Ok(Plain::Tcp(socket, Peer::tcp(*one)));
            }
            Ok(Err(error)) => failed = error.into(),
            Err(_) => failed = DialError::Timeout,
        }
    }
    Err(failed)
}

/// Makes the death of an idle peer known: after a minute of silence at the latest. No TCP_USER_TIMEOUT: Linux ends a
/// connection by it whose peer is alive and only takes nothing, and a client may read, a server work, as slowly as it likes.
pub(super) fn keep_alive(socket: &SockRef<'_>) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)
}
