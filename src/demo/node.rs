//! One local PostgreSQL server: its folder, its process, and everything that happens to servers.
//! In: programs, a data folder, settings. Out: start, stop, death, freeze, promotion. Knows nothing of the
//! other nodes but the connection string it is given.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::{DemoError, tail};
use super::process::{self, Signal};
use super::programs::{Programs, run};
use super::setup::HBA;
use super::sql::Sql;
use super::wait::until;

/// How long a server may take to start: crash recovery on a loaded machine included.
const START_LIMIT: Duration = Duration::from_mins(1);

/// How long a server may take to end; a fast shutdown writes a checkpoint.
const STOP_LIMIT: Duration = Duration::from_mins(1);

/// How long a promotion may take: 0.1 s at rest, up to 1 s under load.
const PROMOTE_LIMIT: Duration = Duration::from_secs(30);

/// The three shutdowns of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Waits for clients to leave.
    Smart,
    /// Ends the clients, writes a checkpoint.
    Fast,
    /// Ends at once; the next start recovers.
    Immediate,
}

/// The two ways to promote a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promote {
    /// `pg_ctl promote`
    PgCtl,
    /// `SELECT pg_promote(false)`
    Function,
}

/// One server. All operations take `&self`: servers of a cluster are worked on at the same time.
#[derive(Debug)]
pub struct Node {
    name: String,
    data: PathBuf,
    log: PathBuf,
    socket_dir: PathBuf,
    port: u16,
    programs: Arc<Programs>,
    settings: Mutex<Vec<(String, String)>>,
    postmaster: Mutex<Option<Child>>,
}

impl Node {
    /// Describes a server in `root/name`; nothing is written or started yet.
    pub fn new(
        name: &str,
        root: &Path,
        socket_dir: &Path,
        port: u16,
        programs: &Arc<Programs>,
        settings: Vec<(String, String)>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            data: root.join(name),
            log: root.join(format!("{name}.log")),
            socket_dir: socket_dir.to_path_buf(),
            port,
            programs: Arc::clone(programs),
            settings: Mutex::new(settings),
            postmaster: Mutex::new(None),
        }
    }

    /// Its name, which its walreceiver shows to the primary too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address as `proxy.toml` wants it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The folder of its unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The file its log goes to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sets or replaces a setting; takes effect at the next start, or at `reload`.
    pub fn set(&self, name: &str, value: &str) {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        settings.retain(|(known, _)| known != name);
        settings.push((name.to_owned(), value.to_owned()));
    }

    // ---- files ------------------------------------------------------------------------------------

    /// Writes `postgresql.conf` and `pg_hba.conf` anew: pg_rewind and base backups bring another node's.
    pub fn write_config(&self) -> Result<(), DemoError> {
        let mut text = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = {}\ncluster_name = {}\n\
             dynamic_shared_memory_type = mmap\n",
            self.port,
            quoted(&self.socket_dir.display().to_string()),
            quoted(&self.name),
        );
        for (name, value) in self.settings.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name} = {}", quoted(value));
        }
        self.write_file("postgresql.conf", &text)?;
        self.write_hba(HBA)
    }

    /// Replaces `pg_hba.conf`; takes effect at the next start, or at `reload`.
    pub fn write_hba(&self, text: &str) -> Result<(), DemoError> {
        self.write_file("pg_hba.conf", text)
    }

    /// Makes the stopped node a standby of the server that `conninfo` leads to.
    pub fn write_standby(&self, conninfo: &str) -> Result<(), DemoError> {
        self.write_file("postgresql.auto.conf", &format!("primary_conninfo = {}\n", quoted(conninfo)))?;
        self.write_file("standby.signal", "")
    }

    /// Writes a file into the data folder that only the servers' account reads.
    pub fn write_file(&self, name: &str, text: &str) -> Result<(), DemoError> {
        let path = self.data.join(name);
        let what = |verb: &str| format!("{verb} {}", path.display());
        std::fs::write(&path, text).map_err(DemoError::io(what("writing")))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).map_err(DemoError::io(what("protecting")))?;
        let Some(account) = &self.programs.account else { return Ok(()) };
        std::os::unix::fs::chown(&path, Some(account.uid), Some(account.gid))
            .map_err(DemoError::io(what("giving away")))
    }

    // ---- life -------------------------------------------------------------------------------------

    /// Starts the server and waits until it accepts connections.
    pub async fn start(&self) -> Result<(), DemoError> {
        self.spawn().await?;
        self.wait_ready().await
    }

    /// Starts the server and does not wait.
    pub async fn spawn(&self) -> Result<(), DemoError> {
        // Dying children of a killed postmaster still hold its shared memory.
        self.wait_gone().await?;
        let log = std::fs::File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(DemoError::io(format!("opening {}", self.log.display())))?;
        let error_log = log.try_clone().map_err(DemoError::io("opening the log twice"))?;
        let mut command = self.programs.command("postgres").into_std();
        command.arg("-D").arg(&self.data).stdout(Stdio::from(log)).stderr(Stdio::from(error_log));
        // Not in the terminal's group: Ctrl-C is ours to handle.
        let child = command.process_group(0).spawn();
        let child = child.map_err(DemoError::io(format!("starting {}", self.name)))?;
        *self.child() = Some(child);
        Ok(())
    }

    /// Waits until a started server accepts connections.
    pub async fn wait_ready(&self) -> Result<(), DemoError> {
        let file = self.data.join("postmaster.pid");
        let ready = until("the server to accept connections", START_LIMIT, async || {
            if !self.is_running() {
                return Err(self.complain("the server ended while it started"));
            }
            // Line 1 is its process id, line 8 its state (PostgreSQL, miscadmin.h).
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let fresh = text.lines().next().and_then(|line| line.parse().ok()) == self.postmaster_pid();
            let state = text.lines().nth(7).map_or("", str::trim);
            Ok((fresh && (state == "ready" || state == "standby")).then_some(()))
        });
        ready.await.map_err(|error| match error {
            DemoError::Timeout { .. } => self.complain(&error.to_string()),
            other => other,
        })
    }

    /// Asks the server to shut down and waits until it has.
    pub async fn stop(&self, how: Stop) -> Result<(), DemoError> {
        self.ask_to_stop(how)?;
        self.wait_exit().await
    }

    /// Asks the server to shut down and does not wait.
    pub fn ask_to_stop(&self, how: Stop) -> Result<(), DemoError> {
        let signal = match how {
            Stop::Smart => Signal::Term,
            Stop::Fast => Signal::Int,
            Stop::Immediate => Signal::Quit,
        };
        self.signal_postmaster(signal)
    }

    /// SIGKILL to the postmaster and all its children at once; does not wait until they are gone.
    pub fn kill(&self) -> Result<Instant, DemoError> {
        // A stopped postmaster makes no new children while we look.
        self.signal_postmaster(Signal::Stop)?;
        let mut processes = self.processes();
        // One that has only just been started is not in its folder yet.
        processes.extend(self.postmaster_pid().filter(|pid| self.is_running() && !processes.contains(pid)));
        let now = Instant::now();
        process::send(Signal::Kill, &processes)?;
        Ok(now)
    }

    /// SIGKILL to everything, and waits until the kernel has torn it down.
    pub async fn kill_and_wait(&self) -> Result<(), DemoError> {
        self.kill()?;
        self.wait_gone().await
    }

    /// SIGKILL to the postmaster alone: its children notice later, a busy one very much later.
    pub fn kill_postmaster(&self) -> Result<(), DemoError> {
        self.signal_postmaster(Signal::Kill)
    }

    /// Everything stands still, as on a host that hangs: sockets stay open and nothing answers.
    pub fn freeze(&self) -> Result<(), DemoError> {
        self.signal_postmaster(Signal::Stop)?;
        process::send(Signal::Stop, &self.processes())
    }

    /// The end of `freeze`.
    pub fn thaw(&self) -> Result<(), DemoError> {
        process::send(Signal::Cont, &self.processes())
    }

    /// Makes the server read its files again.
    pub fn reload(&self) -> Result<(), DemoError> {
        self.signal_postmaster(Signal::Hup)
    }

    /// Has the postmaster been started and not ended?
    pub fn is_running(&self) -> bool {
        self.child().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The postmaster's process id.
    pub fn postmaster_pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// All processes of this server, orphans of a dead postmaster included.
    pub fn processes(&self) -> Vec<u32> {
        process::in_folder(&self.data)
    }

    /// Those of its processes whose title holds `word`, such as "walreceiver" or "checkpointer".
    pub fn processes_called(&self, word: &str) -> Vec<u32> {
        let called = |pid: &u32| process::title(*pid).is_some_and(|title| title.contains(word));
        self.processes().into_iter().filter(called).collect()
    }

    /// Waits until the postmaster has ended by itself or by a request.
    pub async fn wait_exit(&self) -> Result<(), DemoError> {
        let gone = until("the server to end", STOP_LIMIT, async || Ok((!self.is_running()).then_some(())));
        gone.await.map_err(|error| self.complain(&error.to_string()))
    }

    /// The server outlives this value.
    pub fn let_go(&self) {
        let child = self.child().take();
        drop(child);
    }

    /// Waits until no process of this server is left, whoever sent it away.
    pub async fn wait_gone(&self) -> Result<(), DemoError> {
        let what = format!("the processes of {} to go", self.name);
        until(&what, STOP_LIMIT, async || {
            Ok((!self.is_running() && self.processes().is_empty()).then_some(()))
        })
        .await
    }

    fn signal_postmaster(&self, signal: Signal) -> Result<(), DemoError> {
        if !self.is_running() {
            return Ok(());
        }
        process::send(signal, &self.postmaster_pid().into_iter().collect::<Vec<_>>())
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error about this node with the last lines of its log.
    pub fn complain(&self, what: &str) -> DemoError {
        DemoError::Node { node: self.name.clone(), what: what.to_owned(), log: tail(&self.log, 12) }
    }

    // ---- statements -------------------------------------------------------------------------------

    /// A superuser's connection to the database `postgres`.
    pub async fn sql(&self) -> Result<Sql, DemoError> {
        self.sql_in("postgres").await
    }

    /// A superuser's connection.
    pub async fn sql_in(&self, database: &str) -> Result<Sql, DemoError> {
        Sql::local(&self.socket_dir, self.port, database, &self.name).await
    }

    /// One statement on a connection of its own; the first column of the first row.
    pub async fn one(&self, sql: &str) -> Result<String, DemoError> {
        self.sql().await?.one(sql).await
    }

    /// Looks until the statement's first column is `wanted`.
    pub async fn wait_for(&self, sql: &str, wanted: &str, limit: Duration) -> Result<(), DemoError> {
        let mut connection = self.sql().await?;
        let mut last = String::new();
        let what = format!("`{sql}` to be {wanted} on {}", self.name);
        let outcome = until(&what, limit, async || {
            last = connection.one(sql).await?;
            Ok((last == wanted).then_some(()))
        })
        .await;
        match outcome {
            Err(DemoError::Timeout { what, waited, .. }) => {
                Err(DemoError::Timeout { what, waited, last: format!("; it was {last:?}") })
            }
            other => other,
        }
    }

    /// Asks for a promotion and does not wait for it.
    pub async fn promote(&self, how: Promote) -> Result<(), DemoError> {
        match how {
            Promote::PgCtl => {
                let mut command = self.programs.command("pg_ctl");
                command.args(["promote", "--no-wait", "-D"]).arg(&self.data);
                run(command, "pg_ctl").await.map(drop)
            }
            Promote::Function => self.sql().await?.run("SELECT pg_promote(false)").await,
        }
    }

    /// Promotes and waits until the server is out of recovery; the moment at which that was first seen,
    /// which is when it first accepts writes. Looks each millisecond on a connection made before.
    pub async fn promote_and_wait(&self, how: Promote) -> Result<Instant, DemoError> {
        let mut connection = self.sql().await?;
        self.promote(how).await?;
        wait_writable(&mut connection).await.map_err(|error| self.complain(&error.to_string()))
    }

    /// Stops replay: the standby goes on receiving and answering, its data gets older.
    pub async fn pause_replay(&self) -> Result<(), DemoError> {
        self.sql().await?.run("SELECT pg_wal_replay_pause()").await?;
        self.wait_for("SELECT pg_get_wal_replay_pause_state()", "paused", STOP_LIMIT).await
    }

    /// Lets replay go on.
    pub async fn resume_replay(&self) -> Result<(), DemoError> {
        self.sql().await?.run("SELECT pg_wal_replay_resume()").await
    }

    /// Changes where a running standby streams from, as an operator does it; no restart since PostgreSQL 13.
    pub async fn repoint(&self, conninfo: &str) -> Result<(), DemoError> {
        let mut sql = self.sql().await?;
        sql.run(&format!("ALTER SYSTEM SET primary_conninfo = {}", quoted(conninfo))).await?;
        sql.run("SELECT pg_reload_conf()").await
    }

    /// The last received or written WAL position as a number, for comparing nodes.
    pub async fn wal_position(&self) -> Result<u64, DemoError> {
        let text = self
            .one(
                "SELECT CASE WHEN pg_is_in_recovery()
                     THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
                     ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn",
            )
            .await?;
        text.parse().map_err(|_| self.complain(&format!("no WAL position: {text:?}")))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.child().is_none() {
            // Never started, or let go.
            return;
        }
        let killed = self.kill();
        drop(killed);
        if let Some(child) = self.child().as_mut() {
            // Reaped here: a zombie's id in postmaster.pid would look alive to the next server.
            let ended = child.wait();
            drop(ended);
        }
        process::remove_memory(&self.data);
    }
}

/// Waits until a server is out of recovery; the moment at which that was first seen.
pub async fn wait_writable(connection: &mut Sql) -> Result<Instant, DemoError> {
    let began = Instant::now();
    loop {
        if connection.one("SELECT pg_is_in_recovery()").await? == "f" {
            return Ok(Instant::now());
        }
        if began.elapsed() > PROMOTE_LIMIT {
            return Err(DemoError::Timeout {
                what: "the promotion".to_owned(),
                waited: began.elapsed(),
                last: String::new(),
            });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A value in single quotes, for SQL and for PostgreSQL's files.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
