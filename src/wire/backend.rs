//! Borrowed views of the server messages that the session and the login must understand (section 55.7).
//!
//! In: bodies of backend messages. Out: the values inside them. Must not know what follows from them.

use super::startup::take_cstr;

/// Transaction status of ReadyForQuery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TxStatus {
    /// `I`: outside a transaction block.
    #[default]
    Idle,
    /// `T`: in a transaction block.
    InBlock,
    /// `E`: in a failed transaction block.
    Failed,
}

impl TxStatus {
    /// Reads the body of ReadyForQuery.
    pub fn parse(body: &[u8]) -> Option<Self> {
        match body {
            b"I" => Some(Self::Idle),
            b"T" => Some(Self::InBlock),
            b"E" => Some(Self::Failed),
            _ => None,
        }
    }

    /// The byte sent to clients.
    pub fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InBlock => b'T',
            Self::Failed => b'E',
        }
    }
}

/// True for the types of messages that a server sends to a session (55.7).
pub fn is_known(tag: u8) -> bool {
    matches!(
        tag,
        b'1' | b'2'
            | b'3'
            | b'A'
            | b'C'
            | b'D'
            | b'E'
            | b'G'
            | b'H'
            | b'I'
            | b'K'
            | b'N'
            | b'R'
            | b'S'
            | b'T'
            | b'V'
            | b'W'
            | b'Z'
            | b'c'
            | b'd'
            | b'n'
            | b's'
            | b't'
            | b'v'
    )
}

/// Name and value of a ParameterStatus.
pub fn parameter_status(body: &[u8]) -> Option<(&str, &str)> {
    let mut rest = body;
    let name = std::str::from_utf8(take_cstr(&mut rest)?).ok()?;
    let value = std::str::from_utf8(take_cstr(&mut rest)?).ok()?;
    Some((name, value))
}

/// Process id and secret of a BackendKeyData; the secret has 4 to 256 bytes.
pub fn backend_key_data(body: &[u8]) -> Option<(i32, &[u8])> {
    let (pid, key) = body.split_first_chunk::<4>()?;
    (4..=256).contains(&key.len()).then_some((i32::from_be_bytes(*pid), key))
}

/// What an Authentication message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// Logged in.
    Ok,
    /// Send the password as it is.
    Cleartext,
    /// Send the salted md5 of the password.
    Md5([u8; 4]),
    /// Start SASL with one of these mechanisms.
    Sasl(Vec<&'a str>),
    /// SASL goes on.
    SaslContinue(&'a [u8]),
    /// SASL ends.
    SaslFinal(&'a [u8]),
    /// A method we do not speak (its code).
    Other(i32),
}

/// Reads the body of an Authentication message; `None` when it is cut off.
pub fn authentication(body: &[u8]) -> Option<Authentication<'_>> {
    let (kind, data) = body.split_first_chunk::<4>()?;
    Some(match i32::from_be_bytes(*kind) {
        0 => Authentication::Ok,
        3 => Authentication::Cleartext,
        5 => Authentication::Md5(data.try_into().ok()?),
        10 => Authentication::Sasl(mechanisms(data)?),
        11 => Authentication::SaslContinue(data),
        12 => Authentication::SaslFinal(data),
        other => Authentication::Other(other),
    })
}

fn mechanisms(mut rest: &[u8]) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    loop {
        match take_cstr(&mut rest)? {
            [] => return Some(found),
            name => found.push(std::str::from_utf8(name).ok()?),
        }
    }
}

/// The tag text of a CommandComplete, without its final zero.
pub fn command_tag(body: &[u8]) -> &[u8] {
    body.strip_suffix(b"\0").unwrap_or(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_find_their_parts() {
        assert_eq!(parameter_status(b"TimeZone\0UTC\0"), Some(("TimeZone", "UTC")));
        assert_eq!(backend_key_data(&[0, 0, 0, 7, 1, 2, 3, 4]), Some((7, &[1u8, 2, 3, 4][..])));
        assert_eq!(backend_key_data(&[0, 0, 0, 7]), None);
        assert_eq!(
            authentication(b"\0\0\0\x0aSCRAM-SHA-256\0\0"),
            Some(Authentication::Sasl(vec!["SCRAM-SHA-256"]))
        );
        assert_eq!(authentication(b"\0\0\0\x05abc"), None);
        assert_eq!(command_tag(b"SELECT 1\0"), b"SELECT 1");
        assert_eq!(TxStatus::parse(b"X"), None);
    }
}
