//! Local clusters, and the demonstration of a failover on one of them.
//! In: PostgreSQL's server programs. Out: running primaries and standbys for `pgsteer demo` and for the
//! integration tests. Sees the proxy only from outside: as a program with a file, ports and HTTP pages.

pub mod cluster;
pub mod error;
pub mod load;
pub mod node;
mod outcome;
mod play;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod setup;
pub mod sql;
pub mod steps;
mod view;
pub mod wait;
pub mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use error::DemoError;
use outcome::Outcome;
use steps::Steps;

/// Options of `pgsteer demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Leave the cluster and pgsteer running at the end
    #[arg(long)]
    pub keep: bool,
    /// Only build, run the load and stop
    #[arg(long)]
    pub no_failover: bool,
    /// Print the final figures as one JSON object; progress goes to stderr
    #[arg(long)]
    pub json: bool,
    /// Folder of PostgreSQL's server programs
    #[arg(long, value_name = "DIR")]
    pub bindir: Option<PathBuf>,
    /// Seconds of load before and after the failover
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub seconds: u64,
    /// Long-lived client connections, half of them writers
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(2..=60))]
    pub clients: u16,
}

/// Runs the demonstration. Exit code 0 only if no connection and no acknowledged write was lost.
pub fn run(args: &DemoArgs) -> ExitCode {
    let steps = if args.json { Steps::Stderr } else { Steps::Stdout };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(interruptible(args, steps)),
        Err(error) => Err(DemoError::Io { what: "starting the runtime".to_owned(), source: error }),
    };
    match result {
        Ok(outcome) => report(args, steps, &outcome),
        Err(error) => {
            Steps::Stderr.line(&format!("\nerror: {error}"));
            ExitCode::from(if matches!(error, DemoError::Interrupted) { 130 } else { 1 })
        }
    }
}

fn report(args: &DemoArgs, steps: Steps, outcome: &Outcome) -> ExitCode {
    steps.line(&outcome.text());
    if args.json {
        Steps::Stdout.line(&outcome.json());
    }
    if outcome.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ctrl-C and SIGTERM end the play in the middle; dropping it stops and removes everything.
async fn interruptible(args: &DemoArgs, steps: Steps) -> Result<Outcome, DemoError> {
    let listen = |kind| signal(kind).map_err(DemoError::io("listening for signals"));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    tokio::select! {
        result = play::play(args, steps) => result,
        _ = interrupt.recv() => Err(DemoError::Interrupted),
        _ = terminate.recv() => Err(DemoError::Interrupted),
    }
}
