//! SCRAM-SHA-256 and md5, both sides, sans-IO.
//!
//! In: message bytes of a SASL exchange (RFC 5802, RFC 7677; PostgreSQL protocol, 55.3) and secrets. Out: message bytes
//! to send, a verdict, and on the server side the ClientKey with which the same user can be logged in upstream. Must not
//! know sockets, clocks, or where verifiers come from. Everything it reads may come from strangers.
#![deny(clippy::indexing_slicing)]

pub mod binding;
pub mod client;
pub mod der;
mod hash;
pub mod md5;
mod message;
mod prep;
pub mod server;
pub mod verifier;

pub use client::{Client, Secret};
pub use hash::{ClientKey, derive};
pub use prep::saslprep;
pub use server::Server;
pub use verifier::Verifier;

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding (`tls-server-end-point`).
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// Iterations of verifiers that we make, PostgreSQL's default.
pub const ITERATIONS: u32 = 4096;
/// Most iterations accepted from a server: beyond it a hostile one could burn minutes of our time.
pub const MAX_ITERATIONS: u32 = 1_000_000;
/// Random bytes in a nonce, as in PostgreSQL; 24 characters in Base64.
pub const NONCE_BYTES: usize = 18;
/// Longest SCRAM message taken; libpq's and the server's stay below 300 bytes.
pub const MAX_MESSAGE: usize = 4096;

/// Why a SCRAM exchange ended without a login.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The peer broke the protocol (08P01). The text is safe for clients.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The client believes that we have no channel binding although we offered it: somebody is in between (28000, as
    /// the server says it).
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    /// Channel binding data of the client do not match our certificate (28000).
    #[error("SCRAM channel binding check failed")]
    Binding,
    /// The password is wrong (28P01).
    #[error("password authentication failed")]
    Failed,
    /// The peer breaks the protocol in a way that has its own words (08P01).
    #[error("{0}")]
    Invalid(&'static str),
    /// The peer asks for something we do not do (0A000).
    #[error("{0}")]
    Unsupported(&'static str),
    /// The server told why it refuses, as a SCRAM `e=` attribute.
    #[error("the server refused the SCRAM exchange: {0}")]
    Refused(String),
    /// The server could not prove that it knows the verifier.
    #[error("incorrect server signature: the server does not know this user's verifier")]
    ServerSignature,
}

#[cfg(test)]
mod tests;
