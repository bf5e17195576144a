//! `pgsteer route`: where would this statement go, and why?
//!
//! In: a configuration file and a statement. Out: the lines of EXPLAIN ROUTE. It needs no login at the console: it reads the
//! catalogue of the database itself, as the monitoring role, and asks the running proxy over HTTP what it thinks of the
//! nodes. Without a proxy it says what it can: so it can be used before a configuration goes into service.

use std::io::Write;
use std::path::Path;

use crate::admin::explain::{self, Line, Question};
use crate::admin::report::Report;
use crate::admin::status;
use crate::config::{self, Settings};
use crate::drain::Tasks;
use crate::net::tls::ServerTlsContext;
use crate::session::catalogues;
use crate::sql::catalogue::Catalogue;

/// Explains the statement for a database, by default that of the monitoring role; prints to `out`.
pub async fn run(
    path: Option<&Path>,
    database: Option<&str>,
    sql: &str,
    out: &mut dyn Write,
) -> Result<(), String> {
    let loaded = config::load(path, config::environment()).map_err(|errors| errors.to_string())?;
    let settings = loaded.settings;
    let database = database.unwrap_or(&settings.cluster.monitor.database);
    let report = match status::url_of(&settings) {
        Ok(url) => status::report(&url).await,
        Err(error) => Err(error),
    };
    let (catalogue, failure) = match catalogue(&settings, database, report.as_ref().ok()).await {
        Ok(catalogue) => (catalogue, None),
        Err(failure) => (Catalogue::unknown(catalogues::overrides(&settings.route)), Some(failure)),
    };
    let question =
        Question { sql, database, catalogue: &catalogue, failure: failure.as_deref(), settings: &settings };
    let (wants, mut lines) = explain::statement(&question);
    match report {
        Ok(report) => lines.extend(explain::nodes(wants, &settings, &report)),
        Err(error) => lines.push(("target".to_owned(), format!("not known, since {error}"))),
    }
    print(&lines, out).map_err(|error| format!("cannot write: {error}"))
}

/// From the primary if the proxy knows one, else from the first node that answers; or why none does.
async fn catalogue(
    settings: &Settings,
    database: &str,
    report: Option<&Report>,
) -> Result<Catalogue, String> {
    let tls =
        ServerTlsContext::load(&settings.cluster.tls).map_err(|error| format!("cluster.tls: {error}"))?;
    let primary = report.and_then(|report| report.primary.as_deref());
    let mut nodes: Vec<_> = settings.cluster.nodes.iter().collect();
    nodes.sort_by_key(|node| Some(node.name.as_str()) != primary);
    let tasks = Tasks::new();
    let mut failures = Vec::new();
    for node in nodes {
        match catalogues::look(&node.address, &tls, database, settings, &tasks).await {
            Ok(catalogue) => return Ok(catalogue),
            Err(error) => failures.push(format!("{}: {error}", node.name)),
        }
    }
    Err(failures.join("; "))
}

/// Items in a column of their own.
fn print(lines: &[Line], out: &mut dyn Write) -> std::io::Result<()> {
    let width = lines.iter().map(|(item, _)| item.chars().count()).max().unwrap_or_default();
    for (item, value) in lines {
        writeln!(out, "{item:width$}  {value}")?;
    }
    out.flush()
}
