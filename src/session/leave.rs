//! What a session does when its client leaves: with a Terminate, by closing its sending side, or without a word.
//!
//! In: the end of what the client sends. Out: the end of the session, after what the client had asked for has run as it
//! would have on a server. A client that is gone altogether is found out, and its work is cancelled.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::directory::Signal;
use super::relay::Event;
use super::run::{End, Flow, LAST_WORDS, Session};
use crate::pool::Verdict;
use crate::wire::encode;
use crate::wire::frame;
use crate::wire::frontend::Kind;

/// A client that sent its last byte may still read: it is probed this long after, and again.
pub(super) const HALF_CLOSE_PROBE: Duration = Duration::from_millis(10);
/// Longest pause between two probes.
pub(super) const PROBE_PAUSE: Duration = Duration::from_secs(1);

impl Session {
    /// The client said it leaves. What it sent before still runs, as on a server: then the server gets the Terminate too
    /// and ends by itself. A backend with nothing under way is kept.
    pub(super) async fn terminate(&mut self) -> Flow {
        (self.client_ended, self.ended_early) = (true, false);
        if self.owes_nothing() {
            self.up.end_after_seen();
            return Err(End::Left);
        }
        self.up.pass();
        self.up.end_after_seen();
        while self.attached.is_some() {
            match poll_fn(|cx| self.poll_event(cx)).await {
                Event::ClientGone { .. } | Event::ClientDeaf | Event::ClientSlow => self.client_unread = true,
                Event::BackendGone(_)
                | Event::EpochOver
                | Event::StandbySilent
                | Event::SettingRefused
                | Event::ReplayDiffers
                | Event::Garbage => {
                    self.drop_backend(Verdict::Close);
                }
                Event::Signals(signals) => self.signals(signals)?,
                Event::Unheard
                | Event::Request
                | Event::Terminate
                | Event::Violation(_)
                | Event::Doubt
                | Event::Drained => {
                    break;
                }
            }
        }
        Err(End::Left)
    }

    /// Nothing can be told to the client any more. Its last words may still be there, and a Terminate among them; the end
    /// of its connection shows when they have been read, unless the server takes no more of them.
    pub(super) fn client_deaf(&mut self) -> Flow {
        self.client_unread = true;
        if self.up.must_write() { Err(End::Left) } else { Ok(()) }
    }

    /// The client's connection ended without a Terminate. If replies are under way it may only have closed its sending
    /// side: the server learns that nothing more comes, and the client is told a parameter again that it already knows,
    /// which a connection that is gone refuses.
    pub(super) async fn client_gone(&mut self, reset: bool) -> Flow {
        self.client_ended = true;
        self.client_unread |= reset;
        if self.owes_nothing() || reset {
            return Err(End::Left);
        }
        // The server commits what we have put into a transaction only when it is told to.
        let mut must_end = self.state.is_wrapping();
        // Whatever the server says to what is not in the pipeline, it says before it hangs up.
        let whole = !(self.is_halfway() || self.up.has_unseen());
        if !must_end {
            self.end_sending().await;
        }
        let mut wait = HALF_CLOSE_PROBE;
        while self.attached.is_some() && !self.client_unread {
            if must_end && !self.state.is_wrapping() {
                must_end = false;
                self.end_sending().await;
            }
            match tokio::time::timeout(wait, poll_fn(|cx| self.poll_event(cx))).await {
                // All is answered, and only the server's end has not come yet.
                Err(_) if whole && !must_end && self.state.pipeline.is_idle() => break,
                Err(_) => {
                    self.probe_client();
                    wait = (wait * 2).min(PROBE_PAUSE);
                }
                Ok(Event::Signals(signals)) => self.signals(signals)?,
                Ok(Event::BackendGone(Some(words))) => return Err(End::ToldByServer(words)),
                Ok(_) => break,
            }
        }
        Err(End::Left)
    }

    /// True when the server has answered everything and waits for nothing; the client may not have got it all yet.
    fn owes_nothing(&self) -> bool {
        self.attached.is_none() || (self.state.pipeline.is_idle() && !self.is_halfway())
    }

    /// True when the server has got a part of what the client means, or what nobody can read.
    fn is_halfway(&self) -> bool {
        self.up.is_inside_message() || self.up.is_unread()
    }

    /// The server gets the rest, be it half a message, and learns that nothing more comes: it does with that as it does
    /// for any client.
    async fn end_sending(&mut self) {
        self.up.pass_rest();
        if self.attached.as_ref().is_none_or(|attached| attached.broken) {
            return;
        }
        // One that takes no more now will be closed soon.
        let _ = tokio::time::timeout(LAST_WORDS, poll_fn(|cx| self.poll_write_up(cx))).await;
        let Some(attached) = self.attached.as_mut() else { return };
        let ended = tokio::io::AsyncWriteExt::shutdown(&mut attached.backend.stream);
        // A connection that cannot be shut down shows on its reading side.
        let _ = tokio::time::timeout(LAST_WORDS, ended).await;
        attached.broken = true;
    }

    /// Writes what the client has not taken yet, for as long as it goes on taking it and nobody is in a hurry.
    pub(super) fn poll_tail(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(signals) = self.entry.mailbox.poll(cx) {
            if [Signal::Kill, Signal::Drain, Signal::Cut].iter().any(|signal| signals.contains(*signal)) {
                return Poll::Ready(());
            }
        }
        if self.client_unread || ready!(self.poll_replies(cx)).is_err() {
            return Poll::Ready(());
        }
        self.poll_write_down(cx).map(drop)
    }

    /// True for a client that sends nothing more and waits for its turn: one that is gone gives it up, unless it has said
    /// goodbye behind what it wants done.
    pub(super) fn is_probed(&self) -> bool {
        self.ended_early && !self.logging_in && !says_goodbye(self.up.unseen())
    }

    pub(super) fn probe_client(&mut self) {
        if self.down.is_inside_message() || self.down.must_write() {
            return;
        }
        if let Some(value) = self.state.params.reported("integer_datetimes") {
            encode::parameter_status(&mut self.replies, "integer_datetimes", value);
        }
    }
}

/// True when a Terminate is among these messages.
fn says_goodbye(mut messages: &[u8]) -> bool {
    while let Ok(Some((frame, rest))) = frame::split(messages) {
        if Kind::of(frame.tag) == Some(Kind::Terminate) {
            return true;
        }
        messages = rest;
    }
    false
}
