//! Time as the pure parts see it: microseconds since the process' own origin.
//!
//! The watcher turns its clock into moments; nothing below it reads a clock, so that a simulation can.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time, counted from an origin that the process chose; only differences mean something.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Moment {
    us: u64,
}

impl Moment {
    /// The moment `us` microseconds after the origin.
    pub fn from_us(us: u64) -> Self {
        Moment { us }
    }

    /// The moment `ms` milliseconds after the origin.
    pub fn from_ms(ms: u64) -> Self {
        Moment { us: ms.saturating_mul(1000) }
    }

    /// The moment that lies `elapsed` after the origin.
    pub fn since_origin(elapsed: Duration) -> Self {
        Moment { us: elapsed.as_micros() as u64 }
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.us.saturating_sub(earlier.us))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, span: Duration) -> Moment {
        Moment { us: self.us.saturating_add(span.as_micros() as u64) }
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;

    fn sub(self, span: Duration) -> Moment {
        Moment { us: self.us.saturating_sub(span.as_micros() as u64) }
    }
}
