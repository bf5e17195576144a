//! Commands that change something: each goes to the program as an order, whose answer is waited for.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{Answer, Answerer};
use crate::admin::Command;
use crate::admin::table::{Cell, Column, Table};
use crate::config::Change;
use crate::control::order::{Accept, Failure, Order};
use crate::wire::error::{PgError, SqlState};

/// How long an order may take. Reading a file and applying it takes milliseconds.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// How long a switchover may take: it has limits of its own, and goes on when nobody waits for it any more.
const PROMOTE_LIMIT: Duration = Duration::from_mins(5);

/// Error of a wrong configuration file (`config_file_error`).
const CONFIG_FILE_ERROR: SqlState = SqlState(*b"F0000");
/// Not now (`object_not_in_prerequisite_state`).
const NOT_IN_STATE: SqlState = SqlState(*b"55000");
/// No such object (`undefined_object`).
const UNDEFINED_OBJECT: SqlState = SqlState(*b"42704");
/// What RELOAD returns.
pub const CHANGED: &[Column] =
    &[Column::text("option"), Column::text("old"), Column::text("new"), Column::text("applies")];

/// What ACCEPT returns.
pub const ACCEPTED: &[Column] = &[Column::text("primary"), Column::int("timeline"), Column::int("epoch")];

/// What PROMOTE returns.
pub const PROMOTED: &[Column] = &[
    Column::text("old_primary"),
    Column::text("new_primary"),
    Column::float("held_ms"),
    Column::int("epoch"),
    Column::int("timeline"),
    Column::text("closed_lsn"),
    Column::text("fork_lsn"),
    Column::text("verdict"),
];

fn not_done(failure: Failure) -> PgError {
    PgError::error(NOT_IN_STATE, failure.text).with_detail(failure.detail)
}

impl Answerer {
    pub(super) async fn kill(&self, session: u64) -> Result<Answer, PgError> {
        if self.order(|reply| Command::Kill { session, reply }).await? {
            return Ok(Answer::Done("KILL"));
        }
        Err(PgError::error(UNDEFINED_OBJECT, format!("there is no session {session}"))
            .with_hint("SHOW CLIENTS lists the sessions and their numbers."))
    }

    pub(super) async fn accept(&self, order: &Accept) -> Result<Table, PgError> {
        let order = order.clone();
        let done = self.order(|reply| Command::Accept { order, reply }).await?.map_err(not_done)?;
        let row = vec![
            Cell::or_null(done.primary, Cell::Text),
            Cell::or_null(done.timeline, |timeline| Cell::count(timeline.0)),
            Cell::count(done.epoch.0),
        ];
        Ok(Table::new(ACCEPTED, vec![row]))
    }

    pub(super) async fn promote(&self, order: &Order) -> Result<Table, PgError> {
        let order = order.clone();
        let done = self.order_within(PROMOTE_LIMIT, |reply| Command::Promote { order, reply }).await?;
        let done = done.map_err(not_done)?;
        let row = vec![
            Cell::Text(done.old),
            Cell::Text(done.new),
            Cell::millis(done.held),
            Cell::count(done.epoch.0),
            Cell::or_null(done.timeline, |timeline| Cell::count(timeline.0)),
            Cell::or_null(done.closed_at, |lsn| Cell::Text(lsn.to_string())),
            Cell::or_null(done.fork, |lsn| Cell::Text(lsn.to_string())),
            Cell::Text(done.verdict),
        ];
        Ok(Table::new(PROMOTED, vec![row]))
    }

    pub(super) async fn reload(&self) -> Result<Table, PgError> {
        let changes = self.order(|reply| Command::Reload { reply }).await?.map_err(|lines| {
            PgError::error(CONFIG_FILE_ERROR, "the configuration has errors; nothing was changed")
                .with_detail(lines)
        })?;
        let row = |change: Change| {
            [change.key, change.old, change.new, change.class.to_string()].map(Cell::Text).to_vec()
        };
        Ok(Table::new(CHANGED, changes.into_iter().map(row).collect()))
    }

    /// Sends an order and waits for its answer.
    async fn order<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, PgError> {
        self.order_within(COMMAND_LIMIT, command).await
    }

    async fn order_within<T>(
        &self,
        limit: Duration,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, PgError> {
        let (reply, answer) = oneshot::channel();
        let done = async {
            self.state.commands.send(command(reply)).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(limit, done).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(PgError::error(SqlState::ADMIN_SHUTDOWN, "the proxy is shutting down")),
            Err(_) => Err(PgError::error(
                SqlState::QUERY_CANCELED,
                format!("the command was not done within {} s", limit.as_secs()),
            )),
        }
    }
}
