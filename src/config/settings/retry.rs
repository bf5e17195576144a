//! What is done with work that was lost with its server.
//!
//! In: nothing. Out: the settings of `[retry]`. Must not know how they are written.

/// `[retry]`.
#[expect(clippy::struct_excessive_bools, reason = "four independent switches of the file")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Provable reads without a delivered result are run again.
    pub reads: bool,
    /// Open transactions are replayed.
    pub transactions: bool,
    /// Longest of them that is kept, bytes.
    pub transaction_size: usize,
    /// The fate of an unanswered COMMIT is looked up.
    pub resolve_commit: bool,
    /// LISTEN is renewed.
    pub listen: bool,
}
