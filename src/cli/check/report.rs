//! The result of a check as text for people or JSON for scripts.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::Verdict;
use super::facts::{AuthAnswer, Facts, NodeReport};
use super::judge::{Finding, lag, megabytes};
use crate::config::{ConfigErrors, Problem};

/// Everything a check found out.
pub(super) struct Report {
    errors: Vec<String>,
    warnings: Vec<String>,
    nodes: Vec<NodeReport>,
    findings: Vec<Finding>,
}

const HEADINGS: [&str; 8] =
    ["node", "role", "version", "system identifier", "timeline", "lag", "replication", "rights"];

impl Report {
    pub(super) fn bad_configuration(errors: &ConfigErrors) -> Self {
        Self {
            errors: super::error_lines(errors),
            warnings: Vec::new(),
            nodes: Vec::new(),
            findings: Vec::new(),
        }
    }

    pub(super) fn bad_files(warnings: &[Problem], errors: Vec<String>) -> Self {
        let warnings = warnings.iter().map(ToString::to_string).collect();
        Self { errors, warnings, nodes: Vec::new(), findings: Vec::new() }
    }

    pub(super) fn of(warnings: &[Problem], nodes: Vec<NodeReport>, findings: Vec<Finding>) -> Self {
        let warnings = warnings.iter().map(ToString::to_string).collect();
        Self { errors: Vec::new(), warnings, nodes, findings }
    }

    pub(super) fn verdict(&self) -> Verdict {
        if !self.errors.is_empty() {
            Verdict::BadConfiguration
        } else if self.findings.iter().any(|finding| finding.is_problem) {
            Verdict::BadCluster
        } else {
            Verdict::Fine
        }
    }

    pub(super) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for error in &self.errors {
            writeln!(out, "error: {error}")?;
        }
        for warning in &self.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        if !self.errors.is_empty() {
            return writeln!(
                out,
                "{}",
                counted(self.errors.len(), "error in the configuration; no node was asked")
            );
        }
        write_table(out, &self.rows())?;
        self.write_findings(out)?;
        match self.findings.iter().filter(|finding| finding.is_problem).count() {
            0 => writeln!(out, "\nready"),
            count => writeln!(out, "\n{}", counted(count, "problem")),
        }
    }

    fn write_findings(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut told: Vec<&str> = Vec::new();
        for finding in &self.findings {
            let kind = if finding.is_problem { "problem" } else { "advice" };
            let node = finding.node.as_deref().unwrap_or("cluster");
            writeln!(out, "\n{kind}: {node}: {}", finding.text)?;
            if finding.sql.is_empty() {
                continue;
            }
            // What replication brings to the others is run once.
            if told.contains(&finding.sql.as_str()) {
                writeln!(out, "    -- the SQL above")?;
                continue;
            }
            told.push(&finding.sql);
            for line in finding.sql.lines() {
                writeln!(out, "    {line}")?;
            }
        }
        Ok(())
    }

    fn rows(&self) -> Vec<[String; 8]> {
        let row = |node: &NodeReport| {
            let Ok(facts) = &node.answer else {
                let unknown = || "-".to_owned();
                let [name, role] = [node.name.clone(), "unreachable".to_owned()];
                return [name, role, unknown(), unknown(), unknown(), unknown(), unknown(), unknown()];
            };
            self.row(node, facts)
        };
        let mut rows = vec![HEADINGS.map(str::to_owned)];
        rows.extend(self.nodes.iter().map(row));
        rows
    }

    fn row(&self, node: &NodeReport, facts: &Facts) -> [String; 8] {
        let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
        let replication = match (&facts.receiver, facts.archive_fed) {
            _ if !facts.in_recovery => "-".to_owned(),
            (Some(status), _) => status.clone(),
            (None, Some(true)) => "archive".to_owned(),
            (None, _) => "none".to_owned(),
        };
        let lag = if facts.in_recovery {
            or_unknown(lag(&self.nodes, facts).map(megabytes))
        } else {
            "-".to_owned()
        };
        [
            node.name.clone(),
            role(facts).to_owned(),
            version(facts.version_num),
            or_unknown(facts.system_identifier.map(|one| one.to_string())),
            or_unknown(facts.timeline.map(|one| one.to_string())),
            lag,
            replication,
            rights(facts),
        ]
    }

    pub(super) fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        let findings = |is_problem: bool| -> Vec<Value> {
            let of_kind = self.findings.iter().filter(|finding| finding.is_problem == is_problem);
            of_kind.map(|one| json!({ "node": one.node, "text": one.text, "sql": one.sql })).collect()
        };
        let whole = json!({
            "exit_code": self.verdict().code(),
            "configuration": { "errors": self.errors, "warnings": self.warnings },
            "nodes": self.nodes.iter().map(|node| self.node_json(node)).collect::<Vec<_>>(),
            "problems": findings(true),
            "advice": findings(false),
        });
        serde_json::to_writer_pretty(&mut *out, &whole)?;
        writeln!(out)
    }

    fn node_json(&self, node: &NodeReport) -> Value {
        let (name, address) = (&node.name, node.address.to_string());
        let facts = match &node.answer {
            Ok(facts) => facts,
            Err(why) => {
                let error = json!({ "text": why.text, "sqlstate": why.sqlstate });
                return json!({ "name": name, "address": address, "reachable": false, "error": error });
            }
        };
        json!({
            "name": name,
            "address": address,
            "reachable": true,
            "role": role(facts),
            "server_version_num": facts.version_num,
            // Text, since JSON's numbers are not good for 64 bits.
            "system_identifier": facts.system_identifier.map(|one| one.to_string()),
            "timeline": facts.timeline.map(|one| one.0),
            "lsn": facts.lsn.map(|one| one.to_string()),
            "lag_bytes": lag(&self.nodes, facts),
            "receiver": facts.receiver,
            "max_connections": facts.limits.max_connections,
            "rights": {
                "superuser": facts.rights.superuser,
                "monitor": facts.rights.monitor,
                "control": facts.rights.control,
                "promote": facts.rights.promote,
            },
            "auth_query": facts.auth.as_ref().map(|answer| {
                matches!(answer, AuthAnswer::Works | AuthAnswer::Superuser)
            }),
        })
    }
}

fn counted(count: usize, what: &str) -> String {
    let (noun, rest) =
        what.split_once(' ').map_or((what, String::new()), |(noun, rest)| (noun, format!(" {rest}")));
    let plural = format!("{noun}{}{rest}", if count == 1 { "" } else { "s" });
    format!("{count} {plural}")
}

fn role(facts: &Facts) -> &'static str {
    if facts.in_recovery { "standby" } else { "primary" }
}

/// `150020` is 15.20.
fn version(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

fn rights(facts: &Facts) -> String {
    let rights = facts.rights;
    let monitor = if rights.superuser || rights.monitor { "monitor" } else { "no monitor" };
    let auth = match &facts.auth {
        None => "",
        Some(AuthAnswer::Works) => ", auth query",
        Some(AuthAnswer::Superuser) => ", auth by pg_authid",
        Some(_) => ", no auth query",
    };
    format!("{monitor}{auth}")
}

fn write_table(out: &mut dyn Write, rows: &[[String; 8]]) -> io::Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; 8] = std::array::from_fn(width);
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
