//! Where a node's write-ahead log was at its last probes: what floors of freshness are made of and held against.
//!
//! In: samples in the order of their numbers, and ends of prober connections. Out: the first position that was sampled
//! after a given moment, and whether the latest one still says what the node has. Moments are probe numbers, which
//! one counter gives to the probes of all nodes ([`super::Nudges::sent`]). Pure.

use std::sync::Arc;

use super::position::Lsn;

/// Positions kept; equal ones in a row count once. Six seconds of a busy primary at the calm pace, longer than most
/// sessions think between a write and a read. Who thinks longer gets the oldest one, which is a higher floor.
const KEPT: usize = 64;

/// A position of a node's log, and the probe that brought it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sampled {
    /// Number of the probe, given to it just before it was sent.
    pub number: u64,
    /// Insert position of a primary (not flush: what is visible may not be flushed), replayed position of a standby.
    pub lsn: Lsn,
}

/// The samples of one node that can be compared with each other: of one prober connection, hence of one postmaster
/// that has not crashed meanwhile, and in one role. Positions only grow in it.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    link: u64,
    run: u64,
    primary: bool,
    live: bool,
    recent: Arc<[Sampled]>,
}

impl Samples {
    /// Takes in a sample of the prober connection `link`, as insert position (`primary`) or replayed position.
    /// Begins anew when it cannot be compared with what came before.
    pub fn push(&mut self, link: u64, primary: bool, sampled: Sampled) {
        let last = self.recent.last();
        if last.is_some_and(|last| sampled.number <= last.number) {
            return;
        }
        let same = (self.link, self.primary) == (link, primary);
        let goes_on = same && last.is_some_and(|last| last.lsn <= sampled.lsn);
        if !goes_on {
            *self = Samples { link, run: sampled.number, primary, live: true, recent: Arc::from([sampled]) };
            return;
        }
        self.live = true;
        // A run of equal positions is one entry with the number of its last probe.
        let repeats = last.is_some_and(|last| last.lsn == sampled.lsn);
        let kept = self.recent.len() - usize::from(repeats);
        let gone = (kept + 1).saturating_sub(KEPT);
        let old = self.recent.iter().take(kept).skip(gone).copied();
        self.recent = old.chain([sampled]).collect();
    }

    /// The prober connection `link` (or a younger one) has ended: what the node had is no longer what it has, since a
    /// restarted standby goes back in time. What was sampled stays true of the past.
    pub fn void(&mut self, link: u64) {
        self.live &= link < self.link;
    }

    /// The latest sample, while the connection it came by lasts.
    pub fn latest(&self) -> Option<Sampled> {
        self.recent.last().filter(|_| self.live).copied()
    }

    /// The first sample whose probe was sent after the one with this number; when that is forgotten, the oldest one
    /// that is not, whose position is not below it.
    pub fn first_after(&self, number: u64) -> Option<Sampled> {
        let at = self.recent.partition_point(|sampled| sampled.number <= number);
        self.recent.get(at).copied()
    }

    /// Number of the first probe on the prober connection the samples came by, so given after it was open; 0 when
    /// there was none.
    pub fn link(&self) -> u64 {
        self.link
    }

    /// Number of the first sample that can be compared with the present ones; 0 when there is none.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// Are these insert positions of a node out of recovery?
    pub fn of_primary(&self) -> bool {
        self.primary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(link: u64, all: &[(u64, u64)]) -> Samples {
        let mut samples = Samples::default();
        for (number, lsn) in all {
            samples.push(link, false, at(*number, *lsn));
        }
        samples
    }

    fn at(number: u64, lsn: u64) -> Sampled {
        Sampled { number, lsn: Lsn(lsn) }
    }

    fn first(samples: &Samples, number: u64) -> Option<u64> {
        samples.first_after(number).map(|s| s.lsn.0)
    }

    #[test]
    fn the_first_sample_after_a_moment_is_found() {
        let mut samples = samples(1, &[(1, 10), (4, 20), (6, 20), (9, 20), (12, 30)]);
        for (number, lsn) in [(0, 10), (1, 20), (5, 20), (8, 20), (9, 30), (11, 30)] {
            assert_eq!(first(&samples, number), Some(lsn), "after {number}");
        }
        assert_eq!(first(&samples, 12), None);
        assert_eq!(samples.latest(), Some(at(12, 30)));
        assert_eq!(samples.recent.len(), 3, "equal positions in a row are one entry");
        samples.push(1, false, at(11, 99));
        assert_eq!(samples.latest(), Some(at(12, 30)), "overtaken on its way");
    }

    #[test]
    fn what_is_forgotten_only_raises_the_floor() {
        let all: Vec<_> = (1..=1000).map(|n| (n, 10 * n)).collect();
        let samples = samples(1, &all);
        assert_eq!(samples.recent.len(), KEPT);
        assert_eq!(first(&samples, 3), Some(10 * (1001 - KEPT as u64)));
        assert_eq!(first(&samples, 990), Some(9910));
    }

    #[test]
    fn an_ended_connection_voids_the_present_and_not_the_past() {
        let mut samples = samples(5, &[(5, 10), (6, 20)]);
        samples.void(4);
        assert!(samples.latest().is_some(), "an older connection's end is no news");
        samples.void(5);
        assert_eq!((samples.latest(), first(&samples, 5)), (None, Some(20)));
        samples.push(7, false, at(7, 15));
        assert_eq!((samples.latest(), samples.run(), samples.link()), (Some(at(7, 15)), 7, 7));
        assert_eq!(first(&samples, 0), Some(15), "the restarted node went back in time");
    }

    #[test]
    fn a_promotion_begins_a_run_on_the_same_connection() {
        let mut samples = samples(5, &[(5, 10), (6, 20)]);
        samples.push(5, true, at(8, 25));
        assert_eq!((samples.link(), samples.run(), samples.of_primary()), (5, 8, true));
        assert_eq!(first(&samples, 0), Some(25));
    }
}
