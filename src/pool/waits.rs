//! How long sessions waited for backends of one pool: its quantiles over the last one to two windows.
//!
//! In: each checkout and how long it took. Out: a quantile. Kept under the pools' lock: nothing here blocks, and only the
//! first wait of a pool allocates.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Range and precision: 1 µs to 60 s with two digits, about 10 kB.
const LOWEST_US: u64 = 1;
const HIGHEST_US: u64 = 60_000_000;
const DIGITS: u8 = 2;

/// One window. Most checkouts wait for nothing: they are counted, not recorded.
#[derive(Debug, Default)]
struct Window {
    at_once: u64,
    waited: Option<Box<Histogram<u32>>>,
}

/// The current window and the one before.
#[derive(Debug, Default)]
pub(super) struct Waits {
    windows: [Window; 2],
}

impl Waits {
    /// A checkout that found an idle backend.
    pub(super) fn at_once(&mut self) {
        self.windows[0].at_once += 1;
    }

    /// A checkout that took time, whatever came of it.
    pub(super) fn waited(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(LOWEST_US);
        let window = &mut self.windows[0];
        if window.waited.is_none() {
            // The bounds are valid, which a test shows.
            window.waited = Histogram::new_with_bounds(LOWEST_US, HIGHEST_US, DIGITS).ok().map(Box::new);
        }
        if let Some(histogram) = &mut window.waited {
            histogram.saturating_record(micros);
        }
    }

    /// Starts a new window; what is older than the last one is forgotten.
    pub(super) fn rotate(&mut self) {
        self.windows.swap(0, 1);
        let window = &mut self.windows[0];
        window.at_once = 0;
        if let Some(histogram) = window.waited.as_mut().filter(|histogram| !histogram.is_empty()) {
            histogram.reset();
        }
    }

    /// What that share of the checkouts has not waited longer than; zero without any.
    pub(super) fn quantile(&self, quantile: f64) -> Duration {
        let waited = |window: &Window| window.waited.as_ref().map_or(0, |histogram| histogram.len());
        let at_once: u64 = self.windows.iter().map(|window| window.at_once).sum();
        let waits: u64 = self.windows.iter().map(waited).sum();
        let rank = ((at_once + waits) as f64 * quantile).ceil() - at_once as f64;
        if waits == 0 || rank <= 0.0 {
            return Duration::ZERO;
        }
        let mut histograms = self.windows.iter().filter_map(|window| window.waited.as_deref());
        let Some(first) = histograms.next() else { return Duration::ZERO };
        let mut all = first.clone();
        for other in histograms {
            // Adding fails only for a histogram of another range; ours are all alike.
            let _ = all.add(other);
        }
        let micros = all.value_at_quantile(rank / waits as f64).min(all.max());
        Duration::from_micros(micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_did_not_wait_count_too() {
        let mut waits = Waits::default();
        assert_eq!(waits.quantile(0.99), Duration::ZERO);
        for millis in 1..=20 {
            waits.waited(Duration::from_millis(millis));
        }
        let near = |found: Duration, millis: u64| {
            found.abs_diff(Duration::from_millis(millis)) <= Duration::from_micros(millis * 10)
        };
        assert!(near(waits.quantile(0.5), 10) && near(waits.quantile(1.0), 20), "{waits:?}");
        (0..980).for_each(|_| waits.at_once());
        assert_eq!(waits.quantile(0.98), Duration::ZERO);
        assert!(near(waits.quantile(0.99), 10), "{:?}", waits.quantile(0.99));
    }

    #[test]
    fn waits_are_forgotten_after_two_windows() {
        let mut waits = Waits::default();
        waits.waited(Duration::MAX);
        waits.rotate();
        waits.waited(Duration::from_millis(1));
        assert!(waits.quantile(0.99) > Duration::from_secs(59), "{waits:?}");
        waits.rotate();
        assert!(waits.quantile(0.99) < Duration::from_millis(2));
        waits.rotate();
        assert_eq!(waits.quantile(0.99), Duration::ZERO);
    }
}
