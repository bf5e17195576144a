//! What backends must have in common to be interchangeable.

use std::fmt;

use crate::topology::NodeId;

/// Startup parameters that do not make a backend different: who and where, or what sessions set for themselves.
fn is_personal(name: &str) -> bool {
    matches!(name, "user" | "database" | "replication" | "application_name") || name.starts_with("_pq_.")
}

/// The parameters a client sent at startup: they are the reset values of its backends, so backends are shared only by
/// clients that sent the same. `options` is kept as the text it was. Sorted, so that the order does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StartupSet(Vec<(String, String)>);

impl StartupSet {
    /// Keeps what matters of a startup packet's parameters. Of a repeated name the last one wins.
    pub fn new<N: Into<String>, V: Into<String>>(params: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut set = Self::default();
        for (name, value) in params {
            set.insert(name, value);
        }
        set
    }

    /// Adds or replaces one parameter, such as `default_transaction_read_only` for a read-only listener.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        if is_personal(&name) {
            return;
        }
        match self.0.binary_search_by(|(have, _)| have.as_str().cmp(&name)) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (name, value)),
        }
    }

    /// The value of one parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(have, _)| *have == name).map(|(_, value)| value)
    }

    /// All pairs, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// True when the client sent nothing that matters.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for StartupSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name}={value}", if at == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// A pool: backends with the same key are interchangeable after a reset.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The server they are connected to.
    pub node: NodeId,
    /// The database.
    pub database: String,
    /// The role that logged in.
    pub user: String,
    /// The reset values.
    pub set: StartupSet,
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} on node {}", self.user, self.database, self.node.0)?;
        if self.set.is_empty() { Ok(()) } else { write!(f, " ({})", self.set) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_compare_by_content() {
        let a = StartupSet::new([("TimeZone", "UTC"), ("user", "x"), ("options", "-c a=b"), ("_pq_.z", "1")]);
        let b = StartupSet::new([("options", "-c a=b"), ("application_name", "psql"), ("TimeZone", "UTC")]);
        assert_eq!(a, b);
        assert_eq!(a.to_string(), "TimeZone=UTC options=-c a=b");
        assert_eq!(StartupSet::new([("a", "1"), ("a", "2")]).get("a"), Some("2"));
        assert!(StartupSet::new([("database", "d")]).is_empty());
    }
}
