//! TLS on both sides by rustls: toward clients ([`ClientTlsAcceptor`]), toward nodes ([`ServerTlsContext`]).
//!
//! The crypto provider is passed explicitly everywhere: nothing process-wide is installed. Certificates are read from
//! files when asked; a reload replaces them for new connections only.

mod accept;
mod context;
mod files;
mod verify;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use accept::ClientTlsAcceptor;
pub use context::ServerTlsContext;
pub(super) use context::Upstream;
pub use files::TlsFileError;

/// The ALPN protocol of PostgreSQL (protocol, 55.2.11).
pub const ALPN: &[u8] = b"postgresql";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The common name in the subject of a certificate in DER, for `cert` rules.
pub fn common_name(certificate: &[u8]) -> Option<String> {
    crate::scram::der::Certificate::parse(certificate)?.common_name().map(str::to_owned)
}

#[cfg(test)]
mod tests;
