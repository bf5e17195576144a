//! A temporary folder for servers that is gone when we are, whatever ends us.
//! In: the servers' account. Out: a short path (unix sockets allow 107 bytes), free ports. A small guard
//! process waits for the end of a pipe from us: at our exit, panic or SIGKILL it ends every process that
//! works below the folder and removes it.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tokio::net::TcpSocket;

use super::error::DemoError;
use super::programs::Account;

/// Longest folder that leaves room for "/socket/.s.PGSQL.12345" and some more.
const MAX_PATH_BYTES: usize = 60;

/// The guard: reads one word; unless it is told to keep, it kills what lives in the folder and removes it.
/// Signalled processes need some milliseconds to go, and a dying server may still write a file.
const GUARD: &str = r#"
read -r word
[ "$word" = keep ] && exit 0
for round in 1 2 3 4 5 6 7 8 9 10; do
    links=$(find /proc -maxdepth 2 -name cwd \( -lname "$1" -o -lname "$1/*" \) 2>/dev/null)
    [ -z "$links" ] && break
    for link in $links; do
        pid=${link#/proc/}
        kill -s KILL "${pid%/cwd}" 2>/dev/null
    done
    sleep 0.02
done
rm -rf "$1" 2>/dev/null || { sleep 0.2; rm -rf "$1"; }
"#;

/// A folder that belongs to the servers' account and dies with this value.
#[derive(Debug)]
pub struct Workspace {
    root: PathBuf,
    guard: Option<Child>,
}

impl Workspace {
    /// Makes `PREFIX` + random letters in the temp folder.
    pub fn create(prefix: &str, account: Option<&Account>) -> Result<Self, DemoError> {
        let base = base_folder(account.is_some());
        let root = base.join(format!("{prefix}{:08x}", random()?));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&root)
            .map_err(DemoError::io(format!("creating {}", root.display())))?;
        let guard = Command::new("sh")
            .args(["-c", GUARD, "pgsteer-guard"])
            .arg(&root)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C goes to the whole group of the terminal; the guard must outlive us.
            .process_group(0)
            .spawn()
            .map_err(DemoError::io("starting the guard of the temporary folder"))?;
        let workspace = Self { root, guard: Some(guard) };
        workspace.give_to(&workspace.root, account)?;
        workspace.make_dir("socket", account)?;
        Ok(workspace)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The folder of the servers' unix sockets.
    pub fn socket_dir(&self) -> PathBuf {
        self.root.join("socket")
    }

    /// Makes a folder inside that the account owns.
    pub fn make_dir(&self, name: &str, account: Option<&Account>) -> Result<PathBuf, DemoError> {
        let dir = self.root.join(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(DemoError::io(format!("creating {}", dir.display())))?;
        self.give_to(&dir, account)?;
        Ok(dir)
    }

    /// Writes a file that the account owns and nobody else reads.
    pub fn write(&self, path: &Path, text: &str, account: Option<&Account>) -> Result<(), DemoError> {
        std::fs::write(path, text).map_err(DemoError::io(format!("writing {}", path.display())))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, mode)
            .map_err(DemoError::io(format!("protecting {}", path.display())))?;
        self.give_to(path, account)
    }

    /// The folder and what runs in it stay when this value goes.
    pub fn keep(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            if let Some(mut pipe) = guard.stdin.take() {
                let told = pipe.write_all(b"keep\n");
                drop(told);
            }
            let ended = guard.wait();
            drop(ended);
        }
    }

    fn give_to(&self, path: &Path, account: Option<&Account>) -> Result<(), DemoError> {
        let Some(account) = account else { return Ok(()) };
        debug_assert!(path.starts_with(&self.root));
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)).map_err(DemoError::io(format!(
            "giving {} to {}",
            path.display(),
            account.name
        )))
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let ended = guard.wait();
            drop(ended);
        }
    }
}

/// The temp folder, unless its path is too long or (for another account) closed to others.
fn base_folder(other_account: bool) -> PathBuf {
    let wanted = std::env::temp_dir();
    let wanted = wanted.canonicalize().unwrap_or(wanted);
    let open = |dir: &Path| {
        dir.ancestors().all(|dir| std::fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 != 0))
    };
    let short = wanted.as_os_str().len() + 20 <= MAX_PATH_BYTES;
    if short && (!other_account || open(&wanted)) { wanted } else { PathBuf::from("/tmp") }
}

fn random() -> Result<u32, DemoError> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes)
        .map_err(|error| DemoError::Setup(format!("the system has no random numbers: {error}")))?;
    Ok(u32::from_ne_bytes(bytes))
}

/// As many hexadecimal letters as `bytes` says, twice over: a password for a local role.
pub fn random_word(bytes: usize) -> Result<String, DemoError> {
    (0..bytes.div_ceil(4)).map(|_| random().map(|word| format!("{word:08x}"))).collect()
}

/// TCP ports of 127.0.0.1 that nobody else is given while this value lives: for servers that come and go. Servers can
/// listen on them, as all do that bind with SO_REUSEADDR.
#[derive(Debug)]
pub struct HeldPorts {
    numbers: Vec<u16>,
    /// Bound, but not listening: clients are refused while no server is there.
    _held: Vec<TcpSocket>,
}

impl Deref for HeldPorts {
    type Target = [u16];

    fn deref(&self) -> &[u16] {
        &self.numbers
    }
}

/// `count` different free TCP ports. Not from the range the kernel takes client ports from: a killed
/// server's port must still be free when it comes back.
pub fn free_ports(count: usize) -> Result<HeldPorts, DemoError> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(32768_u16);
    let (low, high) = if first > 12_000 { (10_000, first) } else { (1_024, 65_535) };
    let (mut numbers, mut held) = (Vec::new(), Vec::new());
    for _ in 0..10_000 {
        if numbers.len() == count {
            return Ok(HeldPorts { numbers, _held: held });
        }
        let port = low + (random()? % u32::from(high - low)) as u16;
        if let Ok(socket) = hold(port) {
            held.push(socket);
            numbers.push(port);
        }
    }
    Err(DemoError::Setup("no free TCP ports on 127.0.0.1".to_owned()))
}

/// Binds to a port that nobody is bound to, so that only who knows of it can listen on it.
fn hold(port: u16) -> std::io::Result<TcpSocket> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    // Without SO_REUSEADDR this fails whoever has it, and however.
    TcpSocket::new_v4()?.bind(address)?;
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn goes_with_its_processes() {
        let workspace = Workspace::create("pgsteer-t-", None).unwrap();
        let root = workspace.path().to_path_buf();
        let mut child = Command::new("sleep").arg("60").current_dir(workspace.socket_dir()).spawn().unwrap();
        drop(workspace);
        assert!(!root.exists());
        assert!(!child.wait().unwrap().success(), "the guard ends what works below the folder");
    }

    #[test]
    fn stays_when_kept() {
        let mut workspace = Workspace::create("pgsteer-t-", None).unwrap();
        let root = workspace.path().to_path_buf();
        workspace.keep();
        drop(workspace);
        assert!(root.is_dir());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn ports_are_free_and_different() {
        let ports = free_ports(5).unwrap();
        let mut numbers = ports.to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 5);
        for port in numbers {
            assert!(hold(port).is_err(), "it is taken");
            assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "no server is there");
            for _ in 0..2 {
                TcpListener::bind(("127.0.0.1", port)).unwrap();
            }
        }
    }
}
