//! What happened lately, for the console: a bounded list, newest last.
//!
//! Every change of the topology is one event and one log line; the log line is written by the watcher.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::outage::Outage;

/// What an event is about.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum EventKind {
    /// Something a person must look at.
    Alarm,
    /// Settings were reloaded, or could not be.
    Configuration,
    /// A program of the operator's was run.
    Hook,
    /// A node went up or down, or its role changed.
    Node,
    /// The report of a time without a primary that takes writes.
    Outage,
    /// The primary changed: a new epoch.
    Primary,
    /// A standby began or ceased to serve reads.
    Reads,
    /// The state file could not be read or written.
    State,
    /// A planned switchover began or ended.
    Switchover,
}

impl EventKind {
    /// The lower-case word for SHOW.
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Alarm => "alarm",
            EventKind::Configuration => "configuration",
            EventKind::Hook => "hook",
            EventKind::Node => "node",
            EventKind::Outage => "outage",
            EventKind::Primary => "primary",
            EventKind::Reads => "reads",
            EventKind::State => "state",
            EventKind::Switchover => "switchover",
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// When, by the proxy's wall clock.
    pub at: SystemTime,
    /// What it is about.
    pub kind: EventKind,
    /// The node's name, when it is about one.
    pub node: Option<String>,
    /// From what, to what and why.
    pub text: String,
}

/// The last events, at most [`EventLog::CAPACITY`], and the last outages, at most [`EventLog::OUTAGES`].
#[derive(Debug, Default)]
pub struct EventLog {
    entries: Mutex<VecDeque<Event>>,
    outages: Mutex<VecDeque<Arc<Outage>>>,
}

impl EventLog {
    /// How many events are kept; older ones are forgotten.
    pub const CAPACITY: usize = 1000;
    /// How many reports of outages are kept.
    pub const OUTAGES: usize = 100;

    /// An empty log.
    pub fn new() -> Self {
        EventLog::default()
    }

    /// Appends an event with the present time, forgetting the oldest when full.
    pub fn push(&self, kind: EventKind, node: Option<&str>, text: impl Into<String>) {
        let event = Event { at: SystemTime::now(), kind, node: node.map(str::to_owned), text: text.into() };
        append(&self.entries, event, Self::CAPACITY);
    }

    /// Appends the report of an outage, which is an event, too.
    pub fn report(&self, outage: Outage) {
        self.push(EventKind::Outage, Some(&outage.new), outage.to_string());
        append(&self.outages, Arc::new(outage), Self::OUTAGES);
    }

    /// The reports kept, oldest first.
    pub fn outages(&self) -> Vec<Arc<Outage>> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// All events kept, oldest first.
    pub fn list(&self) -> Vec<Event> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn append<T>(list: &Mutex<VecDeque<T>>, entry: T, capacity: usize) {
    let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
    if list.len() >= capacity {
        list.pop_front();
    }
    list.push_back(entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_at_the_limit() {
        let log = EventLog::new();
        for i in 0..=EventLog::CAPACITY {
            log.push(EventKind::Node, Some("a"), i.to_string());
        }
        let list = log.list();
        assert_eq!(list.len(), EventLog::CAPACITY);
        assert_eq!(list[0].text, "1");
    }
}
