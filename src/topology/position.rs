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

/// The default `wal_segment_size`; a larger one only makes [`Lsn::rounded`] miss a case that then reads as
/// 40 bytes of lag until the next record.
const SEGMENT_BYTES: u64 = 16 << 20;
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
    #[must_use]
    pub fn rounded(self) -> Lsn {
        let offset = self.0 % PAGE_BYTES;
        let first = (self.0 - offset).is_multiple_of(SEGMENT_BYTES);
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
        assert_eq!(Lsn(0x0300_0028).rounded(), Lsn(0x0300_0000), "first page of a segment");
        assert_eq!(Lsn(0x0300_2018).rounded(), Lsn(0x0300_2000), "ordinary page");
        assert_eq!(Lsn(0x0300_0018).rounded(), Lsn(0x0300_0018), "a short header does not start a segment");
        assert_eq!(Lsn(0x0300_2028).rounded(), Lsn(0x0300_2028), "a long header does not start a page");
        assert_eq!(Lsn(0x0300_2019).rounded(), Lsn(0x0300_2019));
    }
}
