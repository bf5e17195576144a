//! Reads whole messages from a server at login and reset, where they are few and small.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::Stream;
use crate::wire::frame::{self, HEADER_LEN};

/// Longest message taken; libpq refuses 30,000 bytes at login.
const MAX_MESSAGE: usize = 64 << 10;
/// Bytes taken in all: a server that talks without end is not one of ours.
const MAX_TOTAL: usize = 1 << 20;

/// Messages from one stream. Reads no byte beyond what the server sends for the exchange.
#[derive(Default)]
pub(super) struct Messages {
    buf: Vec<u8>,
    /// Bytes of the message given out last, to be dropped before the next.
    given: usize,
    total: usize,
}

/// One message.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) tag: u8,
    pub(super) body: &'a [u8],
}

/// The peer does not speak the protocol, as an I/O error of kind `InvalidData`.
pub(super) fn garbage(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server broke the protocol: {what}"))
}

impl Messages {
    /// The next message, whole. End of file is `UnexpectedEof`.
    pub(super) async fn next(&mut self, stream: &mut Stream) -> io::Result<Message<'_>> {
        self.buf.drain(..self.given.min(self.buf.len()));
        self.given = 0;
        let head = loop {
            let head = frame::header(&self.buf).map_err(garbage)?;
            if head.is_some_and(|head| head.len > MAX_MESSAGE) {
                return Err(garbage("message too long"));
            }
            if let Some(head) = head.filter(|head| head.len <= self.buf.len()) {
                break head;
            }
            let read = stream.read_buf(&mut self.buf).await?;
            self.total += read;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.total > MAX_TOTAL {
                return Err(garbage("too many messages"));
            }
        };
        self.given = head.len;
        let body = self.buf.get(HEADER_LEN..head.len).unwrap_or_default();
        Ok(Message { tag: head.tag, body })
    }

    /// True when nothing was read beyond the last message.
    pub(super) fn is_drained(&self) -> bool {
        self.buf.len() == self.given
    }
}

/// Writes all and flushes.
pub(super) async fn send(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}
