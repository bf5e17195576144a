//! Probers and the watcher: the only writers of the topology.
