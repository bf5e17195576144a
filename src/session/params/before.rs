//! What an open transaction has changed of reported parameters: a rollback takes it back.
//!
//! In: reports inside a transaction. Out: what was before, and what the client has been told since.

use super::Params;

/// Values of reported parameters before a transaction that has changed them; `None` where that of the backend's login
/// was in force.
#[derive(Debug, Default)]
pub(super) struct Before(Vec<(Box<str>, Option<Box<str>>)>);

impl Params {
    /// The same inside a transaction, which may be lost without a word.
    pub fn report_in_transaction(&mut self, name: &str, value: &str) {
        let own = self.own.iter().find(|(key, _)| &**key == name).map(|(_, value)| value.clone());
        if self.report(name, value) {
            let Before(before) = &mut **self.before.get_or_insert_default();
            if !before.iter().any(|(key, _)| &**key == name) {
                before.push((name.into(), own));
            }
        }
    }

    /// The transaction is lost and with it what it has changed; what the client must be told again.
    pub fn unreport(&mut self) -> Vec<(String, String)> {
        let mut told = Vec::new();
        for (name, own) in self.before.take().unwrap_or_default().0 {
            self.own.retain(|(key, _)| *key != name);
            self.own.extend(own.map(|value| (name.clone(), value)));
            self.changed();
            told.extend(self.reported(&name).map(|value| (name.to_string(), value.to_owned())));
        }
        told
    }

    /// What the client has been told of parameters that the transaction has changed.
    pub fn told_in_transaction(&self) -> Vec<(String, String)> {
        let changed = self.before.iter().flat_map(|before| &before.0);
        let told = |name: &str| self.reported(name).map(|value| (name.to_owned(), value.to_owned()));
        changed.filter_map(|(name, _)| told(name)).collect()
    }
}
