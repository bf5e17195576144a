//! Why a batch went where it went: one word for metrics, one sentence for people.
//!
//! In: nothing. Out: the reasons of the choice between the primary and the standbys. Must not know how they are found.

use crate::sql::Reason;

/// Why work went to the primary or to a standby.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Why {
    /// The transaction, or the session, is declared read-only.
    Declared,
    /// A statement of this shape has failed on a standby before.
    Distrusted,
    /// A comment in the statement asks for it.
    Hint,
    /// Not all of the batch was there when it had to be sent, or a Flush was in it.
    IncompleteBatch,
    /// No standby has yet what the session has written or seen.
    NotFresh,
    /// No standby qualifies.
    NoStandby,
    /// Reads are not told apart (`route.split`).
    NotSplit,
    /// The session keeps its backend for something that only that one has.
    Pinned,
    /// Only reads.
    Read,
    /// A standby failed it.
    Rerun,
    /// SERIALIZABLE, which no standby has.
    Serializable,
    /// `pgsteer.target` asks for it.
    Target,
    /// A transaction that may write.
    Transaction,
    /// Not a read.
    Write(Reason),
}

impl Why {
    /// All of them; those of statements that are no reads with each of their reasons.
    pub fn all() -> impl Iterator<Item = Self> {
        let own = [
            Self::Declared,
            Self::Distrusted,
            Self::Hint,
            Self::IncompleteBatch,
            Self::NotFresh,
            Self::NoStandby,
            Self::NotSplit,
            Self::Pinned,
            Self::Read,
            Self::Rerun,
            Self::Serializable,
            Self::Target,
            Self::Transaction,
        ];
        own.into_iter().chain(Reason::ALL.into_iter().map(Self::Write))
    }

    /// Its place among [`Why::all`], which is that of its counter.
    pub fn index(self) -> usize {
        match self {
            Self::Declared => 0,
            Self::Distrusted => 1,
            Self::Hint => 2,
            Self::IncompleteBatch => 3,
            Self::NotFresh => 4,
            Self::NoStandby => 5,
            Self::NotSplit => 6,
            Self::Pinned => 7,
            Self::Read => 8,
            Self::Rerun => 9,
            Self::Serializable => 10,
            Self::Target => 11,
            Self::Transaction => 12,
            Self::Write(reason) => 13 + reason as usize,
        }
    }

    /// What it means, for people. That of a statement that is no read is the end of a sentence which begins with the
    /// word it is about.
    pub fn text(self) -> &'static str {
        match self {
            Self::Declared => "the transaction or the session is declared read-only",
            Self::Distrusted => "a statement like it has failed on a standby before",
            Self::Hint => "a comment at its beginning asks for it",
            Self::IncompleteBatch => "not all of the batch was there when its first message had to be sent",
            Self::NotFresh => "no standby has yet what the session has written or read",
            Self::NoStandby => "no standby qualifies",
            Self::NotSplit => "route.split leaves what is not declared read-only to the primary",
            Self::Pinned => "the session keeps its backend for something that only that one has",
            Self::Read => "it only reads",
            Self::Rerun => "a standby failed it, and the primary ran it again",
            Self::Serializable => "SERIALIZABLE, which no standby has",
            Self::Target => "pgsteer.target asks for it",
            Self::Transaction => "it is part of a transaction that may write",
            Self::Write(reason) => reason.text(),
        }
    }

    /// The word for metrics and SHOW.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Distrusted => "distrusted",
            Self::Hint => "hint",
            Self::IncompleteBatch => "incomplete_batch",
            Self::NotFresh => "not_fresh",
            Self::NoStandby => "no_standby",
            Self::NotSplit => "not_split",
            Self::Pinned => "pinned",
            Self::Read => "read",
            Self::Rerun => "rerun",
            Self::Serializable => "serializable",
            Self::Target => "target",
            Self::Transaction => "read_write_transaction",
            Self::Write(reason) => reason.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_label_of_its_own() {
        let labels: std::collections::BTreeSet<_> = Why::all().map(Why::as_str).collect();
        assert_eq!(labels.len(), Why::all().count());
    }

    #[test]
    fn every_reason_has_its_counter() {
        let labels: Vec<_> = Why::all().map(Why::as_str).collect();
        assert_eq!(labels, crate::metrics::routes::REASONS);
        assert!(Why::all().map(Why::index).eq(0..labels.len()));
        assert!(Why::all().all(|why| !why.text().is_empty()));
    }
}
