//! Finds PostgreSQL's server programs and runs them.
//! In: an optional folder. Out: one folder whose programs belong together, and commands that run as the
//! right account. Knows nothing of clusters.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::error::{DemoError, last_lines};

/// Programs without which no cluster can be made.
const NEEDED: [&str; 4] = ["initdb", "postgres", "pg_ctl", "pg_basebackup"];

/// The oldest major version that pgsteer supports (`in_hot_standby` is reported since 14).
const OLDEST: u32 = 14;

/// How long a single program may run: a base backup of an empty cluster takes 1 s, on a loaded machine 20.
const PROGRAM_LIMIT: Duration = Duration::from_mins(2);

/// The account that servers run under when we are root: PostgreSQL refuses to run as root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name in /etc/passwd.
    pub name: String,
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
}

/// The server programs of one PostgreSQL installation.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The folder that holds them.
    pub dir: PathBuf,
    /// As `postgres --version` says it, such as "15.18".
    pub version: String,
    /// The major version.
    pub major: u32,
    /// Whom servers run as; none when we are not root.
    pub account: Option<Account>,
    /// Optional: without it a lost primary is made anew by a base backup.
    pub pg_rewind: Option<PathBuf>,
    /// Optional: the load generator.
    pub pgbench: Option<PathBuf>,
    /// Optional: the terminal client.
    pub psql: Option<PathBuf>,
}

impl Programs {
    /// Looks in `bindir` only, when given; else in PATH, where `pg_config` says, in Debian's folders
    /// (newest first) and where a build from source installs.
    pub async fn find(bindir: Option<&Path>) -> Result<Self, DemoError> {
        let candidates = match bindir {
            Some(dir) => vec![dir.to_path_buf()],
            None => usual_folders().await,
        };
        let mut seen = Vec::new();
        for dir in candidates {
            let lacking: Vec<&str> = NEEDED.into_iter().filter(|name| !dir.join(name).is_file()).collect();
            if lacking.is_empty() {
                return Self::in_dir(dir).await;
            }
            seen.push(format!("    {} (no {})", dir.display(), lacking.join(", no ")));
        }
        Err(DemoError::Setup(format!(
            "no PostgreSQL server programs found; looked in\n{}\n\
             Install them (Debian, Ubuntu: apt-get install postgresql) or name their folder: --bindir DIR",
            seen.join("\n")
        )))
    }

    async fn in_dir(dir: PathBuf) -> Result<Self, DemoError> {
        let mut command = Command::new(dir.join("postgres"));
        command.arg("--version");
        let said = run(command, "postgres").await?;
        let version = said.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let version = version.unwrap_or("0").to_owned();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        let major = digits.parse().unwrap_or(0);
        if major < OLDEST {
            return Err(DemoError::Setup(format!(
                "{} holds PostgreSQL {version}; {OLDEST} or newer is needed",
                dir.display()
            )));
        }
        let beside = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
        let anywhere = |name: &str| beside(name).or_else(|| in_path(name));
        Ok(Self {
            pg_rewind: beside("pg_rewind"),
            pgbench: anywhere("pgbench"),
            psql: anywhere("psql"),
            version,
            major,
            account: server_account()?,
            dir,
        })
    }

    /// A command for one of the server's programs: right account, C locale, none of our `PG*` settings.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.dir.join(program));
        self.prepare(&mut command);
        command
    }

    /// The same for any other program that must run as the servers' account.
    pub fn prepare(&self, command: &mut Command) {
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid).env("HOME", "/");
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(&name);
            }
        }
        command.env("LC_ALL", "C").current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
    }
}

/// Runs a program to its end and returns what it printed on stdout; an error holds its last words.
pub async fn run(mut command: Command, program: &str) -> Result<String, DemoError> {
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).output();
    let output = match tokio::time::timeout(PROGRAM_LIMIT, output).await {
        Ok(output) => output.map_err(DemoError::io(format!("could not run {program}")))?,
        Err(_) => {
            return Err(DemoError::Timeout {
                what: format!("{program} to end"),
                waited: PROGRAM_LIMIT,
                last: String::new(),
            });
        }
    };
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(DemoError::Program {
        program: program.to_owned(),
        status: output.status.to_string(),
        output: last_lines(&format!("{stdout}\n{stderr}"), 12),
    })
}

/// Folders that may hold a whole installation, best first.
async fn usual_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    // A link in PATH leads to the folder that holds the others too.
    folders.extend(
        in_path("postgres")
            .and_then(|path| path.canonicalize().ok())
            .as_deref()
            .and_then(Path::parent)
            .map(Path::to_path_buf),
    );
    if let Ok(said) = run(
        {
            let mut command = Command::new("pg_config");
            command.arg("--bindir");
            command
        },
        "pg_config",
    )
    .await
    {
        folders.push(PathBuf::from(said.trim()));
    }
    folders.extend(debian_folders());
    folders.push(PathBuf::from("/usr/local/pgsql/bin"));
    folders.dedup();
    folders
}

fn debian_folders() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/usr/lib/postgresql") else { return Vec::new() };
    let mut versions: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.iter().map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"))).collect()
}

/// The first file of that name in PATH.
fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Are we root? Then servers run as `postgres`, else `nobody`.
fn server_account() -> Result<Option<Account>, DemoError> {
    // The owner of our own entry is our effective user.
    let uid = std::fs::metadata("/proc/self").map(|meta| meta.uid());
    if uid.map_err(DemoError::io("reading /proc/self"))? != 0 {
        return Ok(None);
    }
    let accounts = std::fs::read_to_string("/etc/passwd").map_err(DemoError::io("reading /etc/passwd"))?;
    ["postgres", "nobody"].iter().find_map(|name| account(&accounts, name)).map(Some).ok_or_else(|| {
        DemoError::Setup(
            "PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it as"
                .to_owned(),
        )
    })
}

/// One line of /etc/passwd: name:password:uid:gid:…
fn account(accounts: &str, name: &str) -> Option<Account> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then(|| Account { name: name.to_owned(), uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_account() {
        let text =
            "root:x:0:0:root:/root:/bin/sh\npostgres:x:101:104:PostgreSQL,,,:/var/lib/postgresql:/bin/sh\n";
        let found = account(text, "postgres").unwrap();
        assert_eq!((found.uid, found.gid), (101, 104));
        assert_eq!(account(text, "post"), None);
    }

    #[tokio::test]
    async fn a_folder_without_servers_is_named() {
        let error = Programs::find(Some(Path::new("/nowhere"))).await.unwrap_err().to_string();
        assert!(error.contains("/nowhere (no initdb, no postgres"), "{error}");
        assert!(error.contains("--bindir"), "{error}");
    }

    #[tokio::test]
    async fn a_failed_program_is_quoted() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let error = run(command, "sh").await.unwrap_err().to_string();
        assert!(error.contains("sh failed (exit status: 3)") && error.contains("two"), "{error}");
    }
}
