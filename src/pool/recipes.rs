//! What is remembered of logins: how to repeat them for warm backends, and what the server answered.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::credentials::Credentials;
use super::key::{PoolKey, StartupSet};
use super::params::Params;
use crate::topology::NodeId;

/// Recipes kept over all users: beyond it the least recently made goes.
const MAX_RECIPES: usize = 4096;

/// Who, where and with which startup set; the same on every node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Who {
    pub(super) database: String,
    pub(super) user: String,
    pub(super) set: StartupSet,
}

impl Who {
    pub(super) fn of(key: &PoolKey) -> Self {
        Self { database: key.database.clone(), user: key.user.clone(), set: key.set.clone() }
    }

    /// The same at that node.
    pub(super) fn at(&self, node: NodeId) -> PoolKey {
        PoolKey { node, database: self.database.clone(), user: self.user.clone(), set: self.set.clone() }
    }
}

/// A login that succeeded.
pub(super) struct Recipe {
    /// `None` once a node has refused them: then no warm backends, and the key is not kept any longer.
    pub(super) credentials: Option<Arc<Credentials>>,
    pub(super) params: Params,
    pub(super) made: Instant,
    /// Where a warm login failed, and when it may be tried again.
    pub(super) not_before: HashMap<NodeId, Instant>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Recipes {
    all: HashMap<Who, Recipe>,
}

impl Recipes {
    /// Remembers a login. Of one database and user at most `max_sets` startup sets are kept. Returns the same `params`,
    /// shared with those remembered.
    pub(super) fn learn(
        &mut self,
        key: &PoolKey,
        credentials: &Arc<Credentials>,
        params: &Params,
        max_sets: usize,
        now: Instant,
    ) -> Params {
        let who = Who::of(key);
        if let Some(recipe) = self.all.get_mut(&who) {
            recipe.credentials = Some(Arc::clone(credentials));
            if recipe.params != *params {
                recipe.params = params.clone();
            }
            recipe.made = now;
            return recipe.params.clone();
        }
        let siblings = |other: &Who| other.database == who.database && other.user == who.user;
        if self.all.keys().filter(|other| siblings(other)).count() >= max_sets.max(1) {
            self.forget_oldest(siblings);
        }
        if self.all.len() >= MAX_RECIPES {
            self.forget_oldest(|_| true);
        }
        let recipe = Recipe {
            credentials: Some(Arc::clone(credentials)),
            params: params.clone(),
            made: now,
            not_before: HashMap::new(),
        };
        self.all.insert(who, recipe);
        params.clone()
    }

    fn forget_oldest(&mut self, among: impl Fn(&Who) -> bool) {
        let among = self.all.iter().filter(|(who, _)| among(who));
        if let Some(oldest) = among.min_by_key(|(_, recipe)| recipe.made).map(|(who, _)| who.clone()) {
            self.all.remove(&oldest);
        }
    }

    pub(super) fn get_mut(&mut self, who: &Who) -> Option<&mut Recipe> {
        self.all.get_mut(who)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Who, &Recipe)> {
        self.all.iter()
    }

    pub(super) fn retain(&mut self, keep: impl FnMut(&Who, &mut Recipe) -> bool) {
        self.all.retain(keep);
    }

    /// A node has refused these credentials: no recipe keeps them, and the latest others of the user are the way in, if
    /// there are any.
    pub(super) fn supersede(&mut self, user: &str, refused: &Arc<Credentials>) -> Option<Arc<Credentials>> {
        let of_user = self.all.iter_mut().filter(|(who, _)| who.user == user);
        let mut latest: Option<&Recipe> = None;
        for (_, recipe) in of_user {
            if recipe.credentials.as_ref().is_some_and(|have| Arc::ptr_eq(have, refused)) {
                recipe.credentials = None;
            }
            if recipe.credentials.is_some() && latest.is_none_or(|latest| latest.made < recipe.made) {
                latest = Some(recipe);
            }
        }
        latest.and_then(|recipe| recipe.credentials.clone())
    }

    /// Forgets how to log in as anybody.
    pub(super) fn forget_secrets(&mut self) {
        self.all.values_mut().for_each(|recipe| recipe.credentials = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_credentials_give_way_to_the_latest_of_the_same_user() {
        let mut recipes = Recipes::default();
        let start = Instant::now();
        let secrets: Vec<_> = (0..3).map(|_| Arc::new(Credentials::None)).collect();
        for (age, (user, database)) in [("a", "old"), ("a", "new"), ("b", "newest")].into_iter().enumerate() {
            let key = PoolKey {
                node: NodeId(0),
                database: database.into(),
                user: user.into(),
                set: StartupSet::default(),
            };
            let made = start + std::time::Duration::from_secs(age as u64);
            recipes.learn(&key, &secrets[age], &Params::default(), 3, made);
        }
        let latest = recipes.supersede("a", &secrets[0]).unwrap();
        assert!(Arc::ptr_eq(&latest, &secrets[1]));
        assert!(recipes.supersede("a", &latest).is_none(), "each is tried once");
        assert_eq!(recipes.iter().filter(|(_, recipe)| recipe.credentials.is_some()).count(), 1);
    }

    #[test]
    fn sets_per_user_are_bounded() {
        let mut recipes = Recipes::default();
        let (credentials, now) = (Arc::new(Credentials::None), Instant::now());
        for number in 0..10u32 {
            let set = StartupSet::new([("search_path", number.to_string())]);
            let key = PoolKey { node: NodeId(0), database: "d".into(), user: "u".into(), set };
            let made = now + std::time::Duration::from_secs(u64::from(number));
            recipes.learn(&key, &credentials, &Params::default(), 3, made);
        }
        assert_eq!(recipes.iter().count(), 3);
        assert!(recipes.iter().all(|(who, _)| who.set.get("search_path") >= Some("7")));
    }
}
