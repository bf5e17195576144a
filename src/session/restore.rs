//! Makes a fresh backend look like the one the session had: settings, prepared statements, `application_name`.
//!
//! In: a backend in its reset state and what the session carries. Out: the backend ready for the client's next message,
//! and the parameters that have changed under it. Nothing of the client's is under way meanwhile.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::state::State;
use crate::pool::{Backend, Change, Setting};
use crate::wire::backend;
use crate::wire::encode;
use crate::wire::error::{ErrorView, PgError, SqlState};
use crate::wire::frame::{self, Frame};

/// Replies we read before we call the server broken, bytes.
const REPLIES_MAX: usize = 1024 * 1024;

/// Why a backend could not be given the session's state.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backend was lost; another may do.
    #[error("the backend was lost while the session's state was restored")]
    Lost,
    /// The server refused a setting; the client must know.
    #[error("{0}")]
    Refused(PgError),
    /// The backend's role has been renamed or dropped since it logged in; whoever has its name now is somebody else.
    #[error("the backend's role is no longer the user's")]
    Stranger,
}

/// What one message of ours was for, in the order they were sent.
enum Step {
    /// Always the first.
    Identity,
    Setting,
    Replay(Setting),
    Statement(Vec<u8>),
}

/// Parameters whose reported value has changed under the client.
pub type Changed = Vec<(String, String)>;

/// Applies what the session carries. It keeps what this server refuses when `keeps` says that it has another.
pub async fn restore(
    backend: &mut Backend,
    state: &mut State,
    keeps: bool,
    deadline: Instant,
) -> Result<Changed, RestoreError> {
    if state.params.reported("application_name").is_none() {
        state.params.report_given_name(&backend.params);
    }
    let (bytes, steps) = plan(backend, state);
    let mut reported = Reported::default();
    let mut refused = None;
    if !steps.is_empty() {
        let failed = tokio::time::timeout_at(deadline, exchange(backend, &bytes, steps.len(), &mut reported))
            .await
            .map_err(|_| RestoreError::Lost)??;
        for (number, error) in failed {
            match steps.get(number) {
                Some(Step::Replay(replay)) => {
                    if !keeps {
                        state.params.forget(replay);
                    }
                    refused.get_or_insert(error);
                }
                // A dropped role has no name.
                Some(Step::Identity) => return Err(RestoreError::Stranger),
                Some(Step::Setting) => drop(refused.get_or_insert(error)),
                // Its use will get the server's own answer.
                Some(Step::Statement(_)) if keeps => {}
                Some(Step::Statement(name)) => drop(state.prepared.remove(name)),
                None => {}
            }
        }
        let asked = matches!(steps.first(), Some(Step::Identity));
        if asked && reported.name.as_deref() != backend.login_name().map(str::as_bytes) {
            return Err(RestoreError::Stranger);
        }
    }
    state.hot_standby =
        reported.hot_standby.or(backend.params.get("in_hot_standby").map(|value| value == "on"));
    for (name, value) in &reported.values {
        backend.note_parameter(name, value);
    }
    let changed = state.params.adopt(&backend.params, &reported.values);
    refused.map_or(Ok(changed), |error| Err(RestoreError::Refused(error)))
}

/// Sets `application_name` on a backend that is otherwise as the session left it. `statement` is a SET: that, unlike
/// `set_config`, takes no snapshot, so that a transaction block can still choose its isolation level. What comes for the
/// client meanwhile is added to `heard`.
pub async fn set_name(
    backend: &mut Backend,
    statement: &str,
    in_block: bool,
    deadline: Instant,
    heard: &mut Vec<u8>,
) -> Result<(), RestoreError> {
    let mut bytes = Vec::new();
    encode::query(&mut bytes, statement);
    let mut reported = Reported { in_block, ..Reported::default() };
    let exchange = exchange(backend, &bytes, 1, &mut reported);
    let done = tokio::time::timeout_at(deadline, exchange).await.map_err(|_| RestoreError::Lost)?.map(drop);
    heard.append(&mut reported.heard);
    done
}

/// Applies settings whose answers must be awaited; the backend has them afterwards, or is not to be used.
pub async fn apply(backend: &mut Backend, change: &Change, deadline: Instant) -> Result<(), RestoreError> {
    let mut reported = Reported::default();
    let exchange = exchange(backend, &change.messages, change.count, &mut reported);
    let failed = tokio::time::timeout_at(deadline, exchange).await.map_err(|_| RestoreError::Lost)??;
    for (name, value) in &reported.values {
        backend.note_parameter(name, value);
    }
    failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(RestoreError::Refused(error)))
}

/// Sends messages that are answered by so many ReadyForQuery, whatever else the server says to them. What comes for the client meanwhile is added to `heard`.
pub async fn send(
    backend: &mut Backend,
    messages: &[u8],
    count: usize,
    deadline: Instant,
    heard: &mut Vec<u8>,
) -> Result<(), RestoreError> {
    say(backend, messages, count, deadline, heard).await.map(drop)
}

/// Runs statements of ours that must succeed. What comes for the client meanwhile is added to `heard`.
pub async fn run(
    backend: &mut Backend,
    statements: &[u8],
    deadline: Instant,
    heard: &mut Vec<u8>,
) -> Result<(), RestoreError> {
    let mut bytes = Vec::new();
    encode::query(&mut bytes, statements);
    let failed = say(backend, &bytes, 1, deadline, heard).await?;
    failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(RestoreError::Refused(error)))
}

/// Sends messages that are answered by so many ReadyForQuery; which of them failed, and how.
async fn say(
    backend: &mut Backend,
    messages: &[u8],
    count: usize,
    deadline: Instant,
    heard: &mut Vec<u8>,
) -> Result<Vec<(usize, PgError)>, RestoreError> {
    let mut reported = Reported::default();
    let exchange = exchange(backend, messages, count, &mut reported);
    let failed = tokio::time::timeout_at(deadline, exchange).await.map_err(|_| RestoreError::Lost)??;
    heard.append(&mut reported.heard);
    Ok(failed)
}

/// Asks one question that is answered by one row of one column; `None` when the server refuses to answer. What comes for
/// the client meanwhile is added to `heard`.
pub async fn ask(
    backend: &mut Backend,
    question: &str,
    deadline: Instant,
    heard: &mut Vec<u8>,
) -> Result<Option<Vec<u8>>, RestoreError> {
    let mut reported = Reported::default();
    let bytes = question_bytes(question);
    let exchange = exchange(backend, &bytes, 1, &mut reported);
    let failed = tokio::time::timeout_at(deadline, exchange).await.map_err(|_| RestoreError::Lost)??;
    heard.append(&mut reported.heard);
    Ok(reported.name.filter(|_| failed.is_empty()))
}

/// By a statement with a name: a Query would drop the session's unnamed statement.
fn question_bytes(question: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let name = b"pgsteer_question\0";
    encode::message(&mut bytes, b'P', |body| {
        for part in [name, question.as_bytes(), b"\0\0\0"] {
            body.extend_from_slice(part);
        }
    });
    encode::message(&mut bytes, b'B', |body| {
        for part in [b"\0", &name[..], &[0; 6]] {
            body.extend_from_slice(part);
        }
    });
    encode::message(&mut bytes, b'E', |body| body.extend_from_slice(&[0; 5]));
    encode::message(&mut bytes, b'C', |body| {
        body.push(b'S');
        body.extend_from_slice(name);
    });
    encode::sync(&mut bytes);
    bytes
}

fn plan(backend: &Backend, state: &State) -> (Vec<u8>, Vec<Step>) {
    let mut bytes = Vec::new();
    let mut steps = Vec::new();
    if backend.reused && backend.login_name().is_some() {
        encode::query(&mut bytes, "SELECT session_user");
        steps.push(Step::Identity);
    }
    let wanted: Vec<(&str, &str)> = state
        .params
        .settable()
        .filter(|(name, value)| {
            backend.params.get(name) != Some(*value) || state.params.replays().any(|replay| replay.is(name))
        })
        .collect();
    let setting = |bytes: &mut Vec<u8>, steps: &mut Vec<Step>, (name, value): (&str, &str)| {
        encode::query(bytes, state.params.set_reported(name, value, &backend.params));
        steps.push(Step::Setting);
    };
    // The texts that follow are in the client's encoding.
    let (encoding, others): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|(name, _)| *name == "client_encoding");
    for pair in encoding {
        setting(&mut bytes, &mut steps, pair);
    }
    for replay in state.params.replays() {
        encode::query(&mut bytes, &replay.statement);
        steps.push(Step::Replay(replay.clone()));
    }
    // What the server reported last is what counts, however it was set.
    for pair in others {
        setting(&mut bytes, &mut steps, pair);
    }
    for (name, message) in state.prepared.messages() {
        bytes.extend_from_slice(message);
        encode::sync(&mut bytes);
        steps.push(Step::Statement(name.to_vec()));
    }
    (bytes, steps)
}

#[derive(Default)]
struct Reported {
    values: Vec<(String, String)>,
    hot_standby: Option<bool>,
    /// What the row of the first step says.
    name: Option<Vec<u8>>,
    /// Notifications that came meanwhile: the client's.
    heard: Vec<u8>,
    /// The client is in a transaction block, and must stay in it.
    in_block: bool,
}

impl Reported {
    fn note(&mut self, name: &str, value: &str) {
        if name == "in_hot_standby" {
            self.hot_standby = Some(value == "on");
        } else if let Some(known) = self.values.iter_mut().find(|(known, _)| known == name) {
            value.clone_into(&mut known.1);
        } else {
            self.values.push((name.to_owned(), value.to_owned()));
        }
    }
}

/// Sends everything in one packet and reads `count` segments; returns the errors with their segment's number.
async fn exchange(
    backend: &mut Backend,
    bytes: &[u8],
    count: usize,
    reported: &mut Reported,
) -> Result<Vec<(usize, PgError)>, RestoreError> {
    let lost = |_| RestoreError::Lost;
    // A Query drops it.
    if let Some(statements) = backend.statements.as_mut().filter(|_| bytes.first() == Some(&b'Q')) {
        statements.set_unnamed(None);
    }
    backend.stream.write_all(bytes).await.map_err(lost)?;
    backend.stream.flush().await.map_err(lost)?;
    let mut received = Vec::with_capacity(4096);
    let mut failed = Vec::new();
    let mut segment = 0;
    while segment < count {
        if received.len() > REPLIES_MAX || backend.stream.read_buf(&mut received).await.map_err(lost)? == 0 {
            return Err(RestoreError::Lost);
        }
        let mut used = 0;
        while let Some((frame, rest)) =
            frame::split(received.get(used..).unwrap_or_default()).map_err(|_| RestoreError::Lost)?
        {
            segment += usize::from(frame.tag == b'Z');
            take(&frame, segment, reported, &mut failed)?;
            used = received.len() - rest.len();
        }
        received.drain(..used);
    }
    Ok(failed)
}

fn take(
    frame: &Frame<'_>,
    segment: usize,
    reported: &mut Reported,
    failed: &mut Vec<(usize, PgError)>,
) -> Result<(), RestoreError> {
    match frame.tag {
        b'S' => {
            if let Some((name, value)) = backend::parameter_status(frame.body) {
                reported.note(name, value);
            }
        }
        b'A' => encode::message(&mut reported.heard, b'A', |body| body.extend_from_slice(frame.body)),
        b'D' if segment == 0 => reported.name = only_column(frame.body).map(<[u8]>::to_vec),
        b'E' => {
            let view = ErrorView::new(frame.body);
            if view.ends_connection() {
                return Err(RestoreError::Lost);
            }
            failed.push((segment, refusal(&view)));
        }
        b'Z' if frame.body != (if reported.in_block { b"T" } else { b"I" }) => {
            return Err(RestoreError::Lost);
        }
        _ => {}
    }
    Ok(())
}

/// The value in a DataRow of one column.
fn only_column(body: &[u8]) -> Option<&[u8]> {
    let (_count, rest) = body.split_first_chunk::<2>()?;
    let (len, value) = rest.split_first_chunk::<4>()?;
    value.get(..usize::try_from(i32::from_be_bytes(*len)).ok()?)
}

fn refusal(view: &ErrorView<'_>) -> PgError {
    PgError::error(
        SqlState::SERIALIZATION_FAILURE,
        "the session's settings could not be restored on another server",
    )
    .with_detail(format!("{} (SQLSTATE {})", view.message(), view.code()))
    .with_hint("Set the session up again and retry.")
}
