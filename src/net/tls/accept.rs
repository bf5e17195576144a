//! TLS toward clients: SSLRequest and direct, client certificates, tickets, certificates replaced while running.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, ServerConnection};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::files::{self, TlsFileError};
use super::{ALPN, provider};
use crate::config::{ClientTls, ClientTlsMode};
use crate::net::Stream;
use crate::net::stream::AcceptedTls;
use crate::scram::binding::server_end_point;

/// Accepts TLS on one listener.
pub struct ClientTlsAcceptor {
    current: ArcSwap<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    end_point: Option<Vec<u8>>,
}

impl ClientTlsAcceptor {
    /// Reads certificate, key and CA; `None` when the mode is `off`.
    pub fn load(settings: &ClientTls) -> Result<Option<Self>, TlsFileError> {
        if settings.mode == ClientTlsMode::Off {
            return Ok(None);
        }
        Ok(Some(Self { current: ArcSwap::from_pointee(Current::load(settings)?) }))
    }

    /// Reads the files again for new connections. After an error the old ones stay in use.
    pub fn reload(&self, settings: &ClientTls) -> Result<(), TlsFileError> {
        self.current.store(Arc::new(Current::load(settings)?));
        Ok(())
    }

    /// `tls-server-end-point` data of the present certificate: whether -PLUS can be offered.
    pub fn end_point(&self) -> Option<Vec<u8>> {
        self.current.load().end_point.clone()
    }

    /// Performs the handshake on a plain stream. `received` are bytes of the handshake already read. With `direct` (no
    /// SSLRequest before) the client must have chosen `postgresql` by ALPN, else another protocol's request could be
    /// smuggled in (protocol, 55.2.11).
    pub async fn accept(
        &self,
        stream: Stream,
        received: &[u8],
        direct: bool,
        deadline: Instant,
    ) -> io::Result<Stream> {
        let Stream::Plain(plain) = stream else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "TLS within TLS"));
        };
        let current = self.current.load_full();
        let mut fed = Ok(());
        let acceptor = TlsAcceptor::from(Arc::clone(&current.config));
        let accept = acceptor.accept_with(plain, |connection| fed = feed(connection, received));
        fed?;
        let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "TLS handshake timed out");
        let accepted = timeout_at(deadline, accept).await.map_err(|_| timed_out())??;
        if direct && accepted.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "direct TLS connection without ALPN protocol negotiation",
            ));
        }
        let end_point = current.end_point.clone();
        Ok(Stream::Accepted(Box::new(AcceptedTls { io: accepted, end_point })))
    }
}

/// Hands the connection bytes that were read before it existed.
fn feed(connection: &mut ServerConnection, mut received: &[u8]) -> io::Result<()> {
    while !received.is_empty() {
        if connection.read_tls(&mut received)? == 0 {
            break;
        }
        connection
            .process_new_packets()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
    Ok(())
}

impl Current {
    fn load(settings: &ClientTls) -> Result<Self, TlsFileError> {
        let cert = settings.cert.as_deref().ok_or(TlsFileError::Missing("listen.tls.cert"))?;
        let key = settings.key.as_deref().ok_or(TlsFileError::Missing("listen.tls.key"))?;
        let chain = files::certificates(cert)?;
        let end_point = chain.first().and_then(|own| server_end_point(own));
        let mismatch = |error: &dyn std::fmt::Display| {
            TlsFileError::Mismatch(format!("{} and {}: {error}", cert.display(), key.display()))
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| mismatch(&error))?;
        let builder = match &settings.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                // A client without a certificate gets in as far as TLS: whether it needs one is for the rules.
                let (roots, _) = files::roots(ca)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| TlsFileError::Mismatch(format!("{}: {error}", ca.display())))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config =
            builder.with_single_cert(chain, files::private_key(key)?).map_err(|error| mismatch(&error))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A returning client spares both sides the signature. New keys with every reload, so that a ticket does not
        // outlive the trust it was given for.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| mismatch(&error))?;
        config.send_tls13_tickets = 1;
        Ok(Self { config: Arc::new(config), end_point })
    }
}
