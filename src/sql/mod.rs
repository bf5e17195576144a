//! What a statement text does, by a lexer: no grammar, no allocation, no catalogue.
//!
//! In: statement texts in the client's encoding. Out: tokens and the effects a session must know of. Must not know
//! sessions, backends or nodes.

pub mod builtins;
pub mod effect;
mod functions;
pub mod glance;
pub mod lexer;
mod pins;

pub use effect::Effect;
pub use pins::{PinCause, Pins};
