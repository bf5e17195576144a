//! Distributions of durations: one recorder per worker, merged when somebody looks.
//!
//! Durations in, quantiles out. It must not know what was measured.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Range and precision: 1 µs to 60 s with three digits, about 140 kB per histogram.
const LOWEST_US: u64 = 1;
const HIGHEST_US: u64 = 60_000_000;
const DIGITS: u8 = 3;

/// The quantiles that are exported.
pub const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

/// One distribution as seen by one worker. The lock is that worker's alone but for the moment of a merge, so
/// recording neither contends nor allocates.
#[derive(Debug)]
pub(super) struct Recorder {
    window: Mutex<Window>,
    /// Over the whole life of the process, as Prometheus wants sum and count.
    count: AtomicU64,
    sum_us: AtomicU64,
}

/// Quantiles over the life of a process would hide a bad minute, so they cover the current window and the one
/// before it.
#[derive(Debug)]
struct Window {
    current: Histogram<u64>,
    previous: Histogram<u64>,
}

impl Recorder {
    /// `None` only if the bounds above were invalid, which a test excludes.
    pub(super) fn new() -> Option<Self> {
        let window = Window { current: histogram()?, previous: histogram()? };
        Some(Self { window: Mutex::new(window), count: AtomicU64::new(0), sum_us: AtomicU64::new(0) })
    }

    pub(super) fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.lock().current.saturating_record(micros.max(LOWEST_US));
        self.count.fetch_add(1, Relaxed);
        self.sum_us.fetch_add(micros.min(u64::MAX >> 20), Relaxed);
    }

    /// Starts a new window; the oldest one is forgotten.
    pub(super) fn rotate(&self) {
        let mut window = self.lock();
        let Window { current, previous } = &mut *window;
        std::mem::swap(current, previous);
        if !current.is_empty() {
            current.reset();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        // Nothing in here can panic half way, so a poisoned lock still guards sound figures.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn histogram() -> Option<Histogram<u64>> {
    Histogram::new_with_bounds(LOWEST_US, HIGHEST_US, DIGITS).ok()
}

/// A distribution read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Since the process began.
    pub count: u64,
    /// Since the process began.
    pub sum: Duration,
    /// Median of the last one to two windows, as the quantiles below.
    pub p50: Duration,
    /// 90 %.
    pub p90: Duration,
    /// 99 %.
    pub p99: Duration,
    /// 99.9 %.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
    /// How many the quantiles are made of; with none of them the quantiles are 0.
    pub samples: u64,
}

/// Merges what the workers have recorded.
pub(super) fn merge<'a>(recorders: impl Iterator<Item = &'a Recorder>) -> Summary {
    let Some(mut all) = histogram() else { return Summary::default() };
    let mut summary = Summary::default();
    for recorder in recorders {
        summary.count += recorder.count.load(Relaxed);
        summary.sum += Duration::from_micros(recorder.sum_us.load(Relaxed));
        let window = recorder.lock();
        // Adding fails only for a histogram of another range; ours are all alike.
        let _ = all.add(&window.current);
        let _ = all.add(&window.previous);
    }
    let at = |quantile: f64| Duration::from_micros(all.value_at_quantile(quantile).min(all.max()));
    let [p50, p90, p99, p999] = QUANTILES.map(at);
    Summary { p50, p90, p99, p999, max: at(1.0), samples: all.len(), ..summary }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn close(found: Duration, wanted: Duration) -> bool {
        found.abs_diff(wanted) <= wanted / 500
    }

    #[test]
    fn quantiles_of_several_recorders_are_those_of_all_their_records() {
        let (a, b) = (Recorder::new().unwrap(), Recorder::new().unwrap());
        for n in 1..=500 {
            a.record(millis(n));
            b.record(millis(n + 500));
        }
        let all = merge([&a, &b].into_iter());
        assert_eq!((all.count, all.samples), (1000, 1000));
        assert_eq!(all.sum, millis(500_500));
        assert!(close(all.p50, millis(500)) && close(all.p90, millis(900)), "{all:?}");
        assert!(close(all.p99, millis(990)) && close(all.p999, millis(999)) && close(all.max, millis(1000)));
    }

    #[test]
    fn the_range_is_clamped_and_nothing_is_lost() {
        let recorder = Recorder::new().unwrap();
        recorder.record(Duration::ZERO);
        recorder.record(Duration::from_hours(1));
        recorder.record(Duration::MAX);
        let all = merge([&recorder].into_iter());
        assert_eq!(all.samples, 3);
        assert!(close(all.max, Duration::from_mins(1)), "{all:?}");
        assert!(all.sum >= Duration::from_hours(1));
    }

    #[test]
    fn quantiles_forget_after_two_windows_and_counts_do_not() {
        let recorder = Recorder::new().unwrap();
        recorder.record(millis(7));
        recorder.rotate();
        assert_eq!(merge([&recorder].into_iter()).samples, 1);
        recorder.rotate();
        let all = merge([&recorder].into_iter());
        assert_eq!((all.samples, all.count, all.p99, all.sum), (0, 1, Duration::ZERO, millis(7)));
    }

    #[test]
    fn nothing_recorded_is_all_zero() {
        assert_eq!(merge([&Recorder::new().unwrap()].into_iter()), Summary::default());
    }
}
