//! Progress on slow steps: what is being done, and how long it took.
//! In: a text and the work. Out: lines for people. Knows no details of the work.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

/// Where progress goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steps {
    /// Nowhere: tests.
    Silent,
    /// To stdout.
    Stdout,
    /// To stderr, since stdout carries the result for a script.
    Stderr,
}

/// How often the running step is repainted on a terminal.
const REPAINT: Duration = Duration::from_millis(100);

impl Steps {
    /// Is somebody looking at a terminal?
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Silent => false,
            Self::Stdout => std::io::stdout().is_terminal(),
            Self::Stderr => std::io::stderr().is_terminal(),
        }
    }

    /// Prints text as it is; output that nobody takes any more is dropped.
    pub fn print(self, text: &str) {
        let written = match self {
            Self::Silent => Ok(()),
            Self::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
            Self::Stderr => std::io::stderr().lock().write_all(text.as_bytes()),
        };
        drop(written);
    }

    /// Prints one line.
    pub fn line(self, text: &str) {
        self.print(&format!("{text}\n"));
    }

    /// Does the work; a terminal shows the seconds running, everything else one line at the end.
    pub async fn step<T, E>(self, text: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let began = Instant::now();
        let mut work = pin!(work);
        let terminal = self.is_terminal();
        let mut repaint = tokio::time::interval(REPAINT);
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                _ = repaint.tick(), if terminal => {
                    self.print(&format!("\r  .. {text:<58}{:>6.1} s", began.elapsed().as_secs_f64()));
                }
            }
        };
        let mark = if result.is_ok() { "ok" } else { "!!" };
        let start = if terminal { "\r" } else { "" };
        self.print(&format!("{start}  {mark} {text:<58}{:>6.1} s\n", began.elapsed().as_secs_f64()));
        result
    }
}
