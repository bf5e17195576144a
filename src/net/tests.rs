//! Sockets on the loopback: where we listen, how we dial, what an idle stream knows of itself.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::listener::bind;
use super::tls::ServerTlsContext;
use super::*;
use crate::config::{ListenAddress, NodeAddress};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn tcp(host: &str) -> ListenAddress {
    ListenAddress::Tcp { host: host.to_owned(), port: 0 }
}

fn unix(dir: &Path) -> ListenAddress {
    ListenAddress::Unix { dir: dir.to_owned(), port: 6432 }
}

async fn listen(address: &ListenAddress) -> Listener {
    bind(address).await.unwrap().remove(0)
}

/// A connected pair: ours as dialled, theirs as accepted.
async fn pair() -> (Stream, Stream) {
    let mut listener = listen(&tcp("127.0.0.1")).await;
    let port = listener.local_addr().unwrap().port();
    let address = NodeAddress::new("127.0.0.1", port);
    let (dialled, accepted) = tokio::join!(dial_plain(&address, soon()), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0.into_stream().unwrap())
}

/// The reactor has to be asked before it knows of anything.
async fn until(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(5), wait).await.unwrap();
}

#[tokio::test]
async fn accepted_sockets_do_not_wait_and_learn_of_a_dead_peer() {
    let mut listener = listen(&tcp("127.0.0.1")).await;
    let port = listener.local_addr().unwrap().port();
    let address = NodeAddress::new("127.0.0.1", port);
    let (dialled, accepted) = tokio::join!(dial_plain(&address, soon()), listener.accept());
    let (AcceptedSocket::Tcp(socket, _), peer) = accepted.unwrap() else { panic!("TCP was dialled") };
    let Ok(Stream::Plain(Plain::Tcp(dialled, _))) = dialled else { panic!("TCP was dialled") };
    for options in [socket2::SockRef::from(&socket), socket2::SockRef::from(&dialled)] {
        assert!(options.tcp_nodelay().unwrap() && options.keepalive().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
        assert_eq!(options.tcp_user_timeout().unwrap(), None, "a peer may take as long as it likes");
    }
    let stream = AcceptedSocket::Tcp(socket, peer).into_stream().unwrap();
    assert_eq!(stream.peer(), Some(peer));
}

#[tokio::test]
async fn star_takes_both_families_and_ipv4_shows_as_ipv4() {
    let mut listener = listen(&tcp("*")).await;
    let port = listener.local_addr().unwrap().port();
    let address = NodeAddress::new("127.0.0.1", port);
    let (dialled, accepted) = tokio::join!(dial_plain(&address, soon()), listener.accept());
    dialled.unwrap();
    let (_, peer) = accepted.unwrap();
    assert!(peer.ip().unwrap().is_ipv4(), "{peer}");
}

#[tokio::test]
async fn socket_files_are_taken_over_only_when_stale() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".s.PGSQL.6432");
    // A dead socket file, as a killed process leaves it.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = listen(&unix(dir.path())).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
    let taken = bind(&unix(dir.path())).await.err().unwrap();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    assert_eq!(listener.path(), Some(path.as_path()));
    drop(listener);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(bind(&unix(dir.path())).await.is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn unix_nodes_are_dialled_without_tls_whatever_the_mode() {
    let dir = tempfile::tempdir().unwrap();
    let mut listener = listen(&unix(dir.path())).await;
    let address = NodeAddress::new(dir.path().to_str().unwrap(), 6432);
    let require =
        crate::config::ServerTls { mode: crate::config::TlsMode::Require, ca: None, cert: None, key: None };
    let tls = ServerTlsContext::load(&require).unwrap();
    let (dialled, accepted) = tokio::join!(dial(&address, &tls, soon()), listener.accept());
    assert!(!dialled.unwrap().is_tls());
    assert_eq!(accepted.unwrap().1, Peer::Unix);
}

#[tokio::test]
async fn refusals_and_silence_are_told_apart() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = NodeAddress::new("127.0.0.1", port);
    // Accepted by the kernel, answered by nobody.
    let short = Instant::now() + Duration::from_millis(50);
    let prefer = ServerTlsContext::load(&crate::config::ServerTls::default()).unwrap();
    assert!(matches!(dial(&address, &prefer, short).await, Err(DialError::Timeout)));
    drop(listener);
    assert!(matches!(dial(&address, &ServerTlsContext::off(), soon()).await, Err(DialError::Refused)));
    let nowhere = NodeAddress::new("/nonexistent", 1);
    assert!(matches!(dial_plain(&nowhere, soon()).await, Err(DialError::Refused)));
    let unknown = NodeAddress::new("no.such.host.invalid", 1);
    assert!(matches!(dial_plain(&unknown, soon()).await, Err(DialError::Resolve(_))));
}

#[tokio::test]
async fn an_idle_stream_notices_words_and_the_end() {
    let (mut ours, mut theirs) = pair().await;
    assert!(ours.is_quiet());
    // A read that exactly fills its buffer leaves the readiness standing: not a word.
    theirs.write_all(b"abcd").await.unwrap();
    let mut four = [0; 4];
    ours.read_exact(&mut four).await.unwrap();
    assert!(ours.is_quiet());
    theirs.write_all(b"E").await.unwrap();
    until(|| ours.readable_now()).await;
    assert!(!ours.is_quiet());
    let (mut ours, theirs) = pair().await;
    drop(theirs);
    until(|| ours.readable_now()).await;
    assert!(!ours.is_quiet());
}

#[tokio::test]
async fn a_stream_lives_on_after_it_was_moved_to_another_thread() {
    let (mut ours, mut theirs) = pair().await;
    let moved = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            ours.rehome().unwrap();
            ours.write_all(b"ping").await.unwrap();
            let mut answer = [0; 4];
            ours.read_exact(&mut answer).await.unwrap();
            answer
        })
    });
    let mut question = [0; 4];
    theirs.read_exact(&mut question).await.unwrap();
    theirs.write_all(b"pong").await.unwrap();
    assert_eq!((&question, &moved.join().unwrap()), (b"ping", b"pong"));
}
