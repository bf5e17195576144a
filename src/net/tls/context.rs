//! TLS toward nodes: libpq's modes as rustls configurations.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{ClientConfig, RootCertStore};

use super::files::{self, TlsFileError};
use super::verify::{Check, ServerVerifier};
use super::{ALPN, provider};
use crate::config::{ServerTls, TlsMode};

/// How nodes are dialled at this moment; shared by pools, probers and look-ups.
pub struct ServerTlsContext {
    current: ArcSwap<Upstream>,
}

/// One state of the context.
pub(crate) struct Upstream {
    pub(crate) mode: TlsMode,
    /// `None` exactly when the mode is `off`.
    pub(crate) config: Option<Arc<ClientConfig>>,
}

impl ServerTlsContext {
    /// Reads CA, certificate and key.
    pub fn load(settings: &ServerTls) -> Result<Self, TlsFileError> {
        Ok(Self { current: ArcSwap::from_pointee(Upstream::load(settings)?) })
    }

    /// No TLS at all.
    pub fn off() -> Self {
        Self { current: ArcSwap::from_pointee(Upstream { mode: TlsMode::Off, config: None }) }
    }

    /// Reads the files again for new connections. After an error the old ones stay in use.
    pub fn reload(&self, settings: &ServerTls) -> Result<(), TlsFileError> {
        self.current.store(Arc::new(Upstream::load(settings)?));
        Ok(())
    }

    /// The mode in force.
    pub fn mode(&self) -> TlsMode {
        self.current.load().mode
    }

    pub(crate) fn current(&self) -> Arc<Upstream> {
        self.current.load_full()
    }
}

impl Upstream {
    fn load(settings: &ServerTls) -> Result<Self, TlsFileError> {
        if settings.mode == TlsMode::Off {
            return Ok(Self { mode: TlsMode::Off, config: None });
        }
        let (roots, given) = trusted(settings)?;
        // libpq: where a CA file is given, every mode that uses TLS verifies against it (and `prefer` falls back).
        let check = match settings.mode {
            TlsMode::VerifyFull => Check::ChainAndName,
            TlsMode::VerifyCa => Check::Chain,
            _ if settings.ca.is_some() => Check::Chain,
            _ => Check::Nothing,
        };
        let verifier = ServerVerifier::new(check, roots, given, &provider());
        let mismatch = |error: rustls::Error| TlsFileError::Mismatch(format!("cluster.tls: {error}"));
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(mismatch)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&settings.cert, &settings.key) {
            (Some(cert), Some(key)) => builder
                .with_client_auth_cert(files::certificates(cert)?, files::private_key(key)?)
                .map_err(mismatch)?,
            (None, None) => builder.with_no_client_auth(),
            (None, Some(_)) => return Err(TlsFileError::Missing("cluster.tls.cert")),
            (Some(_), None) => return Err(TlsFileError::Missing("cluster.tls.key")),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { mode: settings.mode, config: Some(Arc::new(config)) })
    }
}

type Trusted = (RootCertStore, Vec<rustls_pki_types::CertificateDer<'static>>);

fn trusted(settings: &ServerTls) -> Result<Trusted, TlsFileError> {
    match (&settings.ca, settings.mode) {
        (Some(ca), _) => files::roots(ca),
        (None, TlsMode::VerifyCa | TlsMode::VerifyFull) => Ok((files::system_roots()?, Vec::new())),
        (None, _) => Ok((RootCertStore::empty(), Vec::new())),
    }
}
