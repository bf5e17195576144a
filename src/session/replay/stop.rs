//! Why a transaction cannot be run again.
//!
//! In: a reason. Out: words. Must not know who finds it.

use crate::sql::repeat::Why;

/// Why a transaction cannot be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Its statements are longer than what is kept.
    Size,
    /// One of them cannot be run again.
    Text(Why),
}

impl Stop {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Size => "it is longer than retry.transaction_size",
            Self::Text(why) => why.as_str(),
        }
    }
}
