//! A running average of latencies that all threads write without a lock: one atomic number.
//!
//! In: how long something took, and when it ended. Out: a [`Reading`]. It knows no clock: milliseconds of the caller's
//! clock come in, and may wrap.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The last second counts most: long enough to be calm under load, short enough to follow a node that turns slow.
const MEMORY_MS: f32 = 1000.0;
/// No latency counts for more than this part of the average, however long ago the one before was.
const SHARE_MAX: f32 = 1.0 / 8.0;
/// A latency counts as at most so many times the average: one long report says little about a node, many say enough.
const CLIP: f32 = 8.0;
/// An average that nobody feeds loses half of its weight in this time. A node found to be a hundred times slower than
/// others is so tried again after some 20 seconds.
const HALF_LIFE_MS: f32 = 5000.0;
/// So young, it has lost too little to be worth the arithmetic.
const YOUNG_MS: u32 = 50;

/// The average of what took how long; nothing is known at first.
#[derive(Debug, Default)]
pub struct Average(AtomicU64);

/// What an [`Average`] says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The average, microseconds, more than 0.
    pub micros: f32,
    /// How long ago the last latency went into it, milliseconds.
    pub age_ms: u32,
}

impl Reading {
    /// The average as far as it is still believed: it falls with its age. The truth is elsewhere, so that whoever was slow
    /// seems worth a try some time.
    pub fn faded(&self) -> f32 {
        fade(self.micros, self.age_ms)
    }
}

fn fade(micros: f32, age_ms: u32) -> f32 {
    if age_ms <= YOUNG_MS { micros } else { micros * (-(age_ms as f32) / HALF_LIFE_MS).exp2() }
}

impl Average {
    /// Takes in one that ended at `now_ms`. Of those in the same millisecond only the first counts, and one of two
    /// threads that come at the same instant: they are alike, and nobody has to wait.
    pub fn record(&self, took: Duration, now_ms: u32) {
        let word = self.0.load(Relaxed);
        let took = took.as_micros().max(1) as f32;
        let next = match unpack(word, now_ms) {
            None => took,
            Some(Reading { age_ms: 0, .. }) => return,
            Some(Reading { micros, age_ms }) => {
                // What was believed long ago does not stand against what is seen now.
                let base = if took < micros { fade(micros, age_ms).max(took) } else { micros };
                let share = (age_ms as f32 / MEMORY_MS).min(SHARE_MAX);
                base + share * (took.min(base * CLIP) - base)
            }
        };
        let next = (u64::from(next.to_bits()) << 32) | u64::from(now_ms);
        let _ = self.0.compare_exchange(word, next, Relaxed, Relaxed);
    }

    /// What is known at `now_ms`; `None` before the first.
    pub fn read(&self, now_ms: u32) -> Option<Reading> {
        unpack(self.0.load(Relaxed), now_ms)
    }
}

/// High half: the average as the bits of a float, never 0. Low half: milliseconds at the last record.
fn unpack(word: u64, now_ms: u32) -> Option<Reading> {
    let micros = f32::from_bits((word >> 32) as u32);
    let age_ms = now_ms.wrapping_sub(word as u32);
    // Another thread may have read its clock a little later.
    let age_ms = if age_ms > u32::MAX / 2 { 0 } else { age_ms };
    (word != 0).then_some(Reading { micros, age_ms })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// One of `took` every `every_ms` from `from_ms` on; returns when the last one was.
    fn feed(average: &Average, took: Duration, count: u32, every_ms: u32, from_ms: u32) -> u32 {
        (0..count).map(|i| from_ms.wrapping_add(i * every_ms)).fold(from_ms, |_, now| {
            average.record(took, now);
            now
        })
    }

    fn millis(average: &Average, now_ms: u32) -> f32 {
        average.read(now_ms).unwrap().micros / 1000.0
    }

    #[test]
    fn the_first_is_the_average_and_then_it_follows() {
        let average = Average::default();
        assert_eq!(average.read(5), None);
        average.record(2 * MS, 7);
        assert_eq!(average.read(7), Some(Reading { micros: 2000.0, age_ms: 0 }));
        assert_eq!(average.read(10).unwrap().age_ms, 3);
        let now = feed(&average, 4 * MS, 1000, 1, 8);
        assert!((3.2..3.4).contains(&millis(&average, now)), "two thirds of the way after a second");
        let now = feed(&average, 4 * MS, 50, 500, now);
        assert!((3.9..=4.0).contains(&millis(&average, now)));
    }

    #[test]
    fn one_outlier_is_not_believed_and_several_are() {
        let average = Average::default();
        let now = feed(&average, MS, 20, 200, 0);
        average.record(10_000 * MS, now + 200);
        assert!(millis(&average, now + 200) < 2.0);
        let now = feed(&average, 100 * MS, 5, 200, now + 400);
        assert!(millis(&average, now) > 10.0);
    }

    #[test]
    fn what_nobody_feeds_fades_and_the_next_word_counts_from_there() {
        let average = Average::default();
        feed(&average, 100 * MS, 10, 200, 0);
        let faded = |now| average.read(now).unwrap().faded() / 1000.0;
        assert!((99.0..101.0).contains(&faded(1800)));
        assert!((24.0..26.0).contains(&faded(11_800)), "two half-lives");
        // Slow still: as sure as before. Fast now: the old word is worth what it has faded to.
        average.record(100 * MS, 11_800);
        assert!((99.0..101.0).contains(&millis(&average, 11_800)));
        average.record(MS, 21_800);
        assert!((20.0..24.0).contains(&millis(&average, 21_800)));
    }

    #[test]
    fn the_clock_may_wrap_and_threads_may_disagree_on_it() {
        let average = Average::default();
        average.record(MS, u32::MAX - 10);
        assert_eq!(average.read(9).unwrap().age_ms, 20);
        average.record(MS, 9);
        assert_eq!(average.read(5).unwrap().age_ms, 0, "read before it was written, by another clock");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// It never leaves the range of what went in, whatever the pauses.
        #[test]
        fn between_the_least_and_the_most(
            steps in prop::collection::vec((1u64..10_000_000, 0u32..100_000), 1..100)
        ) {
            let average = Average::default();
            let mut now = 0u32;
            for (us, pause) in &steps {
                now = now.wrapping_add(*pause);
                average.record(Duration::from_micros(*us), now);
                let reading = average.read(now).unwrap();
                let least = steps.iter().map(|s| s.0).min().unwrap() as f32;
                let most = steps.iter().map(|s| s.0).max().unwrap() as f32;
                prop_assert!(reading.micros >= least * 0.999 && reading.micros <= most * 1.001);
                prop_assert!(reading.faded() <= reading.micros);
            }
        }
    }
}
