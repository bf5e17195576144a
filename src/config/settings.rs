//! The settings as the rest of the program sees them: typed, cross-checked, immutable.
//!
//! `config::build` makes them from text; `reload` replaces the whole value. They hold no handle to anything.

mod pool;
mod retry;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::hba::{self, Attempt, HbaRule, Method};
use super::secret::Secret;
use crate::scram::verifier::Verifier;

pub use pool::{Pool, PoolMode};
pub use retry::Retry;

/// Everything `proxy.toml` and the environment say.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Worker threads; sessions live and die on one. At least 1.
    pub workers: usize,
    /// The nodes and how they are watched.
    pub cluster: Cluster,
    /// How clients prove who they are.
    pub auth: Auth,
    /// Where clients connect. Never empty.
    pub listen: Vec<Listen>,
    /// Connections to the nodes.
    pub pool: Pool,
    /// Which work may go to a standby.
    pub route: Route,
    /// What is run again after a failover.
    pub retry: Retry,
    /// Console and HTTP.
    pub admin: Admin,
    /// Log output.
    pub log: Log,
    /// Limits on what strangers and slow peers may cost.
    pub limits: Limits,
    /// The file they came from; `None` when they were made in the program.
    pub source: Option<PathBuf>,
}

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// The nodes, in the order of the file: the index is the node's id. Never empty, no duplicates.
    pub nodes: Vec<NodeSettings>,
    /// A standby further behind than this gets no reads.
    pub max_lag: Duration,
    /// The same in bytes of WAL.
    pub max_lag_bytes: u64,
    /// Where reads go when no standby qualifies.
    pub fallback: Fallback,
    /// How long a statement waits for a primary before 57P03.
    pub hold_timeout: Duration,
    /// How many sessions may wait for a primary at once.
    pub max_held: usize,
    /// How long after start a primary without a state file waits for the silent nodes.
    pub start_grace: Duration,
    /// How long the verdict on standbys is kept when nobody streams from any primary.
    pub frozen_limit: Duration,
    /// Where identifier and highest timeline are kept; `None` keeps nothing.
    pub state_file: Option<PathBuf>,
    /// The system identifier of the cluster, when it is to be fixed by hand.
    pub system_identifier: Option<u64>,
    /// TLS towards the nodes.
    pub tls: ServerTls,
    /// Who asks the nodes how they are, and how often.
    pub monitor: Monitor,
    /// Time to reach a node, TLS included.
    pub connect_timeout: Duration,
    /// Programs of the operator's.
    pub hooks: Hooks,
    /// How a planned switchover is done.
    pub switchover: Switchover,
}

/// Programs that are run when the primary changes: argument vectors, without a shell; empty is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Shuts the old primary out.
    pub fence_command: Vec<String>,
    /// Lets the other nodes follow the new primary.
    pub on_promotion: Vec<String>,
    /// One that runs for longer is killed.
    pub timeout: Duration,
}

/// `[cluster.switchover]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switchover {
    /// Role that closes the old primary; `None` when that is left to `fence_command`.
    pub user: Option<String>,
    /// Its password; `None` where the nodes trust it.
    pub password: Option<Secret>,
    /// How long writes may be held before the switchover is given up.
    pub timeout: Duration,
}

/// One PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// Where it listens.
    pub address: NodeAddress,
    /// Its name in logs, tables and metrics; by default the address.
    pub name: String,
    /// Share of the reads, 1 to 1000.
    pub weight: u32,
    /// Availability zone; readers prefer their own.
    pub zone: Option<String>,
    /// The address by which standbys know it as sender (`sender_host`), when that differs from `address`.
    pub replication_address: Option<String>,
}

impl NodeSettings {
    /// A node at that address with everything else at its default.
    pub fn new(address: NodeAddress) -> Self {
        Self { name: address.to_string(), address, weight: 100, zone: None, replication_address: None }
    }
}

/// Host and port of a node. A host that starts with `/` is the directory of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeAddress {
    /// Name, IPv4, IPv6 without brackets, or directory.
    pub host: String,
    /// TCP port, or the number in the socket's file name.
    pub port: u16,
}

impl NodeAddress {
    /// Puts the two together.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Whether it is reached through a unix socket.
    pub fn is_unix(&self) -> bool {
        self.host.starts_with('/')
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_host_port(f, &self.host, self.port)
    }
}

fn write_host_port(f: &mut fmt::Formatter<'_>, host: &str, port: u16) -> fmt::Result {
    if host.contains(':') && !host.starts_with('/') {
        write!(f, "[{host}]:{port}")
    } else {
        write!(f, "{host}:{port}")
    }
}

/// Where reads go when no standby qualifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Nowhere: they get an error.
    Error,
    /// To the standby that is least behind.
    LeastStale,
    /// To the primary.
    Primary,
}

/// TLS towards the nodes, with libpq's meaning of the modes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// How much TLS is wanted.
    pub mode: TlsMode,
    /// Certificates trusted for `verify-ca` and `verify-full`; the system's when absent.
    pub ca: Option<PathBuf>,
    /// The proxy's own certificate, for servers that ask for one.
    pub cert: Option<PathBuf>,
    /// The key of `cert`.
    pub key: Option<PathBuf>,
}

/// How much TLS is wanted towards a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Off,
    /// If the server offers it; its certificate is not checked.
    Prefer,
    /// Always; its certificate is not checked.
    Require,
    /// Always; the certificate must be signed by `ca`.
    VerifyCa,
    /// Always; signed by `ca` and issued to the host's name.
    VerifyFull,
}

/// `[cluster.monitor]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// Role that probes the nodes; needs LOGIN and `pg_monitor`.
    pub user: String,
    /// Its password; `None` where the nodes trust it.
    pub password: Option<Secret>,
    /// Database it connects to.
    pub database: String,
    /// Tick when all is well.
    pub interval: Duration,
    /// Tick while something is wrong or somebody waits. Never above `interval`.
    pub fast_interval: Duration,
    /// Silence beyond it is death for new work.
    pub timeout: Duration,
}

/// `[auth]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// Where the verifiers of users without an `[[auth.user]]` come from.
    pub source: AuthSource,
    /// The statement that returns (name, secret) of user `$1`.
    pub query: String,
    /// Role that runs it; by default the monitor's.
    pub query_user: String,
    /// Its password; by default the monitor's if the role is the same.
    pub query_password: Option<Secret>,
    /// Database it runs in; by default the monitor's.
    pub query_database: String,
    /// Users written down here; they win over `source`.
    pub users: Vec<StaticUser>,
    /// Rules, first match wins; none at all stands for [`Auth::decide`]'s default.
    pub rules: Vec<HbaRule>,
    /// Verifiers kept at most.
    pub cache_size: usize,
    /// How long one is used without asking again.
    pub cache_lifetime: Duration,
}

impl Auth {
    /// How that client has to prove itself; `None` when the rules leave it out (28000).
    /// Without rules everybody does SCRAM, or nothing if the source is `trust`.
    pub fn decide(&self, attempt: &Attempt<'_>) -> Option<Method> {
        match (self.rules.is_empty(), self.source) {
            (false, _) => hba::decide(&self.rules, attempt),
            (true, AuthSource::Trust) => Some(Method::Trust),
            (true, _) => Some(Method::ScramSha256),
        }
    }

    /// The `[[auth.user]]` of that name.
    pub fn user(&self, name: &str) -> Option<&StaticUser> {
        self.users.iter().find(|user| user.name == name)
    }
}

/// Where verifiers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthSource {
    /// The client's password is taken in clear and tried on the node.
    Passthrough,
    /// From the cluster, by `auth.query`.
    Query,
    /// Only from `[[auth.user]]`.
    Static,
    /// Nobody is asked for anything.
    Trust,
}

/// One `[[auth.user]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticUser {
    /// Role name.
    pub name: String,
    /// What the client has to know.
    pub secret: StaticSecret,
    /// Password for the nodes, where it is not the client's own.
    pub server_password: Option<Secret>,
}

/// What a static user has to know.
#[derive(Clone)]
pub enum StaticSecret {
    /// `md5` followed by 32 hex digits, as in `pg_authid`.
    Md5(String),
    /// The password itself.
    Password(Secret),
    /// A SCRAM verifier, as in `pg_authid`.
    Verifier(Verifier),
}

impl PartialEq for StaticSecret {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl StaticSecret {
    /// Whether the password itself is known, so that the proxy can log in with it.
    pub fn is_password(&self) -> bool {
        matches!(self, Self::Password(_))
    }

    /// What it was written as, for a comparison that is constant in time.
    fn text(&self) -> Secret {
        match self {
            Self::Md5(text) => Secret::new(text.as_str()),
            Self::Password(secret) => Secret::new(format!("password:{}", secret.expose())),
            Self::Verifier(verifier) => Secret::new(verifier.to_text()),
        }
    }
}

impl fmt::Debug for StaticSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Md5(_) => "Md5(***)",
            Self::Password(_) => "Password(***)",
            Self::Verifier(_) => "Verifier(***)",
        })
    }
}

/// One `[[listen]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where it listens.
    pub address: ListenAddress,
    /// What its sessions may do.
    pub role: ListenRole,
    /// The limit of lag for its sessions in place of [`Cluster::max_lag`]; 0 is none of its own.
    pub max_lag: Duration,
    /// TLS towards clients.
    pub tls: ClientTls,
}

impl Listen {
    /// A primary listener without TLS at that address.
    pub fn new(address: ListenAddress) -> Self {
        Self { address, role: ListenRole::Primary, max_lag: Duration::ZERO, tls: ClientTls::default() }
    }
}

/// Where a listener is bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// Host (`*` for all addresses of both families) and port.
    Tcp {
        /// Name, IPv4, IPv6 without brackets, or `*`.
        host: String,
        /// 0 lets the system choose.
        port: u16,
    },
    /// The socket file is `DIR/.s.PGSQL.PORT`, as libpq looks for it.
    Unix {
        /// The directory.
        dir: PathBuf,
        /// The number in the file's name.
        port: u16,
    },
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write_host_port(f, host, *port),
            Self::Unix { dir, port } => write!(f, "{}:{port}", dir.display()),
        }
    }
}

/// What the sessions of a listener may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenRole {
    /// Routed by what they declare.
    Primary,
    /// Read-only, on standbys.
    Standby,
}

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Whether clients may or must use it.
    pub mode: ClientTlsMode,
    /// Certificate chain in PEM; present unless the mode is `Off`.
    pub cert: Option<PathBuf>,
    /// Its key in PEM; present unless the mode is `Off`.
    pub key: Option<PathBuf>,
    /// Certificates that sign client certificates.
    pub client_ca: Option<PathBuf>,
}

/// Whether clients may or must use TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTlsMode {
    /// They may.
    Allow,
    /// They cannot.
    Off,
    /// They must.
    Require,
}

/// `[route]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What may go to a standby.
    pub split: Split,
    /// What a session may rely on when it reads from standbys.
    pub consistency: Consistency,
    /// How long a read waits for a standby that has what its session has written; zero: the primary serves it at once.
    pub freshness_wait: Duration,
    /// Suffix of a database name that makes the session read-only; empty: none.
    pub database_suffix: String,
    /// The proxy's own availability zone, whose standbys come first; `None`: all alike.
    pub zone: Option<String>,
    /// How long the share of a standby that has just qualified grows.
    pub slow_start: Duration,
    /// Functions to be taken as reads.
    pub read_functions: Vec<String>,
    /// Functions to be taken as writes.
    pub write_functions: Vec<String>,
}

/// What may go to a standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Also every statement outside a transaction that is provably a read.
    Auto,
    /// What the client declares read-only.
    Declared,
    /// Nothing but the sessions of standby listeners.
    Off,
}

/// What a session may rely on when it reads from standbys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Reads may be as old as the lag limit.
    Eventual,
    /// A session sees its own writes and never goes back in time.
    Session,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// HTTP listener for metrics and health; `None` turns it off.
    pub http: Option<SocketAddr>,
    /// Who may use the console.
    pub users: Vec<String>,
    /// The console's database name.
    pub database: String,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Level, or filter directives as `info,pgsteer::pool=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From accept to the end of the login.
    pub login_timeout: Duration,
    /// Connections from one address that have not logged in yet.
    pub max_logins_per_address: usize,
    /// Bytes of a startup packet.
    pub max_startup_packet: usize,
    /// How long a shutdown waits for sessions.
    pub drain_timeout: Duration,
    /// A client that takes nothing for this long is closed.
    pub client_write_timeout: Duration,
    /// Bytes of statement text a session keeps to prepare them again.
    pub max_prepared_bytes: usize,
}
