//! Built-in functions whose call changes the session beyond its transaction.
//!
//! In: names as they stand in a statement. Out: what a call of them means. Must not know statements.

use super::effect::Effect;
use super::pins::{PinCause, Pins};

/// What the functions called in one statement do to the session.
#[derive(Default)]
pub(super) struct Body {
    pub(super) pins: Pins,
    pub(super) unlocks: bool,
    pub(super) unlocks_all: bool,
}

impl Body {
    pub(super) fn effect(self) -> Effect {
        match self {
            Self { pins, .. } if !pins.is_empty() => Effect::Pin(pins),
            Self { unlocks_all: true, .. } => Effect::Unpin(PinCause::AdvisoryLock),
            Self { unlocks: true, .. } => Effect::MayUnpin(PinCause::AdvisoryLock),
            Self { .. } => Effect::None,
        }
    }
}

/// What a function of that name does to the session.
#[derive(Clone, Copy)]
pub(super) enum Function {
    Other,
    Pins(PinCause),
    SetConfig,
    Unlocks,
    UnlocksAll,
}

/// Functions whose effect outlives the transaction (manual, tables 9.52, 9.94, 9.106 and section 9.3).
pub(super) fn function(word: &[u8]) -> Function {
    const FUNCTIONS: [(&[u8], Function); 11] = [
        (b"pg_advisory_lock", Function::Pins(PinCause::AdvisoryLock)),
        (b"pg_advisory_lock_shared", Function::Pins(PinCause::AdvisoryLock)),
        (b"pg_try_advisory_lock", Function::Pins(PinCause::AdvisoryLock)),
        (b"pg_try_advisory_lock_shared", Function::Pins(PinCause::AdvisoryLock)),
        (b"pg_advisory_unlock", Function::Unlocks),
        (b"pg_advisory_unlock_shared", Function::Unlocks),
        (b"pg_advisory_unlock_all", Function::UnlocksAll),
        (b"set_config", Function::SetConfig),
        (b"nextval", Function::Pins(PinCause::Sequence)),
        (b"setval", Function::Pins(PinCause::Sequence)),
        (b"setseed", Function::Pins(PinCause::Seed)),
    ];
    // The first letter decides for nearly every word.
    if !matches!(word.first(), Some(b'p' | b'P' | b's' | b'S' | b'n' | b'N')) {
        return Function::Other;
    }
    let found = FUNCTIONS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
    found.map_or(Function::Other, |(_, function)| *function)
}
