//! One monitor connection, driven by whoever waits on it: what it is asked and what it says.
//!
//! tokio-postgres keeps reported parameters in the `Connection`, so it is polled in the prober's own task instead of
//! being spawned away: after each answer the role that the server reported with it can be read.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;

use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};

use crate::config::{Monitor, NodeSettings};
use crate::net::client::{ConnectError, Connection, Login, login_over};
use crate::net::tls::ServerTlsContext;
use crate::net::{DialError, dial};
use crate::topology::{Failure, Sample};

use super::sql::{self, Identity};

/// An open, logged-in connection to one node.
pub(super) struct Link {
    client: Client,
    connection: Connection,
    short: Statement,
    whole: Statement,
    identity: Option<Identity>,
    /// The role reported when it was last looked at.
    reported: Option<bool>,
}

impl Link {
    /// Connects before `reached`, then logs in and prepares the questions before `ready`.
    ///
    /// Two deadlines, since a host that accepts a connection and is merely busy should be given the time to let us
    /// in, while one that accepts nothing is best tried afresh: its return would go unnoticed for seconds.
    pub(super) async fn open(
        spec: &NodeSettings,
        monitor: &Monitor,
        tls: &ServerTlsContext,
        (reached, ready): (Instant, Instant),
    ) -> Result<Self, Failure> {
        let login = Login {
            user: &monitor.user,
            password: monitor.password.as_ref(),
            database: &monitor.database,
            application_name: "pgsteer monitor",
        };
        let dialled = dial(&spec.address, tls, reached).await.map_err(ConnectError::from);
        let connected = match dialled {
            Ok(stream) => login_over(stream, &login, ready).await,
            Err(error) => Err(error),
        };
        let (client, mut connection) = connected.map_err(|e| unconnected(e, monitor))?;
        // Sent in this order and all at once: one round trip.
        let (short, whole) = (sql::probe(), sql::whole_probe());
        let prepare = async {
            let settings = client.batch_execute(sql::SETTINGS);
            tokio::try_join!(settings, client.prepare(&short), client.prepare(&whole))
        };
        let ((), short, whole) = drive(&mut connection, prepare).await?.map_err(|e| failure(&e))?;
        Ok(Link { client, connection, short, whole, identity: None, reported: None })
    }

    /// A bare `Sync` and its ReadyForQuery: about 10 µs of the server's time.
    pub(super) async fn beat(&mut self) -> Result<(), Failure> {
        let beat = self.client.check_connection();
        drive(&mut self.connection, beat).await?.map_err(|e| failure(&e))
    }

    /// The question; `whole` asks everything anew, as the first one on a connection always does.
    pub(super) async fn sample(&mut self, whole: bool) -> Result<Sample, Failure> {
        let whole = whole || self.identity.is_none();
        let question = if whole { &self.whole } else { &self.short };
        let answer = self.client.query_one(question, &[]);
        let row = drive(&mut self.connection, answer).await?.map_err(|e| failure(&e))?;
        if whole {
            self.identity = Some(sql::identity(&row).map_err(|e| failure(&e))?);
        }
        self.reported = self.in_hot_standby();
        let Some(identity) = &self.identity else { return Err(Failure::Denied("no identity".to_owned())) };
        sql::sample(&row, identity).map_err(|e| failure(&e))
    }

    /// Postmaster start time behind this connection, once a sample was answered.
    pub(super) fn start_time(&self) -> Option<i64> {
        self.identity.as_ref().map(|i| i.start_time)
    }

    /// Did the server report another role since the last sample?
    pub(super) fn role_changed(&self) -> bool {
        self.in_hot_standby() != self.reported
    }

    /// Does the server report its role with a beat at all (PostgreSQL 14 and later)?
    pub(super) fn reports_role(&self) -> bool {
        self.reported.is_some()
    }

    fn in_hot_standby(&self) -> Option<bool> {
        self.connection.parameter("in_hot_standby").map(|value| value == "on")
    }

    /// Waits for `other` while listening: an end of the connection is noticed at once.
    pub(super) async fn idle<F: Future>(&mut self, other: F) -> Result<F::Output, Failure> {
        drive(&mut self.connection, other).await
    }
}

/// Runs `work` and the connection together until `work` is done or the connection has ended.
async fn drive<F: Future>(connection: &mut Connection, work: F) -> Result<F::Output, Failure> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            match connection.poll_message(cx) {
                // Notices and the like: nothing for us, but there may be more.
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(lost(&error))),
                Poll::Ready(None) => {
                    return Poll::Ready(Err(Failure::Cut("closed by the server".to_owned())));
                }
                // Polling the connection may have delivered what the work waits for, and woken nobody but us.
                Poll::Pending => return work.as_mut().poll(cx).map(Ok),
            }
        }
    })
    .await
}

/// An open connection has ended.
fn lost(error: &tokio_postgres::Error) -> Failure {
    Failure::Cut(text(error))
}

/// A question on an open connection has failed.
fn failure(error: &tokio_postgres::Error) -> Failure {
    match error.code() {
        // 57P01 to 57P03 here are a connection being ended; whether the server goes too shows next.
        Some(code) if code.code().starts_with("57P") => lost(error),
        None if error.is_closed() || io_error(error).is_some() => lost(error),
        Some(_) | None => Failure::Denied(text(error)),
    }
}

fn unconnected(error: ConnectError, monitor: &Monitor) -> Failure {
    match error {
        ConnectError::Dial(DialError::Refused) => Failure::Refused,
        ConnectError::Dial(DialError::Timeout) | ConnectError::Timeout => Failure::Silent(monitor.timeout),
        ConnectError::Dial(other) => Failure::Unreachable(other.to_string()),
        ConnectError::Login(error) => match error.code() {
            Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => Failure::Crowded,
            Some(code) if code.code().starts_with("57P") => Failure::Unavailable(text(&error)),
            None if error.is_closed() || io_error(&error).is_some() => lost(&error),
            Some(_) | None => Failure::Denied(text(&error)),
        },
    }
}

fn io_error(error: &tokio_postgres::Error) -> Option<&io::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

/// The server's own words where there are any: tokio-postgres' "db error" says nothing.
fn text(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), io_error(error)) {
        (Some(db), _) => db.message().to_owned(),
        (None, Some(io)) => io.to_string(),
        (None, None) => error.to_string(),
    }
}
