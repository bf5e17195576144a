//! tokio-postgres over our own dial: for probes and look-ups, never for pooled backends.
//!
//! TLS is done before tokio-postgres sees the stream; it is told what it needs for channel binding.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::tls::ServerTlsContext;
use super::{DialError, Stream, dial};
use crate::config::{NodeAddress, Secret};

/// Drives the socket of a [`tokio_postgres::Client`]; also knows the reported parameters.
pub type Connection = tokio_postgres::Connection<Stream, Bound>;

/// Who logs in, and where to.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// Role.
    pub user: &'a str,
    /// Its password; `None` where the node trusts it.
    pub password: Option<&'a Secret>,
    /// Database.
    pub database: &'a str,
    /// Shown in `pg_stat_activity`.
    pub application_name: &'a str,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The node could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The node refused the login, or broke it off.
    #[error(transparent)]
    Login(#[from] tokio_postgres::Error),
    /// The deadline passed during the login.
    #[error("timed out during the login")]
    Timeout,
}

/// Connects and logs in before `deadline`. The caller must drive the connection.
pub async fn connect(
    address: &NodeAddress,
    tls: &ServerTlsContext,
    login: &Login<'_>,
    deadline: Instant,
) -> Result<(tokio_postgres::Client, Connection), ConnectError> {
    login_over(dial(address, tls, deadline).await?, login, deadline).await
}

/// Logs in before `deadline` over a stream that was dialled before. The caller must drive the connection.
pub async fn login_over(
    stream: Stream,
    login: &Login<'_>,
    deadline: Instant,
) -> Result<(tokio_postgres::Client, Connection), ConnectError> {
    let mut config = tokio_postgres::Config::new();
    config.user(login.user).dbname(login.database).application_name(login.application_name);
    if let Some(password) = login.password {
        config.password(password.expose());
    }
    // "Direct" makes tokio-postgres call our connector without asking the server first: that has been done.
    if stream.is_tls() {
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    } else {
        config.ssl_mode(SslMode::Disable);
    }
    match timeout_at(deadline, config.connect_raw(stream, Done)).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(ConnectError::Timeout),
    }
}

/// A connector for a stream whose TLS is up already.
struct Done;

impl TlsConnect<Stream> for Done {
    type Stream = Bound;
    type Error = io::Error;
    type Future = Ready<io::Result<Bound>>;

    fn connect(self, stream: Stream) -> Self::Future {
        ready(Ok(Bound(stream)))
    }
}

/// A [`Stream`] that can tell tokio-postgres its channel binding.
#[derive(Debug)]
pub struct Bound(Stream);

impl TlsStream for Bound {
    fn channel_binding(&self) -> ChannelBinding {
        match self.0.tls_info().and_then(|info| info.end_point) {
            Some(data) => ChannelBinding::tls_server_end_point(data),
            None => ChannelBinding::none(),
        }
    }
}

impl AsyncRead for Bound {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Bound {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
