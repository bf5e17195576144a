//! What every session of one worker shares with the rest of the process.

use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::buffer::BufferPool;
use super::catalogues::Catalogues;
use super::directory::Directory;
use super::verifiers::Verifiers;
use crate::config::Settings;
use crate::drain::Tasks;
use crate::metrics::{Metrics, WorkerMetrics};
use crate::pool::Registry;
use crate::topology::{Nudges, Store};

/// The parts of the process that sessions use; one for all workers.
#[derive(Clone)]
pub struct Shared {
    /// The settings in force; a session reads them at login and when it waits.
    pub settings: Arc<ArcSwap<Settings>>,
    /// The topology in force.
    pub store: Arc<Store>,
    /// Evidence for the probers.
    pub nudges: Arc<Nudges>,
    /// Backends.
    pub registry: Arc<Registry>,
    /// All live sessions.
    pub directory: Arc<Directory>,
    /// Secrets of users.
    pub verifiers: Arc<Verifiers>,
    /// What is known of the databases in use.
    pub catalogues: Arc<Catalogues>,
    /// Figures of the whole process.
    pub metrics: Arc<Metrics>,
    /// Tasks that shutdown waits for.
    pub tasks: Tasks,
}

/// One worker's view: the shared parts, its own buffers and its own counters.
pub struct Context {
    /// The settings in force.
    pub settings: Arc<ArcSwap<Settings>>,
    /// The topology in force.
    pub store: Arc<Store>,
    /// Evidence for the probers.
    pub nudges: Arc<Nudges>,
    /// Backends.
    pub registry: Arc<Registry>,
    /// All live sessions.
    pub directory: Arc<Directory>,
    /// Secrets of users.
    pub verifiers: Arc<Verifiers>,
    /// What is known of the databases in use.
    pub catalogues: Arc<Catalogues>,
    /// This worker's counters.
    pub metrics: Arc<WorkerMetrics>,
    /// Tasks that shutdown waits for.
    pub tasks: Tasks,
    /// This worker's receive buffers.
    pub buffers: Rc<BufferPool>,
}

impl Context {
    /// The view of worker number `index`.
    pub fn new(shared: &Shared, index: usize) -> Rc<Self> {
        Rc::new(Self {
            settings: Arc::clone(&shared.settings),
            store: Arc::clone(&shared.store),
            nudges: Arc::clone(&shared.nudges),
            registry: Arc::clone(&shared.registry),
            directory: Arc::clone(&shared.directory),
            verifiers: Arc::clone(&shared.verifiers),
            catalogues: Arc::clone(&shared.catalogues),
            metrics: shared.metrics.worker(index),
            tasks: shared.tasks.clone(),
            buffers: BufferPool::new(),
        })
    }
}
