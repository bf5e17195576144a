//! The command line: which command, with which options, and its exit code.

pub mod check;
mod files;
pub mod route;
pub mod switchover;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt, reload};

use crate::admin::status;
use crate::app::{App, SetLevel};
use crate::config::{self, Log, LogFormat, Secret, Settings};
use crate::demo::{self, DemoArgs};

/// One endpoint in front of a PostgreSQL primary and its hot standbys.
#[derive(Debug, Parser)]
#[command(name = "pgsteer", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy
    Run(FileArgs),
    /// Check the configuration and the cluster
    Check {
        #[command(flatten)]
        file: FileArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show the nodes as the running proxy sees them
    Status {
        #[command(flatten)]
        from: FromArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Print the table again each second
        #[arg(long, conflicts_with = "json")]
        watch: bool,
    },
    /// Exit with 0 when the running proxy is alive
    Healthcheck {
        #[command(flatten)]
        from: FromArgs,
    },
    /// Say where a statement would go, and why; runs nothing
    Route {
        #[command(flatten)]
        file: FileArgs,
        /// The database it is for [default: that of the monitoring role]
        #[arg(short = 'd', long, value_name = "NAME")]
        database: Option<String>,
        /// The statement
        #[arg(value_name = "SQL")]
        sql: String,
    },
    /// Make a standby the primary, without an error for any client; needs PGPASSWORD
    Switchover {
        #[command(flatten)]
        file: FileArgs,
        /// The node to promote, by its name or address
        #[arg(long, value_name = "NODE")]
        to: String,
        /// How long writes may be held before it is given up [default: cluster.switchover.timeout]
        #[arg(long, value_name = "DURATION", value_parser = config::parse_duration)]
        timeout: Option<Duration>,
        /// Nobody writes but through this proxy: the old primary need not be closed
        #[arg(long)]
        sole_entry: bool,
        /// Who orders it [default: the first of admin.users]
        #[arg(short = 'U', long, value_name = "ROLE")]
        user: Option<String>,
    },
    /// Make a local cluster, put pgsteer in front and show a failover
    Demo(DemoArgs),
}

#[derive(Debug, clap::Args)]
struct FileArgs {
    /// The configuration file
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct FromArgs {
    /// Address of the proxy's HTTP listener
    #[arg(long, conflicts_with = "config")]
    url: Option<String>,
    /// The configuration file that names it
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Demo(args) => demo::run(&args),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(dispatch(command)),
                Err(error) => fail(&format!("cannot start: {error}")),
            }
        }
    }
}

async fn dispatch(command: Command) -> ExitCode {
    match command {
        Command::Run(file) => run(file.config).await,
        Command::Check { file, json } => {
            match check::run(file.config.as_deref(), json, &mut io::stdout()).await {
                Ok(verdict) => verdict.into(),
                Err(error) => fail(&error.to_string()),
            }
        }
        Command::Route { file, database, sql } => {
            let mut out = io::stdout();
            match route::run(file.config.as_deref(), database.as_deref(), &sql, &mut out).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error),
            }
        }
        Command::Switchover { file, to, timeout, sole_entry, user } => {
            let password = std::env::var("PGPASSWORD").ok().map(Secret::new);
            let order = switchover::Order { node: &to, timeout, sole_entry, user: user.as_deref(), password };
            match switchover::run(file.config.as_deref(), &order, &mut io::stdout()).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error),
            }
        }
        Command::Status { from, json, watch } => match show_status(&from, json, watch).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Command::Healthcheck { from } => match healthcheck(&from).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Command::Demo(args) => demo::run(&args),
    }
}

fn fail(text: &str) -> ExitCode {
    eprintln!("pgsteer: {text}");
    ExitCode::FAILURE
}

/// The address to ask: given, or from the configuration, or the default.
fn url(from: &FromArgs) -> Result<String, String> {
    match (&from.url, &from.config) {
        (Some(url), _) => Ok(url.clone()),
        (None, Some(path)) => {
            let loaded =
                config::load(Some(path), config::environment()).map_err(|errors| errors.to_string())?;
            status::url_of(&loaded.settings).map_err(|error| error.to_string())
        }
        (None, None) => Ok(status::DEFAULT_URL.to_owned()),
    }
}

async fn show_status(from: &FromArgs, json: bool, watch: bool) -> Result<(), String> {
    let url = url(from)?;
    let mut out = io::stdout();
    let shown =
        if watch { status::watch(&url, &mut out).await } else { status::print(&url, json, &mut out).await };
    shown.map_err(|error| error.to_string())
}

async fn healthcheck(from: &FromArgs) -> Result<(), String> {
    status::healthcheck(&url(from)?).await.map_err(|error| error.to_string())
}

async fn run(path: Option<PathBuf>) -> ExitCode {
    let loaded = match config::load(path.as_deref(), config::environment()) {
        Ok(loaded) => loaded,
        Err(errors) => return fail(&format!("the configuration has errors\n{errors}")),
    };
    let set_level = match start_log(&loaded.settings.log) {
        Ok(set_level) => set_level,
        Err(error) => return fail(&error),
    };
    for warning in &loaded.warnings {
        warn!("configuration: {warning}");
    }
    if let Some(warning) = files::raise_limit(&loaded.settings) {
        warn!("{warning}");
    }
    match serve(loaded.settings, path.as_deref(), set_level).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn serve(settings: Settings, path: Option<&Path>, set_level: SetLevel) -> Result<(), String> {
    let stream = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
    let (mut terminate, mut interrupt, mut hangup) =
        (stream(SignalKind::terminate())?, stream(SignalKind::interrupt())?, stream(SignalKind::hangup())?);
    let app =
        App::start(settings, path.map(Path::to_owned), set_level).await.map_err(|error| error.to_string())?;
    info!(version = env!("CARGO_PKG_VERSION"), "pgsteer is running");
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => app.reload(),
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tokio::select! {
        () = app.stop() => {}
        // A second signal means now.
        _ = interrupt.recv() => warn!("stopped without waiting for sessions"),
    }
    Ok(())
}

/// Starts the log on standard error; returns what changes its level.
fn start_log(log: &Log) -> Result<SetLevel, String> {
    let filter = level(&log.level)?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match log.format {
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(io::stderr)).try_init(),
        LogFormat::Text => {
            // Colours are for people; a journal or a file gets plain text.
            let ansi = io::stderr().is_terminal();
            registry.with(fmt::layer().with_target(false).with_ansi(ansi).with_writer(io::stderr)).try_init()
        }
    };
    started.map_err(|error| format!("cannot start the log: {error}"))?;
    Ok(Box::new(move |text| {
        let filter = level(text)?;
        handle.reload(filter).map_err(|error| error.to_string())
    }))
}

fn level(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| format!("log.level \"{text}\": {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn levels_are_checked() {
        assert!(level("info").is_ok());
        assert!(level("pgsteer=debug,warn").is_ok());
        assert!(level("pgsteer=loud").is_err());
    }
}
