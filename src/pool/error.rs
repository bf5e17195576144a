//! Why a lease was not granted, and what the client is told.

use crate::net::DialError;
use crate::topology::Nudge;
use crate::wire::error::{ErrorView, PgError, SqlState};

/// A server's ErrorResponse, kept as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerError {
    /// Its SQLSTATE.
    pub code: SqlState,
    /// The whole message, tag and length included.
    pub frame: Vec<u8>,
}

impl ServerError {
    /// Keeps the body of an ErrorResponse.
    pub(super) fn new(body: &[u8]) -> Self {
        let mut frame = Vec::with_capacity(body.len() + 5);
        crate::wire::encode::message(&mut frame, b'E', |out| out.extend_from_slice(body));
        Self { code: ErrorView::new(body).code(), frame }
    }

    /// The fields.
    pub fn view(&self) -> ErrorView<'_> {
        ErrorView::new(self.frame.get(5..).unwrap_or_default())
    }
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.view().message())
    }
}

impl std::fmt::Debug for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerError({self})")
    }
}

/// Why a lease was not granted.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The primary changed while the lease was being made: route again.
    #[error("the primary changed meanwhile")]
    Epoch,
    /// The node asks for a login that our credentials do not allow, or fails to prove who it is.
    #[error("{0}")]
    Login(PgError),
    /// The node could not be reached, or did not speak the protocol.
    #[error("{0}")]
    Node(DialError),
    /// `pool.max_waiters` sessions wait already.
    #[error("too many sessions wait for a backend")]
    QueueFull,
    /// The server refused, in its own words.
    #[error("{0}")]
    Server(ServerError),
    /// The deadline passed: while waiting for a free backend, or while one was being opened.
    #[error("no backend became free in time")]
    Timeout,
}

impl LeaseError {
    /// True when the node, not the request, is at fault: the same lease may succeed on another node, or a little later.
    pub fn is_node_trouble(&self) -> bool {
        match self {
            Self::Epoch | Self::Node(_) => true,
            Self::Server(error) => nudge_of_code(error.code).is_some(),
            Self::Login(_) | Self::QueueFull | Self::Timeout => false,
        }
    }

    /// Appends the ErrorResponse for a client that logs in: the server's own, or ours.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Server(error) => out.extend_from_slice(&error.frame),
            other => other.to_error().encode(out),
        }
    }

    /// The error for a client, severity FATAL. For [`LeaseError::Server`] the text alone; [`LeaseError::encode`] keeps all.
    pub fn to_error(&self) -> PgError {
        match self {
            Self::Epoch => PgError::fatal(SqlState::CANNOT_CONNECT_NOW, "the primary is changing"),
            Self::Login(error) => error.clone(),
            Self::Node(error) => {
                PgError::fatal(SqlState::CONNECTION_EXCEPTION, "could not connect to the server")
                    .with_detail(error.to_string())
            }
            Self::QueueFull | Self::Timeout => {
                PgError::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
                    .with_detail(self.to_string())
            }
            Self::Server(error) => PgError::fatal(error.code, error.view().message()),
        }
    }

    /// What it tells about the node's health.
    pub(super) fn evidence(&self) -> Option<Nudge> {
        match self {
            Self::Node(error) => nudge_of_dial(error),
            Self::Server(error) => nudge_of_code(error.code),
            _ => None,
        }
    }
}

fn nudge_of_dial(error: &DialError) -> Option<Nudge> {
    use std::io::ErrorKind;
    match error {
        DialError::Refused => Some(Nudge::Refused),
        DialError::Timeout => Some(Nudge::Timeout),
        DialError::Io(error) => match error.kind() {
            ErrorKind::UnexpectedEof => Some(Nudge::Eof),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Some(Nudge::Reset),
            _ => None,
        },
        DialError::NoTls | DialError::Resolve(_) | DialError::Tls(_) => None,
    }
}

fn nudge_of_code(code: SqlState) -> Option<Nudge> {
    match code {
        SqlState::ADMIN_SHUTDOWN => Some(Nudge::Shutdown57P01),
        SqlState::CRASH_SHUTDOWN => Some(Nudge::Crash57P02),
        SqlState::CANNOT_CONNECT_NOW => Some(Nudge::Starting57P03),
        _ => None,
    }
}
