//! What a database administrator sets up once for replication and for the proxy: roles, database, `pg_hba.conf`,
//! settings. In: passwords. Out: SQL and files. What the proxy itself needs comes from `config::setup_sql`.

use super::error::DemoError;
use super::workspace::random_word;
use crate::config::setup_sql;

/// The proxy's monitor.
pub const MONITOR: &str = "pgsteer";

/// The roles of a local cluster and their passwords (all SCRAM-SHA-256).
#[derive(Clone)]
pub struct Logins {
    /// Of `postgres`, the superuser.
    pub superuser: String,
    /// Of `replicator`, whose only right is replication.
    pub replicator: String,
    /// Of `pgsteer`, the proxy's monitor.
    pub monitor: String,
    /// Of `app`, owner of the database `app`.
    pub app: String,
}

impl std::fmt::Debug for Logins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logins(***)")
    }
}

impl Logins {
    /// New passwords, good for one cluster.
    pub fn random() -> Result<Self, DemoError> {
        let word = || random_word(12);
        Ok(Self { superuser: word()?, replicator: word()?, monitor: word()?, app: word()? })
    }

    /// The same passwords everywhere, for tests: each is the name of its role and "-secret".
    pub fn fixed() -> Self {
        let word = |role: &str| format!("{role}-secret");
        Self {
            superuser: word("postgres"),
            replicator: word("replicator"),
            monitor: word("pgsteer"),
            app: word("app"),
        }
    }

    /// Roles, monitoring rights and the function that hands out verifiers, to be run once on the primary as superuser.
    pub fn roles_sql(&self) -> String {
        format!(
            "ALTER ROLE postgres PASSWORD '{}';
             CREATE ROLE replicator LOGIN REPLICATION PASSWORD '{}';
             CREATE ROLE {MONITOR} LOGIN PASSWORD '{}';
             CREATE ROLE app LOGIN PASSWORD '{}';
             {}{}",
            self.superuser,
            self.replicator,
            self.monitor,
            self.app,
            setup_sql::monitor_grant(MONITOR),
            setup_sql::auth_function(MONITOR)
        )
    }
}

/// The application's database (no statement may stand beside it).
pub const APP_DATABASE_SQL: &str = "CREATE DATABASE app OWNER app";

/// Who may log in: operators by the socket, everybody else by SCRAM.
pub const HBA: &str = "\
# type  database     user        address        method
local   all          postgres                   trust
local   replication  postgres                   trust
local   all          all                        scram-sha-256
host    replication  replicator  127.0.0.1/32   scram-sha-256
host    all          all         127.0.0.1/32   scram-sha-256
host    all          all         ::1/128        scram-sha-256
";

/// The settings of the recipe, for primary and standby alike: either may become the other.
pub const RECIPE: [(&str, &str); 6] = [
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("wal_keep_size", "128MB"),
    ("hot_standby", "on"),
    // Lets pg_rewind turn a lost primary into a standby.
    ("wal_log_hints", "on"),
    // A standby whose source was away looks for it again at this pace (default 5 s).
    ("wal_retrieve_retry_interval", "100ms"),
];

/// What makes throw-away servers quick; a crash of the machine, not of a server, would lose data.
pub const THROW_AWAY: [(&str, &str); 8] = [
    ("fsync", "off"),
    ("shared_buffers", "16MB"),
    ("max_connections", "200"),
    ("jit", "off"),
    ("log_line_prefix", "%m [%p] %q%u@%d "),
    ("log_lock_waits", "on"),
    ("unix_socket_permissions", "0700"),
    ("autovacuum_naptime", "60s"),
];
