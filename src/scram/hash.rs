//! The primitives of RFC 5802 on SHA-256: H, HMAC, Hi, and the keys made of them.
//!
//! Keys are wiped on drop and have no `Debug`. Must not know messages.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

/// Length of every key and digest here.
pub(super) const KEY_BYTES: usize = 32;
pub(super) type Key = [u8; KEY_BYTES];

/// What logs a user in without the password: recovered by [`super::Server`] from the user's own proof, or derived from a
/// password. It fits every server that holds the same verifier. Keeps the ServerKey too, to recognise that server.
pub struct ClientKey {
    pub(super) client: Key,
    pub(super) server: Key,
}

impl ClientKey {
    /// Derives the keys of a password. Costs `iterations` HMACs: some milliseconds, so not on a thread that serves.
    pub fn from_password(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        derive(password, salt, iterations)
    }
}

impl Clone for ClientKey {
    fn clone(&self) -> Self {
        Self { client: self.client, server: self.server }
    }
}

impl Drop for ClientKey {
    fn drop(&mut self) {
        self.client.zeroize();
        self.server.zeroize();
    }
}

/// SaltedPassword, then ClientKey and ServerKey. `password` is prepared by [`super::saslprep`] here.
pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> ClientKey {
    let mut prepared = super::saslprep(password).into_owned();
    let mut salted = salted_password(&prepared, salt, iterations);
    prepared.zeroize();
    let keys = ClientKey { client: hmac(&salted, &[b"Client Key"]), server: hmac(&salted, &[b"Server Key"]) };
    salted.zeroize();
    keys
}

/// Hi() of RFC 5802: PBKDF2 with one block.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    let keyed = mac(password);
    let mut block: Key = finish(keyed.clone(), &[salt, &1u32.to_be_bytes()]);
    let mut sum = block;
    for _ in 1..iterations {
        block = finish(keyed.clone(), &[&block]);
        sum = xor(&sum, &block);
    }
    sum
}

/// HMAC-SHA-256 over the parts in order.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    finish(mac(key), parts)
}

/// SHA-256.
pub(super) fn sha256(data: &[u8]) -> Key {
    Sha256::digest(data).into()
}

/// Both together, byte by byte.
pub(super) fn xor(a: &Key, b: &Key) -> Key {
    let mut out = *a;
    for (byte, other) in out.iter_mut().zip(b) {
        *byte ^= other;
    }
    out
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    // HMAC takes keys of any length, so the other branch is never taken; it must only not be a panic.
    Hmac::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&hmac::digest::Key::<Hmac<Sha256>>::default()))
}

fn finish(mut mac: Hmac<Sha256>, parts: &[&[u8]]) -> Key {
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
