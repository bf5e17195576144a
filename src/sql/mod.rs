//! What a statement text does, by a lexer: no grammar, no allocation, no catalogue.
//!
//! In: statement texts in the client's encoding. Out: tokens and the effects a session must know of. Must not know
//! sessions, backends or nodes.

pub mod effect;
pub mod lexer;

pub use effect::{Effect, PinCause};
