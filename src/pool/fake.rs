//! A server made of a script, for tests: speaks as much of the protocol as the pools need, and as badly as told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::config::NodeAddress;
use crate::wire::encode;
use crate::wire::error::{PgError, SqlState};

/// How the server behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mood {
    /// As it should.
    #[default]
    Good,
    /// Takes its time for a login.
    Slow,
    /// Reports a parameter after DISCARD ALL that it did not report at login.
    Drifts,
    /// The first statement is cancelled, as by a late CancelRequest.
    CancelledOnce,
    /// Never answers a statement.
    Mute,
    /// Says a word to idle backends: the FATAL of a shutdown.
    Farewell,
    /// Refuses every login.
    Full,
    /// Answers the startup packet with these bytes.
    Garbage(&'static [u8]),
}

/// What the server has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) logins: AtomicUsize,
    pub(super) logging_in: AtomicUsize,
    pub(super) most_logging_in: AtomicUsize,
    pub(super) open: AtomicUsize,
    pub(super) most_open: AtomicUsize,
    pub(super) discards: AtomicUsize,
    pub(super) cancels: AtomicUsize,
}

impl Seen {
    pub(super) fn count(counter: &AtomicUsize) -> usize {
        counter.load(Ordering::SeqCst)
    }
}

/// A running server; ends when dropped.
pub(super) struct FakeServer {
    pub(super) address: NodeAddress,
    pub(super) seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

impl FakeServer {
    /// Starts one. `in_recovery` is what it reports.
    pub(super) async fn start(mood: Mood, in_recovery: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = NodeAddress::new("127.0.0.1", listener.local_addr().unwrap().port());
        let seen = Arc::new(Seen::default());
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let seen = Arc::clone(&shared);
                connections.spawn(async move {
                    // A connection that ends is the end of its script.
                    let _ = serve(socket, mood, in_recovery, &seen).await;
                });
            }
        });
        Self { address, seen, _tasks: tasks }
    }
}

struct Open<'a>(&'a Seen);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(mut socket: TcpStream, mood: Mood, in_recovery: bool, seen: &Seen) -> std::io::Result<()> {
    let length = socket.read_u32().await?;
    let mut packet = vec![0; length as usize - 4];
    socket.read_exact(&mut packet).await?;
    if packet.starts_with(&crate::wire::startup::CANCEL_REQUEST.to_be_bytes()) {
        seen.cancels.fetch_add(1, Ordering::SeqCst);
        return Ok(());
    }
    let login = seen.logins.fetch_add(1, Ordering::SeqCst) + 1;
    let mut out = Vec::new();
    match mood {
        Mood::Garbage(bytes) => return socket.write_all(bytes).await,
        Mood::Full => {
            PgError::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
                .encode(&mut out);
            return socket.write_all(&out).await;
        }
        Mood::Slow => {
            let logging_in = seen.logging_in.fetch_add(1, Ordering::SeqCst) + 1;
            seen.most_logging_in.fetch_max(logging_in, Ordering::SeqCst);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            seen.logging_in.fetch_sub(1, Ordering::SeqCst);
        }
        _ => {}
    }
    let open = seen.open.fetch_add(1, Ordering::SeqCst) + 1;
    seen.most_open.fetch_max(open, Ordering::SeqCst);
    let _open = Open(seen);
    encode::auth_ok(&mut out);
    encode::parameter_status(&mut out, "TimeZone", "UTC");
    encode::parameter_status(&mut out, "in_hot_standby", if in_recovery { "on" } else { "off" });
    encode::backend_key_data(&mut out, login as i32, b"key!");
    encode::ready_for_query(&mut out, b'I');
    socket.write_all(&out).await?;
    if mood == Mood::Farewell {
        out.clear();
        PgError::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection").encode(&mut out);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        return socket.write_all(&out).await;
    }
    statements(&mut socket, mood, seen).await
}

async fn statements(socket: &mut TcpStream, mood: Mood, seen: &Seen) -> std::io::Result<()> {
    let mut cancel = mood == Mood::CancelledOnce;
    loop {
        let tag = socket.read_u8().await?;
        let mut body = vec![0; socket.read_u32().await? as usize - 4];
        socket.read_exact(&mut body).await?;
        if tag == b'X' {
            return Ok(());
        }
        if mood == Mood::Mute {
            continue;
        }
        let mut out = Vec::new();
        if std::mem::take(&mut cancel) {
            PgError::error(SqlState::QUERY_CANCELED, "canceling statement").encode(&mut out);
        } else if body == b"DISCARD ALL\0" {
            seen.discards.fetch_add(1, Ordering::SeqCst);
            if mood == Mood::Drifts {
                encode::parameter_status(&mut out, "TimeZone", "Mars");
            }
            encode::command_complete(&mut out, "DISCARD ALL");
        } else {
            encode::message(&mut out, b'I', |_| {});
        }
        encode::ready_for_query(&mut out, b'I');
        socket.write_all(&out).await?;
    }
}
