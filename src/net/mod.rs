//! Sockets: listening, dialling, TLS, and one stream type over all of them.
//!
//! In: addresses and TLS settings. Out: [`Stream`]s, and tokio-postgres clients over them. It knows how PostgreSQL
//! negotiates TLS and nothing of what is said afterwards: no logins, no pools, no topology.

pub mod client;
pub mod dial;
pub mod listener;
mod plain;
mod stream;
pub mod tls;

pub use dial::{DialError, dial, dial_plain};
pub use listener::{AcceptedSocket, Listener, Peer};
pub use plain::Plain;
pub use stream::{Stream, TlsInfo};

#[cfg(test)]
mod tests;
