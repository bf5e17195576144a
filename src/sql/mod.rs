//! What a statement text does, by a lexer: no grammar, no allocation, and a catalogue only as plain data.
//!
//! In: statement texts in the client's encoding. Out: tokens, the effects a session must know of, and whether a text only
//! reads. Must not know sessions, backends or nodes.

pub mod builtins;
pub mod catalogue;
mod characteristics;
pub mod effect;
mod functions;
pub mod glance;
pub mod hidden;
pub mod judge;
pub mod lexer;
pub mod names;
mod pins;
mod reason;
pub mod repeat;
pub mod work;

pub use effect::Effect;
pub use pins::{PinCause, Pins};
pub use reason::Reason;
