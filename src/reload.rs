//! New settings applied to a running proxy: what can take effect now does, the rest is named.
//!
//! In: the configuration file, read again. Out: the list of changes, or every error of the file; after an error the old
//! settings stay in force.

use std::path::PathBuf;
use std::sync::Arc;

use tracing::{info, warn};

use crate::config::{self, Change, Settings};
use crate::health::HealthHandle;
use crate::metrics::Counter;
use crate::net::tls::{ClientTlsAcceptor, ServerTlsContext};
use crate::session::context::Shared;

/// Changes the log level while the proxy runs.
pub type SetLevel = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Everything a reload reaches.
pub struct Reloader {
    /// The file; `None` when only the environment is used.
    pub path: Option<PathBuf>,
    /// The parts that hold settings.
    pub shared: Shared,
    /// Probers and watcher.
    pub health: HealthHandle,
    /// TLS toward the servers.
    pub server_tls: Arc<ServerTlsContext>,
    /// TLS of each listener, in the order of the settings.
    pub acceptors: Vec<Option<Arc<ClientTlsAcceptor>>>,
    /// The log level.
    pub set_level: SetLevel,
}

impl Reloader {
    /// Reads the file again and applies it.
    pub fn reload(&self) -> Result<Vec<Change>, String> {
        let result = self.apply();
        match &result {
            Ok(changes) => {
                self.shared.metrics.count(Counter::ReloadOk);
                for change in changes {
                    info!("configuration: {change}");
                }
                info!(changes = changes.len(), "configuration reloaded");
            }
            Err(errors) => {
                self.shared.metrics.count(Counter::ReloadFailed);
                warn!("configuration not reloaded, the old one stays in force: {errors}");
            }
        }
        result
    }

    fn apply(&self) -> Result<Vec<Change>, String> {
        let loaded =
            config::load(self.path.as_deref(), config::environment()).map_err(|errors| errors.to_string())?;
        let old = self.shared.settings.load_full();
        let changes = config::diff(&old, &loaded.settings);
        let new = keep_fixed(&old, loaded.settings);
        for (listen, acceptor) in new.listen.iter().zip(&self.acceptors) {
            if let Some(acceptor) = acceptor {
                acceptor.reload(&listen.tls).map_err(|error| error.to_string())?;
            }
        }
        self.server_tls.reload(&new.cluster.tls).map_err(|error| error.to_string())?;
        if changes.iter().any(|change| change.key == "log.level") {
            (self.set_level)(&new.log.level)?;
        }
        self.shared.directory.set_limit(new.pool.max_clients);
        self.health.reload(&new.cluster);
        self.shared.settings.store(Arc::new(new));
        // Secrets may have changed in the cluster, too: RELOAD is how a DBA says so.
        self.shared.verifiers.forget_all();
        self.shared.registry.forget_secrets();
        self.shared.catalogues.reloaded();
        Ok(changes)
    }
}

/// The new settings with those values of the old ones that only a restart can change.
fn keep_fixed(old: &Settings, mut new: Settings) -> Settings {
    new.workers = old.workers;
    new.cluster.nodes.clone_from(&old.cluster.nodes);
    new.cluster.state_file.clone_from(&old.cluster.state_file);
    new.cluster.system_identifier = old.cluster.system_identifier;
    new.cluster.tls.clone_from(&old.cluster.tls);
    new.cluster.monitor.user.clone_from(&old.cluster.monitor.user);
    new.cluster.monitor.password.clone_from(&old.cluster.monitor.password);
    new.cluster.monitor.database.clone_from(&old.cluster.monitor.database);
    new.auth.cache_size = old.auth.cache_size;
    new.pool.mode = old.pool.mode;
    new.admin.http = old.admin.http;
    new.log.format = old.log.format;
    let same_listeners = old.listen.len() == new.listen.len()
        && old
            .listen
            .iter()
            .zip(&new.listen)
            .all(|(a, b)| (&a.address, a.role, a.tls.mode) == (&b.address, b.role, b.tls.mode));
    if !same_listeners {
        new.listen.clone_from(&old.listen);
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options::Class;

    #[test]
    fn what_needs_a_restart_stays_as_it_was() {
        let old = Settings::for_tests();
        let mut new = old.clone();
        new.workers = old.workers + 1;
        new.listen.clear();
        new.pool.size = old.pool.size + 1;
        let kept = keep_fixed(&old, new);
        assert_eq!(kept.workers, old.workers);
        assert_eq!(kept.listen, old.listen);
        assert_eq!(kept.pool.size, old.pool.size + 1);
    }

    #[test]
    fn every_option_that_needs_a_restart_is_kept() {
        let fixed = config::options::OPTIONS.iter().filter(|option| option.class == Class::Restart);
        let known = [
            "workers",
            "cluster.nodes",
            "cluster.node[]",
            "cluster.state_file",
            "cluster.system_identifier",
            "cluster.tls",
            "cluster.monitor.user",
            "cluster.monitor.password",
            "cluster.monitor.database",
            "auth.cache_size",
            "listen[]",
            "pool.mode",
            "admin.http",
            "log.format",
        ];
        for option in fixed {
            assert!(known.iter().any(|prefix| option.key.starts_with(prefix)), "{} is not kept", option.key);
        }
    }
}
