//! Certificates and keys from PEM files, with errors that name the file.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A file that TLS needs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// It cannot be read, or is no PEM.
    #[error("{what} {path}: {reason}", path = path.display())]
    File {
        /// What it should be.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A setting is missing.
    #[error("{0} is needed")]
    Missing(&'static str),
    /// The parts do not fit together.
    #[error("{0}")]
    Mismatch(String),
    /// The system's own certificates cannot be used.
    #[error("no trusted certificates found on this system; set `ca`")]
    NoSystemRoots,
}

fn wrong(what: &'static str, path: &Path, reason: &dyn std::fmt::Display) -> TlsFileError {
    TlsFileError::File { what, path: path.to_owned(), reason: reason.to_string() }
}

/// All certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    const WHAT: &str = "certificate file";
    let found = CertificateDer::pem_file_iter(path).map_err(|error| wrong(WHAT, path, &error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| wrong(WHAT, path, &error))?;
    if found.is_empty() { Err(wrong(WHAT, path, &"no certificate in it")) } else { Ok(found) }
}

/// The private key of a file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| wrong("key file", path, &error))
}

/// Trust in all certificates of a file, and the certificates themselves.
pub(super) fn roots(path: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsFileError> {
    let found = certificates(path)?;
    let mut store = RootCertStore::empty();
    for certificate in &found {
        store.add(certificate.clone()).map_err(|error| wrong("CA file", path, &error))?;
    }
    Ok((store, found))
}

/// Trust in what the system trusts.
pub(super) fn system_roots() -> Result<RootCertStore, TlsFileError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() { Err(TlsFileError::NoSystemRoots) } else { Ok(store) }
}
