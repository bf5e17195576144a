//! The proxy from outside: a child process with a file, a log and HTTP pages.
//! In: the program's path and its configuration. Out: a running proxy, its pages, its exit. Knows none of
//! the proxy's types: what it sees is what an operator sees.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::error::{DemoError, tail};
use super::process::{self, Signal};
use super::wait::until;

/// How long the proxy may take to know its cluster.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// How long it may take to drain: its own limit is 30 s by default.
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// How long a page may take.
const PAGE_LIMIT: Duration = Duration::from_secs(5);

/// Largest page that is read, in bytes.
const MAX_PAGE_BYTES: u64 = 16 << 20;

/// A running proxy; killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Mutex<Child>,
    log: PathBuf,
    config: PathBuf,
    http: u16,
    kept: bool,
}

impl Proxy {
    /// Writes `dir/proxy.toml` and starts `program run -c` on it; `http` is the port of its pages.
    /// The log goes to `dir/proxy.log`. Does not wait.
    pub fn start(program: &Path, dir: &Path, text: &str, http: u16) -> Result<Self, DemoError> {
        let (config, log) = (dir.join("proxy.toml"), dir.join("proxy.log"));
        write_private(&config, text)?;
        let out = std::fs::File::options().create(true).append(true).open(&log);
        let out = out.map_err(DemoError::io(format!("opening {}", log.display())))?;
        let err = out.try_clone().map_err(DemoError::io("opening the log twice"))?;
        let mut command = Command::new(program);
        command.arg("run").arg("-c").arg(&config);
        // By its working directory the folder's guard finds it.
        command.current_dir(dir).stdin(Stdio::null()).stdout(out).stderr(err);
        for (name, _) in std::env::vars_os() {
            // A setting in our own environment would override the file.
            if name.to_string_lossy().starts_with("PGSTEER__") {
                command.env_remove(&name);
            }
        }
        // Not in the terminal's group: on Ctrl-C it is stopped in its turn.
        let child = command.process_group(0).spawn();
        let child = child.map_err(DemoError::io(format!("starting {}", program.display())))?;
        Ok(Self { child: Mutex::new(child), log, config, http, kept: false })
    }

    /// Waits until `/readyz` says yes.
    pub async fn wait_ready(&self) -> Result<(), DemoError> {
        let ready = until("the proxy to be ready", READY_LIMIT, async || {
            if !self.is_running() {
                return Err(self.complain("it ended while it started"));
            }
            Ok(matches!(self.page("/readyz").await, Ok((200, _))).then_some(()))
        });
        ready.await.map_err(|error| match error {
            DemoError::Timeout { .. } => self.complain(&error.to_string()),
            other => other,
        })
    }

    /// One page: status and body.
    pub async fn page(&self, path: &str) -> Result<(u16, String), DemoError> {
        let what = format!("the page {path}");
        let page = tokio::time::timeout(PAGE_LIMIT, get(self.http, path)).await;
        let Ok(page) = page else {
            return Err(DemoError::Timeout { what, waited: PAGE_LIMIT, last: String::new() });
        };
        page.map_err(DemoError::io(what))
    }

    /// The page `/topology`.
    pub async fn topology(&self) -> Result<serde_json::Value, DemoError> {
        let (status, body) = self.page("/topology").await?;
        let parsed = serde_json::from_str(&body).ok().filter(|_| status == 200);
        parsed.ok_or_else(|| self.complain(&format!("/topology is no JSON (status {status}): {body}")))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Has it not ended?
    pub fn is_running(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// Everything it has logged.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its configuration file.
    pub fn config_file(&self) -> &Path {
        &self.config
    }

    /// Replaces its configuration file; takes effect at SIGHUP.
    pub fn write_config(&self, text: &str) -> Result<(), DemoError> {
        write_private(&self.config, text)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), DemoError> {
        if self.is_running() { process::send(signal, &[self.pid()]) } else { Ok(()) }
    }

    /// SIGTERM, and waits for its end.
    pub async fn stop(&self) -> Result<ExitStatus, DemoError> {
        self.signal(Signal::Term)?;
        self.wait_exit().await
    }

    /// Waits for its end.
    pub async fn wait_exit(&self) -> Result<ExitStatus, DemoError> {
        let ended = until("the proxy to end", STOP_LIMIT, async || {
            self.child().try_wait().map_err(DemoError::io("waiting for the proxy"))
        });
        ended.await.map_err(|error| self.complain(&error.to_string()))
    }

    /// The proxy outlives this value.
    pub fn keep(mut self) {
        self.kept = true;
    }

    /// An error about the proxy with the last lines of its log.
    pub fn complain(&self, what: &str) -> DemoError {
        DemoError::Node { node: "pgsteer".to_owned(), what: what.to_owned(), log: tail(&self.log, 20) }
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let mut child = self.child();
        let ended = child.kill().and_then(|()| child.wait());
        drop(ended);
    }
}

/// The file holds passwords.
fn write_private(path: &Path, text: &str) -> Result<(), DemoError> {
    let what = || DemoError::io(format!("writing {}", path.display()));
    std::fs::write(path, text).map_err(what())?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode).map_err(what())
}

/// A plain HTTP/1.1 GET on 127.0.0.1.
async fn get(port: u16, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_PAGE_BYTES).read_to_end(&mut answer).await?;
    parse_answer(&String::from_utf8_lossy(&answer))
        .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "no HTTP answer"))
}

/// Status and body; a chunked body is joined.
fn parse_answer(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Some((status, body.to_owned()));
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            break;
        }
        whole.push_str(after.get(..size)?);
        rest = after.get(size + 2..)?;
    }
    Some((status, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_kinds_of_bodies() {
        let plain = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nwait";
        assert_eq!(parse_answer(plain), Some((503, "wait".to_owned())));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse_answer(chunked), Some((200, "abcde".to_owned())));
        assert_eq!(parse_answer("HTTP"), None);
    }
}
