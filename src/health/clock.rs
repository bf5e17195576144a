//! The runtime's clock as moments for the pure parts.

use tokio::time::Instant;

use crate::topology::Moment;

/// Counts from when it was started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is now.
    pub(super) fn start() -> Self {
        Clock { origin: Instant::now() }
    }

    /// Now.
    pub(super) fn now(self) -> Moment {
        self.at(Instant::now())
    }

    /// That instant; the origin when it lies before it.
    pub(super) fn at(self, instant: Instant) -> Moment {
        Moment::since_origin(instant.saturating_duration_since(self.origin))
    }
}
