//! The end of an outage as clients see it: when the primary answered the first statement after it.
//!
//! The watcher asks by epoch, sessions tell; while nobody asks, telling costs one atomic load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::position::Epoch;

/// Where the first answer after an outage is noted.
#[derive(Debug, Default)]
pub struct Answers {
    /// The epoch whose first answer is awaited, plus one; 0 for none.
    awaited: AtomicU64,
    first: Mutex<Option<Instant>>,
}

impl Answers {
    /// The next answer by the primary of that epoch is the first. To be called before the epoch can be seen.
    pub fn expect(&self, epoch: Epoch) {
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.awaited.store(epoch.0 + 1, Ordering::Release);
    }

    /// A backend taken on the primary of that epoch has answered its client.
    pub fn note(&self, epoch: Epoch) {
        if self.awaited.load(Ordering::Relaxed) == 0 {
            return;
        }
        let awaited = self.awaited.compare_exchange(epoch.0 + 1, 0, Ordering::AcqRel, Ordering::Relaxed);
        if awaited.is_ok() {
            *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    /// When the first answer came, if it has.
    pub fn first(&self) -> Option<Instant> {
        *self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_answer_of_the_epoch_asked_for_counts() {
        let answers = Answers::default();
        answers.note(Epoch(1));
        assert_eq!(answers.first(), None, "nobody asked");
        answers.expect(Epoch(2));
        answers.note(Epoch(1));
        assert_eq!(answers.first(), None, "an answer of the epoch before");
        answers.note(Epoch(2));
        let first = answers.first();
        assert!(first.is_some());
        answers.note(Epoch(2));
        assert_eq!(answers.first(), first);
        answers.expect(Epoch(2));
        assert_eq!(answers.first(), None, "the next outage");
    }
}
