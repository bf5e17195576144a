//! Runs one program of the operator's: no shell, a limited time, its output in the log.
//!
//! In: an argument vector and variables for its environment. Out: how it ended. What it does is its own business.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tracing::info;

/// Lines of a program that are logged; the rest is counted.
const LINES_MAX: usize = 100;
/// Longest line that is logged, bytes.
const LINE_BYTES_MAX: usize = 500;
/// How long output is awaited after the program has ended: what it left running may hold the pipe open for good.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A program and what it is told.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// The option it comes from, for the log.
    pub(super) option: &'static str,
    /// Program and arguments; not empty.
    pub(super) argv: Vec<String>,
    /// Variables added to the environment.
    pub(super) environment: Vec<(&'static str, String)>,
    /// It is killed after this time.
    pub(super) limit: Duration,
}

impl Run {
    /// Runs it to its end, or kills it with all it has started when its time is over or `stop` resolves. The error says
    /// why it did not succeed.
    pub(super) async fn run(&self, stop: impl Future<Output = ()>) -> Result<(), String> {
        let mut child = self.command()?.spawn().map_err(|error| format!("cannot be run: {error}"))?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let output = async { tokio::join!(self.relay(stdout), self.relay(stderr)) };
        let ended = tokio::select! {
            status = wait(&mut child, output) => status,
            () = tokio::time::sleep(self.limit) => Err(format!("killed after {} s", self.limit.as_secs_f64())),
            () = stop => Err("killed, since the proxy stops".to_owned()),
        };
        if let (Err(_), Some(group)) = (&ended, group) {
            // Whoever has left the group is on its own; a group that is gone needs nothing.
            let _ = kill_process_group(group, Signal::KILL);
            let _ = child.wait().await;
        }
        match ended? {
            status if status.success() => Ok(()),
            status => Err(format!("failed: {status}")),
        }
    }

    fn command(&self) -> Result<Command, String> {
        let (program, arguments) = self.argv.split_first().ok_or("is empty")?;
        let mut command = Command::new(program);
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (*name, value)));
        // The configuration may be there, and passwords with it.
        let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PGSTEER__"));
        for (name, _) in ours {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        Ok(command)
    }

    /// Logs what the program says, up to a limit; the rest is read all the same, so that it never waits for us.
    async fn relay(&self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut lines = Lines { option: self.option, line: Vec::new(), logged: 0, dropped: 0 };
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
            lines.take(buffer.get(..count).unwrap_or_default());
        }
        lines.end();
    }
}

/// The program's end; and its output as far as it comes.
async fn wait(child: &mut Child, output: impl Future<Output = ((), ())>) -> Result<ExitStatus, String> {
    let mut output = std::pin::pin!(output);
    let status = tokio::select! {
        status = child.wait() => {
            let _ = timeout(LAST_WORDS, output).await;
            status
        }
        _ = &mut output => child.wait().await,
    };
    status.map_err(|error| format!("cannot be waited for: {error}"))
}

/// Output on its way into the log.
struct Lines {
    option: &'static str,
    line: Vec<u8>,
    logged: usize,
    dropped: usize,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.flush(),
                _ if self.line.len() < LINE_BYTES_MAX => self.line.push(*byte),
                _ => {}
            }
        }
    }

    fn flush(&mut self) {
        let line = std::mem::take(&mut self.line);
        if self.logged < LINES_MAX {
            self.logged += 1;
            let text = String::from_utf8_lossy(&line);
            info!(hook = self.option, "{}", text.trim_end().escape_debug());
        } else {
            self.dropped += 1;
        }
    }

    fn end(&mut self) {
        if !self.line.is_empty() {
            self.flush();
        }
        if self.dropped > 0 {
            info!(hook = self.option, lines = self.dropped, "more output was dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Run {
        Run {
            option: "on_promotion",
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            environment: vec![("PGSTEER_EPOCH", "7".to_owned())],
            limit,
        }
    }

    async fn run(script: &str, limit: Duration) -> Result<(), String> {
        shell(script, limit).run(std::future::pending()).await
    }

    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn the_exit_code_is_the_result() {
        assert_eq!(run("test \"$PGSTEER_EPOCH\" = 7", LONG).await, Ok(()));
        assert!(run("exit 3", LONG).await.unwrap_err().contains('3'));
        let missing = Run { argv: vec!["/no/such/program".to_owned()], ..shell("", LONG) };
        assert!(missing.run(std::future::pending()).await.unwrap_err().starts_with("cannot be run"));
    }

    #[tokio::test]
    async fn output_without_end_does_not_stop_it() {
        assert_eq!(run("yes | head -c 1000000; echo >&2 done", LONG).await, Ok(()));
    }

    #[tokio::test]
    async fn what_it_leaves_running_is_not_waited_for() {
        let began = tokio::time::Instant::now();
        assert_eq!(run("sleep 60 & exit 0", LONG).await, Ok(()));
        assert!(began.elapsed() < LONG);
    }

    #[tokio::test]
    async fn after_its_time_it_dies_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", file.display());
        let error = run(&script, Duration::from_millis(500)).await.unwrap_err();
        assert!(error.contains("killed after 0.5 s"), "{error}");
        let pid = std::fs::read_to_string(&file).unwrap().trim().to_owned();
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
        };
        // Whoever reaps orphans may take a moment.
        for _ in 0..2000 {
            if matches!(state(), None | Some('Z' | 'X')) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the child is alive: {:?}", state());
    }

    #[tokio::test]
    async fn it_does_not_outlive_the_proxy() {
        let error = shell("sleep 60", LONG).run(std::future::ready(())).await.unwrap_err();
        assert!(error.contains("stops"), "{error}");
    }
}
