//! The processes of a server: who they are, and signals to them.
//! In: a data folder. Out: process ids, signals sent. A PostgreSQL server and all its children have the data
//! folder as working directory: that names exactly our own, orphans of a dead postmaster included, and never
//! a stranger that got a recycled id.

use std::path::Path;
use std::process::{Command, Stdio};

use super::error::DemoError;

/// Signals that operators (and accidents) send to servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Smart shutdown of a postmaster; ends a backend's connection.
    Term,
    /// Fast shutdown of a postmaster; cancels a backend's statement.
    Int,
    /// Immediate shutdown.
    Quit,
    /// Reload of the configuration.
    Hup,
    /// Death without a word.
    Kill,
    /// Freeze: the process is there, its sockets are open, and nothing answers.
    Stop,
    /// The end of a freeze.
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Hup => "HUP",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }
}

/// Ids of all live processes whose working directory is `dir`.
pub fn in_folder(dir: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // A dead process that nobody has reaped yet has no working directory any more.
            (std::fs::read_link(entry.path().join("cwd")).ok()? == dir).then_some(pid)
        })
        .collect()
}

/// Removes the shared memory of a server that was killed: it outlives everything else, and a system has only so many
/// pieces of it.
pub fn remove_memory(data: &Path) {
    // The lock file of a server that ended by itself is gone. Its seventh line: the segment's key and number.
    let Ok(lock) = std::fs::read_to_string(data.join("postmaster.pid")) else { return };
    let Some(id) = lock.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) else { return };
    // Where the program is missing, or somebody was faster, nothing is to be done.
    let removed = Command::new("ipcrm").args(["-m", id]).stderr(Stdio::null()).status();
    drop(removed);
}

/// The title a server process gives itself, such as "postgres: walreceiver streaming 0/3000148".
pub fn title(pid: u32) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned())
}

/// Sends a signal; processes that are gone already are passed over.
pub fn send(signal: Signal, pids: &[u32]) -> Result<(), DemoError> {
    if pids.is_empty() {
        return Ok(());
    }
    // Every POSIX shell has `kill` built in; a minimal system may lack the program.
    Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$@\" 2>/dev/null", signal.name()])
        .args(pids.iter().map(u32::to_string))
        .stdin(Stdio::null())
        .status()
        .map(drop)
        .map_err(DemoError::io("sending a signal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_and_ends_processes_by_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().canonicalize().unwrap();
        let mut child = Command::new("sleep").arg("60").current_dir(&dir).spawn().unwrap();
        assert_eq!(in_folder(&dir), vec![child.id()]);
        send(Signal::Kill, &[child.id()]).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(in_folder(&dir).is_empty());
    }
}
