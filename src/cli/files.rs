//! The process's limit of open files: raised as far as it may be, since every client and every backend is one.
//!
//! In: the settings. Out: a warning when even the highest limit is less than they allow. Shells and service managers give
//! a soft limit of 1024 for the sake of programs that use `select`; this one does not.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Settings;

/// Open files that are neither clients nor backends: listeners, probers, HTTP, event queues, logins about to be refused.
const OTHERS: u64 = 200;

/// Raises the soft limit to the hard one.
pub(super) fn raise_limit(settings: &Settings) -> Option<String> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    too_low(settings, limit)
}

/// What to say of a limit (`None`: there is none) that is lower than what the settings may need.
fn too_low(settings: &Settings, limit: Option<u64>) -> Option<String> {
    let pool = &settings.pool;
    let backends = pool.max_backends_per_node.saturating_mul(settings.cluster.nodes.len());
    let needed = (pool.max_clients.saturating_add(backends) as u64).saturating_add(OTHERS);
    let limit = limit.filter(|limit| *limit < needed)?;
    Some(format!(
        "the limit of open files is {limit}, but pool.max_clients and pool.max_backends_per_node allow about {needed}: \
         raise it (LimitNOFILE of a systemd unit, ulimit -Hn) or lower them"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeAddress;

    #[test]
    fn a_limit_below_what_the_settings_allow_is_told() {
        let mut settings = Settings::with_nodes([NodeAddress::new("a", 1), NodeAddress::new("b", 1)]);
        (settings.pool.max_clients, settings.pool.max_backends_per_node) = (1000, 50);
        assert_eq!(too_low(&settings, None), None);
        assert_eq!(too_low(&settings, Some(1300)), None);
        assert!(
            too_low(&settings, Some(1299)).is_some_and(|text| text.contains("1299") && text.contains("1300"))
        );
        settings.pool.max_clients = usize::MAX;
        assert!(too_low(&settings, Some(u64::MAX - 1)).is_some());
    }
}
