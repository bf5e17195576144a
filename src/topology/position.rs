//! Numbers that order things: epochs of the view, timelines and positions of the write-ahead log.
//!
//! Plain values with their PostgreSQL spelling; no policy here.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// Number of the view; grows with every change of primary and never shrinks while the process lives.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A PostgreSQL timeline: grows by one with each promotion on a branch of history.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in the write-ahead log, in bytes; shown as `2/16B3748`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Lsn(pub u64);

/// `XLOG_BLCKSZ`: a constant of every packaged server.
const PAGE_BYTES: u64 = 8192;
/// `SizeOfXLogShortPHD`: header of an ordinary page.
const SHORT_HEADER: u64 = 0x18;
/// `SizeOfXLogLongPHD`: header of a segment's first page.
const LONG_HEADER: u64 = 0x28;

impl Lsn {
    /// Bytes from `earlier` to `self`, 0 when it is not earlier.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The same position with a page header not counted as content.
    ///
    /// A primary that has just filled a page reports the position behind the next page's header, while a standby
    /// that has replayed every record reports the page's start: without this an idle cluster would look behind.
    /// `segment_bytes` is the cluster's `wal_segment_size`.
    #[must_use]
    pub fn rounded(self, segment_bytes: u64) -> Lsn {
        let offset = self.0 % PAGE_BYTES;
        let first = segment_bytes > 0 && (self.0 - offset).is_multiple_of(segment_bytes);
        let header = if first { LONG_HEADER } else { SHORT_HEADER };
        if offset == header { Lsn(self.0 - offset) } else { self }
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// Text that is not an LSN.
#[derive(Debug, thiserror::Error)]
#[error("not a WAL position such as 2/16B3748")]
pub struct LsnError;

impl From<ParseIntError> for LsnError {
    fn from(_: ParseIntError) -> Self {
        LsnError
    }
}

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, LsnError> {
        let (high, low) = text.split_once('/').ok_or(LsnError)?;
        let high = u32::from_str_radix(high, 16)?;
        let low = u32::from_str_radix(low, 16)?;
        Ok(Lsn(u64::from(high) << 32 | u64::from(low)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_reads_and_prints_as_postgresql_does() {
        for (text, value) in [("0/0", 0), ("2/16B3748", 0x2_016B_3748), ("FF/FFFFFFFF", 0xFF_FFFF_FFFF)] {
            assert_eq!(text.parse::<Lsn>().unwrap(), Lsn(value));
            assert_eq!(Lsn(value).to_string(), text);
        }
        for bad in ["", "1", "/", "1/", "/1", "G/0", "100000000/0", "1/2/3"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_an_exact_page_header_is_rounded() {
        for (bytes, rounded, why) in [
            (0x0300_0028, 0x0300_0000, "first page of a segment"),
            (0x0300_2018, 0x0300_2000, "ordinary page"),
            (0x0300_0018, 0x0300_0018, "a short header does not start a segment"),
            (0x0300_2028, 0x0300_2028, "a long header does not start a page"),
            (0x0310_0028, 0x0310_0028, "not the start of a segment of this size"),
            (0x0300_2019, 0x0300_2019, "content"),
            (0x0300_2018 + 34, 0x0300_2018 + 34, "a commit record is no header"),
        ] {
            assert_eq!(Lsn(bytes).rounded(16 << 20), Lsn(rounded), "{why}");
        }
        assert_eq!(Lsn(0x0310_0028).rounded(1 << 20), Lsn(0x0310_0000), "small segments");
    }
}
