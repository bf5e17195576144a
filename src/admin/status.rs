//! `pgsteer status` and `pgsteer healthcheck`: what a running proxy says about itself over HTTP.
//!
//! In: the address of its HTTP listener. Out: a table, JSON, or a verdict. It shares no state with the proxy
//! it asks, and needs neither its configuration nor its rights.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::report::Report;
use crate::config::Settings;

/// Where the HTTP listener is by default.
pub const DEFAULT_URL: &str = "http://127.0.0.1:9632";
/// A proxy that works answers in milliseconds.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes: a hundred times the topology of a large cluster.
const ANSWER_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Between two tables of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Why there is no status. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The answer is not HTTP as the proxy speaks it, or not its JSON.
    #[error("{url} does not answer like pgsteer: {why}")]
    Alien {
        /// Who was asked.
        url: String,
        /// What was wrong.
        why: String,
    },
    /// `admin.http` is off.
    #[error("admin.http is turned off in the configuration, so that there is nobody to ask")]
    Off,
    /// The terminal is gone.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    /// The proxy answers, but is not healthy.
    #[error("not healthy: {0}")]
    Unhealthy(String),
    /// Nobody listens there, or it does not answer.
    #[error("no proxy answers at {url} ({why}); is pgsteer running, and is admin.http that address?")]
    Unreachable {
        /// Who was asked.
        url: String,
        /// What happened.
        why: String,
    },
    /// Not a URL we understand.
    #[error("\"{0}\" is not of the form http://host:port")]
    Url(String),
}

/// Where a proxy with these settings serves HTTP, as seen from the same host.
pub fn url_of(settings: &Settings) -> Result<String, StatusError> {
    let mut address = settings.admin.http.ok_or(StatusError::Off)?;
    if address.ip().is_unspecified() {
        address = SocketAddr::new(
            match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            },
            address.port(),
        );
    }
    Ok(format!("http://{address}"))
}

/// Succeeds when the proxy at `url` is alive (`/livez`).
pub async fn healthcheck(url: &str) -> Result<(), StatusError> {
    match get(url, "/livez").await? {
        (200, _) => Ok(()),
        (_, body) => Err(StatusError::Unhealthy(String::from_utf8_lossy(&body).trim().to_owned())),
    }
}

/// The topology as the proxy at `url` sees it.
pub async fn report(url: &str) -> Result<Report, StatusError> {
    let body = topology(url).await?;
    serde_json::from_slice(&body).map_err(|error| alien(url, &error))
}

async fn topology(url: &str) -> Result<Vec<u8>, StatusError> {
    match get(url, "/topology").await? {
        (200, body) => Ok(body),
        (status, _) => Err(alien(url, &format!("status {status} for /topology"))),
    }
}

/// Prints the status once: a table, or the JSON as it came.
pub async fn print(url: &str, json: bool, out: &mut impl Write) -> Result<(), StatusError> {
    if json {
        out.write_all(&topology(url).await?)?;
    } else {
        out.write_all(table(&report(url).await?, None).as_bytes())?;
    }
    Ok(out.flush()?)
}

/// Prints the status each second until it fails to reach the terminal; a proxy that does not answer is shown
/// as such and asked again.
pub async fn watch(url: &str, out: &mut impl Write) -> Result<(), StatusError> {
    // Cursor home and clear to the end: no flicker, nothing left of a longer table.
    const HOME: &str = "\x1b[H\x1b[J";
    let mut last: Option<Report> = None;
    loop {
        let text = match report(url).await {
            Ok(report) => {
                let text = table(&report, last.as_ref());
                last = Some(report);
                text
            }
            Err(StatusError::Url(url)) => return Err(StatusError::Url(url)),
            Err(error) => format!("{error}\n"),
        };
        write!(out, "{HOME}{text}")?;
        out.flush()?;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// The table for people. With the report before it, statements are a rate.
pub fn table(report: &Report, last: Option<&Report>) -> String {
    let shown = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let heading = if last.is_some() { "statements/s" } else { "statements" };
    let mut rows: Vec<Vec<String>> = vec![
        ["node", "role", "health", "reads", "lag ms", "lag bytes", "timeline", "lsn", "sessions", "backends"]
            .into_iter()
            .chain([heading])
            .map(str::to_owned)
            .collect(),
    ];
    for (index, node) in report.nodes.iter().enumerate() {
        let before = last.and_then(|last| Some((last.nodes.get(index)?.statements, last.uptime_s)));
        let statements = match before {
            Some((statements, uptime_s)) if report.uptime_s > uptime_s => {
                let rate = node.statements.saturating_sub(statements) as f64 / (report.uptime_s - uptime_s);
                format!("{rate:.0}")
            }
            _ => node.statements.to_string(),
        };
        rows.push(vec![
            node.name.clone(),
            node.role.clone(),
            node.health.clone(),
            node.reads.clone(),
            shown(node.lag_ms.map(|lag| lag.to_string())),
            shown(node.lag_bytes.map(|lag| lag.to_string())),
            shown(node.timeline.map(|timeline| timeline.to_string())),
            shown(node.lsn.clone()),
            node.sessions.to_string(),
            node.backends.to_string(),
            statements,
        ]);
    }
    let mut text = summary(report);
    text.push_str(&align(&rows));
    for node in report.nodes.iter().filter(|node| node.health != "up" || node.role != "standby") {
        let _ = writeln!(text, "{}: {}", node.name, node.reason);
    }
    for alarm in &report.alarms {
        let _ = writeln!(text, "ALARM: {alarm}");
    }
    text
}

fn summary(report: &Report) -> String {
    let writes = match (&report.primary, report.writable) {
        _ if report.held => "a switchover is under way: writes wait".to_owned(),
        (Some(primary), true) => format!("writes go to {primary}"),
        (Some(primary), false) => format!("{primary} is the primary but does not answer: writes wait"),
        (None, _) => "no primary: writes wait".to_owned(),
    };
    let timeline = report.timeline.map_or_else(|| "-".to_owned(), |timeline| timeline.to_string());
    format!("{writes}; epoch {}, timeline {timeline}, {} sessions\n\n", report.epoch, report.sessions)
}

/// Columns as wide as their widest cell; the last line is followed by an empty one.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text.push('\n');
    text
}

/// A GET in HTTP/1.1, one request a connection: status and body.
async fn get(url: &str, path: &str) -> Result<(u16, Vec<u8>), StatusError> {
    let host = authority(url)?;
    let unreachable = |why: String| StatusError::Unreachable { url: url.to_owned(), why };
    let exchange = async {
        let mut stream = TcpStream::connect(&host).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(LIMIT, exchange)
        .await
        .map_err(|_| unreachable(format!("no answer within {} s", LIMIT.as_secs())))?
        .map_err(|error| unreachable(error.to_string()))?;
    split(&answer).ok_or_else(|| alien(url, &"not an HTTP answer"))
}

/// Host and port of `http://host:port/`.
fn authority(url: &str) -> Result<String, StatusError> {
    let bad = || StatusError::Url(url.to_owned());
    let rest = url.strip_prefix("http://").ok_or_else(bad)?.trim_end_matches('/');
    let (host, port) = rest.rsplit_once(':').ok_or_else(bad)?;
    let port_is_good = port.parse::<u16>().is_ok_and(|port| port > 0);
    // What would end the request line early or reach another path is no host.
    let host_is_good =
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "[]:.-_".contains(c));
    if port_is_good && host_is_good { Ok(rest.to_owned()) } else { Err(bad()) }
}

/// Status and body of a whole answer whose length the end of the connection marks or confirms.
fn split(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let body = answer.get(end + 4..)?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    for line in lines {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") && value.trim().parse() != Ok(body.len()) {
            return None;
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return None;
        }
    }
    Some((status, body.to_vec()))
}

fn alien(url: &str, why: &dyn std::fmt::Display) -> StatusError {
    StatusError::Alien { url: url.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests;
