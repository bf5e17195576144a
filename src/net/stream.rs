//! One stream type for clients and backends: plain, TLS that we accepted, TLS that we dialled.
//!
//! Calls pass straight through. A write to a TLS stream may stay in its buffer until `poll_flush`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{client, server};

use super::listener::Peer;
use super::plain::Plain;
use crate::scram::binding::server_end_point;

/// A connected socket, with TLS or without.
pub enum Stream {
    /// Without TLS.
    Plain(Plain),
    /// TLS with a client.
    Accepted(Box<AcceptedTls>),
    /// TLS with a node.
    Dialled(Box<client::TlsStream<Plain>>),
}

/// TLS with a client and what our certificate gives for channel binding.
pub struct AcceptedTls {
    pub(super) io: server::TlsStream<Plain>,
    /// Kept here, since the acceptor's certificate may have been replaced meanwhile.
    pub(super) end_point: Option<Vec<u8>>,
}

/// What TLS tells a login.
#[derive(Clone, Debug)]
pub struct TlsInfo {
    /// `tls-server-end-point` data of the server's certificate (ours on accepted streams); `None`: no -PLUS.
    pub end_point: Option<Vec<u8>>,
    /// The peer's certificate, verified on accepted streams, on dialled ones as the TLS mode says.
    pub peer_certificate: Option<CertificateDer<'static>>,
}

/// Passes a call on to whichever stream it is.
macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Stream::Plain($stream) => $call,
            Stream::Accepted(tls) => {
                let $stream = &mut tls.io;
                $call
            }
            Stream::Dialled($stream) => $call,
        }
    };
}

impl Stream {
    fn plain(&self) -> &Plain {
        match self {
            Self::Plain(plain) => plain,
            Self::Accepted(tls) => tls.io.get_ref().0,
            Self::Dialled(tls) => tls.get_ref().0,
        }
    }

    fn plain_mut(&mut self) -> &mut Plain {
        match self {
            Self::Plain(plain) => plain,
            Self::Accepted(tls) => tls.io.get_mut().0,
            Self::Dialled(tls) => tls.get_mut().0,
        }
    }

    /// The other end; `None` when the socket could not be moved to this thread.
    pub fn peer(&self) -> Option<Peer> {
        self.plain().peer()
    }

    /// Is it encrypted?
    pub fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// What TLS tells a login; `None` without TLS.
    pub fn tls_info(&self) -> Option<TlsInfo> {
        let first = |chain: Option<&[CertificateDer<'static>]>| chain.and_then(<[_]>::first).cloned();
        match self {
            Self::Plain(_) => None,
            Self::Accepted(tls) => Some(TlsInfo {
                end_point: tls.end_point.clone(),
                peer_certificate: first(tls.io.get_ref().1.peer_certificates()),
            }),
            Self::Dialled(tls) => {
                let peer_certificate = first(tls.get_ref().1.peer_certificates());
                let end_point = peer_certificate.as_deref().and_then(server_end_point);
                Some(TlsInfo { end_point, peer_certificate })
            }
        }
    }

    /// Whether the socket has something to read as far as the reactor has said. No system call. May say yes once too
    /// often; [`Stream::is_quiet`] makes sure.
    pub fn readable_now(&self) -> bool {
        self.plain().readable_now()
    }

    /// Whether an idle stream is still what it should be: open, and nothing said. Reads (and drops) a byte only when the
    /// socket is known to be readable, so this costs no system call in the good case. TLS records without content, such
    /// as session tickets, are not a word.
    pub fn is_quiet(&mut self) -> bool {
        if !self.readable_now() {
            return true;
        }
        let mut byte = [0];
        let mut buf = ReadBuf::new(&mut byte);
        Pin::new(self).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf).is_pending()
    }

    /// Waits until there is something to read, without needing a buffer for it. A readable TLS socket may turn out to
    /// hold no content: the read after this may have to wait.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let buffered = match self {
            Self::Plain(_) => false,
            Self::Accepted(tls) => has_plaintext(tls.io.get_mut().1.process_new_packets()),
            Self::Dialled(tls) => has_plaintext(tls.get_mut().1.process_new_packets()),
        };
        if buffered { Poll::Ready(Ok(())) } else { self.plain().poll_readable(cx) }
    }

    /// Moves an idle stream to the runtime of the calling thread, so that its wake-ups come from there.
    /// After an error the stream is closed.
    pub fn rehome(&mut self) -> io::Result<()> {
        let plain = std::mem::replace(self.plain_mut(), Plain::Gone).rehome()?;
        *self.plain_mut() = plain;
        Ok(())
    }

    /// Sends a last message as far as the socket takes it at once, and the end of TLS. Never waits.
    pub fn farewell(&mut self, message: &[u8]) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut stream = Pin::new(self);
        if let Poll::Ready(Ok(_)) = stream.as_mut().poll_write(&mut cx, message) {
            // Whatever fails here: the socket is closed next, and the peer learns it from that.
            let _ = stream.as_mut().poll_flush(&mut cx);
            let _ = stream.as_mut().poll_shutdown(&mut cx);
        }
    }
}

/// An error is for the next read to report.
fn has_plaintext(state: Result<rustls::IoState, rustls::Error>) -> bool {
    state.is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
}

impl From<Plain> for Stream {
    fn from(plain: Plain) -> Self {
        Self::Plain(plain)
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Self::Plain(_) => "plain",
            Self::Accepted(_) => "TLS with a client",
            Self::Dialled(_) => "TLS with a node",
        };
        write!(f, "Stream({kind}, {:?})", self.plain())
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
