//! Borrowed views of the client messages that the session must understand (section 55.7).
//!
//! In: bodies of frontend messages. Out: names and texts inside them. Must not know what follows from them.

use super::error::{PgError, SqlState};
use super::startup::take_cstr;

/// A client message's meaning to the session, by its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Query `Q`.
    Query,
    /// Parse `P`.
    Parse,
    /// Bind `B`.
    Bind,
    /// Describe `D`.
    Describe,
    /// Execute `E`.
    Execute,
    /// Close `C`.
    Close,
    /// Sync `S`.
    Sync,
    /// Flush `H`.
    Flush,
    /// FunctionCall `F`.
    FunctionCall,
    /// CopyData `d`.
    CopyData,
    /// CopyDone `c`.
    CopyDone,
    /// CopyFail `f`.
    CopyFail,
    /// Terminate `X`.
    Terminate,
}

impl Kind {
    /// The kind of a tag; `None` for a byte that no client message has. Passwords (`p`) are none here: they are for logins.
    pub fn of(tag: u8) -> Option<Self> {
        Some(match tag {
            b'Q' => Self::Query,
            b'P' => Self::Parse,
            b'B' => Self::Bind,
            b'D' => Self::Describe,
            b'E' => Self::Execute,
            b'C' => Self::Close,
            b'S' => Self::Sync,
            b'H' => Self::Flush,
            b'F' => Self::FunctionCall,
            b'd' => Self::CopyData,
            b'c' => Self::CopyDone,
            b'f' => Self::CopyFail,
            b'X' => Self::Terminate,
            _ => return None,
        })
    }

    /// The largest length field that a server reads in a message of this kind (`PQ_LARGE_MESSAGE_LIMIT` and
    /// `PQ_SMALL_MESSAGE_LIMIT`): at a larger one it closes the connection.
    pub fn length_limit(self) -> u32 {
        match self {
            Self::Query | Self::Parse | Self::Bind | Self::FunctionCall | Self::CopyData => 0x3FFF_FFFE,
            _ => 10_000,
        }
    }
}

/// Parse: statement name and text (the types follow).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Name; empty for the unnamed statement.
    pub name: &'a [u8],
    /// Statement text in the client's encoding.
    pub sql: &'a [u8],
    /// The types of parameters follow and nothing else: the server finds no fault with the form.
    pub is_whole: bool,
}

/// Reads the body of a Parse; `None` when it is cut off.
pub fn parse(body: &[u8]) -> Option<Parse<'_>> {
    let mut rest = body;
    let (name, sql) = (take_cstr(&mut rest)?, take_cstr(&mut rest)?);
    let types = rest.split_first_chunk();
    let is_whole =
        types.is_some_and(|(count, types)| types.len() == usize::from(u16::from_be_bytes(*count)) * 4);
    Some(Parse { name, sql, is_whole })
}

/// The name in a Parse of which only the beginning is here; `None` when even that is cut off.
pub fn parse_name(body: &[u8]) -> Option<&[u8]> {
    let mut rest = body;
    take_cstr(&mut rest)
}

/// Bind: portal and statement (the parameters follow).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Portal name; empty for the unnamed portal.
    pub portal: &'a [u8],
    /// Statement name; empty for the unnamed statement.
    pub statement: &'a [u8],
}

/// Reads the head of a Bind's body; `None` when the names are cut off.
pub fn bind(body: &[u8]) -> Option<Bind<'_>> {
    let mut rest = body;
    Some(Bind { portal: take_cstr(&mut rest)?, statement: take_cstr(&mut rest)? })
}

/// The portal an Execute runs.
pub fn execute(body: &[u8]) -> Option<&[u8]> {
    let mut rest = body;
    take_cstr(&mut rest)
}

/// What a Describe or Close names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

/// Reads the body of a Describe or Close; `None` when it names neither kind.
pub fn named(body: &[u8]) -> Option<Named<'_>> {
    let (kind, mut rest) = body.split_first()?;
    let name = take_cstr(&mut rest)?;
    match kind {
        b'S' => Some(Named::Statement(name)),
        b'P' => Some(Named::Portal(name)),
        _ => None,
    }
}

/// The text of a Query.
pub fn query(body: &[u8]) -> Option<&[u8]> {
    let mut rest = body;
    take_cstr(&mut rest)
}

/// The kind of the client message that begins with `head`, or why it is none; a server judges the type before the
/// length. `None` when nothing is there.
pub fn judge(head: &[u8]) -> Option<Result<Kind, PgError>> {
    let (&tag, length) = head.split_first()?;
    let Some(kind) = Kind::of(tag) else {
        return Some(Err(violation(format!("invalid frontend message type {tag}"))));
    };
    let Some(length) = length.first_chunk() else { return Some(Ok(kind)) };
    let length = u32::from_be_bytes(*length);
    Some(if (4..=kind.length_limit()).contains(&length) {
        Ok(kind)
    } else {
        Err(violation(format!(
            "invalid message length {} in message of type 0x{tag:02x}",
            length.cast_signed()
        )))
    })
}

fn violation(text: String) -> PgError {
    PgError::fatal(SqlState::PROTOCOL_VIOLATION, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_find_their_parts() {
        let select = Parse { name: b"s1", sql: b"select 1", is_whole: true };
        assert_eq!(parse(b"s1\0select 1\0\0\0"), Some(select));
        assert_eq!(parse(b"s1\0select 1\0\0"), Some(Parse { is_whole: false, ..select }));
        assert_eq!(parse(b"s1\0select 1\0\0\0\0"), Some(Parse { is_whole: false, ..select }));
        assert_eq!(parse(b"s1\0select 1\0\0\x01\0\0\0\x17"), Some(select));
        assert_eq!(bind(b"p\0s1\0\0\0"), Some(Bind { portal: b"p", statement: b"s1" }));
        assert_eq!(named(b"Ss1\0"), Some(Named::Statement(b"s1")));
        assert_eq!(named(b"Pp\0"), Some(Named::Portal(b"p")));
        assert_eq!(execute(b"\0\0\0\0\0"), Some(&b""[..]));
        assert_eq!(query(b"select 1\0"), Some(&b"select 1"[..]));
    }

    #[test]
    fn cut_off_bodies_are_none() {
        for body in [&b""[..], b"x", b"s1\0sel"] {
            assert_eq!(parse(body), None);
            assert_eq!(named(body), None);
        }
        assert_eq!(parse_name(b"s1\0sel"), Some(&b"s1"[..]));
        assert_eq!(parse_name(b"s1"), None);
        assert_eq!(bind(b"p\0s"), None);
    }
}
