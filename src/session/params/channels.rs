//! The channels that a session listens to.
//!
//! In: LISTEN and UNLISTEN that were committed. Out: statements that listen to the same elsewhere, or that nobody knows all
//! of the channels. Must not know sockets.

use super::Params;
use crate::sql::{PinCause, Pins};

/// Most channels of one session that are known by name.
const MOST: usize = 1000;

/// What a session listens to.
#[derive(Debug, Default)]
pub(super) struct Channels {
    names: Vec<Box<[u8]>>,
    /// There may be more than these: a function has listened, or a name was not understood.
    others: bool,
    /// The backend that had them is lost.
    owed: bool,
}

impl Channels {
    pub(super) fn listen(&mut self, name: &[u8]) {
        if self.names.iter().any(|known| **known == *name) {
            return;
        }
        // Other letters may be folded and encoded in ways that only the server knows.
        if self.names.len() < MOST && name.is_ascii() {
            self.names.push(name.into());
        } else {
            self.others = true;
        }
    }

    pub(super) fn unlisten(&mut self, name: &[u8]) {
        self.names.retain(|known| **known != *name);
    }

    /// Something has listened to nobody knows what.
    pub(super) fn listen_to_others(&mut self) {
        self.others = true;
    }

    /// The backend is lost: true when all that it listened to can be listened to elsewhere.
    pub(super) fn lose(&mut self) -> bool {
        self.owed = !self.others && !self.names.is_empty();
        !self.others
    }

    /// True when nobody listens for the session any more.
    pub(super) fn is_owed(&self) -> bool {
        self.owed
    }

    /// A statement for each channel, in one text.
    pub(super) fn statements(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for name in &self.names {
            text.extend_from_slice(b"LISTEN \"");
            for byte in name {
                text.extend_from_slice(if *byte == b'"' { b"\"\"" } else { std::slice::from_ref(byte) });
            }
            text.extend_from_slice(b"\";");
        }
        text
    }

    /// Somebody listens again.
    pub(super) fn settle(&mut self) {
        self.owed = false;
    }
}

impl Params {
    /// These may hold now: a channel that they stand for may have any name.
    pub(super) fn note_unknown_channels(&mut self, pins: Pins) {
        if pins.contains(PinCause::Listen) {
            self.channels.get_or_insert_default().listen_to_others();
        }
    }

    /// The backend that listened is lost: true when another can listen to the same.
    pub fn lose_channels(&mut self) -> bool {
        self.channels.as_mut().is_some_and(|channels| channels.lose())
    }

    /// True when no backend listens to what the session has listened to.
    pub fn owes_channels(&self) -> bool {
        self.channels.as_ref().is_some_and(|channels| channels.is_owed())
    }

    /// What makes a backend listen for the session, when none does.
    pub fn owed_channels(&self) -> Option<Vec<u8>> {
        let channels = self.channels.as_ref().filter(|channels| channels.is_owed())?;
        Some(channels.statements())
    }

    /// The backend in hand listens.
    pub fn listens_again(&mut self) {
        if let Some(channels) = self.channels.as_mut() {
            channels.settle();
            self.pins.insert(PinCause::Listen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_listened_to_again_as_they_are() {
        let mut channels = Channels::default();
        assert!(channels.lose() && !channels.is_owed(), "there is nothing to listen to");
        for name in [&b"a"[..], b"B \"c", b"a", b"d"] {
            channels.listen(name);
        }
        channels.unlisten(b"d");
        assert_eq!(channels.statements(), b"LISTEN \"a\";LISTEN \"B \"\"c\";");
        assert!(channels.lose() && channels.is_owed());
        channels.settle();
        channels.listen_to_others();
        assert!(!channels.lose(), "nobody knows all of them");
        let mut channels = Channels::default();
        channels.listen("\u{e9}".as_bytes());
        assert!(!channels.lose());
    }
}
