//! The configuration: file and environment in, one typed immutable [`Settings`] out.
//!
//! It knows names, defaults and limits. It must not know what the settings are used for: no socket, no
//! runtime, no topology.

mod build;
mod defaults;
mod diff;
pub mod document;
pub mod hba;
mod load;
pub mod options;
mod problem;
mod raw;
pub mod secret;
pub mod settings;
pub mod setup_sql;
mod show;
mod units;

pub use defaults::{AUTH_QUERY, LISTEN_PORT, NODE_PORT};
pub use diff::{Change, diff};
pub use load::{Loaded, environment, load, parse};
pub use problem::{ConfigErrors, ENV_PREFIX, Problem};
pub use raw::Files;
pub use secret::Secret;
pub use settings::*;
pub use show::{Row, show};
pub use units::{
    format_duration, format_size, parse_duration, parse_listen_address, parse_node_address, parse_size,
};

#[cfg(test)]
mod example_tests;
#[cfg(test)]
mod tests;
