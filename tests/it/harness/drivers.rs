//! Real clients: tokio-postgres, psql, pgbench.

use std::ops::Deref;

use pgsteer::demo::programs::Programs;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

use super::soon;

/// A tokio-postgres client with its connection driven beside it.
pub struct Driver {
    client: Client,
    /// Ends with the connection's error, if any.
    pub connection: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Deref for Driver {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// Connects with tokio-postgres.
pub async fn connect(config: &Config) -> Result<Driver, tokio_postgres::Error> {
    let (client, connection) = soon("login", config.connect(NoTls)).await?;
    Ok(Driver { client, connection: tokio::spawn(connection) })
}

impl Driver {
    /// The first column of the first row as text.
    pub async fn value(&self, sql: &str) -> Result<String, tokio_postgres::Error> {
        let messages = soon("answer", self.client.simple_query(sql)).await?;
        Ok(messages
            .iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .unwrap_or_default())
    }
}

/// The SQLSTATE of a failed call; "connection" when the server said nothing.
pub fn sqlstate<T>(result: Result<T, tokio_postgres::Error>) -> String {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.code().map_or("connection", |code| code.code()).to_owned(),
    }
}

/// What a program printed and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Exit code 0?
    pub ok: bool,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Output {
    /// Its stdout without the last line's end; panics when it failed.
    #[track_caller]
    pub fn text(&self) -> &str {
        assert!(self.ok, "{}{}", self.stdout, self.stderr);
        self.stdout.trim_end()
    }
}

async fn finish(mut command: Command, programs: &Programs) -> Output {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") && name != "PGPASSWORD" && name != "PGOPTIONS" {
            command.env_remove(name);
        }
    }
    // Debian's wrappers pick another version of the program; the server's own folder goes first.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", programs.dir.display())).env("LC_ALL", "C");
    let output = tokio::time::timeout(std::time::Duration::from_mins(2), command.kill_on_drop(true).output());
    let output = output.await.expect("the program ends").unwrap();
    Output {
        ok: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// psql, unaligned and without headers, with a libpq connection string and arguments such as `-c`.
pub async fn psql(programs: &Programs, conninfo: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(programs.psql.as_ref().expect("psql is installed"));
    command.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", conninfo]).args(arguments);
    finish(command, programs).await
}

/// pg_dump of a whole database, with a libpq connection string.
pub async fn pg_dump(programs: &Programs, conninfo: &str) -> Output {
    let mut command = Command::new(programs.dir.join("pg_dump"));
    command.args(["-d", conninfo]);
    finish(command, programs).await
}

/// pgbench with a libpq connection string.
pub async fn pgbench(programs: &Programs, conninfo: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(programs.pgbench.as_ref().expect("pgbench is installed"));
    command.args(arguments).arg(conninfo);
    finish(command, programs).await
}

/// The connection string for libpq programs of a tokio-postgres configuration.
pub fn conninfo(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
        Some(tokio_postgres::config::Host::Unix(path)) => path.display().to_string(),
        None => "127.0.0.1".to_owned(),
    };
    let mut text = format!("host={host} port={}", config.get_ports().first().copied().unwrap_or(5432));
    for (name, value) in [("user", config.get_user()), ("dbname", config.get_dbname())] {
        text.extend(value.map(|value| format!(" {name}={value}")));
    }
    text.extend(config.get_password().map(|word| format!(" password={}", String::from_utf8_lossy(word))));
    text
}
