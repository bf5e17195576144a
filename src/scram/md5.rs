//! PostgreSQL's md5 password exchange (protocol, 55.3): weak, kept for old roles and servers.
//!
//! A stored secret is `md5` and 32 hex digits of md5(password + user). Must not know messages.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

/// The stored form of a password, as in `pg_authid.rolpassword`.
pub fn stored(user: &str, password: &[u8]) -> String {
    tagged(&[password, user.as_bytes()])
}

/// What a client answers to a salt: `md5` + hex(md5(hex(md5(password + user)) + salt)), from the stored form.
/// `None` when `stored` is not one.
pub fn response(stored: &str, salt: [u8; 4]) -> Option<String> {
    let inner = stored.strip_prefix("md5")?;
    let hex = inner.len() == 32 && inner.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| tagged(&[inner.as_bytes(), &salt]))
}

/// Whether a client's answer to `salt` is right. Takes the same time whether or not it is.
pub fn verify(stored: &str, salt: [u8; 4], answer: &[u8]) -> bool {
    response(stored, salt).is_some_and(|expected| expected.as_bytes().ct_eq(answer).into())
}

/// True for the stored form of md5.
pub fn is_stored(secret: &str) -> bool {
    response(secret, [0; 4]).is_some()
}

fn tagged(parts: &[&[u8]]) -> String {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    let mut out = String::from("md5");
    for byte in hash.finalize() {
        for digit in [byte >> 4, byte & 15] {
            out.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    out
}
