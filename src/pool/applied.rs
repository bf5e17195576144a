//! The settings that a backend carries beyond its startup set, or that a session wants on one.
//!
//! In: what sessions have set. Out: whether two lists are the same, and the statements between them. Must not know why a
//! session wants a setting.

use std::sync::Arc;

use crate::wire::encode;

/// One setting: a statement that makes it, under the name by which a later one replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Lower-case name.
    pub key: Vec<u8>,
    /// A statement that sets it.
    pub statement: Vec<u8>,
}

impl Setting {
    /// True when it is the parameter `name`.
    pub fn is(&self, name: &str) -> bool {
        self.key.eq_ignore_ascii_case(name.as_bytes())
    }

    /// Who the session is: everything else may depend on it.
    fn is_identity(&self) -> bool {
        self.is("role") || self.is("session_authorization")
    }

    /// The statement that returns it to the startup set's value.
    fn reset(&self) -> Vec<u8> {
        match self.key.as_slice() {
            b"role" => b"RESET ROLE".to_vec(),
            b"session_authorization" => b"RESET SESSION AUTHORIZATION".to_vec(),
            key => {
                let quoted =
                    |part: &[u8]| format!("\"{}\"", String::from_utf8_lossy(part).replace('"', "\"\""));
                let name: Vec<String> = key.split(|byte| *byte == b'.').map(quoted).collect();
                format!("RESET {}", name.join(".")).into_bytes()
            }
        }
    }

    /// The server takes every value of it that it has taken once, whoever asks: it can travel with a client's statement.
    fn is_sure(&self) -> bool {
        SURE.iter().any(|name| self.is(name))
    }
}

/// Settings of every role whose values are checked by their form only.
const SURE: [&str; 36] = [
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "effective_cache_size",
    "enable_bitmapscan",
    "enable_hashjoin",
    "enable_indexscan",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_seqscan",
    "enable_sort",
    "extra_float_digits",
    "from_collapse_limit",
    "hash_mem_multiplier",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "join_collapse_limit",
    "lock_timeout",
    "maintenance_work_mem",
    "max_parallel_workers_per_gather",
    "plan_cache_mode",
    "random_page_cost",
    "row_security",
    "search_path",
    "seq_page_cost",
    "statement_timeout",
    "synchronous_commit",
    "timezone",
    "work_mem",
];

/// An ordered list of settings. Copies share it: thousands of sessions want the same.
#[derive(Clone, Debug, Default)]
pub struct Applied(Option<Arc<[Setting]>>);

/// The statements that turn one list into another.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// Query messages, one per setting.
    pub messages: Vec<u8>,
    /// How many there are: each is answered by its own ReadyForQuery.
    pub count: usize,
    /// The server may refuse one of them: its word must be awaited before anything else is sent.
    pub unsure: bool,
}

impl Applied {
    /// The list of these settings, in the order in which they were made.
    pub fn new(settings: Vec<Setting>) -> Self {
        Self(if settings.is_empty() { None } else { Some(settings.into()) })
    }

    /// The settings.
    pub fn settings(&self) -> &[Setting] {
        self.0.as_deref().unwrap_or_default()
    }

    /// True when both are the same list or have the same settings. The common case is one comparison of pointers.
    pub fn is_same(&self, other: &Self) -> bool {
        let shared = match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        shared || self.settings() == other.settings()
    }

    /// What to run on a backend that has `self` so that it has `wanted`; `None` when nothing.
    pub fn change_to(&self, wanted: &Self) -> Option<Change> {
        if self.is_same(wanted) {
            return None;
        }
        let (have, want) = (self.settings(), wanted.settings());
        let same = have.iter().zip(want).take_while(|(a, b)| a == b).count();
        let tail_of =
            |same: usize| (have.get(same..).unwrap_or_default(), want.get(same..).unwrap_or_default());
        let (mut old, mut new) = tail_of(same);
        if old.iter().chain(new).any(Setting::is_identity) {
            // It takes others with it: from the beginning.
            (old, new) = tail_of(0);
        }
        let mut change = Change { messages: Vec::new(), count: 0, unsure: false };
        let is_new = |setting: &&Setting| new.iter().any(|other| other.key == setting.key);
        // Identities first: the role that set a value may have to be the one that takes it back.
        let (identity, others): (Vec<_>, Vec<_>) =
            old.iter().filter(|one| one.is_identity() || !is_new(one)).partition(|one| one.is_identity());
        for setting in identity.into_iter().rev().chain(others) {
            change.add(&setting.reset(), setting.is_sure());
        }
        for setting in new {
            change.add(&setting.statement, setting.is_sure());
        }
        (change.count > 0).then_some(change)
    }
}

impl Change {
    /// All of these, whose answers must be awaited.
    pub fn of(settings: &[Setting]) -> Self {
        let mut change = Self { messages: Vec::new(), count: 0, unsure: true };
        for setting in settings {
            change.add(&setting.statement, false);
        }
        change
    }

    fn add(&mut self, statement: &[u8], sure: bool) {
        encode::query(&mut self.messages, statement);
        self.count += 1;
        self.unsure |= !sure;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;
    use proptest::prelude::*;

    fn list(settings: &[(&str, &str)]) -> Applied {
        let setting = |(key, value): &(&str, &str)| Setting {
            key: key.as_bytes().to_vec(),
            statement: format!("SET {key} = {value}").into_bytes(),
        };
        Applied::new(settings.iter().map(setting).collect())
    }

    fn texts(change: Option<Change>) -> Vec<String> {
        let Some(change) = change else { return Vec::new() };
        let mut rest = &change.messages[..];
        let mut texts = Vec::new();
        while let Some((frame, next)) = frame::split(rest).unwrap() {
            texts.push(String::from_utf8_lossy(frame.body.strip_suffix(b"\0").unwrap()).into_owned());
            rest = next;
        }
        assert_eq!(texts.len(), change.count);
        texts
    }

    #[test]
    fn the_same_lists_need_nothing() {
        let one = list(&[("work_mem", "1")]);
        assert!(one.change_to(&one.clone()).is_none());
        assert!(one.change_to(&list(&[("work_mem", "1")])).is_none());
        assert!(Applied::default().change_to(&list(&[])).is_none());
    }

    #[test]
    fn only_the_difference_is_sent() {
        let have = list(&[("work_mem", "1"), ("jit", "off"), ("application_name", "a")]);
        let want = list(&[("work_mem", "1"), ("application_name", "b"), ("a.b", "2")]);
        let change = have.change_to(&want).unwrap();
        assert!(change.unsure);
        assert_eq!(texts(Some(change)), ["RESET \"jit\"", "SET application_name = b", "SET a.b = 2"]);
        let change = want.change_to(&have).unwrap();
        assert_eq!(texts(Some(change)), ["RESET \"a\".\"b\"", "SET jit = off", "SET application_name = a"]);
        assert!(!list(&[("jit", "off")]).change_to(&list(&[("jit", "on")])).unwrap().unsure);
    }

    #[test]
    fn an_identity_takes_everything_along() {
        let have = list(&[("work_mem", "1"), ("session_authorization", "u"), ("role", "r"), ("jit", "on")]);
        let want = list(&[("work_mem", "1"), ("jit", "on")]);
        assert_eq!(
            texts(have.change_to(&want)),
            ["RESET ROLE", "RESET SESSION AUTHORIZATION", "SET work_mem = 1", "SET jit = on"]
        );
    }

    proptest! {
        /// A model server that knows SET and RESET ends with what is wanted, whatever it had.
        #[test]
        fn a_change_leads_to_what_is_wanted(
            have in proptest::collection::vec(("[abc]", "[12]"), 0..5),
            want in proptest::collection::vec(("[abc]", "[12]"), 0..5),
        ) {
            let unique = |pairs: &[(String, String)]| {
                let mut kept: Vec<(String, String)> = Vec::new();
                for (key, value) in pairs {
                    kept.retain(|(known, _)| known != key);
                    kept.push((key.clone(), value.clone()));
                }
                kept
            };
            let (have, want) = (unique(&have), unique(&want));
            let as_list = |pairs: &[(String, String)]| {
                list(&pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect::<Vec<_>>())
            };
            let mut model: std::collections::BTreeMap<String, String> = have.iter().cloned().collect();
            for text in texts(as_list(&have).change_to(&as_list(&want))) {
                let words: Vec<&str> = text.split(' ').collect();
                match words[..] {
                    ["RESET", key] => drop(model.remove(key.trim_matches('"'))),
                    ["SET", key, "=", value] => drop(model.insert(key.to_owned(), value.to_owned())),
                    _ => prop_assert!(false, "{text}"),
                }
            }
            prop_assert_eq!(model, want.into_iter().collect());
        }
    }
}
