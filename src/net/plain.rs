//! A TCP or unix socket as one type, passed through call by call.
//!
//! tokio notes when a read came back short and skips the read that would only say EAGAIN; nothing here may get in the
//! way of that.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::listener::Peer;

/// A connected socket without TLS.
#[derive(Debug)]
pub enum Plain {
    /// TCP, and who is at the other end.
    Tcp(TcpStream, Peer),
    /// Unix domain.
    Unix(UnixStream),
    /// Taken out to be moved to another thread, which failed: every call is an error.
    Gone,
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the socket could not be moved to this thread")
}

impl Plain {
    /// Whether the last word of the reactor is that a read would not block. No system call. May say yes once too often
    /// (after a read that exactly filled its buffer) and, for a moment, no too often.
    pub fn readable_now(&self) -> bool {
        match self {
            Self::Tcp(socket, _) => socket.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Self::Unix(socket) => socket.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Self::Gone => true,
        }
    }

    /// Waits until a read would not block, without reading.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket, _) => socket.poll_read_ready(cx),
            Self::Unix(socket) => socket.poll_read_ready(cx),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }

    /// Registers the socket with the runtime of the calling thread.
    pub fn rehome(self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket, peer) => Ok(Self::Tcp(TcpStream::from_std(socket.into_std()?)?, peer)),
            Self::Unix(socket) => Ok(Self::Unix(UnixStream::from_std(socket.into_std()?)?)),
            Self::Gone => Err(gone()),
        }
    }

    /// The other end.
    pub fn peer(&self) -> Option<Peer> {
        match self {
            Self::Tcp(_, peer) => Some(*peer),
            Self::Unix(_) => Some(Peer::Unix),
            Self::Gone => None,
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket, _) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }
}

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket, _) => Pin::new(socket).poll_write(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket, _) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket, _) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }
}
