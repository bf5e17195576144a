//! The proxy's own history of how far the primary had got when, and lag measured by it.
//!
//! No clock of another host is asked and no difference of figures sampled at different moments is taken for lag. The
//! result errs to the high side, by one sampling interval at most. Pure.

use std::collections::VecDeque;

use super::moment::Moment;
use super::node::Lag;
use super::position::Lsn;

/// Samples kept. At ten a second the recent half covers almost a minute exactly; older ones are thinned.
const CAPACITY: usize = 1024;

/// A run of samples with the same position.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// When the last question of the run was sent: the primary was not further then.
    until: Moment,
    lsn: Lsn,
}

/// A lag, and how much of it is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Measured {
    /// The history reaches back far enough.
    Known(Lag),
    /// The history is younger than the position: the time is a lower bound.
    AtLeast(Lag),
    /// No history, so nothing can be said: not zero.
    Unknown,
}

/// (time, position) pairs of whoever is being followed, oldest first, positions strictly growing.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    entries: VecDeque<Entry>,
}

impl Ring {
    /// Forgets everything: the followed one has changed.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// The followed one was at `lsn` when asked at `sent`. A position that went back voids the history.
    pub fn push(&mut self, sent: Moment, lsn: Lsn) {
        match self.entries.back_mut() {
            Some(last) if last.lsn == lsn => last.until = last.until.max(sent),
            Some(last) if last.until > sent => {}
            Some(last) if last.lsn > lsn => {
                self.entries.clear();
                self.entries.push_back(Entry { until: sent, lsn });
            }
            _ => {
                self.thin();
                self.entries.push_back(Entry { until: sent, lsn });
            }
        }
    }

    /// Halves the older half when full: what is left only makes old lags look older.
    fn thin(&mut self) {
        if self.entries.len() >= CAPACITY {
            let mut at = 0;
            self.entries.retain(|_| {
                at += 1;
                at > CAPACITY / 2 || at % 2 == 1
            });
        }
    }

    /// The latest position known.
    pub fn newest(&self) -> Option<Lsn> {
        self.entries.back().map(|e| e.lsn)
    }

    /// How far `replayed` is behind, as of `at`: the time since the followed one was last seen no further than it.
    pub fn behind(&self, replayed: Lsn, at: Moment) -> Measured {
        let (Some(first), Some(last)) = (self.entries.front(), self.entries.back()) else {
            return Measured::Unknown;
        };
        let bytes = last.lsn.bytes_since(replayed);
        if bytes == 0 {
            return Measured::Known(Lag::default());
        }
        let reached = self.entries.partition_point(|e| e.lsn <= replayed);
        match reached.checked_sub(1).and_then(|i| self.entries.get(i)) {
            Some(entry) => Measured::Known(Lag { time: at.since(entry.until), bytes, at_least: false }),
            None => Measured::AtLeast(Lag { time: at.since(first.until), bytes, at_least: true }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_ms(ms)
    }

    fn known(ms: u64, bytes: u64) -> Measured {
        Measured::Known(Lag { time: Duration::from_millis(ms), bytes, at_least: false })
    }

    #[test]
    fn lag_is_the_time_since_the_position_was_passed() {
        let mut ring = Ring::default();
        assert_eq!(ring.behind(Lsn(5), at(0)), Measured::Unknown);
        for (ms, lsn) in [(0, 100), (100, 100), (200, 200), (300, 300)] {
            ring.push(at(ms), Lsn(lsn));
        }
        assert_eq!(ring.behind(Lsn(300), at(900)), known(0, 0), "has it all, however long ago");
        assert_eq!(ring.behind(Lsn(301), at(900)), known(0, 0));
        assert_eq!(ring.behind(Lsn(299), at(350)), known(150, 1));
        assert_eq!(ring.behind(Lsn(100), at(350)), known(250, 200), "an idle primary does not age");
        let below = Lag { time: Duration::from_millis(250), bytes: 201, at_least: true };
        assert_eq!(ring.behind(Lsn(99), at(350)), Measured::AtLeast(below));
    }

    #[test]
    fn going_back_voids_the_history_and_late_samples_do_not() {
        let mut ring = Ring::default();
        ring.push(at(100), Lsn(100));
        ring.push(at(50), Lsn(40));
        assert_eq!(ring.newest(), Some(Lsn(100)));
        ring.push(at(200), Lsn(90));
        let below = Lag { time: Duration::ZERO, bytes: 1, at_least: true };
        assert_eq!(ring.behind(Lsn(89), at(200)), Measured::AtLeast(below));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is forgotten, the measured time is never below the true one, and memory is bounded.
        #[test]
        fn never_too_young(steps in prop::collection::vec((1u64..200, 0u64..50), 1..3000), pick in any::<prop::sample::Index>()) {
            let mut ring = Ring::default();
            let (mut now, mut lsn) = (0, 1 << 30);
            let mut history = Vec::new();
            for (ms, bytes) in steps {
                now += ms;
                lsn += bytes * 8;
                history.push((now, lsn));
                ring.push(at(now), Lsn(lsn));
            }
            prop_assert!(ring.entries.len() <= CAPACITY);
            let (_, replayed) = history[pick.index(history.len())];
            // The latest time at which the primary was certainly not beyond what is replayed.
            let passed = history.iter().rev().find(|(_, l)| *l <= replayed).unwrap().0;
            match ring.behind(Lsn(replayed), at(now)) {
                Measured::Known(lag) if lag.bytes > 0 => prop_assert!(lag.time >= Duration::from_millis(now - passed)),
                Measured::Known(_) | Measured::AtLeast(_) => {}
                Measured::Unknown => prop_assert!(false, "history exists"),
            }
        }
    }
}
