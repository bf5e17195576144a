//! The figures of a demonstration: for people as text, for scripts as one JSON object.
//! In: what was measured. Out: text, JSON, and the verdict that decides the exit code.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

/// The final figures; field names are a promise to scripts.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Version of the servers.
    pub postgresql: String,
    /// Client connections kept open through the proxy all the time.
    pub clients: u64,
    /// Client connections that were closed on their clients.
    pub connections_lost: u64,
    /// Writes whose success was reported to a client.
    pub writes_acknowledged: u64,
    /// Acknowledged writes that the primary does not have at the end.
    pub writes_lost: u64,
    /// Ids that are there more than once.
    pub writes_doubled: u64,
    /// Writes that were reported as failed and are there nevertheless.
    pub writes_undead: u64,
    /// Writes that were under way when the primary died: their clients were told that the fate is unknown.
    pub writes_in_doubt: u64,
    /// Of those, the ones that are there.
    pub writes_in_doubt_applied: u64,
    /// Statements on whichever node was the primary at the time.
    pub statements_on_primary: u64,
    /// Statements on each node while it was a standby.
    pub statements_on_standbys: BTreeMap<String, u64>,
    /// Errors that clients saw, by SQLSTATE.
    pub errors: BTreeMap<String, u64>,
    /// The longest time in which no read was answered.
    pub longest_read_gap_ms: f64,
    /// The failover; none with --no-failover.
    pub failover: Option<Failover>,
    /// From the new primary's first moment without recovery to the first write acknowledged through the proxy.
    pub write_gap_ms: Option<f64>,
    /// From the last write acknowledged by the old primary to the first one by the new.
    pub outage_ms: Option<f64>,
    /// How long the whole demonstration took.
    pub seconds: f64,
}

/// What happened at the failover.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Failover {
    /// The node that was killed.
    pub killed: String,
    /// The node that was promoted.
    pub promoted: String,
    /// From the kill to the request for promotion: until both standbys had noticed.
    pub decision_ms: f64,
    /// From the request for promotion to the new primary's first moment without recovery.
    pub promotion_ms: f64,
    /// How the killed node came back.
    pub rejoined_by: String,
    /// From the start of its repair to its first read served through the proxy.
    pub rejoin_ms: f64,
}

impl Outcome {
    /// No connection and no acknowledged write was lost, and nothing ran twice.
    pub fn is_good(&self) -> bool {
        self.connections_lost == 0
            && self.writes_lost == 0
            && self.writes_doubled == 0
            && self.writes_undead == 0
    }

    /// One JSON object.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The same for people.
    pub fn text(&self) -> String {
        let mut text = String::from("\nWhat happened\n");
        let mut say = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<42}{value}");
        };
        say("client connections kept / lost", format!("{} / {}", self.clients, self.connections_lost));
        say("acknowledged writes / lost", format!("{} / {}", self.writes_acknowledged, self.writes_lost));
        let doubt = format!("{} ({} are there)", self.writes_in_doubt, self.writes_in_doubt_applied);
        say("writes in doubt (their clients were told)", doubt);
        say("statements run on the primary", self.statements_on_primary.to_string());
        for (name, count) in &self.statements_on_standbys {
            say(&format!("statements run on {name} as standby"), count.to_string());
        }
        for (code, count) in &self.errors {
            say(&format!("errors {code}"), count.to_string());
        }
        if let (Some(failover), Some(gap), Some(outage)) = (&self.failover, self.write_gap_ms, self.outage_ms)
        {
            let Failover { killed, promoted, promotion_ms, rejoined_by, .. } = failover;
            say("failover", format!("{killed} -> {promoted}; promotion took {promotion_ms:.0} ms"));
            say("write gap after the promotion", format!("{gap:.1} ms"));
            say("from last write to first write", format!("{outage:.0} ms"));
            say("longest time without a read", format!("{:.0} ms", self.longest_read_gap_ms));
            say(&format!("{killed} came back by"), rejoined_by.clone());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lost_connection_is_a_failure() {
        let mut outcome = Outcome { clients: 4, ..Outcome::default() };
        assert!(outcome.is_good());
        outcome.connections_lost = 1;
        assert!(!outcome.is_good());
        let parsed: serde_json::Value = serde_json::from_str(&outcome.json()).unwrap();
        assert_eq!(parsed["connections_lost"], 1);
        assert_eq!(parsed["write_gap_ms"], serde_json::Value::Null);
    }
}
