//! Receive buffers: a few per worker, lent to whoever has bytes in hand. An idle session holds none.
//!
//! In: bytes read from one side. Out: the same bytes, written to the other side from where they were received. A message
//! longer than a buffer passes through by count and is never gathered. Must not know what messages mean.

use std::cell::RefCell;
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::frame::{self, BadLength};

/// Bytes of a buffer: large enough that bulk data costs few system calls, small enough to stay in the cache.
pub const BUFFER_BYTES: usize = 64 * 1024;
/// Buffers a worker keeps for later; more are freed when they come back.
const KEPT: usize = 16;
/// Bytes that are copied out of a buffer to give it to others while its session waits.
const STOWED: usize = 4 * 1024;
/// Bytes that may be copied to stand together with an insertion; more are written first.
const GATHERED: usize = 4 * 1024;
/// Largest room for insertions that is kept for later, bytes.
const KEPT_INSERTION: usize = 16 * 1024;

/// The buffers of one worker that nobody uses at this moment.
#[derive(Debug, Default)]
pub struct BufferPool {
    free: RefCell<Vec<Box<[u8]>>>,
    #[expect(clippy::vec_box, reason = "they come and go as boxes: a direction has room for a pointer only")]
    insertions: RefCell<Vec<Box<Insertion>>>,
}

/// Bytes put between those received.
#[derive(Debug, Default)]
struct Insertion {
    bytes: Vec<u8>,
    /// How many of them have been written.
    written: usize,
}

impl BufferPool {
    /// A pool without buffers; they are made when they are needed.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    fn take(&self) -> Box<[u8]> {
        self.free.borrow_mut().pop().unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    fn give(&self, buffer: Box<[u8]>) {
        let mut free = self.free.borrow_mut();
        if free.len() < KEPT && buffer.len() == BUFFER_BYTES {
            free.push(buffer);
        }
    }

    #[expect(clippy::unnecessary_box_returns, reason = "it is kept as a box")]
    fn take_insertion(&self) -> Box<Insertion> {
        self.insertions.borrow_mut().pop().unwrap_or_default()
    }

    fn give_insertion(&self, mut insertion: Box<Insertion>) {
        let mut kept = self.insertions.borrow_mut();
        if kept.len() < KEPT && insertion.bytes.capacity() <= KEPT_INSERTION {
            insertion.bytes.clear();
            insertion.written = 0;
            kept.push(insertion);
        }
    }
}

/// What stands at the front of the bytes that have not been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing, or too little to tell: more must be read.
    More,
    /// A whole message of this type and length.
    Whole(u8, usize),
    /// The beginning of a message too long to wait for; this many bytes of it are here.
    Part(u8, usize),
}

/// One direction of a session: received, looked at, written.
#[derive(Debug)]
pub struct Half {
    pool: Rc<BufferPool>,
    /// One of the pool's, or a small one of its own with what is stowed.
    buffer: Option<Box<[u8]>>,
    /// Bytes of ours, and what was received before them: written before the rest.
    inserted: Option<Box<Insertion>>,
    /// First byte not written yet.
    start: usize,
    /// Bytes before this may be written.
    seen: usize,
    /// Bytes received.
    end: usize,
    /// Bytes of the message under way that are still to come and pass through unseen.
    passing: usize,
    /// Bytes still to come that are dropped.
    dropping: usize,
    /// Messages up to this length are waited for whole.
    whole: usize,
    /// Nothing is looked at any more: everything is let through.
    unread: bool,
    /// Room that is not read into: what is put back must fit.
    reserve: u16,
}

impl Half {
    /// An empty direction; messages up to `whole` bytes are seen whole.
    pub fn new(pool: Rc<BufferPool>, whole: usize) -> Self {
        Self {
            pool,
            buffer: None,
            inserted: None,
            start: 0,
            seen: 0,
            end: 0,
            passing: 0,
            dropping: 0,
            whole: whole.min(BUFFER_BYTES),
            unread: false,
            reserve: 0,
        }
    }

    /// True when bytes wait to be written.
    #[inline]
    pub fn must_write(&self) -> bool {
        self.seen > self.start || self.inserted.is_some()
    }

    /// Bytes that wait to be written.
    pub fn waiting(&self) -> usize {
        let ours = self.inserted.as_ref().map_or(0, |insertion| insertion.bytes.len() - insertion.written);
        ours + self.seen - self.start
    }

    /// True when bytes are here that have not been looked at.
    pub fn has_unseen(&self) -> bool {
        self.end > self.seen
    }

    /// True in the middle of a message of which a part has been let through.
    pub fn is_inside_message(&self) -> bool {
        self.passing > 0
    }

    /// From here on everything is let through as it comes: it is no protocol, and its receiver shall say so.
    pub fn pass_rest(&mut self) {
        self.unread = true;
        self.seen = self.end;
    }

    /// True when nothing is looked at any more.
    pub fn is_unread(&self) -> bool {
        self.unread
    }

    /// What has not been looked at.
    pub fn unseen(&self) -> &[u8] {
        self.buffer.as_deref().and_then(|bytes| bytes.get(self.seen..self.end)).unwrap_or_default()
    }

    /// The first `len` bytes that have not been looked at.
    #[inline]
    pub fn peek(&self, len: usize) -> &[u8] {
        self.unseen().get(..len).unwrap_or_default()
    }

    /// Type and length of the message at the front, as far as they are here.
    pub fn head(&self) -> &[u8] {
        let unseen = self.unseen();
        unseen.get(..frame::HEADER_LEN).unwrap_or(unseen)
    }

    /// Looks at what is next. Bytes of a message under way have been passed on or dropped before.
    #[inline]
    pub fn look(&mut self) -> Result<Next, BadLength> {
        self.drop_some();
        self.pass_some();
        if self.unread {
            self.seen = self.end;
        }
        let unseen = self.unseen();
        let Some(header) = frame::header(unseen)? else { return Ok(Next::More) };
        Ok(if unseen.len() >= header.len {
            Next::Whole(header.tag, header.len)
        } else if header.len > self.whole {
            Next::Part(header.tag, unseen.len())
        } else {
            Next::More
        })
    }

    fn pass_some(&mut self) {
        let count = self.passing.min(self.end - self.seen);
        self.passing -= count;
        self.seen += count;
    }

    fn drop_some(&mut self) {
        let count = self.dropping.min(self.end - self.seen);
        if count > 0 {
            self.dropping -= count;
            self.cut(count);
        }
    }

    /// Puts bytes of ours behind what has been looked at and before what has not. False when that cannot be yet: too much
    /// waits to be written, or a message of the other side is not complete.
    #[must_use]
    pub fn insert(&mut self, bytes: &[u8]) -> bool {
        if self.seen - self.start > GATHERED || self.is_inside_message() {
            return false;
        }
        let mut insertion = self.inserted.take().unwrap_or_else(|| self.pool.take_insertion());
        let waiting = self.buffer.as_deref().and_then(|all| all.get(self.start..self.seen));
        insertion.bytes.extend_from_slice(waiting.unwrap_or_default());
        insertion.bytes.extend_from_slice(bytes);
        if insertion.bytes.is_empty() {
            self.pool.give_insertion(insertion);
        } else {
            self.inserted = Some(insertion);
        }
        self.start = self.seen;
        self.tidy();
        true
    }

    /// Lets the next message through with its first `head` bytes replaced by `with`, a header with the new length
    /// included. False as for [`Half::insert`].
    #[must_use]
    pub fn pass_with(&mut self, head: usize, with: &[u8]) -> bool {
        let Ok(Some(header)) = frame::header(self.unseen()) else { return false };
        if head > self.unseen().len() || !self.insert(with) {
            return false;
        }
        self.start += head;
        self.seen += head;
        self.passing = header.len.saturating_sub(head);
        self.pass_some();
        self.tidy();
        true
    }

    /// Lets the next message through: whole, or its beginning and then the rest as it comes.
    #[inline]
    pub fn pass(&mut self) {
        if let Ok(Some(header)) = frame::header(self.unseen()) {
            self.passing = header.len;
            self.pass_some();
        }
    }

    /// Drops the next message, also what of it is still to come. Nothing may wait to be written before it.
    pub fn drop_message(&mut self) {
        if let Ok(Some(header)) = frame::header(self.unseen()) {
            self.dropping = header.len;
            self.drop_some();
        }
    }

    /// Removes `count` unseen bytes. Bytes before them that wait to be written stay.
    fn cut(&mut self, count: usize) {
        if self.start == self.seen {
            self.start += count;
            self.seen += count;
        } else if let Some(bytes) = self.buffer.as_deref_mut() {
            bytes.copy_within(self.seen + count..self.end, self.seen);
            self.end -= count;
        }
        self.tidy();
    }

    /// The other side is gone: what waited for it is dropped, and so is the rest of a message it had begun to get.
    pub fn abandon(&mut self) {
        self.start = self.seen;
        self.drop_insertion();
        self.dropping += std::mem::take(&mut self.passing);
        self.drop_some();
        self.tidy();
    }

    /// The side it came from is gone: what has not been looked at is dropped, what may be written stays.
    pub fn end_after_seen(&mut self) {
        self.end = self.seen;
        (self.passing, self.dropping) = (0, 0);
        self.tidy();
    }

    /// Drops everything: this side is gone.
    pub fn clear(&mut self) {
        self.drop_insertion();
        (self.start, self.seen, self.end, self.passing, self.dropping) = (0, 0, 0, 0, 0);
        self.tidy();
    }

    fn drop_insertion(&mut self) {
        if let Some(insertion) = self.inserted.take() {
            self.pool.give_insertion(insertion);
        }
    }

    /// What is here of a message of which a part has been let through or dropped.
    pub fn rest_here(&self) -> &[u8] {
        self.peek((self.passing + self.dropping).min(self.end - self.seen))
    }

    /// Drops so many bytes that have not been looked at.
    pub fn drop_front(&mut self, count: usize) {
        self.cut(count.min(self.end - self.seen));
    }

    /// From now on so many bytes can be put back.
    pub fn reserve(&mut self, bytes: u16) {
        self.reserve = bytes;
    }

    /// Puts messages back before what has not been looked at. Nothing may wait to be written. Where as much has been reserved
    /// since these messages were here, it costs no memory.
    pub fn put_back(&mut self, bytes: &[u8]) {
        debug_assert!(!self.must_write(), "what waits would come behind what is put back");
        let old = self.buffer.take();
        let unseen = old.as_deref().and_then(|old| old.get(self.seen..self.end)).unwrap_or_default();
        let needed = bytes.len() + unseen.len();
        let mut buffer = if needed > BUFFER_BYTES { vec![0; needed].into() } else { self.pool.take() };
        if let Some((front, rest)) = buffer.split_at_mut_checked(bytes.len())
            && let Some(rest) = rest.get_mut(..unseen.len())
        {
            front.copy_from_slice(bytes);
            rest.copy_from_slice(unseen);
        }
        (self.start, self.seen, self.end) = (0, 0, bytes.len() + unseen.len());
        self.buffer = Some(buffer);
        if let Some(old) = old {
            self.pool.give(old);
        }
        self.reserve = 0;
    }

    /// Gives the buffer back when nothing is in it.
    fn tidy(&mut self) {
        if self.start == self.end {
            (self.start, self.seen, self.end) = (0, 0, 0);
            if let Some(buffer) = self.buffer.take() {
                self.pool.give(buffer);
            }
        }
    }

    /// The session waits: what little is here is put aside, so that the buffer serves others. A thousand waiting sessions
    /// would use a thousand buffers.
    pub fn stow(&mut self) {
        let Some(bytes) = self.buffer.as_deref().filter(|bytes| bytes.len() == BUFFER_BYTES) else { return };
        if self.end - self.start > STOWED {
            return;
        }
        let kept: Box<[u8]> = bytes.get(self.start..self.end).unwrap_or_default().into();
        self.seen -= self.start;
        self.end -= self.start;
        self.start = 0;
        if let Some(buffer) = self.buffer.replace(kept) {
            self.pool.give(buffer);
        }
    }

    /// Reads behind what is stowed: a buffer is needed only if there is something.
    fn poll_read_stowed<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        stowed: Box<[u8]>,
    ) -> Poll<std::io::Result<usize>> {
        let limit = self.limit();
        let mut buffer = self.pool.take();
        let mut room = ReadBuf::new(buffer.get_mut(self.end..limit).unwrap_or_default());
        let result = Pin::new(from).poll_read(cx, &mut room);
        let count = room.filled().len();
        if count == 0 {
            self.pool.give(buffer);
            self.buffer = Some(stowed);
        } else {
            let (old, kept) = (buffer.get_mut(..self.end), stowed.get(..self.end));
            if let (Some(old), Some(kept)) = (old, kept) {
                old.copy_from_slice(kept);
            }
            self.end += count;
            self.buffer = Some(buffer);
        }
        result.map_ok(|()| count)
    }

    /// Writes what may be written. Ready when nothing is left or the writer failed.
    pub fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<std::io::Result<()>> {
        while self.must_write() {
            let bytes =
                self.buffer.as_deref().and_then(|bytes| bytes.get(self.start..self.seen)).unwrap_or_default();
            let to = Pin::new(&mut *to);
            let result = match &self.inserted {
                None => to.poll_write(cx, bytes),
                Some(insertion) => {
                    let ours = insertion.bytes.get(insertion.written..).unwrap_or_default();
                    to.poll_write_vectored(cx, &[IoSlice::new(ours), IoSlice::new(bytes)])
                }
            };
            match result {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => self.note_written(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.tidy();
        Poll::Ready(Ok(()))
    }

    fn note_written(&mut self, count: usize) {
        let Some(insertion) = self.inserted.as_mut() else {
            self.start += count;
            return;
        };
        let ours = count.min(insertion.bytes.len() - insertion.written);
        insertion.written += ours;
        self.start += count - ours;
        if insertion.written == insertion.bytes.len() {
            self.drop_insertion();
        }
    }

    /// True when another read could make progress: there is room, or room can be made.
    pub fn can_read(&self) -> bool {
        !self.must_write() && self.end - self.seen < self.limit()
    }

    /// Up to where is read.
    fn limit(&self) -> usize {
        BUFFER_BYTES - usize::from(self.reserve)
    }

    /// Reads once; the number of bytes, 0 at the end of the stream. Nothing may wait to be written, and there must be room
    /// ([`Half::can_read`]).
    pub fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
    ) -> Poll<std::io::Result<usize>> {
        let mut buffer = match self.buffer.take() {
            Some(stowed) if stowed.len() < BUFFER_BYTES => return self.poll_read_stowed(cx, from, stowed),
            other => other.unwrap_or_else(|| self.pool.take()),
        };
        let limit = self.limit();
        if self.end >= limit && self.start > 0 {
            // Only the beginning of one message is left: it moves to the front to be completed.
            buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.seen -= self.start;
            self.start = 0;
        }
        let mut room = ReadBuf::new(buffer.get_mut(self.end..limit).unwrap_or_default());
        let result = Pin::new(from).poll_read(cx, &mut room);
        let count = room.filled().len();
        self.end += count;
        self.buffer = Some(buffer);
        self.tidy();
        result.map_ok(|()| count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::encode;
    use proptest::prelude::*;

    /// A reader that gives its bytes in pieces, and then is empty for now.
    struct Pieces(std::collections::VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            room: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            let Some(mut piece) = self.0.pop_front() else { return Poll::Pending };
            let count = piece.len().min(room.remaining());
            room.put_slice(&piece[..count]);
            if count < piece.len() {
                self.0.push_front(piece.split_off(count));
            }
            Poll::Ready(Ok(()))
        }
    }

    fn context() -> Context<'static> {
        Context::from_waker(std::task::Waker::noop())
    }

    /// Runs all pieces through; messages whose tag is `x` are dropped. What was written comes back.
    fn relay(half: &mut Half, pieces: Vec<Vec<u8>>) -> Vec<u8> {
        relay_and_wait(half, pieces, false)
    }

    /// The same where the session may wait, each time before it writes or reads.
    fn relay_and_wait(half: &mut Half, pieces: Vec<Vec<u8>>, waits: bool) -> Vec<u8> {
        let mut from = Pieces(pieces.into());
        let mut out = Vec::new();
        loop {
            match half.look().unwrap() {
                Next::Whole(b'x', _) | Next::Part(b'x', _) => {
                    if half.must_write() {
                        assert!(half.poll_write(&mut context(), &mut out).is_ready());
                    }
                    half.drop_message();
                    continue;
                }
                Next::Whole(..) | Next::Part(..) => {
                    half.pass();
                    continue;
                }
                Next::More => {}
            }
            if waits {
                half.stow();
            }
            assert!(half.poll_write(&mut context(), &mut out).is_ready());
            assert!(half.can_read());
            if waits {
                half.stow();
            }
            if half.poll_read(&mut context(), &mut from).is_pending() {
                return out;
            }
        }
    }

    #[test]
    fn an_idle_half_holds_no_buffer() {
        let pool = BufferPool::new();
        let mut half = Half::new(Rc::clone(&pool), 100);
        let mut message = Vec::new();
        encode::query(&mut message, "select 1");
        assert_eq!(relay(&mut half, vec![message.clone()]), message);
        assert!(half.buffer.is_none());
        assert_eq!(pool.free.borrow().len(), 1);
    }

    #[test]
    fn who_waits_gives_the_buffer_to_others() {
        let pool = BufferPool::new();
        let mut halves = [(); 3].map(|()| Half::new(Rc::clone(&pool), 100));
        let mut message = Vec::new();
        encode::query(&mut message, "select 1");
        for half in &mut halves {
            let mut from = Pieces([message.clone()].into());
            assert!(half.poll_read(&mut context(), &mut from).is_ready());
            half.stow();
            assert!(half.poll_read(&mut context(), &mut from).is_pending());
            assert_eq!(half.buffer.as_deref(), Some(&message[..]));
            assert_eq!(pool.free.borrow().len(), 1, "one is enough for all of them");
        }
        for half in &mut halves {
            assert_eq!(relay(half, vec![message.clone()]), message.repeat(2));
        }
    }

    #[test]
    fn insertions_stand_where_they_were_put() {
        let mut half = Half::new(BufferPool::new(), 100);
        let message = |tag: u8, body: &[u8]| {
            let mut out = Vec::new();
            encode::message(&mut out, tag, |bytes| bytes.extend_from_slice(body));
            out
        };
        let all = [message(b'a', b"1"), message(b'b', b"old, and its rest"), message(b'c', b"3")].concat();
        let mut from = Pieces([all].into());
        assert!(half.poll_read(&mut context(), &mut from).is_ready());
        half.look().unwrap();
        half.pass();
        half.look().unwrap();
        assert!(half.insert(&message(b'x', b"ours")));
        let with = message(b'b', b"newer, and its rest");
        assert!(half.pass_with(8, &with[..10]));
        half.look().unwrap();
        assert!(half.insert(b""));
        half.pass();
        let mut out = Vec::new();
        assert!(half.poll_write(&mut context(), &mut out).is_ready());
        let wanted = [message(b'a', b"1"), message(b'x', b"ours"), with, message(b'c', b"3")].concat();
        assert_eq!(out, wanted);
        assert!(half.buffer.is_none() && half.inserted.is_none() && !half.must_write());
    }

    #[test]
    fn nothing_is_put_inside_a_message_or_behind_much() {
        let mut half = Half::new(BufferPool::new(), 10);
        let mut long = Vec::new();
        encode::message(&mut long, b'd', |out| out.resize(out.len() + GATHERED + 1000, 1));
        let (first, rest) = long.split_at(500);
        let mut from = Pieces([first.to_vec(), rest.to_vec()].into());
        assert!(half.poll_read(&mut context(), &mut from).is_ready());
        half.look().unwrap();
        half.pass();
        assert!(!half.insert(b"x"));
        let mut out = Vec::new();
        assert!(half.poll_write(&mut context(), &mut out).is_ready());
        assert!(!half.insert(b"x"));
        assert!(half.poll_read(&mut context(), &mut from).is_ready());
        assert_eq!(half.look(), Ok(Next::More));
        assert!(!half.insert(b"x"), "{} bytes wait", half.seen - half.start);
        assert!(half.poll_write(&mut context(), &mut out).is_ready());
        assert!(half.insert(b"x"));
        assert!(half.poll_write(&mut context(), &mut out).is_ready());
        assert_eq!(out, [&long[..], b"x"].concat());
    }

    #[test]
    fn abandoning_drops_the_rest_of_a_message_under_way() {
        let mut half = Half::new(BufferPool::new(), 10);
        let mut long = Vec::new();
        encode::message(&mut long, b'd', |out| out.resize(out.len() + 1000, 1));
        let (first, rest) = long.split_at(500);
        assert_eq!(relay(&mut half, vec![first.to_vec()]).len(), 500);
        assert!(half.is_inside_message());
        half.abandon();
        let mut after = Vec::new();
        encode::sync(&mut after);
        assert_eq!(relay(&mut half, vec![[rest, &after[..]].concat()]), after);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// However the bytes arrive, what is not dropped comes out unchanged and in order.
        #[test]
        fn nothing_is_lost_or_changed(
            messages in proptest::collection::vec((prop_oneof![Just(b'd'), Just(b'x'), Just(b'Q')], prop_oneof![0usize..300, 0usize..200_000]), 1..6),
            cuts in proptest::collection::vec(prop_oneof![1usize..100, 1usize..100_000], 0..12),
            waits in any::<bool>(),
            whole in prop_oneof![Just(0usize), Just(16_000), Just(BUFFER_BYTES)],
        ) {
            let mut all = Vec::new();
            let mut wanted = Vec::new();
            for (tag, len) in messages {
                let mut message = Vec::new();
                encode::message(&mut message, tag, |out| out.resize(out.len() + len, tag));
                all.extend_from_slice(&message);
                if tag != b'x' {
                    wanted.extend_from_slice(&message);
                }
            }
            let mut pieces = Vec::new();
            let mut rest = &all[..];
            for cut in cuts {
                let (piece, next) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece.to_vec());
                rest = next;
            }
            pieces.push(rest.to_vec());
            pieces.retain(|piece| !piece.is_empty());
            let mut half = Half::new(BufferPool::new(), whole);
            prop_assert!(relay_and_wait(&mut half, pieces, waits) == wanted);
            prop_assert!(half.buffer.is_none());
        }
    }
}
