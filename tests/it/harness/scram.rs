//! SCRAM-SHA-256 as a client, written from RFC 5802 and apart from the proxy's own: an independent judge.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// A login under way, without channel binding.
pub struct Scram {
    password: String,
    first_bare: String,
    signature: Vec<u8>,
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(text).finalize().into_bytes().to_vec()
}

impl Scram {
    /// Begins; the nonce may be the same each time, since nothing here is worth protecting.
    pub fn new(password: &str) -> Self {
        let first_bare = "n=,r=rOprNGfwEbeRWgbNEkqO".to_owned();
        Self { password: password.to_owned(), first_bare, signature: Vec::new() }
    }

    /// client-first-message
    pub fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// client-final-message for a server-first-message.
    pub fn answer(&mut self, server_first: &str) -> String {
        let field = |name: &str| {
            server_first.split(',').find_map(|part| part.strip_prefix(name)).expect("a field of server-first")
        };
        let salt = STANDARD.decode(field("s=")).unwrap();
        let rounds: u32 = field("i=").parse().unwrap();
        let mut last = hmac(self.password.as_bytes(), &[salt.as_slice(), &[0, 0, 0, 1]].concat());
        let mut salted = last.clone();
        for _ in 1..rounds {
            last = hmac(self.password.as_bytes(), &last);
            salted.iter_mut().zip(&last).for_each(|(sum, byte)| *sum ^= byte);
        }
        let client_key = hmac(&salted, b"Client Key");
        let without_proof = format!("c=biws,r={}", field("r="));
        let all = format!("{},{server_first},{without_proof}", self.first_bare);
        let signature = hmac(&Sha256::digest(&client_key), all.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(key, mask)| key ^ mask).collect();
        self.signature = hmac(&hmac(&salted, b"Server Key"), all.as_bytes());
        format!("{without_proof},p={}", STANDARD.encode(proof))
    }

    /// Is this server-final-message from somebody who knows the verifier?
    pub fn accepts(&self, server_final: &str) -> bool {
        server_final.strip_prefix("v=").is_some_and(|text| STANDARD.decode(text).unwrap() == self.signature)
    }
}
