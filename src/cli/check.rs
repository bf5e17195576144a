//! `pgsteer check`: is the file right, and is the cluster ready for it?
//!
//! In: a configuration file and the nodes it names. Out: a table or JSON, with what to do about every problem as
//! SQL ready to paste, and an exit code. It only asks: nothing is changed anywhere.

mod ask;
mod facts;
mod judge;
mod report;

use std::io::{self, Write};
use std::path::Path;

use futures_util::future::join_all;

use crate::config::{self, ClientTlsMode, ConfigErrors, Loaded, Settings};
use crate::net::tls::{ClientTlsAcceptor, ServerTlsContext};

use facts::NodeReport;
use report::Report;

/// How it ended; the exit code for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is well: 0.
    Fine,
    /// The configuration is wrong; no node was asked: 1.
    BadConfiguration,
    /// The cluster is not as the configuration needs it: 2.
    BadCluster,
}

impl Verdict {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::BadConfiguration => 1,
            Self::BadCluster => 2,
        }
    }
}

impl From<Verdict> for std::process::ExitCode {
    fn from(verdict: Verdict) -> Self {
        Self::from(verdict.code())
    }
}

/// Checks that file (only the environment without one) and the cluster; prints to `out`, as one JSON object if
/// `json`. An error is one of writing.
pub async fn run(path: Option<&Path>, json: bool, out: &mut dyn Write) -> io::Result<Verdict> {
    let report = match config::load(path, config::environment()) {
        Err(errors) => Report::bad_configuration(&errors),
        Ok(loaded) => check(&loaded).await,
    };
    if json {
        report.write_json(out)?;
    } else {
        report.write_text(out)?;
    }
    Ok(report.verdict())
}

async fn check(loaded: &Loaded) -> Report {
    let settings = &loaded.settings;
    let (tls, wrong) = load_tls(settings);
    let Some(tls) = tls.filter(|_| wrong.is_empty()) else {
        return Report::bad_files(&loaded.warnings, wrong);
    };
    let asked = settings.cluster.nodes.iter().map(|node| ask::node(node, settings, &tls));
    let nodes: Vec<NodeReport> = join_all(asked).await;
    let findings = judge::judge(settings, &nodes);
    Report::of(&loaded.warnings, nodes, findings)
}

/// The certificates as they will be used; what is wrong with them.
fn load_tls(settings: &Settings) -> (Option<ServerTlsContext>, Vec<String>) {
    let mut wrong = Vec::new();
    let mut context = None;
    match ServerTlsContext::load(&settings.cluster.tls) {
        Ok(loaded) => context = Some(loaded),
        Err(error) => wrong.push(format!("cluster.tls: {error}")),
    }
    for (index, listen) in settings.listen.iter().enumerate() {
        if listen.tls.mode != ClientTlsMode::Off
            && let Err(error) = ClientTlsAcceptor::load(&listen.tls)
        {
            wrong.push(format!("listen[{index}].tls: {error}"));
        }
    }
    (context, wrong)
}

/// One line per error, for callers that only load.
pub fn error_lines(errors: &ConfigErrors) -> Vec<String> {
    errors.problems().iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
