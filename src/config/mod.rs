//! The configuration: file and environment in, one typed immutable [`Settings`] out.
//!
//! It knows names, defaults and limits. It must not know what the settings are used for: no socket, no
//! runtime, no topology.

mod defaults;
pub mod hba;
pub mod secret;
pub mod settings;

pub use defaults::{AUTH_QUERY, LISTEN_PORT, NODE_PORT};
pub use secret::Secret;
pub use settings::*;
