//! Asks one node everything the judgement needs. The only part of `check` that touches the network.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, Error, SimpleQueryMessage, SimpleQueryRow};

use super::facts::{AuthAnswer, Facts, NodeReport, Rights, ServerLimits, Unreachable};
use crate::config::{AuthSource, NodeSettings, Settings};
use crate::net::client::{ConnectError, Connection, Login, connect};
use crate::net::tls::ServerTlsContext;
use crate::topology::Timeline;

/// The questions take milliseconds; a server that is frozen between two of them must not hold the rest up.
const ASK_LIMIT: Duration = Duration::from_secs(10);
const APPLICATION: &str = "pgsteer check";

/// Anyone may ask this. `CASE` keeps the functions apart that exist only on one side.
const BASE: &str = "\
SELECT current_setting('server_version_num'), pg_is_in_recovery(),
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END,
  CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END,
  current_setting('wal_level'), current_setting('hot_standby'), current_setting('max_connections'),
  current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0),
  (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
  pg_has_role('pg_monitor', 'USAGE')
    OR (pg_has_role('pg_read_all_stats', 'USAGE') AND pg_has_role('pg_read_all_settings', 'USAGE')),
  has_function_privilege('pg_control_system()', 'EXECUTE')
    AND has_function_privilege('pg_control_checkpoint()', 'EXECUTE')
    AND has_function_privilege('pg_control_recovery()', 'EXECUTE'),
  has_function_privilege('pg_promote(boolean, integer)', 'EXECUTE')";

/// Templates are nobody's to work in.
const CLOSED: &str = "\
SELECT coalesce(json_agg(datname ORDER BY datname), '[]') FROM pg_database
WHERE datallowconn AND NOT datistemplate AND NOT has_database_privilege(oid, 'CONNECT')";

/// Needs the right to execute.
const CONTROL: &str = "SELECT (pg_control_system()).system_identifier, (pg_control_checkpoint()).timeline_id";

/// What it shows depends on `pg_monitor`.
const RECEIVER: &str = "\
SELECT r.status, r.received_tli, r.latest_end_lsn FROM (SELECT) AS one LEFT JOIN pg_stat_wal_receiver AS r ON true";

/// Hidden without `pg_read_all_settings`.
const CONNINFO: &str = "SELECT current_setting('primary_conninfo') = ''";

/// Connects and asks; never fails, since the failure is the answer.
pub(super) async fn node(node: &NodeSettings, settings: &Settings, tls: &ServerTlsContext) -> NodeReport {
    let monitor = &settings.cluster.monitor;
    let login = Login {
        user: &monitor.user,
        password: monitor.password.as_ref(),
        database: &monitor.database,
        application_name: APPLICATION,
    };
    let answer = session(node, settings, tls, &login, |client| async move { facts(&client).await }).await;
    let mut answer = answer.map_err(unreachable);
    if let (Ok(facts), AuthSource::Query) = (&mut answer, settings.auth.source) {
        facts.auth = Some(auth(node, settings, tls).await);
    }
    NodeReport { name: node.name.clone(), address: node.address.clone(), answer }
}

/// Connects, and drives the connection while the questions run on it.
async fn session<T, F>(
    node: &NodeSettings,
    settings: &Settings,
    tls: &ServerTlsContext,
    login: &Login<'_>,
    questions: impl FnOnce(Client) -> F,
) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, Error>>,
{
    let deadline = Instant::now() + settings.cluster.connect_timeout;
    let (client, connection) = connect(&node.address, tls, login, deadline).await?;
    let asked = timeout(ASK_LIMIT, driven(connection, questions(client))).await;
    asked.map_err(|_| ConnectError::Timeout)?.map_err(ConnectError::Login)
}

async fn driven<T>(
    connection: Connection,
    questions: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let drive = async {
        // Its own error is what the question gets as well.
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = questions => answer,
        () = drive => std::future::pending().await,
    }
}

fn unreachable(error: ConnectError) -> Unreachable {
    match error {
        ConnectError::Login(error) => match error.as_db_error() {
            Some(server) => Unreachable {
                text: server.message().to_owned(),
                sqlstate: Some(server.code().code().to_owned()),
            },
            None => Unreachable { text: with_source(&error), sqlstate: None },
        },
        other => Unreachable { text: other.to_string(), sqlstate: None },
    }
}

/// tokio-postgres says what it was doing, and its source what went wrong.
fn with_source(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

async fn facts(client: &Client) -> Result<Facts, Error> {
    let Some(base) = one_row(client, BASE).await? else { return Ok(Facts::default()) };
    let yes = |column| base.get(column) == Some("t");
    let number =
        |column| base.get(column).and_then(|text: &str| text.parse::<usize>().ok()).unwrap_or_default();
    let mut facts = Facts {
        version_num: u32::try_from(number(0)).unwrap_or_default(),
        in_recovery: yes(1),
        lsn: base.get(2).and_then(|text| text.parse().ok()),
        timeline: base.get(3).and_then(|hex| u32::from_str_radix(hex, 16).ok()).map(Timeline),
        limits: ServerLimits {
            wal_level: base.get(4).unwrap_or_default().to_owned(),
            hot_standby: base.get(5) == Some("on"),
            max_connections: number(6),
            reserved: number(7),
        },
        rights: Rights { superuser: yes(8), monitor: yes(9), control: yes(10), promote: yes(11) },
        ..Facts::default()
    };
    if let Some(row) = one_row(client, CLOSED).await? {
        facts.closed = row.get(0).and_then(|names| serde_json::from_str(names).ok()).unwrap_or_default();
    }
    if facts.rights.control {
        control(client, &mut facts).await?;
    }
    if facts.in_recovery {
        receiver(client, &mut facts).await?;
    }
    Ok(facts)
}

async fn control(client: &Client, facts: &mut Facts) -> Result<(), Error> {
    if let Some(row) = one_row(client, CONTROL).await? {
        // PostgreSQL shows the 64 bits with a sign.
        facts.system_identifier = row.get(0).and_then(|text| text.parse().ok()).map(i64::cast_unsigned);
        // On a standby this is that of its last restart point, the receiver's is newer.
        facts.timeline =
            facts.timeline.or_else(|| row.get(1).and_then(|text| text.parse().ok()).map(Timeline));
    }
    Ok(())
}

async fn receiver(client: &Client, facts: &mut Facts) -> Result<(), Error> {
    if let Some(row) = one_row(client, RECEIVER).await? {
        facts.receiver = row.get(0).map(str::to_owned);
        let received = row.get(1).and_then(|text| text.parse().ok()).map(Timeline);
        facts.timeline = received.or(facts.timeline);
    }
    if facts.rights.monitor || facts.rights.superuser {
        facts.archive_fed = one_row(client, CONNINFO).await?.map(|row| row.get(0) == Some("t"));
    }
    Ok(())
}

async fn one_row(client: &Client, query: &str) -> Result<Option<SimpleQueryRow>, Error> {
    let messages = client.simple_query(query).await?;
    Ok(messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    }))
}

/// Runs `auth.query` for its own role, whose name is at hand.
async fn auth(node: &NodeSettings, settings: &Settings, tls: &ServerTlsContext) -> AuthAnswer {
    let auth = &settings.auth;
    let login = Login {
        user: &auth.query_user,
        password: auth.query_password.as_ref(),
        database: &auth.query_database,
        application_name: APPLICATION,
    };
    let (query, name) = (auth.query.clone(), auth.query_user.clone());
    let answer = session(node, settings, tls, &login, |client| async move {
        match lookup(&client, &query, &name).await {
            Ok(columns) if columns >= 2 => Ok(AuthAnswer::Works),
            Ok(columns) => Ok(AuthAnswer::Columns(columns)),
            Err(error) => refused(&client, error).await,
        }
    });
    answer.await.unwrap_or_else(|error| AuthAnswer::NoLogin(unreachable(error).text))
}

async fn lookup(client: &Client, query: &str, name: &str) -> Result<usize, Error> {
    let statement = client.prepare(query).await?;
    client.query_opt(&statement, &[&name]).await?;
    Ok(statement.columns().len())
}

/// A server's refusal is an answer; a broken connection is none.
async fn refused(client: &Client, error: Error) -> Result<AuthAnswer, Error> {
    let Some(server) = error.as_db_error() else { return Err(error) };
    let (code, text) = (server.code().code().to_owned(), server.message().to_owned());
    // Only a missing function is made up for by pg_authid.
    let is_missing = ["42883", "3F000", "42P01"].contains(&code.as_str());
    let may_read = one_row(client, "SELECT has_table_privilege('pg_authid', 'SELECT')").await?;
    if is_missing && may_read.is_some_and(|row| row.get(0) == Some("t")) {
        return Ok(AuthAnswer::Superuser);
    }
    Ok(AuthAnswer::Refused(code, text))
}
