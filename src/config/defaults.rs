//! The default of every setting. A test compares them with the texts in `options`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::settings::{
    Admin, Auth, AuthSource, ClientTls, ClientTlsMode, Cluster, Consistency, Fallback, Hooks, Limits, Listen,
    ListenAddress, ListenRole, Log, LogFormat, Monitor, NodeAddress, NodeSettings, Pool, PoolMode, Retry,
    Route, ServerTls, Settings, Split, Switchover, TlsMode,
};

const MINUTE: Duration = Duration::from_mins(1);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The function that `check` prints, see `setup_sql`.
pub const AUTH_QUERY: &str = "SELECT * FROM pgsteer.get_auth($1)";
/// The port in addresses of nodes that name none.
pub const NODE_PORT: u16 = 5432;
/// The port in addresses of listeners that name none.
pub const LISTEN_PORT: u16 = 6432;

impl Settings {
    /// Defaults for these nodes, with nothing outside the process touched: no state file, no HTTP, one
    /// listener on a port that the system chooses. For tests and for the demo.
    pub fn with_nodes(nodes: impl IntoIterator<Item = NodeAddress>) -> Self {
        let listen = Listen::new(ListenAddress::Tcp { host: LOOPBACK.to_string(), port: 0 });
        let cluster = Cluster {
            nodes: nodes.into_iter().map(NodeSettings::new).collect(),
            state_file: None,
            ..Cluster::default()
        };
        let admin = Admin { http: None, ..Admin::default() };
        Self { workers: 1, cluster, listen: vec![listen], admin, ..Self::default() }
    }

    /// Two nodes that need not exist, clients trusted. For unit tests.
    pub fn for_tests() -> Self {
        let nodes = [5432, 5433].map(|port| NodeAddress::new("127.0.0.1", port));
        let auth = Auth { source: AuthSource::Trust, ..Auth::default() };
        Self { auth, ..Self::with_nodes(nodes) }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: default_workers(),
            cluster: Cluster::default(),
            auth: Auth::default(),
            listen: vec![Listen::default()],
            pool: Pool::default(),
            route: Route::default(),
            retry: Retry::default(),
            admin: Admin::default(),
            log: Log::default(),
            limits: Limits::default(),
            source: None,
        }
    }
}

/// One per core that this process may use.
pub fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            nodes: vec![NodeSettings::new(NodeAddress::new(LOOPBACK.to_string(), NODE_PORT))],
            max_lag: Duration::from_secs(1),
            max_lag_bytes: 16 << 20,
            fallback: Fallback::Primary,
            hold_timeout: Duration::from_secs(30),
            max_held: 10_000,
            start_grace: Duration::from_secs(5),
            frozen_limit: MINUTE,
            state_file: Some(PathBuf::from("/var/lib/pgsteer/state")),
            system_identifier: None,
            tls: ServerTls::default(),
            monitor: Monitor::default(),
            connect_timeout: Duration::from_secs(5),
            hooks: Hooks::default(),
            switchover: Switchover::default(),
        }
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Self { fence_command: Vec::new(), on_promotion: Vec::new(), timeout: Duration::from_secs(30) }
    }
}

impl Default for Switchover {
    fn default() -> Self {
        Self { user: None, password: None, timeout: Duration::from_secs(10) }
    }
}

impl Default for ServerTls {
    fn default() -> Self {
        Self { mode: TlsMode::Prefer, ca: None, cert: None, key: None }
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            user: "pgsteer".to_owned(),
            password: None,
            database: "postgres".to_owned(),
            interval: Duration::from_millis(100),
            fast_interval: Duration::from_millis(20),
            timeout: Duration::from_millis(500),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        let monitor = Monitor::default();
        Self {
            source: AuthSource::Query,
            query: AUTH_QUERY.to_owned(),
            query_user: monitor.user,
            query_password: monitor.password,
            query_database: monitor.database,
            users: Vec::new(),
            rules: Vec::new(),
            cache_size: 10_000,
            cache_lifetime: Duration::from_mins(5),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: ListenAddress::Tcp { host: LOOPBACK.to_string(), port: LISTEN_PORT },
            role: ListenRole::Primary,
            max_lag: Duration::ZERO,
            tls: ClientTls::default(),
        }
    }
}

impl Default for ClientTls {
    fn default() -> Self {
        Self { mode: ClientTlsMode::Off, cert: None, key: None, client_ca: None }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            mode: PoolMode::Session,
            size: 20,
            max_backends_per_node: 90,
            max_clients: 10_000,
            wait_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_mins(10),
            lifetime: Duration::from_hours(1),
            min_idle: 0,
            reserve: 2,
            warm: 2,
            max_waiters: 10_000,
            max_startup_sets: 64,
            max_connecting_per_node: 8,
            reset_timeout: Duration::from_secs(5),
            max_pinned: 0,
            pin_sequences: true,
            max_prepared: 200,
        }
    }
}

impl Default for Route {
    fn default() -> Self {
        Self {
            split: Split::Declared,
            consistency: Consistency::Session,
            freshness_wait: Duration::ZERO,
            database_suffix: String::new(),
            zone: None,
            slow_start: Duration::from_secs(10),
            read_functions: Vec::new(),
            write_functions: Vec::new(),
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            reads: true,
            transactions: false,
            transaction_size: 64 * 1024,
            resolve_commit: false,
            listen: false,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            http: Some(SocketAddr::new(LOOPBACK, 9632)),
            users: vec!["postgres".to_owned()],
            database: "pgsteer".to_owned(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            login_timeout: MINUTE,
            max_logins_per_address: 1000,
            max_startup_packet: 10_000,
            drain_timeout: Duration::from_secs(30),
            client_write_timeout: MINUTE,
            max_prepared_bytes: 1 << 20,
        }
    }
}
