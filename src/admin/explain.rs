//! EXPLAIN ROUTE: where a statement would go, why, and which nodes could answer it.
//!
//! In: a statement text, what is known of its database, the settings, the nodes. Out: lines of two texts, what and what of
//! it. It speaks of one statement outside a transaction in a session that has written nothing: what else a session does is
//! its own. Shared by the console and `pgsteer route`, which looks at the database itself.

use super::AdminState;
use super::report::{NodeReport, Report};
use super::table::{Cell, Column, Table};
use crate::config::{Fallback, Settings, Split, setup_sql};
use crate::route::{Wants, Why};
use crate::sql::catalogue::Catalogue;
use crate::sql::judge::{Access, Context, Declaration, Encoding, Hint, Isolation, Scope, Verdict, judge};

/// What the console answers.
pub const EXPLAINED: &[Column] = &[Column::text("item"), Column::text("value")];

/// An item and what is to be said of it.
pub type Line = (String, String);

/// What is asked.
pub struct Question<'a> {
    /// The statement.
    pub sql: &'a str,
    /// The database it is for.
    pub database: &'a str,
    /// What is known of that.
    pub catalogue: &'a Catalogue,
    /// Why nothing is, where that is known.
    pub failure: Option<&'a str>,
    /// The settings in force.
    pub settings: &'a Settings,
}

/// Where it goes, and why.
struct Answer {
    /// `None`: nowhere, or that depends.
    wants: Option<Wants>,
    /// `None`: nothing to count.
    why: Option<Why>,
    because: String,
}

/// The console's answer; about the database of most sessions unless one is named.
pub async fn table(state: &AdminState, sql: &str, database: Option<&str>) -> Table {
    let settings = state.settings.load_full();
    let database = match database {
        Some(database) => database.to_owned(),
        None => state.busiest_database().unwrap_or_else(|| settings.cluster.monitor.database.clone()),
    };
    let catalogue = state.catalogues.look(&database).await;
    let question =
        Question { sql, database: &database, catalogue: &catalogue, failure: None, settings: &settings };
    let (wants, mut lines) = statement(&question);
    lines.extend(nodes(wants, &settings, &Report::of(state)));
    let row = |(item, value)| vec![Cell::Text(item), Cell::Text(value)];
    Table::new(EXPLAINED, lines.into_iter().map(row).collect())
}

/// The lines about the statement, and the kind of node it is for.
pub fn statement(question: &Question<'_>) -> (Option<Wants>, Vec<Line>) {
    let answer = answer(question);
    let verdict = match answer.wants {
        Some(Wants::Primary) => "primary",
        Some(Wants::Standby) => "standby",
        None => "-",
    };
    let mut lines = vec![line("verdict", verdict)];
    lines.extend(answer.why.map(|why| line("reason", why.as_str())));
    lines.push(line("because", answer.because));
    let split = match question.settings.route.split {
        Split::Auto => "auto: declared reads, and statements outside transactions that provably only read",
        Split::Declared => "declared: only what clients declare read-only goes to standbys",
        Split::Off => "off: only sessions of listeners for reads go to standbys",
    };
    lines.push(line("split", split));
    let database = question.database;
    lines.push(if question.catalogue.is_known() {
        line("database", database)
    } else {
        let grant = setup_sql::connect_grant(&question.settings.cluster.monitor.user, database);
        let usual = format!("the log says why; often this helps: {}", grant.trim_end());
        let failure = question.failure.unwrap_or(&usual);
        line(
            "database",
            format!("{database}: all of its own names count as writes, since they are not known: {failure}"),
        )
    });
    (answer.wants, lines)
}

/// The lines about the nodes, as the proxy sees them.
pub fn nodes(wants: Option<Wants>, settings: &Settings, report: &Report) -> Vec<Line> {
    let primary = report.primary.as_deref().filter(|_| report.writable);
    let held = "none now: it would wait for a primary (cluster.hold_timeout)";
    let readers: Vec<&str> =
        report.nodes.iter().filter(|node| node.read_share > 0.0).map(|node| node.name.as_str()).collect();
    let target = match (wants, readers.as_slice()) {
        (None, _) => return Vec::new(),
        (Some(Wants::Primary), _) => primary.unwrap_or(held).to_owned(),
        (Some(Wants::Standby), [only]) => format!("{only}, the only standby that may serve reads now"),
        (Some(Wants::Standby), [_, ..]) => {
            let names = readers.join(" or ");
            format!("{names}, drawn by share, and by what is in flight; a session keeps the one it has")
        }
        (Some(Wants::Standby), []) => match settings.cluster.fallback {
            Fallback::Error => "none: no standby qualifies, which is an error (cluster.fallback)".to_owned(),
            Fallback::LeastStale => {
                "the least stale standby, since none qualifies (cluster.fallback)".to_owned()
            }
            Fallback::Primary => {
                format!("{}, since no standby qualifies (cluster.fallback)", primary.unwrap_or(held))
            }
        },
    };
    let mut lines = vec![line("target", target)];
    lines.extend(report.nodes.iter().map(|one| line(&format!("node {}", one.name), node(one))));
    lines
}

fn line(item: &str, value: impl Into<String>) -> Line {
    (item.to_owned(), value.into())
}

/// Why a node is read from, and how much, or why not.
fn node(node: &NodeReport) -> String {
    let NodeReport { role, health, reads, reason, .. } = node;
    if role == "primary" {
        return format!("primary, {health}; {reason}");
    }
    if reads != "qualified" {
        return format!("{role}, {health}, serves no reads: {reads}; {reason}");
    }
    let lag = match (node.lag_ms, node.lag_bytes) {
        (Some(ms), Some(bytes)) => format!("{ms} ms ({bytes} bytes)"),
        _ => "unknown".to_owned(),
    };
    let latency = node.latency_ms.map_or_else(|| "unknown".to_owned(), |ms| format!("{ms} ms"));
    let zone = node.zone.as_ref().map(|zone| format!(", zone {zone}")).unwrap_or_default();
    let share = (node.read_share * 1000.0).round() / 10.0;
    let (weight, in_flight) = (node.weight, node.in_flight);
    format!(
        "{role}, {share} % of the reads: lag {lag}, weight {weight}, in flight {in_flight}, latency {latency}{zone}"
    )
}

fn answer(question: &Question<'_>) -> Answer {
    let context = Context { standard_strings: true, encoding: Encoding::Utf8 };
    let mut names = question.catalogue.seen(None);
    let judged = judge(question.sql.as_bytes(), context, &mut names);
    let split = question.settings.route.split;
    match (judged.hint, judged.verdict) {
        (_, Verdict::Empty) => to(None, None, "there is no statement in it"),
        (_, Verdict::Declare(Declaration { isolation: Some(Isolation::Serializable), .. })) => {
            to(Some(Wants::Primary), Some(Why::Serializable), Why::Serializable.text())
        }
        (Some(hint), _) if split != Split::Off => hinted(hint),
        (_, Verdict::Declare(declaration)) if split != Split::Off => declared(declaration),
        (_, Verdict::Declare(_)) => {
            let text = "with route.split = \"off\" only sessions of listeners for reads go to standbys";
            to(Some(Wants::Primary), Some(Why::NotSplit), text)
        }
        (_, Verdict::Read) if split == Split::Auto => to(
            Some(Wants::Standby),
            Some(Why::Read),
            "it only reads; inside a transaction it goes where that is",
        ),
        (_, Verdict::Read) => {
            let text =
                format!("{}; it only reads, and would go to a standby with \"auto\"", Why::NotSplit.text());
            to(Some(Wants::Primary), Some(Why::NotSplit), &text)
        }
        (_, Verdict::Execute(name)) => {
            let name = String::from_utf8_lossy(name.text).into_owned();
            to(None, None, &format!("it goes where the statement prepared as {name} would: explain that one"))
        }
        (_, Verdict::Write(stop)) => {
            to(Some(Wants::Primary), Some(Why::Write(stop.reason)), &stop.to_string())
        }
    }
}

fn to(wants: Option<Wants>, why: Option<Why>, because: &str) -> Answer {
    Answer { wants, why, because: because.to_owned() }
}

fn hinted(hint: Hint) -> Answer {
    let wants = match hint {
        Hint::Primary => Wants::Primary,
        Hint::Standby => Wants::Standby,
    };
    to(Some(wants), Some(Why::Hint), Why::Hint.text())
}

fn declared(declaration: Declaration) -> Answer {
    let Declaration { scope, access, .. } = declaration;
    let reads = access == Some(Access::ReadOnly);
    let because = match (scope, access) {
        (Scope::Begin, Some(Access::ReadOnly)) => {
            "the transaction is declared read-only: all of it goes to a standby"
        }
        (Scope::Begin, Some(Access::ReadWrite)) => "the transaction may write: all of it goes to the primary",
        (Scope::Begin, _) => {
            "the transaction may write, unless the session's default_transaction_read_only is on: all of it goes to \
             the primary"
        }
        (Scope::Session, Some(Access::ReadOnly)) => {
            "transactions that follow are read-only: they go to a standby"
        }
        (Scope::Session, _) => "transactions that follow may write: they go to the primary",
        (Scope::Transaction, Some(Access::ReadOnly)) => {
            "as the first statement of a transaction it makes that read-only: all of it goes to a standby"
        }
        (Scope::Transaction, _) => "the transaction may write: all of it goes to the primary",
    };
    let (wants, why) =
        if reads { (Wants::Standby, Why::Declared) } else { (Wants::Primary, Why::Transaction) };
    to(Some(wants), Some(why), because)
}

#[cfg(test)]
mod tests;
