//! What is done with bytes alone: walking frames, a text's effects, relaying a direction over pipes in memory.
//!
//! `cargo bench --bench messages`. No sockets and no server: the figures are the proxy's own instructions.

#![allow(clippy::unwrap_used, reason = "a bench program")]

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use pgsteer::session::buffer::{BUFFER_BYTES, BufferPool, Half, Next};
use pgsteer::sql::effect;
use pgsteer::wire::{encode, frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Counts allocations beside the time: the hot path must have none.
#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

/// DataRows with one column of `width` bytes, as many as fit one receive buffer.
fn rows(width: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() + width + 11 <= BUFFER_BYTES {
        encode::message(&mut out, b'D', |body| {
            body.extend_from_slice(&1i16.to_be_bytes());
            body.extend_from_slice(&(width as i32).to_be_bytes());
            body.resize(body.len() + width, b'x');
        });
    }
    out
}

#[divan::bench(args = [8, 100, 8000])]
fn frame_walk(bencher: Bencher, width: usize) {
    let bytes = rows(width);
    let messages = bytes.len() / (width + 11);
    bencher.counter(ItemsCount::new(messages)).bench_local(|| {
        let (mut rest, mut count) = (black_box(&bytes[..]), 0usize);
        while let Some((_, next)) = frame::split(rest).unwrap() {
            rest = next;
            count += 1;
        }
        count
    });
}

/// Gives the same bytes once per round and takes what it is given.
struct Pipe<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl AsyncRead for Pipe<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Poll::Pending;
        }
        let count = rest.len().min(room.remaining());
        room.put_slice(&rest[..count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(black_box(bytes).len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// One buffer full of rows from a socket's bytes to the other socket; with the copy that a kernel would make.
#[divan::bench(args = [8, 100, 8000])]
fn relay_buffer(bencher: Bencher, width: usize) {
    let bytes = rows(width);
    let mut half = Half::new(BufferPool::new(), 16 * 1024);
    let mut cx = Context::from_waker(Waker::noop());
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
        let mut pipe = Pipe { bytes: &bytes, at: 0 };
        while let Poll::Ready(read) = half.poll_read(&mut cx, &mut pipe) {
            read.unwrap();
            while half.look().unwrap() != Next::More {
                half.pass();
            }
            assert!(half.poll_write(&mut cx, &mut pipe).is_ready());
        }
    });
}

const SELECT: &str = "SELECT c.id, c.name, o.total FROM customers c JOIN orders o USING (id) \
                      WHERE c.id = 4711 AND o.total > 7";

#[divan::bench(args = [SELECT, "BEGIN", "SET search_path TO app, public"])]
fn effects_of(sql: &str) -> bool {
    effect::is_plain(black_box(sql.as_bytes()), true)
}
