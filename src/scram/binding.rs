//! `tls-server-end-point` channel binding (RFC 5929, section 4): a hash of the server's certificate.

use sha2::{Digest, Sha256, Sha384, Sha512};

use super::der::{self, Certificate};

/// The binding data of a certificate in DER: its hash by the hash function of its own signature, SHA-256 standing in for
/// MD5 and SHA-1. `None` when the signature has no single hash function (Ed25519, Ed448) or is not known: then -PLUS is
/// not offered, as PostgreSQL and libpq do it.
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::parse(certificate)?;
    Some(match hash_of(parsed.signature_oid, parsed.signature_params)? {
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// 1.2.840.113549.1.1: PKCS #1.
const PKCS1: [u8; 8] = [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
/// 1.2.840.10045.4.3: ECDSA with SHA-2.
const ECDSA_SHA2: [u8; 7] = [0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03];
/// 1.2.840.10045.4.1: ECDSA with SHA-1.
const ECDSA_SHA1: [u8; 7] = [0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x01];
/// 2.16.840.1.101.3.4.2: the SHA-2 hash functions themselves.
const SHA2: [u8; 8] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

fn hash_of(oid: &[u8], params: &[u8]) -> Option<Hash> {
    if oid == ECDSA_SHA1 {
        return Some(Hash::Sha256);
    }
    if let Some(kind) = oid.strip_prefix(&ECDSA_SHA2) {
        return match kind {
            [2] => Some(Hash::Sha256),
            [3] => Some(Hash::Sha384),
            [4] => Some(Hash::Sha512),
            _ => None,
        };
    }
    match oid.strip_prefix(&PKCS1)? {
        // MD5, SHA-1 and SHA-256 with RSA.
        [4 | 5 | 11] => Some(Hash::Sha256),
        [12] => Some(Hash::Sha384),
        [13] => Some(Hash::Sha512),
        [10] => match der::pss_hash(params) {
            // The default of RSASSA-PSS is SHA-1.
            None => Some(Hash::Sha256),
            Some(hash) => match hash.strip_prefix(&SHA2)? {
                [1] => Some(Hash::Sha256),
                [2] => Some(Hash::Sha384),
                [3] => Some(Hash::Sha512),
                _ => None,
            },
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_follows_the_signature() {
        for (algorithm, length) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(32)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(48)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
            assert_eq!(server_end_point(certificate.der()).map(|data| data.len()), length);
        }
        assert_eq!(server_end_point(b"garbage"), None);
    }
}
