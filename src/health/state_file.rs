//! What must survive a restart: system identifier and highest timeline, in a small text file.
//!
//! Written to a new file, synced, renamed, and the folder synced: after a crash there is the old content or the new.
//! Trouble with it never stops the proxy: it is told once, kept for `/readyz`, and tried again later.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout};

use crate::topology::Timeline;
use crate::topology::decide::Mark;

/// How long a publication waits for the disk. A disk that hangs must not become an outage of everything.
const PATIENCE: Duration = Duration::from_secs(1);
/// After a failure, how long until the next attempt.
const RETRY: Duration = Duration::from_secs(10);

/// The file, what is to be in it, and what is wrong with it.
#[derive(Debug)]
pub(super) struct StateFile {
    path: Option<PathBuf>,
    /// Not yet durable.
    unsaved: Option<Mark>,
    /// A write that outlasted our patience.
    running: Option<JoinHandle<io::Result<()>>>,
    problem: Option<String>,
    tried: Instant,
}

impl StateFile {
    /// Reads the file; without a path nothing is remembered.
    pub(super) fn open(path: Option<PathBuf>) -> (Self, Option<Mark>) {
        let (mark, problem) = match path.as_deref().map(|p| (p, read(p))) {
            None => (None, None),
            Some((path, Ok(mark))) => (mark, writable(path).err().map(|e| complaint(path, "written", &e))),
            Some((path, Err(error))) => (None, Some(complaint(path, "read", &error))),
        };
        (StateFile { path, unsaved: None, running: None, problem, tried: Instant::now() }, mark)
    }

    /// Why the file cannot be relied on.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Makes `mark` durable, or finds out within a second that it cannot.
    pub(super) async fn save(&mut self, mark: Mark) {
        self.unsaved = Some(mark);
        self.write().await;
    }

    /// Tries again what failed, now and then.
    pub(super) async fn retry(&mut self) {
        if self.unsaved.is_some() && self.tried.elapsed() >= RETRY {
            self.write().await;
        }
    }

    async fn write(&mut self) {
        let (Some(path), Some(mark)) = (self.path.clone(), self.unsaved) else { return };
        self.tried = Instant::now();
        // One write at a time: a second one would queue behind the same hanging disk and may overtake the first.
        if let Some(mut old) = self.running.take()
            && timeout(PATIENCE, &mut old).await.is_err()
        {
            self.running = Some(old);
            return;
        }
        let target = path.clone();
        let mut job = spawn_blocking(move || replace(&target, mark));
        match timeout(PATIENCE, &mut job).await {
            Ok(Ok(Ok(()))) => {
                self.unsaved = None;
                self.problem = None;
            }
            Ok(Ok(Err(error))) => self.problem = Some(complaint(&path, "written", &error)),
            Ok(Err(error)) => self.problem = Some(complaint(&path, "written", &io::Error::other(error))),
            Err(_) => {
                self.running = Some(job);
                self.problem = Some(complaint(&path, "written", &io::ErrorKind::TimedOut.into()));
            }
        }
    }
}

fn complaint(path: &Path, what: &str, error: &io::Error) -> String {
    format!(
        "state file {} cannot be {what}: {error}; after a restart an old primary might be taken for the present one",
        path.display()
    )
}

/// `None`: there is no file yet.
fn read(path: &Path) -> io::Result<Option<Mark>> {
    match fs::read_to_string(path) {
        Ok(text) => match parse(&text) {
            Some(mark) => Ok(Some(mark)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "not a state file")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(text: &str) -> Option<Mark> {
    let value = |key: &str| {
        let line = text.lines().find_map(|l| l.trim().strip_prefix(key)?.trim_start().strip_prefix('='));
        line.map(str::trim)
    };
    let timeline: u32 = value("timeline")?.parse().ok()?;
    let system_identifier = value("system_identifier")?.parse().ok()?;
    (timeline > 0).then_some(Mark { system_identifier, timeline: Timeline(timeline) })
}

fn print(mark: Mark) -> String {
    format!(
        "# Written by pgsteer: whose cluster this is and how far its history has got.\n\
         system_identifier = {}\ntimeline = {}\n",
        mark.system_identifier, mark.timeline
    )
}

/// The file beside `path` that is written first.
fn draft(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Could the file be written now? Leaves nothing behind.
fn writable(path: &Path) -> io::Result<()> {
    let folder = folder(path);
    if !folder.exists() {
        fs::create_dir(folder)?;
    }
    let draft = draft(path);
    File::create(&draft)?;
    fs::remove_file(&draft)
}

fn replace(path: &Path, mark: Mark) -> io::Result<()> {
    let draft = draft(path);
    let mut file = File::create(&draft)?;
    file.write_all(print(mark).as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(folder(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { system_identifier: u64::MAX, timeline: Timeline(7) };

    #[tokio::test]
    async fn what_was_saved_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/state");
        let (mut file, mark) = StateFile::open(Some(path.clone()));
        assert_eq!((mark, file.problem()), (None, None), "a first start is no problem");
        file.save(MARK).await;
        let (file, mark) = StateFile::open(Some(path.clone()));
        assert_eq!((mark, file.problem()), (Some(MARK), None));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft is left");
    }

    #[tokio::test]
    async fn nothing_is_remembered_without_a_path() {
        let (mut file, mark) = StateFile::open(None);
        file.save(MARK).await;
        assert_eq!((mark, file.problem()), (None, None));
    }

    #[test]
    fn a_damaged_file_is_a_problem_and_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        for text in
            ["", "timeline = 1", "system_identifier = 5\ntimeline = 0", "system_identifier = x\ntimeline = 2"]
        {
            fs::write(&path, text).unwrap();
            let (file, mark) = StateFile::open(Some(path.clone()));
            assert_eq!(mark, None, "{text}");
            assert!(file.problem().unwrap().contains("cannot be read"));
        }
    }

    #[tokio::test]
    async fn an_unwritable_place_is_told_at_once_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let blocker = dir.path().join("blocker");
        fs::write(&blocker, "").unwrap();
        let path = blocker.join("state");
        let (mut file, mark) = StateFile::open(Some(path.clone()));
        assert_eq!(mark, None);
        assert!(file.problem().is_some());
        file.save(MARK).await;
        assert!(file.problem().is_some());
        fs::remove_file(&blocker).unwrap();
        fs::create_dir(&blocker).unwrap();
        file.tried = Instant::now().checked_sub(RETRY).unwrap();
        file.retry().await;
        assert_eq!(file.problem(), None);
        assert_eq!(read(&path).unwrap(), Some(MARK));
    }
}
