//! Walks messages in a buffer: one tag byte, four bytes of length, the body.
//!
//! In: bytes as they came from a socket. Out: borrowed frames. Must not know what any message means.

/// Bytes of a message header: tag and length.
pub const HEADER_LEN: usize = 5;

/// Largest length field accepted from a client, as in the server (`PQ_LARGE_MESSAGE_LIMIT`, 1 GiB - 1).
pub const MAX_BODY: usize = 0x3FFF_FFFF;

/// Tag and total length of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message type byte.
    pub tag: u8,
    /// Length of the whole message in bytes, tag included.
    pub len: usize,
}

impl Header {
    /// Bytes of the message after tag and length.
    pub fn body_len(self) -> usize {
        self.len.saturating_sub(HEADER_LEN)
    }
}

/// A length field that no server or client may send: below 4 or beyond [`MAX_BODY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid message length {length} in message of type 0x{tag:02x}")]
pub struct BadLength {
    /// The message type byte.
    pub tag: u8,
    /// The length field as a signed number, as the server reads it.
    pub length: i32,
}

/// Reads the header at the start of `buf`; `None` when fewer than five bytes are there.
pub fn header(buf: &[u8]) -> Result<Option<Header>, BadLength> {
    let Some((head, _)) = buf.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let [tag, a, b, c, d] = *head;
    let length = i32::from_be_bytes([a, b, c, d]);
    if length < 4 || length as usize - 4 > MAX_BODY {
        return Err(BadLength { tag, length });
    }
    Ok(Some(Header { tag, len: length as usize + 1 }))
}

/// A whole message: its tag and its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The message type byte.
    pub tag: u8,
    /// Everything after the length field.
    pub body: &'a [u8],
}

/// Takes one whole message off the front of `buf`; returns it and what follows, or `None` when it is not all there.
pub fn split(buf: &[u8]) -> Result<Option<(Frame<'_>, &[u8])>, BadLength> {
    let Some(head) = header(buf)? else { return Ok(None) };
    let Some((message, rest)) = buf.split_at_checked(head.len) else { return Ok(None) };
    let body = message.get(HEADER_LEN..).unwrap_or_default();
    Ok(Some((Frame { tag: head.tag, body }, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn splits_back_to_back_messages() {
        let buf = b"Q\0\0\0\x06a\0S\0\0\0\x04";
        let (first, rest) = split(buf).unwrap().unwrap();
        assert_eq!((first.tag, first.body), (b'Q', &b"a\0"[..]));
        let (second, rest) = split(rest).unwrap().unwrap();
        assert_eq!((second.tag, second.body), (b'S', &b""[..]));
        assert!(split(rest).unwrap().is_none());
    }

    #[test]
    fn refuses_lengths_that_cannot_be() {
        for length in [0i32, 3, -1, i32::MIN, i32::MAX] {
            let mut buf = vec![b'Q'];
            buf.extend_from_slice(&length.to_be_bytes());
            assert_eq!(header(&buf), Err(BadLength { tag: b'Q', length }), "{length}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_never_reads_past_the_end(buf in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut rest = &buf[..];
            while let Ok(Some((frame, next))) = split(rest) {
                prop_assert_eq!(frame.body.len() + HEADER_LEN + next.len(), rest.len());
                rest = next;
            }
        }
    }
}
