//! What of a node's certificate is checked, in libpq's gradations.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};

use crate::scram::der::Certificate;

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Only that the server has the key of the certificate it shows.
    Nothing,
    /// Also who signed it.
    Chain,
    /// Also whether it is meant for this host.
    ChainAndName,
}

/// A verifier for one mode.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    check: Check,
    roots: RootCertStore,
    /// The certificates of the CA file: one of them may be the server's own, self-signed.
    given: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(super) fn new(
        check: Check,
        roots: RootCertStore,
        given: Vec<CertificateDer<'static>>,
        provider: &CryptoProvider,
    ) -> Self {
        Self { check, roots, given, algorithms: provider.signature_verification_algorithms }
    }

    fn chain(
        &self,
        own: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        // The usual self-signed certificate is its own CA and is given as CA file: webpki refuses a CA as end entity,
        // OpenSSL takes what is trusted itself. Its signature says nothing, its dates do.
        if self.given.iter().any(|given| given == own) {
            return check_dates(own, now);
        }
        let parsed = ParsedCertificate::try_from(own)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, rest, now, self.algorithms.all)
    }
}

fn check_dates(own: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = Certificate::parse(own).ok_or(CertificateError::BadEncoding)?;
    let now = now.as_secs() as i64;
    if now < parsed.not_before {
        Err(CertificateError::NotValidYet.into())
    } else if now > parsed.not_after {
        Err(CertificateError::Expired.into())
    } else {
        Ok(())
    }
}

/// The alternative names decide; a certificate without any is judged by its common name, as libpq does.
fn check_name(own: &CertificateDer<'_>, host: &ServerName<'_>) -> Result<(), Error> {
    let parsed = Certificate::parse(own).ok_or(CertificateError::BadEncoding)?;
    if parsed.has_alt_names() {
        return verify_server_name(&ParsedCertificate::try_from(own)?, host);
    }
    let matches = parsed.common_name().is_some_and(|pattern| name_matches(pattern, &host.to_str()));
    if matches { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
}

/// `*.example.com` stands for exactly one label, as in libpq's `wildcard_certificate_match`.
fn name_matches(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((label, rest))) => {
            !label.is_empty() && domain.contains('.') && domain.eq_ignore_ascii_case(rest)
        }
        _ => false,
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.check != Check::Nothing {
            self.chain(end_entity, intermediates, now)?;
        }
        if self.check == Check::ChainAndName {
            check_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // X.509 version 1, which `openssl x509 -req` used to make and webpki refuses: where nothing else of the
        // certificate counts, its key is enough.
        if self.check == Check::Nothing {
            let parsed = Certificate::parse(cert).ok_or(CertificateError::BadEncoding)?;
            let key = SubjectPublicKeyInfoDer::from(parsed.public_key);
            return verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms);
        }
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::name_matches;

    #[test]
    fn wildcards_stand_for_one_label() {
        assert!(name_matches("DB.example.com", "db.example.com"));
        assert!(name_matches("*.example.com", "db.example.com"));
        assert!(!name_matches("*.example.com", "a.db.example.com"));
        assert!(!name_matches("*.example.com", "example.com"));
        assert!(!name_matches("*.com", "example.com"));
        assert!(!name_matches("*", "db"));
    }
}
