//! What two configurations differ in, and when each difference takes effect.

use std::fmt;

use super::options::{self, Class};
use super::secret::Secret;
use super::settings::Settings;
use super::show::entries;

/// One option whose value changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `pool.size`, `listen[0].role`.
    pub key: String,
    /// The value before; `***` for a secret, empty for nothing.
    pub old: String,
    /// The value now, likewise.
    pub new: String,
    /// When it takes effect.
    pub class: Class,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, old, new, class } = self;
        write!(f, "{key}: \"{old}\" is now \"{new}\" ({class})")
    }
}

/// All differences, in the order of the documentation. Where the settings came from does not count.
pub fn diff(old: &Settings, new: &Settings) -> Vec<Change> {
    let (before, after) = (entries(old), entries(new));
    let value = |list: &[(String, String)], key: &str| {
        list.iter().find(|(other, _)| other == key).map(|(_, value)| value.clone())
    };
    let change = |key: &str, old: Option<String>, new: Option<String>| Change {
        key: key.to_owned(),
        old: old.unwrap_or_default(),
        new: new.unwrap_or_default(),
        class: options::find(key).map_or(Class::Restart, |option| option.class),
    };
    let mut changes: Vec<Change> = Vec::new();
    for (key, now) in &after {
        let was = value(&before, key);
        if was.as_deref().unwrap_or_default() != now || secret_changed(old, new, key) {
            changes.push(change(key, was, Some(now.clone())));
        }
    }
    let gone = before.into_iter().filter(|(key, was)| !was.is_empty() && value(&after, key).is_none());
    changes.extend(gone.map(|(key, was)| change(&key, Some(was), None)));
    changes
}

/// Secrets all look alike as text, so they are compared themselves.
fn secret_changed(old: &Settings, new: &Settings, key: &str) -> bool {
    let differs = |a: &Option<Secret>, b: &Option<Secret>| a != b;
    let (auth, was) = (&new.auth, &old.auth);
    match options::find(key).map(|option| option.key) {
        Some("cluster.monitor.password") => {
            differs(&old.cluster.monitor.password, &new.cluster.monitor.password)
        }
        Some("cluster.switchover.password") => {
            differs(&old.cluster.switchover.password, &new.cluster.switchover.password)
        }
        Some("auth.query_password") => differs(&was.query_password, &auth.query_password),
        Some(shape) if shape.starts_with("auth.user[].") => {
            let index = key.split(['[', ']']).nth(1).and_then(|index| index.parse::<usize>().ok());
            let pair = index.and_then(|index| was.users.get(index).zip(auth.users.get(index)));
            pair.is_some_and(|(before, after)| match shape {
                "auth.user[].password" | "auth.user[].verifier" => before.secret != after.secret,
                "auth.user[].server_password" => differs(&before.server_password, &after.server_password),
                _ => false,
            })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::{ListenAddress, StaticSecret, StaticUser};
    use super::super::{Listen, Secret};
    use super::*;

    fn shown(old: &Settings, new: &Settings) -> String {
        diff(old, new).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_same_has_no_difference() {
        let settings = Settings::for_tests();
        assert_eq!(diff(&settings, &settings.clone()), []);
        let elsewhere = Settings { source: Some("x".into()), ..settings.clone() };
        assert_eq!(diff(&settings, &elsewhere), []);
    }

    #[test]
    fn changes_have_their_class() {
        let old = Settings::for_tests();
        let mut new = old.clone();
        new.pool.size = 30;
        new.route.database_suffix = "_ro".to_owned();
        new.listen.push(Listen::new(ListenAddress::Unix { dir: "/run/x".into(), port: 1 }));
        new.cluster.nodes.pop();
        insta::assert_snapshot!(shown(&old, &new), @r#"
    listen[1].address: "" is now "/run/x:1" (restart)
    listen[1].port: "" is now "1" (restart)
    listen[1].role: "" is now "primary" (restart)
    listen[1].max_lag: "" is now "0s" (restart)
    listen[1].tls.mode: "" is now "off" (restart)
    pool.size: "20" is now "30" (live)
    route.database_suffix: "" is now "_ro" (new sessions)
    cluster.node[1].address: "127.0.0.1:5433" is now "" (restart)
    cluster.node[1].name: "127.0.0.1:5433" is now "" (restart)
    cluster.node[1].weight: "100" is now "" (restart)
    "#);
    }

    #[test]
    fn a_changed_secret_is_a_change_that_shows_nothing() {
        let user = |password: &str| StaticUser {
            name: "u".to_owned(),
            secret: StaticSecret::Password(Secret::new(password)),
            server_password: Some(Secret::new(password)),
        };
        let mut old = Settings::for_tests();
        old.cluster.monitor.password = Some(Secret::new("one"));
        old.auth.users = vec![user("one")];
        let mut new = old.clone();
        new.cluster.monitor.password = Some(Secret::new("two"));
        new.auth.users = vec![user("two")];
        insta::assert_snapshot!(shown(&old, &new), @r#"
    cluster.monitor.password: "***" is now "***" (restart)
    auth.user[0].password: "***" is now "***" (new sessions)
    auth.user[0].server_password: "***" is now "***" (new sessions)
    "#);
    }
}
