//! The client side of SCRAM-SHA-256: we prove to a node that we know a user's password or key.
//!
//! In: the node's messages, a secret, a nonce and what TLS gives for binding. Out: our messages and the verdict on the
//! node's signature. Deriving keys from a password is left to the caller between two steps, since it is slow.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;

use super::hash::{self, ClientKey, Key};
use super::message::{Attributes, is_nonce};
use super::{MAX_ITERATIONS, NONCE_BYTES, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError};

/// What we know of the user.
pub enum Secret<'a> {
    /// The key recovered at the user's own login.
    ClientKey(&'a ClientKey),
    /// The password.
    Password(&'a [u8]),
}

/// Which mechanism we use and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// No TLS on our side: flag `n`.
    None,
    /// TLS, but the server does not offer -PLUS: flag `y`, which a server that does offer it takes as an alarm.
    NotOffered,
    /// `tls-server-end-point` data of the server's certificate.
    EndPoint(Vec<u8>),
}

impl Binding {
    /// Chooses by what the server offers and what our TLS has; `None` when the server offers no SCRAM that we speak.
    pub fn choose(offered: &[&str], end_point: Option<Vec<u8>>) -> Option<Self> {
        let plus = offered.contains(&SCRAM_SHA_256_PLUS);
        match end_point {
            Some(data) if plus => Some(Self::EndPoint(data)),
            Some(_) if offered.contains(&SCRAM_SHA_256) => Some(Self::NotOffered),
            None if offered.contains(&SCRAM_SHA_256) => Some(Self::None),
            _ => None,
        }
    }

    fn header(&self) -> &'static str {
        match self {
            Self::None => "n,,",
            Self::NotOffered => "y,,",
            Self::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }
}

/// A SCRAM exchange before the server's first message.
pub struct Client {
    binding: Binding,
    nonce: String,
}

impl Client {
    /// Starts an exchange. `nonce` is fresh randomness.
    pub fn new(nonce: &[u8; NONCE_BYTES], binding: Binding) -> Self {
        Self { binding, nonce: BASE64.encode(nonce) }
    }

    /// The mechanism's name for SASLInitialResponse.
    pub fn mechanism(&self) -> &'static str {
        match self.binding {
            Binding::EndPoint(_) => SCRAM_SHA_256_PLUS,
            Binding::None | Binding::NotOffered => SCRAM_SHA_256,
        }
    }

    /// The client-first-message. The user name in it stays empty: PostgreSQL takes that of the startup packet.
    pub fn first(&self) -> Vec<u8> {
        format!("{}n=,r={}", self.binding.header(), self.nonce).into_bytes()
    }

    /// Reads the server-first-message: which salt and how many rounds the server's verifier has.
    pub fn on_server_first(self, message: &[u8]) -> Result<Challenge, ScramError> {
        let mut attributes = Attributes::new(message)?;
        let (name, value) = attributes.next()?.ok_or(ScramError::Malformed("empty message"))?;
        let nonce = match name {
            'r' => value,
            'e' => return Err(ScramError::Refused(printable(value))),
            'm' => return Err(ScramError::Malformed("the server requires an unsupported SCRAM extension")),
            _ => return Err(ScramError::Malformed("nonce expected")),
        };
        if !nonce.starts_with(&self.nonce) || nonce.len() <= self.nonce.len() || !is_nonce(nonce) {
            return Err(ScramError::Malformed("the server's nonce does not extend ours"));
        }
        let salt = BASE64
            .decode(attributes.expect('s')?)
            .ok()
            .filter(|salt| !salt.is_empty())
            .ok_or(ScramError::Malformed("invalid salt"))?;
        let iterations = attributes
            .expect('i')?
            .parse()
            .ok()
            .filter(|count| *count > 0)
            .ok_or(ScramError::Malformed("invalid iteration count"))?;
        if iterations > MAX_ITERATIONS {
            return Err(ScramError::Unsupported("the server asks for too many SCRAM iterations"));
        }
        let text = std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))?;
        let transcript = format!("n=,r={},{text},", self.nonce);
        Ok(Challenge { binding: self.binding, nonce: nonce.to_owned(), transcript, salt, iterations })
    }
}

/// A SCRAM exchange after the server's first message.
pub struct Challenge {
    binding: Binding,
    nonce: String,
    transcript: String,
    /// Salt of the server's verifier.
    pub salt: Vec<u8>,
    /// Its rounds, at most [`MAX_ITERATIONS`].
    pub iterations: u32,
}

impl Challenge {
    /// The client-final-message and what checks the server's answer. With a password this derives keys: milliseconds.
    pub fn answer(self, secret: &Secret<'_>) -> (Vec<u8>, Proof) {
        match secret {
            Secret::ClientKey(keys) => self.answer_with(keys),
            Secret::Password(password) => {
                let keys = hash::derive(password, &self.salt, self.iterations);
                self.answer_with(&keys)
            }
        }
    }

    fn answer_with(self, keys: &ClientKey) -> (Vec<u8>, Proof) {
        let mut bound = self.binding.header().as_bytes().to_vec();
        if let Binding::EndPoint(data) = &self.binding {
            bound.extend_from_slice(data);
        }
        let without_proof = format!("c={},r={}", BASE64.encode(bound), self.nonce);
        let signed = [self.transcript.as_bytes(), without_proof.as_bytes()];
        let stored_key = hash::sha256(&keys.client);
        let proof = hash::xor(&keys.client, &hash::hmac(&stored_key, &signed));
        let message = format!("{without_proof},p={}", BASE64.encode(proof)).into_bytes();
        (message, Proof { expected: hash::hmac(&keys.server, &signed) })
    }
}

/// What the server must send at the end.
pub struct Proof {
    expected: Key,
}

impl Proof {
    /// Reads the server-final-message. A server that does not know the verifier cannot make its signature.
    pub fn on_server_final(self, message: &[u8]) -> Result<(), ScramError> {
        let mut attributes = Attributes::new(message)?;
        match attributes.next()? {
            Some(('e', reason)) => Err(ScramError::Refused(printable(reason))),
            Some(('v', signature)) => {
                let signature =
                    BASE64.decode(signature).map_err(|_| ScramError::Malformed("invalid signature"))?;
                let right = bool::from(signature.as_slice().ct_eq(&self.expected));
                if right { Ok(()) } else { Err(ScramError::ServerSignature) }
            }
            _ => Err(ScramError::Malformed("signature expected")),
        }
    }
}

/// The server's own words for a log line: no control characters, not longer than one line.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(100).collect()
}
