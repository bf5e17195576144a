//! Reported parameters (ParameterStatus) of a backend.

use std::sync::Arc;

/// Names and values in the order the server sent them. Copies share the pairs until one of them is changed: thousands of
/// backends and sessions report the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Option<Arc<Vec<(String, String)>>>);

impl Params {
    fn pairs(&self) -> &[(String, String)] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }

    fn pairs_mut(&mut self) -> &mut Vec<(String, String)> {
        Arc::make_mut(self.0.get_or_insert_default())
    }

    /// The value of one parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(have, _)| *have == name).map(|(_, value)| value)
    }

    /// Adds or replaces one parameter.
    pub fn set(&mut self, name: &str, value: &str) {
        let at = self.pairs().iter().position(|(have, _)| have == name);
        match at {
            Some(at) if self.pairs()[at].1 == value => {}
            Some(at) => value.clone_into(&mut self.pairs_mut()[at].1),
            None => self.pairs_mut().push((name.to_owned(), value.to_owned())),
        }
    }

    /// Removes one parameter.
    pub fn remove(&mut self, name: &str) {
        if self.get(name).is_some() {
            self.pairs_mut().retain(|(have, _)| have != name);
        }
        if self.pairs().is_empty() {
            self.0 = None;
        }
    }

    /// All pairs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs().iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// True when both share their pairs or report the same. The common case is one comparison of pointers.
    pub fn is_same(&self, other: &Self) -> bool {
        let shared = match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        shared || self == other
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pairs().len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.pairs().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_shared_until_it_changes() {
        let mut first = Params::default();
        first.set("a", "1");
        let mut second = first.clone();
        second.set("a", "1");
        assert!(std::ptr::eq(first.pairs(), second.pairs()));
        second.set("a", "2");
        assert_eq!((first.get("a"), second.get("a")), (Some("1"), Some("2")));
        second.remove("a");
        second.remove("b");
        assert_eq!(second, Params::default());
        assert_eq!(first.len(), 1);
    }
}
