//! What a session with `retry.transactions` keeps of its open transaction: what the client has sent, and a digest of what it
//! has heard.
//!
//! In: messages in both directions. Out: the messages to send again, in which steps, and whether what a server says to them
//! is what the client has heard before. Nothing of a later step is sent before all answers to the earlier ones were equal: a
//! BEGIN that fails would let what follows be committed. Sans-IO.

use std::collections::HashMap;
use std::hash::RandomState;
use std::ops::Range;

use super::digest::Digest;
use super::stop::Stop;
use crate::session::prepared::{Prepared, Statement};
use crate::sql::repeat::{Repeat, Why};
use crate::wire::frame::{self, HEADER_LEN};
use crate::wire::frontend::{self, Kind};

/// Statements whose texts are remembered; after that many they are forgotten, and their use ends the record.
const STATEMENTS: usize = 10_000;
/// What the record of one message costs beside its bytes.
const OVERHEAD: usize = 32;
/// Room kept for the next transaction, bytes.
const ROOM: usize = 4 * 1024;
/// Bytes that are sent again at a time; one message may be longer.
const PIECE: usize = 32 * 1024;

/// What becomes of a message of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The client gets it.
    Deliver,
    /// The client has it already.
    Swallow,
    /// The client has heard something else.
    Differs,
}

/// The client's messages up to one that is answered with ReadyForQuery.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// Where it ends in the record.
    end: usize,
    /// It was answered; so many stops had been heard then.
    stops: Option<usize>,
}

/// How far a replay is.
#[derive(Clone, Debug)]
struct Progress {
    /// Messages up to here have been sent again.
    sent: usize,
    /// So many bytes behind them have been handed out.
    handed: usize,
    /// So many steps were answered as before.
    steps: usize,
    /// So many stops were reached as before.
    stops: usize,
    heard: Digest,
    /// The server was asked to say what it has to say.
    is_flushed: bool,
    /// Everything that the client had heard has been said again.
    is_even: bool,
}

/// The record of one transaction.
#[derive(Debug)]
pub struct Journal {
    limit: usize,
    seed: RandomState,
    bytes: Vec<u8>,
    messages: usize,
    stop: Option<Stop>,
    steps: Vec<Step>,
    /// What had been heard at each message behind which a server may wait for the client: it must not do so earlier or later.
    stops: Vec<(u32, u64)>,
    heard: Digest,
    /// So many bytes of the message heard last are still to come.
    rest: usize,
    /// Its type, if it counts.
    rest_tag: Option<u8>,
    /// What speaks against running prepared statements again, by name.
    statements: HashMap<Box<[u8]>, Option<Why>>,
    /// The unnamed statement is this transaction's.
    has_unnamed: bool,
    /// What names of statements meant before the transaction.
    named_before: Vec<(Box<[u8]>, Option<Statement>)>,
    progress: Option<Progress>,
}

/// A message of the client as it is sent.
pub struct Sent<'a> {
    /// Its type.
    pub kind: Kind,
    /// Its bytes with the header.
    pub message: &'a [u8],
    /// They are all of it.
    pub whole: bool,
    /// Nothing is under way before it.
    pub first: bool,
    /// `standard_conforming_strings`.
    pub standard_strings: bool,
}

impl Journal {
    /// Keeps transactions of at most so many bytes.
    pub fn new(limit: usize) -> Self {
        let seed = RandomState::new();
        let heard = Digest::new(&seed);
        Self {
            limit,
            seed,
            bytes: Vec::new(),
            messages: 0,
            stop: None,
            steps: Vec::new(),
            stops: Vec::new(),
            heard,
            rest: 0,
            rest_tag: None,
            statements: HashMap::new(),
            has_unnamed: false,
            named_before: Vec::new(),
            progress: None,
        }
    }

    /// The transaction is over.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(ROOM);
        self.steps.clear();
        self.steps.shrink_to(ROOM / size_of::<Step>());
        self.stops.clear();
        self.stops.shrink_to(ROOM / size_of::<(u32, u64)>());
        self.named_before = Vec::new();
        self.messages = 0;
        (self.stop, self.has_unnamed) = (None, false);
        (self.rest, self.rest_tag) = (0, None);
        self.heard = self.nothing_heard();
        self.progress = None;
    }

    fn nothing_heard(&self) -> Digest {
        Digest::new(&self.seed)
    }

    /// Why the transaction cannot be replayed, if it cannot.
    pub fn stopped(&self) -> Option<Stop> {
        self.stop
    }

    /// True when there is something to replay, and it may be.
    pub fn can_replay(&self) -> bool {
        self.stop.is_none() && !self.bytes.is_empty()
    }

    fn stop(&mut self, stop: Stop) {
        if self.stop.is_none() {
            self.stop = Some(stop);
            // Nothing of it will be needed.
            (self.bytes, self.steps, self.stops) = (Vec::new(), Vec::new(), Vec::new());
            self.named_before = Vec::new();
        }
    }

    /// The client's message goes to the server now. `prepared` is as it was before; `reads` are functions that only read.
    pub fn note_sent(&mut self, sent: &Sent<'_>, prepared: &Prepared, reads: &[String]) {
        if let Some(progress) = self.progress.as_mut() {
            progress.sent += sent.message.len();
            progress.handed = progress.handed.saturating_sub(sent.message.len());
            return;
        }
        if sent.first {
            self.clear();
        }
        let why = self.judge(sent, prepared, reads);
        if self.stop.is_some() {
            return;
        }
        if let Some(why) = why {
            return self.stop(Stop::Text(why));
        }
        self.messages += 1;
        let size = self.bytes.len() + sent.message.len() + self.messages * OVERHEAD;
        if !sent.whole || size > self.limit {
            return self.stop(Stop::Size);
        }
        self.bytes.extend_from_slice(sent.message);
        if matches!(sent.kind, Kind::Query | Kind::Sync) {
            self.steps.push(Step { end: self.bytes.len(), stops: None });
        }
    }

    /// What speaks against sending the message again.
    fn judge(&mut self, sent: &Sent<'_>, prepared: &Prepared, reads: &[String]) -> Option<Why> {
        let body = sent.message.get(HEADER_LEN..).unwrap_or_default();
        match sent.kind {
            Kind::Query => {
                let sql = frontend::query(body).filter(|_| sent.whole)?;
                self.judge_text(&Repeat::of(sql, sent.standard_strings, reads))
            }
            Kind::Parse => {
                let name = frontend::parse_name(body).unwrap_or_default();
                self.has_unnamed |= name.is_empty();
                // A name that is taken keeps its meaning.
                if name.is_empty() || prepared.get(name).is_none() {
                    self.note_name(name, None);
                    let repeat = frontend::parse(body)
                        .filter(|_| sent.whole)
                        .map(|parse| Repeat::of(parse.sql, sent.standard_strings, reads));
                    let why = repeat.map_or(Some(Why::Unknown), |repeat| self.judge_text(&repeat));
                    self.learn(name.into(), why);
                }
                None
            }
            Kind::Bind => {
                let statement = frontend::bind(body)?.statement;
                if statement.is_empty() && !self.has_unnamed {
                    return Some(Why::Unknown);
                }
                self.statements.get(statement).copied().unwrap_or(Some(Why::Unknown))
            }
            Kind::Close => {
                if let Some(frontend::Named::Statement(name)) = frontend::named(body)
                    && let Some(statement) = prepared.get(name)
                {
                    self.note_name(name, Some(statement));
                }
                None
            }
            Kind::FunctionCall => Some(Why::Function),
            _ => None,
        }
    }

    fn judge_text(&mut self, repeat: &Repeat) -> Option<Why> {
        if let Some((name, why)) = &repeat.prepares {
            self.learn(name.clone(), *why);
        }
        let known = |name: &[u8]| self.statements.get(name).copied().unwrap_or(Some(Why::Unknown));
        repeat.why_not.or_else(|| repeat.executes.iter().find_map(|name| known(name)))
    }

    fn learn(&mut self, name: Box<[u8]>, why: Option<Why>) {
        if self.statements.len() >= STATEMENTS {
            self.statements.clear();
        }
        self.statements.insert(name, why);
    }

    /// The meaning of a name is about to change.
    fn note_name(&mut self, name: &[u8], statement: Option<&Statement>) {
        let is_new = !self.named_before.iter().any(|(known, _)| **known == *name);
        if is_new && self.stop.is_none() && !name.is_empty() {
            self.named_before.push((name.into(), statement.cloned()));
        }
    }

    /// The client is about to get a message of the server: its bytes with the header, or the beginning of a long one.
    /// `owed`: so many ReadyForQuery will follow, what has not been sent again left out.
    pub fn hear(&mut self, message: &[u8], owed: usize) -> Heard {
        self.rest_tag = None;
        let Ok(Some(header)) = frame::header(message) else { return Heard::Deliver };
        self.rest = header.len.saturating_sub(message.len());
        match header.tag {
            // They come when they come.
            b'A' | b'S' => return Heard::Deliver,
            b'N' => return if self.is_verifying() { Heard::Swallow } else { Heard::Deliver },
            _ if self.stop.is_some() || self.bytes.is_empty() => return self.pass_by(message, owed),
            _ => {}
        }
        self.rest_tag = (self.rest > 0).then_some(header.tag);
        if self.is_verifying() {
            return self.verify(header.tag, message);
        }
        self.heard.add(header.tag, message, self.rest == 0);
        if is_stop(header.tag) {
            self.stops.push(self.heard.value());
        }
        if header.tag == b'Z' {
            self.ready(message, owed);
        }
        Heard::Deliver
    }

    /// A message that is not recorded.
    fn pass_by(&mut self, message: &[u8], owed: usize) -> Heard {
        if message == READY_IDLE && owed == 0 {
            self.clear();
        }
        Heard::Deliver
    }

    /// More of the long message heard last.
    pub fn hear_rest(&mut self, bytes: &[u8]) -> Heard {
        self.rest = self.rest.saturating_sub(bytes.len());
        let Some(tag) = self.rest_tag else { return Heard::Deliver };
        let Some(progress) = self.progress.as_mut().filter(|progress| !progress.is_even) else {
            self.heard.add_rest(bytes);
            return Heard::Deliver;
        };
        progress.heard.add_rest(bytes);
        if self.rest == 0 { self.compare(tag) } else { Heard::Swallow }
    }

    /// ReadyForQuery: a step is answered.
    fn ready(&mut self, message: &[u8], owed: usize) {
        let unsent = self
            .progress
            .as_ref()
            .map_or(0, |progress| self.steps.iter().filter(|step| step.end > progress.sent).count());
        let Some(at) = self.steps.len().checked_sub(1 + owed + unsent) else { return };
        let answered = self.steps.iter().take_while(|step| step.stops.is_some()).count();
        if message == READY_IDLE {
            return self.forget(at);
        }
        if let Some(step) = self.steps.get_mut(at) {
            step.stops = Some(self.stops.len());
        }
        // A server takes no notice of a Sync that comes before the data of a COPY.
        self.steps.drain(answered.min(at)..at);
    }

    /// The transactions up to this step are over.
    fn forget(&mut self, at: usize) {
        let end = self.steps.get(at).map_or(0, |step| step.end);
        if end >= self.bytes.len() {
            return self.clear();
        }
        if self.has_unnamed || !self.named_before.is_empty() {
            // What follows may use statements that were prepared before it.
            return self.stop(Stop::Text(Why::Session));
        }
        self.bytes.drain(..end);
        self.steps.drain(..=at);
        self.steps.iter_mut().for_each(|step| step.end -= end);
        self.stops.clear();
        self.heard = self.nothing_heard();
        if let Some(progress) = self.progress.as_mut() {
            progress.sent = progress.sent.saturating_sub(end);
            (progress.steps, progress.stops) = (0, 0);
        }
    }

    /// True while what the server says has been said before.
    pub fn is_verifying(&self) -> bool {
        self.progress.as_ref().is_some_and(|progress| !progress.is_even)
    }

    fn verify(&mut self, tag: u8, message: &[u8]) -> Heard {
        let Some(progress) = self.progress.as_mut() else { return Heard::Deliver };
        progress.heard.add(tag, message, self.rest == 0);
        if self.rest > 0 { Heard::Swallow } else { self.compare(tag) }
    }

    /// A message has been said again, all of it.
    fn compare(&mut self, tag: u8) -> Heard {
        let Some(progress) = self.progress.as_mut() else { return Heard::Deliver };
        let next = self.stops.get(progress.stops);
        if is_stop(tag) {
            if next != Some(&progress.heard.value()) {
                return Heard::Differs;
            }
            progress.stops += 1;
            let step = self.steps.get(progress.steps).and_then(|step| step.stops);
            progress.steps += usize::from(step == Some(progress.stops));
        } else if next.is_some_and(|(count, _)| *count <= progress.heard.count()) {
            return Heard::Differs;
        }
        self.even_out()
    }

    /// Is everything that the client has heard said again?
    fn even_out(&mut self) -> Heard {
        let Some(progress) = self.progress.as_mut() else { return Heard::Deliver };
        if progress.heard.count() < self.heard.count() {
            return Heard::Swallow;
        }
        if progress.heard.value() != self.heard.value() {
            return Heard::Differs;
        }
        progress.is_even = true;
        Heard::Swallow
    }

    /// The transaction is to be sent again, from its beginning. What names of statements mean then is put right.
    pub fn begin(&mut self, prepared: &mut Prepared) {
        for (name, before) in &self.named_before {
            drop(prepared.remove(name));
            if let Some(statement) = before {
                drop(prepared.insert(name, statement.clone()));
            }
        }
        (self.rest, self.rest_tag) = (0, None);
        self.progress = Some(Progress {
            sent: 0,
            handed: 0,
            steps: 0,
            stops: 0,
            heard: self.nothing_heard(),
            is_flushed: false,
            is_even: self.heard.count() == 0,
        });
    }

    /// The replay is over: what follows is recorded again.
    pub fn finish(&mut self) {
        self.progress = None;
    }

    /// So many bytes were handed out and have not been sent.
    pub fn handed(&self) -> usize {
        self.progress.as_ref().map_or(0, |progress| progress.handed)
    }

    /// What is to be sent next, if anything may be.
    pub fn hand_out(&mut self) -> Next<'_> {
        let Some(progress) = self.progress.as_mut() else { return Next::Done };
        if progress.handed > 0 {
            return Next::Wait;
        }
        if progress.sent >= self.bytes.len() {
            // A server keeps its answers until there is a Sync behind them. What the client has heard of them may have come
            // for a message that is not its own, or that waits.
            let open = self.steps.last().is_none_or(|step| step.end < self.bytes.len());
            let asks = !progress.is_even && open && !std::mem::replace(&mut progress.is_flushed, true);
            return match progress.is_even {
                true => Next::Done,
                false if asks => Next::Flush,
                false => Next::Wait,
            };
        }
        let limit = match self.steps.get(progress.steps) {
            // What follows a step that was answered waits for the same answer.
            Some(step) if step.stops.is_some() && !progress.is_even => step.end,
            _ => self.bytes.len(),
        };
        if progress.sent >= limit {
            return Next::Wait;
        }
        let piece = piece(&self.bytes, progress.sent..limit);
        progress.handed = piece.len();
        Next::Send(piece)
    }
}

/// What a replay does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// These messages are sent.
    Send(&'a [u8]),
    /// A Flush is sent.
    Flush,
    /// Answers must come first.
    Wait,
    /// Nothing more: the client goes on.
    Done,
}

/// ReadyForQuery outside a transaction.
const READY_IDLE: &[u8] = b"Z\0\0\0\x05I";

/// True for a message behind which a server may wait for the client.
fn is_stop(tag: u8) -> bool {
    matches!(tag, b'C' | b'E' | b'G' | b'I' | b'W' | b'Z' | b's')
}

/// Whole messages at the beginning of this part of the record.
fn piece(bytes: &[u8], part: Range<usize>) -> &[u8] {
    let all = bytes.get(part).unwrap_or_default();
    let mut rest = all;
    while let Ok(Some((_, next))) = frame::split(rest) {
        if all.len() - next.len() > PIECE && rest.len() < all.len() {
            break;
        }
        rest = next;
    }
    all.get(..all.len() - rest.len()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
