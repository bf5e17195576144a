//! The attribute lists of SCRAM messages (RFC 5802, section 5.1): `a=value,b=value`.

use super::{MAX_MESSAGE, ScramError};

/// Reads attributes one by one, in the order the grammar wants them.
pub(super) struct Attributes<'a> {
    rest: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    /// Starts at the first attribute. Messages are short printable text; anything else is refused here.
    pub(super) fn new(message: &'a [u8]) -> Result<Self, ScramError> {
        if message.len() > MAX_MESSAGE {
            return Err(ScramError::Malformed("the message is too long"));
        }
        if message.contains(&0) {
            return Err(ScramError::Malformed("embedded zero byte"));
        }
        let text = std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))?;
        Ok(Self::over(text))
    }

    /// Starts at the first attribute of a text already checked.
    pub(super) fn over(text: &'a str) -> Self {
        Self { rest: Some(text) }
    }

    /// The next attribute: its letter and its value.
    pub(super) fn next(&mut self) -> Result<Option<(char, &'a str)>, ScramError> {
        let Some(rest) = self.rest else { return Ok(None) };
        let (attribute, after) = match rest.split_once(',') {
            Some((attribute, after)) => (attribute, Some(after)),
            None => (rest, None),
        };
        self.rest = after;
        let mut letters = attribute.chars();
        let name = letters.next().filter(char::is_ascii_alphabetic);
        match (name, letters.next()) {
            (Some(name), Some('=')) => Ok(Some((name, letters.as_str()))),
            _ => Err(ScramError::Malformed("attribute expected")),
        }
    }

    /// The next attribute, which must be `name`.
    pub(super) fn expect(&mut self, name: char) -> Result<&'a str, ScramError> {
        match self.next()? {
            Some((found, value)) if found == name => Ok(value),
            _ => Err(ScramError::Malformed("unexpected attribute")),
        }
    }
}

/// Is this a nonce: not empty, printable ASCII without comma?
pub(super) fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| (0x21..=0x7E).contains(&byte) && byte != b',')
}
