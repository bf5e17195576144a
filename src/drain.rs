//! Shutdown as a design: one token that says stop, one tracker that waits for every task.
//!
//! In: futures. Out: running tasks and, at the end, the proof that all have ended. Must not know what the tasks do.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The only way to start a task: what is spawned here is waited for at shutdown.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    abandoned: CancellationToken,
}

impl Tasks {
    /// A fresh set of tasks, not stopping.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task on the current runtime.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(future)
    }

    /// Starts a task that stays on this thread; the current runtime must be a `LocalRuntime`.
    pub fn spawn_local<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.tracker.spawn_local(future)
    }

    /// Resolves when everything has been told to stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// True once everything has been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Tells every task to stop. Returns at once; [`Tasks::ended`] waits.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Gives up on tasks that do not end.
    pub fn abandon(&self) {
        self.abandoned.cancel();
    }

    /// Resolves when every task has ended after [`Tasks::ended`] closed the set, or when those left were given up.
    pub async fn over(&self) {
        tokio::select! {
            () = self.tracker.wait() => {}
            () = self.abandoned.cancelled() => {}
        }
    }

    /// Tasks still running.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// True when no task runs.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits until all tasks have ended, at most `limit`; false when some had not.
    pub async fn ended(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_tasks_up_to_the_limit() {
        let tasks = Tasks::new();
        let inner = tasks.clone();
        tasks.spawn(async move { inner.stopping().await });
        assert!(!tasks.ended(Duration::from_secs(1)).await);
        tasks.stop();
        assert!(tasks.ended(Duration::from_secs(1)).await);
        assert!(tasks.is_empty());
    }
}
