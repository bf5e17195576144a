//! A digest of what a client has heard, to tell later whether it is the same that another server says.
//!
//! In: messages of a server. Out: a number of them and 64 bits for their bytes. Sans-IO.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

use crate::wire::error::ErrorView;
use crate::wire::frame::HEADER_LEN;

/// What has been heard so far: a digest and the number of messages.
#[derive(Clone, Debug)]
pub(super) struct Digest {
    hasher: DefaultHasher,
    count: u32,
}

impl Digest {
    /// Of nothing. Those with the same seed can be compared.
    pub(super) fn new(seed: &RandomState) -> Self {
        Self { hasher: seed.build_hasher(), count: 0 }
    }

    /// So many messages.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The number of messages, and what stands for their bytes.
    pub(super) fn value(&self) -> (u32, u64) {
        (self.count, self.hasher.finish())
    }

    /// Takes in a message with its header, or as much of it as is here.
    pub(super) fn add(&mut self, tag: u8, message: &[u8], whole: bool) {
        self.count = self.count.saturating_add(1);
        if tag != b'E' || !whole {
            return self.hasher.write(message);
        }
        self.hasher.write(&[tag]);
        for (field, text) in ErrorView::new(message.get(HEADER_LEN..).unwrap_or_default()).fields() {
            // Where in its source a server found the error is not the same in all its versions.
            if !matches!(field, b'F' | b'L' | b'R') {
                self.hasher.write(&[field]);
                self.hasher.write(text);
                self.hasher.write(&[0]);
            }
        }
    }

    /// More of the long message that was added last.
    pub(super) fn add_rest(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A long message comes in other pieces the second time.
        #[test]
        fn pieces_make_no_difference(bytes in proptest::collection::vec(any::<u8>(), 1..100), cuts in (0usize..100, 0usize..100)) {
            let seed = RandomState::new();
            let mut whole = Digest::new(&seed);
            whole.add(b'D', &bytes, true);
            let mut pieces = Digest::new(&seed);
            let (head, rest) = bytes.split_at(cuts.0.min(bytes.len()));
            let (middle, tail) = rest.split_at(cuts.1.min(rest.len()));
            pieces.add(b'D', head, false);
            pieces.add_rest(middle);
            pieces.add_rest(tail);
            prop_assert_eq!(whole.value(), pieces.value());
        }
    }
}
