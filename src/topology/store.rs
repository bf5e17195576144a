//! Where the current [`Topology`] is read from: one atomic pointer, two atomic numbers, two watch channels.
//!
//! The watcher in `health` is the only writer. Readers never lock and never wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::position::Epoch;
use super::snapshot::Topology;

/// The published topology.
pub struct Store {
    current: ArcSwap<Topology>,
    epoch: AtomicU64,
    version: AtomicU64,
    changed: watch::Sender<u64>,
    decided: watch::Sender<()>,
}

impl Store {
    /// A store that shows `initial` until the first publication.
    pub fn new(initial: Topology) -> Self {
        Store {
            epoch: AtomicU64::new(initial.epoch.0),
            version: AtomicU64::new(initial.version),
            changed: watch::Sender::new(initial.version),
            decided: watch::Sender::new(()),
            current: ArcSwap::from_pointee(initial),
        }
    }

    /// The topology of now. Load it anew for each decision; keep it for none.
    pub fn load(&self) -> Arc<Topology> {
        self.current.load_full()
    }

    /// The present epoch: one atomic load, cheap enough for each message.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// The present version: one atomic load.
    pub fn version(&self) -> u64 {
        // In one order with what a session says of itself before it asks: see `Entry::set_active` of its directory.
        self.version.load(Ordering::SeqCst)
    }

    /// Wakes on every material change, with its version.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Wakes on every decision, also when only figures have changed: for who waits for a sample.
    pub fn decisions(&self) -> watch::Receiver<()> {
        self.decided.subscribe()
    }

    /// Makes a material change visible: the version grows by one and subscribers wake. Only the watcher calls this.
    pub fn publish(&self, mut topology: Topology) {
        topology.version = self.version.load(Ordering::Relaxed) + 1;
        let (epoch, version) = (topology.epoch.0, topology.version);
        // Pointer first: who sees the new number must find the new view.
        self.current.store(Arc::new(topology));
        self.epoch.store(epoch, Ordering::Release);
        self.version.store(version, Ordering::SeqCst);
        self.changed.send_replace(version);
        self.decided.send_replace(());
    }

    /// Replaces figures only (lag, positions): same version and epoch. Only who waits for any
    /// decision wakes. Only the watcher calls this.
    pub fn refresh(&self, mut topology: Topology) {
        topology.version = self.version.load(Ordering::Relaxed);
        topology.epoch = Epoch(self.epoch.load(Ordering::Relaxed));
        self.current.store(Arc::new(topology));
        self.decided.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishing_wakes_and_counts_and_refreshing_does_neither() {
        let store = Store::new(Topology::unseen(&[]));
        let (mut watch, mut decisions) = (store.subscribe(), store.decisions());
        let mut next = (*store.load()).clone();
        next.epoch = Epoch(7);
        store.publish(next.clone());
        assert_eq!((store.version(), store.epoch()), (1, Epoch(7)));
        assert!(watch.has_changed().unwrap());
        assert!(decisions.has_changed().unwrap());
        watch.mark_unchanged();
        decisions.mark_unchanged();
        next.epoch = Epoch(99);
        next.alarms.push("x".to_owned());
        store.refresh(next);
        assert_eq!((store.version(), store.epoch(), store.load().epoch), (1, Epoch(7), Epoch(7)));
        assert_eq!(store.load().alarms.len(), 1);
        assert!(!watch.has_changed().unwrap());
        assert!(decisions.has_changed().unwrap());
    }
}
