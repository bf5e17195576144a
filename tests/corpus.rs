//! Replays the seeds of the fuzz targets, and whatever they have found, with the stable toolchain.
//!
//! The functions are those the fuzz targets call; a crash that a fuzz run finds becomes a file of its corpus.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test program: a broken promise is a panic")]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

/// Runs `target` on each file of its corpus, and on each of them cut short and with one byte changed.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut seeds = 0;
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        let seed = std::fs::read(&path).unwrap();
        seeds += 1;
        let caught = std::panic::catch_unwind(|| {
            target(&seed);
            for at in 0..seed.len().min(400) {
                target(&seed[..at]);
                let mut changed = seed.clone();
                changed[at] ^= 0x81;
                target(&changed);
            }
        });
        assert!(caught.is_ok(), "{} breaks {name}, or a variant of it does", path.display());
    }
    assert!(seeds > 3, "{name} has only {seeds} seeds");
}

#[test]
fn config() {
    replay("config", targets::config);
}

#[test]
fn frames() {
    replay("frames", targets::frames);
}

#[test]
fn judge() {
    replay("judge", targets::judge);
}

#[test]
fn scram_client() {
    replay("scram_client", targets::scram_client);
}

#[test]
fn scram_server() {
    replay("scram_server", targets::scram_server);
}

#[test]
fn sql_lexer() {
    replay("sql_lexer", targets::sql_lexer);
}

#[test]
fn startup() {
    replay("startup", targets::startup);
}
