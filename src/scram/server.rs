//! The server side of SCRAM-SHA-256: a client proves to us that it knows the password.
//!
//! In: the client's two messages, the user's verifier, a nonce and what TLS gives for binding. Out: our two messages and
//! the recovered [`ClientKey`]. Follows PostgreSQL's `auth-scram.c`, also in what it refuses.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;

use super::hash::{self, ClientKey};
use super::message::{Attributes, is_nonce};
use super::{NONCE_BYTES, ScramError, Verifier};

/// What the client chose in its SASLInitialResponse and what our side of the connection has.
#[derive(Clone, Copy, Debug)]
pub enum Offer<'a> {
    /// `SCRAM-SHA-256` on a connection where -PLUS was not offered.
    Plain,
    /// `SCRAM-SHA-256` although -PLUS was offered: a client that claims we have none has met somebody in between.
    PlainButBindable,
    /// `SCRAM-SHA-256-PLUS`, with the `tls-server-end-point` data of our certificate.
    Plus(&'a [u8]),
}

/// A SCRAM exchange between the client's first and final message.
pub struct Server {
    verifier: Verifier,
    /// client-first-message-bare + "," + server-first-message + ",": what both sign, but for the last part.
    transcript: String,
    /// Client nonce and ours.
    nonce: String,
    /// What `c=` of the final message must be, decoded: gs2 header and binding data.
    binding: Vec<u8>,
    /// The connection is bound to our certificate.
    bound: bool,
}

impl Server {
    /// Takes the client's first message; returns the exchange and the server-first-message to send.
    pub fn first(
        message: &[u8],
        verifier: Verifier,
        nonce: &[u8; NONCE_BYTES],
        offer: Offer<'_>,
    ) -> Result<(Self, Vec<u8>), ScramError> {
        // Validates length and characters of the whole message.
        Attributes::new(message)?;
        let text = std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))?;
        let (header, bare) = gs2_header(text)?;
        let binding = expected_binding(header, offer)?;
        let mut attributes = Attributes::over(bare);
        // The user name is that of the startup packet; PostgreSQL ignores this one.
        match attributes.next()? {
            Some(('n', _)) => {}
            // Mandatory extensions must be refused when they are not known (RFC 5802, section 5.1).
            Some(('m', _)) => {
                return Err(ScramError::Unsupported("client requires an unsupported SCRAM extension"));
            }
            _ => return Err(ScramError::Malformed("unexpected attribute")),
        }
        let client_nonce = attributes.expect('r')?;
        if !is_nonce(client_nonce) {
            return Err(ScramError::Invalid("non-printable characters in SCRAM nonce"));
        }
        while attributes.next()?.is_some() {}
        let nonce = format!("{client_nonce}{}", BASE64.encode(nonce));
        let reply = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let transcript = format!("{bare},{reply},");
        let bound = matches!(offer, Offer::Plus(_));
        Ok((Self { verifier, transcript, nonce, binding, bound }, reply.into_bytes()))
    }

    /// Takes the client's final message; returns the server-final-message to send and the key that logs the user in
    /// upstream. The comparison takes the same time for every wrong proof.
    pub fn finish(self, message: &[u8]) -> Result<(Vec<u8>, ClientKey), ScramError> {
        let mut attributes = Attributes::new(message)?;
        let binding = attributes.expect('c')?;
        let nonce = attributes.expect('r')?;
        let proof = loop {
            match attributes.next()? {
                Some(('p', proof)) => break proof,
                Some(_) => {}
                None => return Err(ScramError::Malformed("proof missing")),
            }
        };
        if attributes.next()?.is_some() {
            return Err(ScramError::Malformed("garbage at the end of the client-final-message"));
        }
        if BASE64.decode(binding).ok().as_ref() != Some(&self.binding) {
            let unbound = "unexpected SCRAM channel-binding attribute in client-final-message";
            return Err(if self.bound { ScramError::Binding } else { ScramError::Invalid(unbound) });
        }
        if nonce != self.nonce {
            return Err(ScramError::Invalid("invalid SCRAM response"));
        }
        let proof: [u8; 32] = BASE64
            .decode(proof)
            .ok()
            .and_then(|proof| proof.try_into().ok())
            .ok_or(ScramError::Malformed("malformed proof"))?;
        let text = std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))?;
        let without_proof = text.rsplit_once(",p=").map_or(text, |(head, _)| head);
        self.check(&proof, without_proof)
    }

    fn check(&self, proof: &[u8; 32], without_proof: &str) -> Result<(Vec<u8>, ClientKey), ScramError> {
        let signed = [self.transcript.as_bytes(), without_proof.as_bytes()];
        let signature = hash::hmac(&self.verifier.stored_key, &signed);
        // The key is built before the verdict, so that it is wiped also when the proof is wrong.
        let key = ClientKey { client: hash::xor(proof, &signature), server: self.verifier.server_key };
        if !bool::from(hash::sha256(&key.client).ct_eq(&self.verifier.stored_key)) {
            return Err(ScramError::Failed);
        }
        let answer = hash::hmac(&self.verifier.server_key, &signed);
        Ok((format!("v={}", BASE64.encode(answer)).into_bytes(), key))
    }
}

/// Splits "gs2-cbind-flag,[authzid],rest" into the header with both commas and the rest.
fn gs2_header(text: &str) -> Result<(&str, &str), ScramError> {
    let (flag, rest) = text.split_once(',').ok_or(ScramError::Malformed("comma expected"))?;
    let (authzid, bare) = rest.split_once(',').ok_or(ScramError::Malformed("comma expected"))?;
    if !authzid.is_empty() {
        return Err(ScramError::Unsupported("client uses authorization identity, but it is not supported"));
    }
    let header = text.get(..flag.len() + 2).ok_or(ScramError::Malformed("comma expected"))?;
    Ok((header, bare))
}

fn expected_binding(header: &str, offer: Offer<'_>) -> Result<Vec<u8>, ScramError> {
    let flag = header.split(',').next().unwrap_or_default();
    let mut expected = header.as_bytes().to_vec();
    match (flag, offer) {
        ("n", Offer::Plain | Offer::PlainButBindable) | ("y", Offer::Plain) => Ok(expected),
        ("y", Offer::PlainButBindable) => Err(ScramError::Downgrade),
        ("p=tls-server-end-point", Offer::Plus(data)) => {
            expected.extend_from_slice(data);
            Ok(expected)
        }
        ("n" | "y", Offer::Plus(_)) => Err(ScramError::Malformed(
            "the client selected SCRAM-SHA-256-PLUS, \
             but the SCRAM message does not include channel binding data",
        )),
        (flag, Offer::Plus(_)) if flag.starts_with("p=") => {
            Err(ScramError::Malformed("unsupported SCRAM channel-binding type"))
        }
        (flag, _) if flag.starts_with("p=") => Err(ScramError::Malformed(
            "the client selected SCRAM-SHA-256 without channel binding, \
             but the SCRAM message includes channel binding data",
        )),
        _ => Err(ScramError::Malformed("unexpected channel-binding flag")),
    }
}
