//! One node of a switchover over a connection of our own: what it is asked and told, in SQL.
//!
//! In: where it is and who logs in. Out: positions, or what is missing, in words for people. When to ask is decided in
//! `switchover`.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::config::{NodeSettings, setup_sql};
use crate::drain::Tasks;
use crate::net::client::{Login, connect};
use crate::net::tls::ServerTlsContext;
use crate::topology::Lsn;

/// Shown in `pg_stat_activity`.
pub(super) const APPLICATION: &str = "pgsteer switchover";
/// One question takes milliseconds.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at something that takes a moment.
pub(super) const LOOK: Duration = Duration::from_millis(5);

/// `CASE` keeps the functions apart that exist only on one side.
const POSITION: &str = "\
SELECT pg_is_in_recovery() AS standby,
  CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END::text AS insert,
  CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END::text AS flush,
  pg_last_wal_replay_lsn()::text AS replayed, pg_last_wal_receive_lsn()::text AS received,
  pg_snapshot_xmax(pg_current_snapshot())::text AS xmax";

/// A role's rights to close a server; the last column is for PostgreSQL 15 and later.
const RIGHTS: &str = "\
SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS super,
  has_function_privilege('pg_reload_conf()', 'EXECUTE') AS reload,
  pg_has_role('pg_signal_backend', 'USAGE') AND pg_has_role('pg_read_all_stats', 'USAGE') AS signal";
const MAY_ALTER: &str =
    "SELECT has_parameter_privilege('default_transaction_read_only', 'ALTER SYSTEM') AS alter";

/// Sessions of other clients than pgsteer. Only a superuser may end a superuser's.
const END_OTHERS: &str = "\
SELECT count(*) FILTER (WHERE ended), count(*) FILTER (WHERE NOT ended) FROM (
  SELECT CASE WHEN NOT r.rolsuper OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
    THEN pg_terminate_backend(a.pid) ELSE false END AS ended
  FROM pg_stat_activity AS a JOIN pg_roles AS r ON r.oid = a.usesysid
  WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() AND NOT a.pid = ANY ($1)
    AND a.application_name NOT LIKE 'pgsteer %') AS others";

/// What a node says of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) standby: bool,
    /// Of a primary.
    pub(super) insert: Lsn,
    pub(super) flush: Lsn,
    /// Of a standby.
    pub(super) replayed: Lsn,
    pub(super) received: Lsn,
    /// The next transaction gets this number, or a higher one.
    pub(super) xmax: u64,
}

/// A node that is logged in to.
pub(super) struct Server {
    client: Client,
    name: String,
    user: String,
    segment_bytes: u64,
    version_num: i32,
}

impl Server {
    pub(super) async fn connect(
        node: &NodeSettings,
        tls: &ServerTlsContext,
        login: &Login<'_>,
        limit: Duration,
        tasks: &Tasks,
    ) -> Result<Self, String> {
        let name = node.name.clone();
        let (client, connection) = connect(&node.address, tls, login, Instant::now() + limit)
            .await
            .map_err(|error| format!("{} cannot log in at {name}: {error}", login.user))?;
        // Its error is what the next question gets as well.
        tasks.spawn(async move { drop(connection.await) });
        let mut server = Self { client, name, user: login.user.to_owned(), segment_bytes: 0, version_num: 0 };
        server
            .tell("SET search_path = pg_catalog; SET default_transaction_isolation = 'read committed'")
            .await?;
        let row = server
            .row(
                "SELECT pg_size_bytes(current_setting('wal_segment_size')) AS segment, \
                   current_setting('server_version_num')::int4 AS version",
                &[],
            )
            .await?;
        server.segment_bytes = server.get::<i64>(&row, "segment")?.unsigned_abs();
        server.version_num = server.get(&row, "version")?;
        Ok(server)
    }

    async fn row(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, String> {
        let asked = timeout(ASK_LIMIT, self.client.query_one(sql, parameters)).await;
        let silent = || format!("{} does not answer", self.name);
        asked.map_err(|_| silent())?.map_err(|error| self.failed(&error))
    }

    async fn tell(&self, sql: &str) -> Result<(), String> {
        let told = timeout(ASK_LIMIT, self.client.batch_execute(sql)).await;
        let silent = || format!("{} does not answer", self.name);
        told.map_err(|_| silent())?.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &tokio_postgres::Error) -> String {
        match error.as_db_error() {
            Some(server) => format!("{}: {}", self.name, server.message()),
            None => format!("{}: {error}", self.name),
        }
    }

    fn get<'r, T: tokio_postgres::types::FromSql<'r>>(
        &self,
        row: &'r Row,
        column: &str,
    ) -> Result<T, String> {
        row.try_get(column).map_err(|error| self.failed(&error))
    }

    /// Where its log is.
    pub(super) async fn position(&self) -> Result<Position, String> {
        let row = self.row(POSITION, &[]).await?;
        let lsn = |column| -> Result<Lsn, String> {
            let text = self.get::<Option<&str>>(&row, column)?;
            let lsn: Lsn = text.and_then(|text| text.parse().ok()).unwrap_or(Lsn(0));
            Ok(lsn.rounded(self.segment_bytes))
        };
        Ok(Position {
            standby: self.get(&row, "standby")?,
            insert: lsn("insert")?,
            flush: lsn("flush")?,
            replayed: lsn("replayed")?,
            received: lsn("received")?,
            xmax: self.get::<&str>(&row, "xmax")?.parse().unwrap_or(0),
        })
    }

    /// May this role promote? The error says how to let it.
    pub(super) async fn may_promote(&self) -> Result<(), String> {
        let sql = "SELECT has_function_privilege('pg_promote(boolean, integer)', 'EXECUTE') AS may";
        if self.get(&self.row(sql, &[]).await?, "may")? {
            return Ok(());
        }
        let grant = setup_sql::promote_grant(&self.user);
        Err(format!("{} may not promote {}; run on the primary: {}", self.user, self.name, grant.trim()))
    }

    /// May this role close the server? The error says what it lacks.
    pub(super) async fn may_close(&self) -> Result<(), String> {
        let row = self.row(RIGHTS, &[]).await?;
        if self.get(&row, "super")? {
            return Ok(());
        }
        let mut missing = Vec::new();
        let may_alter = self.version_num >= 150_000 && self.get(&self.row(MAY_ALTER, &[]).await?, "alter")?;
        if !may_alter {
            missing.push(
                "ALTER SYSTEM ON PARAMETER default_transaction_read_only (a superuser up to PostgreSQL 14)",
            );
        }
        if !self.get::<bool>(&row, "reload")? {
            missing.push("EXECUTE ON FUNCTION pg_reload_conf()");
        }
        if !self.get::<bool>(&row, "signal")? {
            missing.push("pg_signal_backend and pg_read_all_stats");
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!("{} may not close {}, it lacks {}", self.user, self.name, missing.join("; ")))
    }

    /// Is it closed by a setting that outlives restarts?
    pub(super) async fn is_closed(&self) -> Result<bool, String> {
        let row = self.row("SELECT current_setting('default_transaction_read_only') AS value", &[]).await?;
        Ok(self.get::<&str>(&row, "value")? == "on")
    }

    /// New transactions are read-only from now on, and those of others than pgsteer are ended. `own` are the process ids of
    /// our backends. Returns how many sessions were ended, and how many this role may not end.
    pub(super) async fn close(&self, own: &[i32], deadline: Instant) -> Result<(i64, i64), String> {
        self.set_closed(true, deadline).await?;
        let row = self.row(END_OTHERS, &[&own]).await?;
        let count = |column| row.try_get(column).map_err(|error| self.failed(&error));
        Ok((count(0)?, count(1)?))
    }

    /// The end of `close`.
    pub(super) async fn open(&self, deadline: Instant) -> Result<(), String> {
        self.set_closed(false, deadline).await
    }

    async fn set_closed(&self, closed: bool, deadline: Instant) -> Result<(), String> {
        // Not in one string: ALTER SYSTEM runs in no transaction, and a string of several is one.
        self.tell(if closed {
            "ALTER SYSTEM SET default_transaction_read_only = on"
        } else {
            "ALTER SYSTEM RESET default_transaction_read_only"
        })
        .await?;
        self.tell("SELECT pg_reload_conf()").await?;
        while self.is_closed().await? != closed {
            if Instant::now() >= deadline {
                let wanted = if closed { "on" } else { "off" };
                return Err(format!(
                    "default_transaction_read_only does not become {wanted} on {}",
                    self.name
                ));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Begins the promotion; does not wait for its end.
    pub(super) async fn promote(&self) -> Result<(), String> {
        self.row("SELECT pg_promote(false)", &[]).await.map(drop)
    }
}
