//! Cleans a backend for its next user and proves that it is clean.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::applied::Applied;
use super::backend::Backend;
use super::messages::{Messages, garbage, send};
use crate::wire::backend::{command_tag, parameter_status};
use crate::wire::encode;
use crate::wire::error::{ErrorView, SqlState};

/// How long cancel requests on their way are waited for: one takes milliseconds, one that does not may hit anybody.
const CANCELS: Duration = Duration::from_secs(1);

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wash {
    /// `DISCARD ALL`: everything a session can leave behind.
    Discard,
    /// An empty statement: only catches a cancel that was on its way.
    Settle,
}

impl Wash {
    fn sql(self) -> &'static str {
        match self {
            Self::Discard => "DISCARD ALL",
            Self::Settle => "",
        }
    }
}

/// Why a backend cannot be used again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Dirty {
    /// A cancel request did not end.
    #[error("a cancel request is still under way")]
    Cancel,
    /// The server refused.
    #[error("the reset failed: {0}")]
    Failed(SqlState),
    /// The connection broke.
    #[error("the connection broke during the reset: {0}")]
    Io(#[from] io::Error),
    /// A parameter is not what it was at login.
    #[error("parameter {0} is not what it was at login")]
    Parameter(String),
    /// It took too long.
    #[error("the reset took too long")]
    Slow,
}

/// Waits for cancel requests, runs the statement, and checks that the server is at status `I` with the parameters of the
/// login. A cancel that arrives late hits our own statement, which then runs once more.
pub(super) async fn reset(backend: &mut Backend, wash: Wash, limit: Duration) -> Result<(), Dirty> {
    timeout(CANCELS, backend.cancels.emptied()).await.map_err(|_| Dirty::Cancel)?;
    match timeout(limit, run(backend, wash)).await {
        Ok(result) => result,
        Err(_) => Err(Dirty::Slow),
    }
}

async fn run(backend: &mut Backend, wash: Wash) -> Result<(), Dirty> {
    let mut outcome = exchange(backend, wash).await?;
    if outcome == Some(SqlState::QUERY_CANCELED) {
        outcome = exchange(backend, wash).await?;
    }
    if let Some(code) = outcome {
        return Err(Dirty::Failed(code));
    }
    if wash == Wash::Discard {
        backend.applied = Applied::default();
        backend.statements = None;
        backend.note_prepared(0);
    }
    match (wash, backend.drift.iter().next()) {
        (Wash::Discard, Some((name, _))) => Err(Dirty::Parameter(name.to_owned())),
        _ => Ok(()),
    }
}

/// One statement up to ReadyForQuery `I`; the code of its error, if it had one.
async fn exchange(backend: &mut Backend, wash: Wash) -> Result<Option<SqlState>, Dirty> {
    let mut out = Vec::with_capacity(32);
    encode::query(&mut out, wash.sql());
    send(&mut backend.stream, &out).await?;
    let mut messages = Messages::default();
    let mut done = false;
    let mut failed = None;
    loop {
        let message = messages.next(&mut backend.stream).await?;
        match message.tag {
            b'C' if wash == Wash::Discard => done = command_tag(message.body) == b"DISCARD ALL",
            b'I' if wash == Wash::Settle => done = true,
            b'E' => {
                let error = ErrorView::new(message.body);
                failed = Some(error.code());
                if error.ends_connection() {
                    return Err(Dirty::Failed(error.code()));
                }
            }
            b'S' => {
                let (name, value) =
                    parameter_status(message.body).ok_or_else(|| garbage("unreadable ParameterStatus"))?;
                backend.note_parameter(name, value);
            }
            // Notices, and notifications that were on their way.
            b'N' | b'A' => {}
            b'Z' if message.body == b"I" && (done || failed.is_some()) => break,
            tag => return Err(garbage(format_args!("message 0x{tag:02x} during the reset")).into()),
        }
    }
    if messages.is_drained() { Ok(failed) } else { Err(garbage("words after ReadyForQuery").into()) }
}
