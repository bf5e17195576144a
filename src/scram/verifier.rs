//! SCRAM-SHA-256 verifiers: what a server keeps instead of a password.
//!
//! In: the text of `pg_authid.rolpassword`, or a password. Out: the parts, or the text. Must not know who asks.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::hash::{self, ClientKey, Key};
use super::{ITERATIONS, MAX_ITERATIONS};

/// Longest salt taken, in bytes; PostgreSQL makes 16.
const MAX_SALT: usize = 1024;
/// Bytes of a salt that we make, as PostgreSQL.
pub const SALT_BYTES: usize = 16;

/// A parsed verifier. The keys are wiped on drop and never shown.
#[derive(Clone)]
pub struct Verifier {
    /// Rounds of the derivation, 1 to a million.
    pub iterations: u32,
    /// The salt, not empty.
    pub salt: Vec<u8>,
    /// H(ClientKey): checks a client's proof.
    pub stored_key: [u8; 32],
    /// Signs our answer.
    pub server_key: [u8; 32],
}

/// The text is not a SCRAM-SHA-256 verifier. Says nothing about its content, which is a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SCRAM-SHA-256 verifier (SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey)")]
pub struct NotAVerifier;

impl Verifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, the last three in Base64.
    pub fn parse(text: &str) -> Result<Self, NotAVerifier> {
        Self::parts(text).ok_or(NotAVerifier)
    }

    fn parts(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(super::SCRAM_SHA_256)?.strip_prefix('$')?;
        let (head, keys) = rest.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let iterations = iterations.parse().ok().filter(|count| (1..=MAX_ITERATIONS).contains(count))?;
        let salt = BASE64.decode(salt).ok().filter(|salt| (1..=MAX_SALT).contains(&salt.len()))?;
        Some(Self { iterations, salt, stored_key: key(stored)?, server_key: key(server)? })
    }

    /// Derives a verifier. Costs `iterations` HMACs: some milliseconds, so not on a thread that serves.
    pub fn from_password(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        Self::from_keys(&hash::derive(password, salt, iterations), salt, iterations)
    }

    fn from_keys(keys: &ClientKey, salt: &[u8], iterations: u32) -> Self {
        let stored_key = hash::sha256(&keys.client);
        Self { iterations, salt: salt.to_vec(), stored_key, server_key: keys.server }
    }

    /// The verifier of a user that does not exist: the same for every attempt of that name, so that a stranger cannot
    /// tell by the salt. `process_key` is random and lives as long as the process. No password fits.
    pub fn mock(user: &str, process_key: &[u8; 32]) -> Self {
        let part = |label: &[u8]| hash::hmac(process_key, &[label, b"\0", user.as_bytes()]);
        let salt = part(b"salt").into_iter().take(SALT_BYTES).collect();
        Self { iterations: ITERATIONS, salt, stored_key: part(b"stored"), server_key: part(b"server") }
    }

    /// Whether this is the verifier of that password. Costs a derivation; takes the same time either way.
    pub fn matches(&self, password: &[u8]) -> Option<ClientKey> {
        let keys = hash::derive(password, &self.salt, self.iterations);
        bool::from(hash::sha256(&keys.client).ct_eq(&self.stored_key)).then_some(keys)
    }
}

impl PartialEq for Verifier {
    fn eq(&self, other: &Self) -> bool {
        let keys = self.stored_key.ct_eq(&other.stored_key) & self.server_key.ct_eq(&other.server_key);
        self.iterations == other.iterations && self.salt == other.salt && bool::from(keys)
    }
}

impl Eq for Verifier {}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} iterations, keys not shown)", self.iterations)
    }
}

impl Verifier {
    /// The text for `pg_authid` or `proxy.toml`. It is a secret: not for logs.
    pub fn to_text(&self) -> String {
        format!(
            "{}${}:{}${}:{}",
            super::SCRAM_SHA_256,
            self.iterations,
            BASE64.encode(&self.salt),
            BASE64.encode(self.stored_key),
            BASE64.encode(self.server_key)
        )
    }
}

fn key(text: &str) -> Option<Key> {
    BASE64.decode(text).ok()?.try_into().ok()
}
