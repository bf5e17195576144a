//! The figures as Prometheus text, format 0.0.4. Written by hand, since prometheus-client has no summaries.

use std::fmt::{Display, Write};
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::catalogue::{self as names, COUNTERS, Family, GAUGES, LATENCIES};
use super::latency::QUANTILES;
use super::{Figures, Metrics, routes};

/// All roles a node can have in `pgsteer_node_role`, so that each has its own series that goes back to 0.
const ROLES: &[&str] = &["primary", "standby", "zombie", "stranger", "unknown"];

pub(super) fn render(metrics: &Metrics) -> String {
    let mut text = Text { out: String::with_capacity(16 << 10), last: None };
    text.process(metrics);
    text.counters(metrics);
    text.latencies(metrics);
    text.nodes(metrics);
    text.out
}

/// Writes samples and puts the heading of a family before its first one.
struct Text {
    out: String,
    last: Option<&'static str>,
}

type Label<'a> = (&'static str, &'a str);

impl Text {
    fn process(&mut self, metrics: &Metrics) {
        self.sample(names::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.sample(names::WORKERS, &[], metrics.workers);
        self.sample(names::EPOCH, &[], metrics.epoch.load(Relaxed));
        for (gauge, family) in GAUGES {
            self.sample(*family, &[], metrics.level(*gauge));
        }
    }

    fn counters(&mut self, metrics: &Metrics) {
        for (counter, family, label) in COUNTERS {
            self.sample(*family, label.as_slice(), metrics.total(*counter));
        }
        for (cause, _, total) in metrics.pins() {
            self.sample(names::PINS, &[("cause", cause)], total);
        }
        for (cause, now, _) in metrics.pins() {
            self.sample(names::SESSIONS_PINNED, &[("cause", cause)], now);
        }
        for (standby, reason, count) in metrics.routed() {
            let route = if standby { "standby" } else { "primary" };
            self.sample(names::ROUTED, &[("route", route), ("reason", routes::REASONS[reason])], count);
        }
        for (sqlstate, count) in metrics.rerouted() {
            self.sample(names::REROUTED, &[("sqlstate", sqlstate)], count);
        }
        let (received, sent) = metrics.client_bytes();
        self.sample(names::CLIENT_BYTES, &[("direction", "received")], received);
        self.sample(names::CLIENT_BYTES, &[("direction", "sent")], sent);
        for (sqlstate, count) in metrics.session_errors() {
            self.sample(names::SESSION_ERRORS, &[("sqlstate", sqlstate)], count);
        }
    }

    fn latencies(&mut self, metrics: &Metrics) {
        for (latency, family, label) in LATENCIES {
            let summary = metrics.latency(*latency);
            let values = [summary.p50, summary.p90, summary.p99, summary.p999];
            for (quantile, value) in QUANTILES.iter().zip(values) {
                let quantile = quantile.to_string();
                let mut labels = label.as_slice().to_vec();
                labels.push(("quantile", &quantile));
                // A window without a record has no quantiles; Prometheus writes that as NaN.
                let value = if summary.samples == 0 { f64::NAN } else { value.as_secs_f64() };
                self.sample(*family, &labels, value);
            }
            self.suffixed(*family, "_sum", label.as_slice(), summary.sum.as_secs_f64());
            self.suffixed(*family, "_count", label.as_slice(), summary.count);
        }
    }

    fn nodes(&mut self, metrics: &Metrics) {
        let figures: Vec<_> = (metrics.nodes.iter().enumerate())
            .map(|(index, node)| {
                let all = *node.figures.lock().unwrap_or_else(PoisonError::into_inner);
                (index, node.name.as_str(), all)
            })
            .collect();
        // One family after the other: the format wants the samples of a family together.
        for (index, name, _) in &figures {
            let statements = metrics.statements(*index);
            self.sample(names::STATEMENTS, &[("node", name), ("route", "primary")], statements.primary);
            self.sample(names::STATEMENTS, &[("node", name), ("route", "standby")], statements.standby);
        }
        for (index, name, _) in &figures {
            let (ok, failed) = metrics.probes(*index);
            self.sample(names::PROBES, &[("node", name), ("result", "ok")], ok);
            self.sample(names::PROBES, &[("node", name), ("result", "failed")], failed);
        }
        for (_, name, Figures { node, .. }) in &figures {
            self.sample(names::NODE_UP, &[("node", name)], u8::from(node.up));
        }
        for (_, name, Figures { node, .. }) in &figures {
            let now = if node.role.is_empty() { "unknown" } else { node.role };
            for role in ROLES {
                self.sample(names::NODE_ROLE, &[("node", name), ("role", role)], u8::from(now == *role));
            }
        }
        for (_, name, Figures { node, .. }) in &figures {
            self.sample(names::NODE_READS, &[("node", name)], u8::from(node.serves_reads));
        }
        let seconds = |span: Duration| span.as_secs_f64();
        self.optional(names::NODE_LAG_SECONDS, &figures, |all| all.node.lag.map(seconds));
        self.optional(names::NODE_LAG_BYTES, &figures, |all| all.node.lag_bytes);
        self.optional(names::NODE_TIMELINE, &figures, |all| all.node.timeline);
        self.optional(names::NODE_IN_FLIGHT, &figures, |all| Some(all.load.in_flight));
        self.optional(names::NODE_LATENCY, &figures, |all| all.load.latency.map(seconds));
        self.optional(names::NODE_SHARE, &figures, |all| Some(all.load.read_share));
        for (_, name, Figures { backends, .. }) in &figures {
            let states =
                [("active", backends.active), ("idle", backends.idle), ("opening", backends.opening)];
            for (state, count) in states {
                self.sample(names::BACKENDS, &[("node", name), ("state", state)], count);
            }
        }
        for (_, name, Figures { backends, .. }) in &figures {
            self.sample(names::BACKENDS_PINNED, &[("node", name)], backends.pinned);
        }
        for (_, name, Figures { backends, .. }) in &figures {
            self.sample(names::PREPARED, &[("node", name)], backends.prepared);
        }
    }

    fn optional<T: Display>(
        &mut self,
        family: Family,
        figures: &[(usize, &str, Figures)],
        read: impl Fn(&Figures) -> Option<T>,
    ) {
        for (_, name, all) in figures {
            if let Some(value) = read(all) {
                self.sample(family, &[("node", name)], value);
            }
        }
    }

    fn sample(&mut self, family: Family, labels: &[Label<'_>], value: impl Display) {
        self.suffixed(family, "", labels, value);
    }

    fn suffixed(&mut self, family: Family, suffix: &str, labels: &[Label<'_>], value: impl Display) {
        if self.last != Some(family.name) {
            self.last = Some(family.name);
            let Family { name, help, kind } = family;
            // Writing to a String cannot fail; so below.
            let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {}", kind.word());
        }
        self.out.push_str(family.name);
        self.out.push_str(suffix);
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.out, "{before}{label}=\"{}\"", Escaped(text));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.out, "{close} {value}");
    }
}

/// A label value: backslash, quote and line end are escaped, all else is UTF-8 as it is.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for one in self.0.chars() {
            match one {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                _ => f.write_char(one)?,
            }
        }
        Ok(())
    }
}
