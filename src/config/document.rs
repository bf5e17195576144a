//! `docs/configuration.md`, printed from the table of options. A test compares the file with it.

use std::fmt::Write as _;

use super::options::{OPTIONS, OptionSpec};
use super::setup_sql;

const HEAD: &str = "\
# Configuration

<!-- Printed from src/config by `UPDATE_DOCS=1 cargo test --lib config::document`; edit there. -->

pgsteer reads one file, `proxy.toml`, and takes overrides from the environment. `pgsteer check -c proxy.toml`
tells everything that is wrong with it, each with its line, and then asks the nodes. A complete file is three
blocks long:

```toml
[cluster]
nodes = [\"192.168.1.100:5432\", \"192.168.1.101:5432\"]

[cluster.monitor]
user = \"pgsteer\"
password_file = \"/etc/pgsteer/monitor.pass\"

[auth]
source = \"query\"
```

## How values are written

- **duration**: a whole number with `us`, `ms`, `s`, `min`, `h` or `d`: `\"250ms\"`.
- **size**: a whole number with `B`, `kB`, `MB`, `GB` or `TB`: `\"16kB\"`; kB is 1024 bytes, as in PostgreSQL.
- **address**: `\"db1:5432\"`, `\"10.0.0.1:5432\"`, `\"[::1]:5432\"`, or a folder for unix sockets.
- **path**: a file name; a relative one starts at the folder of the configuration file.
- **environment**: `PGSTEER__` and the option's name in capitals with `__` for each dot, e.g.
  `PGSTEER__POOL__SIZE=40`. Lists are separated by commas. Blocks that may be repeated can only be written in
  the file, but `PGSTEER__CLUSTER__NODES` and `PGSTEER__LISTEN` take addresses.
- An unknown option is an error. So is a value that a later version will know: it is never silently ignored.

## When a change takes effect

A reload (SIGHUP, or `RELOAD` in the console) reads the file again. If anything in it is wrong, the old
settings stay. Otherwise each option has one of three classes:

- **live**: at once, for all sessions;
- **new sessions**: for sessions that begin afterwards;
- **restart**: only when pgsteer is started again; the reload says so.
";

const TAIL: &str = "
## Rules

Without `[[auth.rule]]` every client proves itself by SCRAM-SHA-256 (by nothing, if `auth.source` is
`trust`). With rules the first one that matches type, database, user and address decides, as in
`pg_hba.conf`; a client that none matches is refused with 28000.

## Secrets of users

With `source = \"query\"` pgsteer asks the cluster for the SCRAM verifier of a user that logs in. The role it
asks with needs no superuser rights: it calls a function that belongs to one. `pgsteer check` prints the same
text when the function is missing.
";

/// The whole page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut last = None;
    for option in OPTIONS {
        let block = block_of(option);
        if last != Some(block) {
            let _ = write!(page, "\n## {}\n\n", heading(block));
            page.push_str("| option | kind | default | change takes effect | |\n|---|---|---|---|---|\n");
            last = Some(block);
        }
        let name = option.key.strip_prefix(block).unwrap_or(option.key).trim_start_matches(['[', ']', '.']);
        let default =
            if option.default.is_empty() { "needed".to_owned() } else { format!("`{}`", option.default) };
        let OptionSpec { kind, class, doc, .. } = option;
        let _ = writeln!(page, "| `{name}` | {kind} | {default} | {class} | {doc} |");
    }
    page.push_str(TAIL);
    let role = "pgsteer";
    let _ = write!(page, "\n```sql\n{}{}```\n", setup_sql::role(role), setup_sql::auth_function(role));
    page
}

/// The block an option is shown under; small blocks are shown with the one they belong to.
fn block_of(option: &OptionSpec) -> &'static str {
    let blocks = ["cluster.node[]", "cluster.tls", "cluster.monitor", "auth.user[]", "auth.rule[]"];
    let inner = blocks.into_iter().find(|block| option.key.starts_with(&format!("{block}.")));
    inner.unwrap_or_else(|| {
        let end = option.key.find(['.', '[']).unwrap_or(0);
        &option.key[..end]
    })
}

fn heading(block: &str) -> String {
    match block.strip_suffix("[]") {
        Some(list) => format!("`[[{list}]]`"),
        None if block == "listen" => "`[[listen]]`".to_owned(),
        None if block.is_empty() => "At the top of the file".to_owned(),
        None => format!("`[{block}]`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE_DOCS=1` writes the file instead.
    #[test]
    fn the_page_in_the_repository_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == page(),
            "docs/configuration.md is stale; UPDATE_DOCS=1 cargo test --lib config::document"
        );
    }

    #[test]
    fn every_option_has_its_row() {
        let page = page();
        for option in OPTIONS {
            let name = option.key.rsplit('.').next().unwrap();
            assert!(page.contains(&format!("{name}`")), "{}", option.key);
            assert!(page.contains(option.doc), "{}", option.key);
        }
    }
}
