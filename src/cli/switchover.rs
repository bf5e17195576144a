//! `pgsteer switchover`: PROMOTE in the console of the running proxy.
//!
//! In: the configuration file of that proxy, which says where its console is, and an order. Out: what was done, or why
//! nothing was. It has no rights of its own: it logs in as one of `admin.users`.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::config::{
    self, ClientTlsMode, ListenAddress, NodeAddress, Secret, ServerTls, Settings, TlsMode, format_duration,
    setup_sql,
};
use crate::net::client::{Login, connect};
use crate::net::tls::ServerTlsContext;

/// Time to log in at a console on this machine.
const LOGIN_LIMIT: Duration = Duration::from_secs(10);
/// Longer than any switchover takes, whose limits are the proxy's.
const LIMIT: Duration = Duration::from_mins(10);

/// What is ordered.
pub struct Order<'a> {
    /// The node to promote.
    pub node: &'a str,
    /// How long writes may be held; by default what the proxy is configured for.
    pub timeout: Option<Duration>,
    /// Nobody writes but through this proxy.
    pub sole_entry: bool,
    /// Who orders it; by default the first of `admin.users`.
    pub user: Option<&'a str>,
    /// The password for that.
    pub password: Option<Secret>,
}

/// Orders a switchover from the proxy with that configuration and waits for its end; prints the result to `out`.
pub async fn run(path: Option<&Path>, order: &Order<'_>, out: &mut dyn Write) -> Result<(), String> {
    let loaded = config::load(path, config::environment()).map_err(|errors| errors.to_string())?;
    let settings = loaded.settings;
    let user = order.user.or(settings.admin.users.first().map(String::as_str));
    let user = user.ok_or("admin.users is empty: nobody may use the console")?;
    let (address, tls) = console(&settings);
    let login = Login {
        user,
        password: order.password.as_ref(),
        database: &settings.admin.database,
        application_name: "pgsteer switchover",
    };
    let tls = ServerTlsContext::load(&tls).map_err(|error| error.to_string())?;
    let (client, connection) = connect(&address, &tls, &login, Instant::now() + LOGIN_LIMIT)
        .await
        .map_err(|error| format!("cannot log in as {user} at the console {address}: {}", told(&error)))?;
    let statement = statement(order);
    let answer = async {
        tokio::select! {
            answer = promote(&client, &statement) => answer,
            _ = connection => Err("the proxy has closed the connection; see SHOW EVENTS".to_owned()),
        }
    };
    let lines = timeout(LIMIT, answer).await.map_err(|_| "the proxy does not answer".to_owned())??;
    let written = lines.iter().try_for_each(|(name, value)| writeln!(out, "{name:12} {value}"));
    written.and_then(|()| out.flush()).map_err(|error| format!("cannot write: {error}"))
}

/// The listener that is nearest: as seen from the same host, in the clear where the proxy allows it.
fn console(settings: &Settings) -> (NodeAddress, ServerTls) {
    let listen = settings.listen.iter().min_by_key(|listen| listen.tls.mode == ClientTlsMode::Require);
    let address = match listen.map(|listen| &listen.address) {
        Some(ListenAddress::Unix { dir, port }) => NodeAddress::new(dir.display().to_string(), *port),
        Some(ListenAddress::Tcp { host, port }) => {
            let host = if ["*", "0.0.0.0", "::"].contains(&host.as_str()) { "127.0.0.1" } else { host };
            NodeAddress::new(host, *port)
        }
        None => NodeAddress::new("127.0.0.1", config::LISTEN_PORT),
    };
    let must = listen.is_some_and(|listen| listen.tls.mode == ClientTlsMode::Require);
    let mode = if must { TlsMode::Require } else { TlsMode::Off };
    (address, ServerTls { mode, ..ServerTls::default() })
}

/// The command for the console.
fn statement(order: &Order<'_>) -> String {
    let mut options = Vec::new();
    options.extend(
        order.timeout.map(|limit| format!("TIMEOUT {}", setup_sql::literal(&format_duration(limit)))),
    );
    options.extend(order.sole_entry.then(|| "SOLE ENTRY".to_owned()));
    let options = if options.is_empty() { String::new() } else { format!(" ({})", options.join(", ")) };
    format!("PROMOTE \"{}\"{options}", order.node.replace('"', "\"\""))
}

/// Column names and values of the only row.
async fn promote(client: &Client, statement: &str) -> Result<Vec<(String, String)>, String> {
    let messages = client.simple_query(statement).await.map_err(|error| match error.as_db_error() {
        Some(said) => format!("{}\n{}", said.message(), said.detail().or(said.hint()).unwrap_or_default()),
        None => error.to_string(),
    })?;
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.ok_or("the proxy has said nothing")?;
    let value = |(index, column): (usize, &tokio_postgres::SimpleColumn)| {
        let value = row.get(index).unwrap_or("-");
        (column.name().to_owned(), value.to_owned())
    };
    Ok(row.columns().iter().enumerate().map(value).collect())
}

fn told(error: &crate::net::client::ConnectError) -> String {
    use std::error::Error as _;
    let hint = " (the password is taken from PGPASSWORD)";
    match error.source() {
        Some(source) => format!("{error}: {source}{hint}"),
        None => format!("{error}{hint}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::command::{self, Statement};

    #[test]
    fn what_is_sent_is_what_the_console_understands() {
        for (node, timeout, sole_entry) in [
            ("node2", None, false),
            ("10.0.0.2:5432", Some(Duration::from_millis(1500)), true),
            ("od\"d'", Some(Duration::from_mins(1)), false),
        ] {
            let order = Order { node, timeout, sole_entry, user: None, password: None };
            let parsed = command::parse(&statement(&order)).unwrap();
            let expected = crate::control::order::Order { node: node.to_owned(), timeout, sole_entry };
            assert_eq!(parsed, [Statement::Promote(expected)]);
        }
    }
}
