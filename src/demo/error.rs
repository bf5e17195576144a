//! What can go wrong with local servers, in words that name the program and what it said.
//! In: results of programs, files and statements. Out: one error type for `demo`. Knows nothing of the proxy.

use std::io;
use std::path::Path;
use std::time::Duration;

/// A failure of the demonstration's or a test's local cluster.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The machine lacks something that a person can install or change.
    #[error("{0}")]
    Setup(String),
    /// A program ended with an error; `output` holds the last lines of what it printed.
    #[error("{program} failed ({status})\n{output}")]
    Program {
        /// Name of the program, without its folder.
        program: String,
        /// How it ended.
        status: String,
        /// The last lines it printed.
        output: String,
    },
    /// A server did not do what was asked; `log` holds the last lines of its log.
    #[error("{node}: {what}\n{log}")]
    Node {
        /// Name of the node.
        node: String,
        /// What was expected and did not happen.
        what: String,
        /// The last lines of its log.
        log: String,
    },
    /// A condition did not come true in time.
    #[error("waited {} ms in vain for {what}{last}", waited.as_millis())]
    Timeout {
        /// The condition.
        what: String,
        /// How long it was waited for.
        waited: Duration,
        /// What was seen last, beginning with a separator, or empty.
        last: String,
    },
    /// A statement or a connection failed.
    #[error("{what}: {}", sql_text(source))]
    Sql {
        /// What was tried.
        what: String,
        /// The server's or the connection's answer.
        source: tokio_postgres::Error,
    },
    /// A file or a process could not be handled.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A person pressed Ctrl-C, or the program was told to end.
    #[error("interrupted")]
    Interrupted,
}

impl DemoError {
    /// Wraps an error of the system with what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Wraps an error of a connection with what was tried.
    pub fn sql(what: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let what = what.into();
        move |source| Self::Sql { what, source }
    }

    /// The SQLSTATE when a server refused a statement or a login.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Sql { source, .. } => source.code().map(tokio_postgres::error::SqlState::code),
            _ => None,
        }
    }
}

/// tokio-postgres prints "db error" only; people need the server's own words.
fn sql_text(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{}: {} ({})", db.severity(), db.message(), db.code().code()),
        None => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

/// The last `lines` lines of a text file, indented for an error message; empty when there is none.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    last_lines(&String::from_utf8_lossy(&bytes), lines)
}

/// The last `lines` lines of a text, indented.
pub(crate) fn last_lines(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    let from = all.len().saturating_sub(lines);
    all.iter().skip(from).map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_shown() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "    b\n    c");
        assert_eq!(last_lines("", 2), "");
    }
}
