//! Where clients connect: TCP on both families, unix sockets.
//!
//! Out: accepted sockets that belong to no runtime yet, so that the thread that will serve them registers them once. It
//! counts nobody and refuses nobody.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::dial::keep_alive;
use super::{Plain, Stream};
use crate::config::ListenAddress;

/// Connections the kernel holds for us; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Pause when no file descriptor is left: long enough not to spin, short enough not to be felt when one is free again.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Who connected, or to whom we did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An IPv4 or IPv6 address; IPv4 in IPv6's clothes is undressed.
    Tcp(SocketAddr),
    /// The same host.
    Unix,
}

impl Peer {
    pub(super) fn tcp(address: SocketAddr) -> Self {
        Self::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// The IP address, when there is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("local"),
        }
    }
}

/// A socket that has been accepted and belongs to no runtime yet.
#[derive(Debug)]
pub enum AcceptedSocket {
    /// TCP, and who connected.
    Tcp(std::net::TcpStream, Peer),
    /// Unix domain.
    Unix(unix::UnixStream),
}

impl AcceptedSocket {
    /// Registers it with the runtime of the calling thread.
    pub fn into_stream(self) -> io::Result<Stream> {
        Ok(Stream::Plain(match self {
            Self::Tcp(socket, peer) => Plain::Tcp(TcpStream::from_std(socket)?, peer),
            Self::Unix(socket) => Plain::Unix(UnixStream::from_std(socket)?),
        }))
    }
}

enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// One listening socket, registered with the runtime that bound it.
pub struct Listener {
    kind: Kind,
    exhausted: bool,
}

/// Binds an address; a name may stand for several sockets. `*` is one socket for both families, IPv4 only where the host
/// has no IPv6.
pub async fn bind(address: &ListenAddress) -> io::Result<Vec<Listener>> {
    match address {
        ListenAddress::Unix { dir, port } => Ok(vec![Listener::unix(dir, *port)?]),
        ListenAddress::Tcp { host, port } if host == "*" => {
            let any = Listener::tcp((Ipv6Addr::UNSPECIFIED, *port).into(), false);
            let any = any.or_else(|_| Listener::tcp((Ipv4Addr::UNSPECIFIED, *port).into(), true));
            Ok(vec![any?])
        }
        ListenAddress::Tcp { host, port } => {
            let found = tokio::net::lookup_host((host.as_str(), *port)).await?;
            let listeners: Vec<_> =
                found.map(|address| Listener::tcp(address, true)).collect::<io::Result<_>>()?;
            if listeners.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
            }
            Ok(listeners)
        }
    }
}

impl Listener {
    fn tcp(address: SocketAddr, only_v6: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(only_v6)?;
        }
        // A restarted proxy must not wait for the connections of the last one to time out.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Self::from_tcp(socket.into())
    }

    fn unix(dir: &Path, port: u16) -> io::Result<Self> {
        let path = dir.join(format!(".s.PGSQL.{port}"));
        remove_stale(&path)?;
        let listener = unix::UnixListener::bind(&path)?;
        // As PostgreSQL's default `unix_socket_permissions`: whoever may reach the directory may connect.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
        let inode = std::fs::metadata(&path)?.ino();
        Self::from_unix(listener, SocketFile { path, inode })
    }

    fn from_tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        // Accepted sockets inherit these, which saves six system calls for each.
        let socket = SockRef::from(&listener);
        socket.set_tcp_nodelay(true)?;
        keep_alive(&socket)?;
        Ok(Self { kind: Kind::Tcp(TcpListener::from_std(listener)?), exhausted: false })
    }

    fn from_unix(listener: unix::UnixListener, file: SocketFile) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { kind: Kind::Unix(UnixListener::from_std(listener)?, file), exhausted: false })
    }

    /// The bound TCP address, with the port that the system chose; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            Kind::Unix(..) => None,
        }
    }

    /// The socket file; `None` for TCP.
    pub fn path(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Tcp(_) => None,
            Kind::Unix(_, file) => Some(&file.path),
        }
    }

    /// The next connection. Connections that died in the queue are skipped; without file descriptors it waits and says so
    /// once. Cancel-safe. An error means that the listener itself is broken.
    pub async fn accept(&mut self) -> io::Result<(AcceptedSocket, Peer)> {
        loop {
            match self.accept_one().await {
                Ok(accepted) => {
                    self.exhausted = false;
                    return Ok(accepted);
                }
                Err(error) if is_exhaustion(&error) => {
                    if !std::mem::replace(&mut self.exhausted, true) {
                        tracing::error!(%error, "cannot accept connections");
                    }
                    tokio::time::sleep(BACK_OFF).await;
                }
                Err(error) if is_fatal(&error) => return Err(error),
                // ECONNABORTED and what else belongs to that one connection (accept(2)).
                Err(error) => tracing::debug!(%error, "a connection ended before it was accepted"),
            }
        }
    }

    async fn accept_one(&self) -> io::Result<(AcceptedSocket, Peer)> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (socket, address) = listener.accept().await?;
                let peer = Peer::tcp(address);
                Ok((AcceptedSocket::Tcp(socket.into_std()?, peer), peer))
            }
            Kind::Unix(listener, _) => {
                let (socket, _) = listener.accept().await?;
                Ok((AcceptedSocket::Unix(socket.into_std()?), Peer::Unix))
            }
        }
    }
}

/// Out of file descriptors or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM): nothing wrong with the listener.
fn is_exhaustion(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOBUFS: i32 = 105;
    const ENOMEM: i32 = 12;
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

/// EBADF, EFAULT, EINVAL, ENOTSOCK, EOPNOTSUPP, or no system error at all (the runtime ends).
fn is_fatal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), None | Some(9 | 14 | 22 | 88 | 95))
}

/// Removes the socket file of a proxy that has ended; one that somebody listens on is left alone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is no socket"));
    }
    match unix::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on this socket")),
    }
}

/// The file of a unix socket: removed at the end, unless another process has put its own there meanwhile.
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if ours {
            // Nothing can be done about a failure, and the next start removes it as stale.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
