//! The hot path: moves whole messages between the client and its backend, in place and with the sockets' back-pressure.
//!
//! In: readiness of both sockets. Out: an [`Event`] whenever something happens that the relay does not handle. It never
//! waits for anything but the two sockets and the mailbox. Per small round trip: two reads, two writes, no allocation.

mod unattached;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::buffer::Next;
use super::directory::Signals;
use super::run::Session;
use crate::route::Wants;
use crate::wire::backend;
use crate::wire::error::{ErrorView, PgError};
use crate::wire::frame::HEADER_LEN;
use crate::wire::frontend::{self, Kind};

/// Reads of one direction before the other gets its turn.
const ROUNDS: usize = 16;

/// What the relay cannot handle by itself.
#[derive(Debug)]
pub enum Event {
    /// The client has a request and there is no backend for it, or the topology has changed since the last one.
    Request,
    /// The client said Terminate; what it sent before is under way.
    Terminate,
    /// The client's connection ended.
    ClientGone {
        /// It was reset: nobody reads any more.
        reset: bool,
    },
    /// The client's connection cannot be written; what it sent before may still be there to be read.
    ClientDeaf,
    /// The client broke the protocol.
    Violation(PgError),
    /// The server broke the protocol.
    Garbage,
    /// The server ended the connection, with its last message if that may mean more than this session.
    BackendGone(Option<Vec<u8>>),
    /// The backend's node is no longer the primary it was when the session took it.
    EpochOver,
    /// A transaction that is run again does not come out as it did.
    ReplayDiffers,
    /// The standby with the read under way has been silent for too long.
    StandbySilent,
    /// The client has taken nothing for too long, and keeps a backend from others.
    ClientSlow,
    /// The proxy shuts down and the session has nothing under way.
    Drained,
    /// The server must say whether the session is still bound to it.
    Doubt,
    /// The server refused what was to be set before the client's statement.
    SettingRefused,
    /// The session listens to channels, and no backend does that for it.
    Unheard,
    /// Signals from outside.
    Signals(Signals),
}

/// What a look at received bytes led to.
pub(super) enum Look {
    /// Everything here has been looked at.
    Done,
    /// Something must be written before the next message is looked at.
    WriteFirst,
    /// Answers must come before the next message is looked at.
    Wait,
    /// The relay cannot go on.
    Stop(Event),
}

/// The next message of the client.
struct Sent {
    kind: Kind,
    /// Bytes of it that are here.
    len: usize,
    /// They are all of it.
    whole: bool,
}

impl Session {
    /// Relays until something happens.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let both = match self.poll_replies(cx) {
            Poll::Ready(Ok(())) => self.poll_both(cx),
            Poll::Ready(Err(_)) => Poll::Ready(Event::ClientDeaf),
            Poll::Pending => Poll::Pending,
        };
        if both.is_ready() {
            return both;
        }
        if self.is_in_doubt() {
            return Poll::Ready(Event::Doubt);
        }
        self.end_lease();
        if self.draining && self.state.is_quiet() && !self.is_replaying() {
            return Poll::Ready(Event::Drained);
        }
        if self.is_unheard() {
            return Poll::Ready(Event::Unheard);
        }
        let signals = ready!(self.entry.mailbox.poll(cx));
        Poll::Ready(Event::Signals(signals))
    }

    /// Both directions, until nothing more can be done without news.
    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        for _ in 0..ROUNDS {
            let before = (self.attached.is_some(), self.leases);
            // Server first: what it has said may change what the client's next message means.
            if let Poll::Ready(event) = self.poll_down(cx) {
                return Poll::Ready(event);
            }
            if let Poll::Ready(event) = self.poll_up(cx) {
                return Poll::Ready(event);
            }
            // A backend taken or given back on the way changes what the other direction waits for.
            if before == (self.attached.is_some(), self.leases) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what we say ourselves.
    pub(super) fn poll_replies(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.client_unread {
            (self.replies, self.replied) = (Vec::new(), 0);
            return Poll::Ready(Ok(()));
        }
        if !self.replies.is_empty() {
            // What a server said before comes first, and never is a message of ours put inside one of its own.
            ready!(self.down.poll_write(cx, &mut self.client))?;
        }
        while self.replied < self.replies.len() {
            let rest = self.replies.get(self.replied..).unwrap_or_default();
            self.replied += ready!(Pin::new(&mut self.client).poll_write(cx, rest))?;
            self.client_flushed = false;
        }
        if self.replied > 0 {
            self.replied = 0;
            self.replies = Vec::new();
        }
        self.poll_flush_client(cx)
    }

    fn poll_flush_client(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        // Only TLS has something to flush: a plain socket takes what it is given.
        if !self.client_flushed && self.client.is_tls() {
            ready!(Pin::new(&mut self.client).poll_flush(cx))?;
        }
        self.client_flushed = true;
        Poll::Ready(Ok(()))
    }

    /// Client to server.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        for _ in 0..ROUNDS {
            ready!(self.poll_write_up(cx));
            let look = self.look_up();
            if !self.replies.is_empty() && ready!(self.poll_replies(cx)).is_err() {
                return Poll::Ready(Event::ClientDeaf);
            }
            match look {
                Look::Stop(event) => return Poll::Ready(event),
                Look::WriteFirst => continue,
                Look::Done | Look::Wait if self.up.must_write() => continue,
                Look::Wait => return Poll::Pending,
                Look::Done => {}
            }
            if std::mem::take(&mut self.ended_early) {
                return Poll::Ready(Event::ClientGone { reset: false });
            }
            if self.client_ended || !self.up.can_read() {
                return Poll::Pending;
            }
            match ready!(self.up.poll_read(cx, &mut self.client)) {
                Ok(0) => return Poll::Ready(Event::ClientGone { reset: false }),
                Ok(count) => self.ctx.metrics.add_bytes(count as u64, 0),
                Err(_) => return Poll::Ready(Event::ClientGone { reset: true }),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes to the server. A server that cannot be written is left to the reading side, where its last words are.
    pub(super) fn poll_write_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(attached) = self.attached.as_mut() else { return Poll::Ready(()) };
        if attached.broken {
            return Poll::Pending;
        }
        if self.up.must_write() {
            let written = ready!(self.up.poll_write(cx, &mut attached.backend.stream));
            attached.flushed = false;
            if written.is_err() {
                attached.broken = true;
                self.up.abandon();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        if !attached.flushed && attached.backend.stream.is_tls() {
            // An error here shows on the reading side too.
            let _ = ready!(Pin::new(&mut attached.backend.stream).poll_flush(cx));
        }
        attached.flushed = true;
        Poll::Ready(())
    }

    fn look_up(&mut self) -> Look {
        loop {
            if let Some(look) = self.settle_own() {
                return look;
            }
            if let Some(look) = self.put_in_replay() {
                return look;
            }
            let Sent { kind, len, whole } = match self.next_up() {
                Ok(Some(sent)) => sent,
                Ok(None) => return Look::Done,
                Err(error) => return self.no_protocol(*error),
            };
            if kind == Kind::Terminate {
                return Look::Stop(Event::Terminate);
            }
            let look = if self.limbo.is_some() || self.attached.is_none() {
                self.look_without_backend(kind, len)
            } else {
                self.look_with_backend(kind, len, whole)
            };
            if let Some(look) = look {
                return look;
            }
        }
    }

    fn next_up(&mut self) -> Result<Option<Sent>, Box<PgError>> {
        let next = self.up.look();
        match next {
            // Nearly always: nothing is left, or a whole message of a length that its type may have.
            Ok(Next::More) if !self.up.has_unseen() => return Ok(None),
            Ok(Next::Whole(tag, len)) => {
                if let Some(kind) = Kind::of(tag).filter(|kind| len <= kind.length_limit() as usize) {
                    return Ok(Some(Sent { kind, len, whole: true }));
                }
            }
            _ => {}
        }
        // Judged before the rest is waited for, as by a server.
        let Some(judged) = frontend::judge(self.up.head()) else { return Ok(None) };
        let kind = judged.map_err(Box::new)?;
        Ok(match next {
            Ok(Next::Whole(_, len)) => Some(Sent { kind, len, whole: true }),
            Ok(Next::Part(_, len)) => Some(Sent { kind, len, whole: false }),
            Ok(Next::More) | Err(_) => None,
        })
    }

    /// What the client sends is no message. A server that is there says so itself, behind all it still has to answer;
    /// then it closes, so that the rest needs no looking at.
    fn no_protocol(&mut self, error: PgError) -> Look {
        if self.limbo.is_some() || self.attached.is_none() {
            return Look::Stop(Event::Violation(error));
        }
        self.note_violation(&error);
        self.up.pass_rest();
        Look::Done
    }

    /// A message for the server; `None` when the next one can be looked at.
    fn look_with_backend(&mut self, kind: Kind, len: usize, whole: bool) -> Option<Look> {
        if self.state.wants_name() {
            return Some(Look::Stop(Event::Request));
        }
        if self.split.is_some() {
            let look = self.at_border(kind);
            if look.is_some() || self.limbo.is_some() {
                return look;
            }
        }
        if self.state.is_quiet() {
            // In this order: see `Entry::set_active`.
            self.entry.set_active(true);
            if self.ctx.store.version() != self.seen_version {
                self.entry.set_active(false);
                return Some(Look::Stop(Event::Request));
            }
            self.began = Some(Instant::now());
        }
        if let Some(look) = self.track(kind, len, whole) {
            return Some(look);
        }
        self.note_unnamed(kind, len);
        if self.is_sharing() {
            let look = self.translate(kind, len, whole);
            if look.is_none() && self.limbo.is_none() {
                self.note_sent(kind, len);
            }
            return look;
        }
        self.keep_for_replay(kind, len, whole);
        self.state.client_message(kind, self.up.peek(len), whole);
        self.up.pass();
        self.note_sent(kind, len);
        None
    }

    /// Server to client.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        for _ in 0..ROUNDS {
            if let Err(event) = ready!(self.poll_write_down(cx)) {
                return Poll::Ready(event);
            }
            let Some(attached) = self.attached.as_mut() else { return Poll::Pending };
            if attached.is_over(&self.ctx.store) {
                return Poll::Ready(Event::EpochOver);
            }
            match self.look_down() {
                Look::Stop(event) => return Poll::Ready(event),
                Look::WriteFirst => continue,
                Look::Done | Look::Wait if self.down.must_write() => continue,
                Look::Done | Look::Wait => {}
            }
            let Some(attached) = self.attached.as_mut() else { return Poll::Pending };
            match ready!(self.down.poll_read(cx, &mut attached.backend.stream)) {
                Ok(0) | Err(_) => return Poll::Ready(Event::BackendGone(None)),
                Ok(count) => self.ctx.metrics.add_bytes(0, count as u64),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    pub(super) fn poll_write_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Event>> {
        if self.client_unread {
            // Nobody reads: what the server still says is passed over.
            self.down.abandon();
            return Poll::Ready(Ok(()));
        }
        if self.down.must_write() {
            self.client_flushed = false;
            match self.down.poll_write(cx, &mut self.client) {
                Poll::Ready(Ok(())) => self.slow = None,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Event::ClientDeaf)),
                Poll::Pending => return self.poll_slow(cx),
            }
        }
        self.poll_flush_client(cx).map(|flushed| flushed.map_err(|_| Event::ClientDeaf))
    }

    fn look_down(&mut self) -> Look {
        loop {
            if let Some(look) = self.hear_rest() {
                return look;
            }
            let next = self.down.look();
            if self.state.pipeline.is_fake_turn() && !self.down.is_inside_message() {
                self.let_hear();
                if let Some(look) = self.tell_fakes() {
                    return look;
                }
                continue;
            }
            if self.holds_back()
                && let Some(look) = self.hear()
            {
                return look;
            }
            let (tag, len, whole) = match next {
                Ok(Next::More) => match self.down.peek(1) {
                    [tag] if !backend::is_known(*tag) => return Look::Stop(Event::Garbage),
                    _ => return Look::Done,
                },
                // Rows are most of what servers send, and nothing in them concerns us.
                Ok(Next::Whole(b'D' | b'd', len) | Next::Part(b'D' | b'd', len))
                    if !self.state.pipeline.is_own_turn() =>
                {
                    if let Some(look) = self.deliver(len) {
                        return look;
                    }
                    continue;
                }
                Ok(Next::Whole(tag, len)) => (tag, len, true),
                Ok(Next::Part(tag, len)) => (tag, len, false),
                Err(_) => return Look::Stop(Event::Garbage),
            };
            if !backend::is_known(tag) {
                return Look::Stop(Event::Garbage);
            }
            if let Some(look) = self.pass_down(tag, len, whole) {
                return look;
            }
        }
    }

    /// A message of the server; `None` when the next one can be looked at.
    fn pass_down(&mut self, tag: u8, len: usize, whole: bool) -> Option<Look> {
        if tag == b'E' && whole && self.may_repeat(len) {
            return self.repeat(len);
        }
        let message = self.down.peek(len);
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        let fatal = tag == b'E' && ErrorView::new(body).ends_connection();
        let ours = self.state.hides(tag, body) || (whole && fatal && self.may_outlive(body));
        if (ours || self.is_verifying()) && self.down.must_write() {
            return Some(Look::WriteFirst);
        }
        if ours && fatal {
            return Some(Look::Stop(Event::BackendGone(Some(message.to_vec()))));
        }
        self.dismissed |= fatal && !self.is_verifying();
        if tag == b'E' && whole {
            self.note_told(body);
        }
        let instead = if whole && !ours { self.state.instead(tag, body) } else { None };
        if instead.is_some() && !self.down.insert(&[]) {
            return Some(Look::WriteFirst);
        }
        let message = self.down.peek(len);
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        self.state.server_message(tag, body);
        if tag == b'S'
            && let (Some(attached), Some((name, value))) =
                (self.attached.as_mut(), backend::parameter_status(body))
        {
            // Its reset is checked against what it reported last.
            attached.backend.note_parameter(name, value);
        }
        let look = if let Some(message) = instead {
            let look = self.deliver_instead(&message);
            self.down.drop_message();
            look
        } else if ours {
            self.down.drop_message();
            self.role_reported();
            None
        } else {
            self.deliver(len)
        };
        if look.is_some() {
            return look;
        }
        if self.state.is_refused() {
            return Some(Look::Stop(Event::SettingRefused));
        }
        if tag == b'Z' && !ours {
            self.ready_for_query();
            if self.is_sharing() && self.state.is_quiet() {
                self.note_pinned(!self.state.sharing_pins().is_empty());
            }
            self.end_lease();
        }
        if self.attached.is_none() { Some(Look::Done) } else { None }
    }

    fn ready_for_query(&mut self) {
        self.tell();
        self.note_freshness();
        let Some(attached) = self.attached.as_ref() else { return };
        if attached.on_primary {
            self.ctx.nudges.answers().note(attached.epoch);
        }
        attached.backend.note_prepared(self.state.prepared_on_backend());
        if let Some(began) = self.began.take() {
            let (standby, now) = (attached.side == Wants::Standby, Instant::now());
            self.ctx.metrics.record_statement(attached.node.index(), standby, now - began);
            if !attached.on_primary {
                self.ctx.registry.note_statement(attached.node, began, now);
            }
        }
        if self.state.is_quiet() {
            self.entry.set_active(false);
            self.end_batch();
        } else {
            self.began = Some(Instant::now());
        }
    }
}
