//! A plain connection to one server, for operators' work: no pool, no proxy.
//! In: where and as whom. Out: rows as text. Driven by its caller, so it needs no task of its own and is
//! gone when dropped.

use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Config, Connection, NoTls, SimpleQueryMessage, Socket};

use super::error::DemoError;

/// A login at a server that answers takes some 10 ms; one that is frozen must not hold an operation up.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// One row as text; NULL is none.
pub type Row = Vec<Option<String>>;

/// One connection; statements run one after the other.
pub struct Sql {
    client: Client,
    connection: Option<Connection<Socket, NoTlsStream>>,
    name: String,
}

impl std::fmt::Debug for Sql {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sql").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Sql {
    /// Logs in; `name` is for error messages.
    pub async fn connect(config: &Config, name: impl Into<String>) -> Result<Self, DemoError> {
        let name = name.into();
        let login = tokio::time::timeout(CONNECT_LIMIT, config.connect(NoTls)).await;
        let Ok(login) = login else {
            return Err(DemoError::Timeout {
                what: format!("a login at {name}"),
                waited: CONNECT_LIMIT,
                last: String::new(),
            });
        };
        let (client, connection) = login.map_err(DemoError::sql(format!("logging in at {name}")))?;
        Ok(Self { client, connection: Some(connection), name })
    }

    /// The superuser's way in: the unix socket, which only the servers' account and root can reach.
    pub async fn local(
        socket_dir: &Path,
        port: u16,
        database: &str,
        name: impl Into<String>,
    ) -> Result<Self, DemoError> {
        let mut config = Config::new();
        config.host_path(socket_dir).port(port).user("postgres").dbname(database);
        config.application_name("pgsteer-operator");
        Self::connect(&config, name).await
    }

    /// Runs statements; the rows of all of them.
    pub async fn rows(&mut self, sql: &str) -> Result<Vec<Row>, DemoError> {
        let messages = self.messages(sql).await.map_err(DemoError::sql(format!("{}: {sql}", self.name)))?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
                }
                _ => None,
            })
            .collect())
    }

    /// The first column of the first row; empty when there is none or it is NULL.
    pub async fn one(&mut self, sql: &str) -> Result<String, DemoError> {
        let rows = self.rows(sql).await?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten().unwrap_or_default())
    }

    /// Runs statements whose rows do not matter.
    pub async fn run(&mut self, sql: &str) -> Result<(), DemoError> {
        self.rows(sql).await.map(drop)
    }

    /// Is the connection still there, as far as is known?
    pub fn is_open(&self) -> bool {
        self.connection.is_some() && !self.client.is_closed()
    }

    /// The protocol's whole answer, errors unwrapped, for callers that look at SQLSTATEs.
    pub async fn messages(&mut self, sql: &str) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
        let mut query = pin!(self.client.simple_query(sql));
        let connection = &mut self.connection;
        poll_fn(|context| {
            // First what there is to send, then the socket, then what it brought.
            if let Poll::Ready(result) = query.as_mut().poll(context) {
                return Poll::Ready(result);
            }
            if let Some(running) = connection
                && Pin::new(running).poll(context).is_ready()
            {
                *connection = None;
            }
            query.as_mut().poll(context)
        })
        .await
    }
}
