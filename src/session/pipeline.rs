//! The requests a client has sent and the server has not answered: what each reply belongs to.
//!
//! In: kinds of client messages as they are forwarded, tags of server messages as they come back. Out: which request a
//! reply ends. A reply that fits no request is let through: the server's word counts, this is only book-keeping. Must
//! not know sockets or texts.

use std::collections::VecDeque;
use std::rc::Rc;

use super::prepared::{Description, SharedEffects, Undo};
use crate::pool::StatementId;

/// One request that will be answered.
#[derive(Debug)]
pub enum Request {
    /// A Query.
    Query {
        /// The effects of its statements, when any has one.
        effects: Option<SharedEffects>,
        /// Statements completed so far.
        next: usize,
        /// The number of the change by which it dropped the unnamed statement.
        unnamed: u32,
        /// How to take back that named statements are.
        dropped: Vec<Undo>,
    },
    /// A Parse of a named statement.
    Parse(Box<Parsing>),
    /// A Parse of the unnamed statement, by the number of the change.
    ParseUnnamed(u32),
    /// A Bind.
    Bind,
    /// A Describe of a statement; of which shared one, by its number.
    Describe(Option<u32>),
    /// A Describe of a portal.
    DescribePortal,
    /// A Bind of a statement that its client knows otherwise, or a Describe with what it has said, sent so that it fails.
    Stale(Option<Rc<Description>>),
    /// An Execute.
    Execute {
        /// The effects of its statement.
        effects: Option<SharedEffects>,
        /// How to take back that named statements are gone.
        dropped: Vec<Undo>,
    },
    /// A Close; how to take back that a named statement is gone.
    Close(Option<Box<Undo>>),
    /// A Sync.
    Sync,
    /// A FunctionCall.
    FunctionCall,
    /// CopyDone or CopyFail: not answered by itself, it only marks the place.
    CopyEnd,
    /// A message of ours, whose answer the client does not get.
    Own(Own),
    /// A message of the client that was not sent, with the tag of the answer it gets when its turn comes.
    Fake(u8, Option<Box<Undo>>),
}

/// What the answer to a Parse is needed for.
#[derive(Debug, Default)]
pub struct Parsing {
    /// How to take back the statement it makes.
    pub undo: Option<Undo>,
    /// The statement and its number on the backend, where it is shared.
    pub sent: Option<(StatementId, u32)>,
    /// The client's name for a statement that it prepares twice: the server's refusal has another.
    pub twice: Option<Box<[u8]>>,
}

/// A message of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// A Query.
    Query,
    /// A Parse of a shared statement under this number, or of the unnamed one.
    Parse(Option<(StatementId, u32)>),
    /// A Describe of the shared statement of this number.
    Describe(u32),
    /// A Close of the shared statement of this number, or of the unnamed one.
    Close(Option<u32>),
    /// The Sync of a batch that the client does not know to have failed.
    Sync,
    /// The question, with its statement and portal, what becomes of the transaction.
    Ask,
    /// A BEGIN, COMMIT or ROLLBACK of ours, with its statement and portal.
    Border,
    /// A Close of the statement of one of these.
    Forget,
}

impl Request {
    /// True for what is answered with a ReadyForQuery.
    pub fn ends_segment(&self) -> bool {
        self.is_owed_ready() || matches!(self, Self::Own(Own::Query | Own::Sync))
    }

    /// True for a message of ours.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// True for what the client gets a ReadyForQuery for.
    pub fn is_owed_ready(&self) -> bool {
        matches!(self, Self::Query { .. } | Self::Sync | Self::FunctionCall)
    }
}

/// What a server message ended.
#[derive(Debug)]
pub enum Answered {
    /// Nothing: more of the same request follows, or the message is not a reply.
    Nothing,
    /// One statement of a Query (its number) or an Execute completed.
    Statement(SharedEffects, usize),
    /// A Parse succeeded.
    Parsed(Box<Parsing>),
    /// A message of ours was answered.
    Own(Own),
    /// An error: these requests will not be answered, oldest first; and what the failed Query has not dropped.
    Failed(Vec<Request>, Vec<Undo>),
    /// ReadyForQuery: a segment is over.
    Ready,
}

/// Outstanding requests of one backend, oldest first.
#[derive(Debug, Default)]
pub struct Pipeline {
    queue: VecDeque<Request>,
    /// Extended messages were sent and no Sync behind them.
    open: bool,
    /// The server reported an error and ignores everything up to the next Sync.
    skipping: bool,
    /// The server takes CopyData: a Sync sent now is ignored by it.
    copying_in: bool,
}

impl Pipeline {
    /// True when every request has been answered and none is half sent.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.open && !self.copying_in
    }

    /// True when messages wait for a Sync that the client has not sent.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// True while the server passes over everything up to the next Sync.
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// True while the server takes CopyData.
    pub fn is_copying_in(&self) -> bool {
        self.copying_in
    }

    /// Outstanding requests, oldest first.
    pub fn requests(&self) -> impl Iterator<Item = &Request> {
        self.queue.iter()
    }

    /// True while the answers belong to a message of ours.
    pub fn is_own_turn(&self) -> bool {
        matches!(self.queue.front(), Some(Request::Own(_)))
    }

    /// True while the answers to an earlier batch have not all come.
    pub fn owes_ready(&self) -> bool {
        self.queue.iter().any(Request::ends_segment)
    }

    /// The name that the Parse whose turn it is prepares for the second time.
    pub fn prepared_twice(&self) -> Option<&[u8]> {
        match self.queue.front() {
            Some(Request::Parse(parsing)) => parsing.twice.as_deref(),
            _ => None,
        }
    }

    /// The number of the shared statement that the server describes next.
    pub fn describing(&self) -> Option<u32> {
        match self.queue.front() {
            Some(Request::Describe(number)) => *number,
            Some(Request::Own(Own::Describe(number))) => Some(*number),
            _ => None,
        }
    }

    /// The message whose turn it is, when it had to fail.
    pub fn stale(&self) -> Option<Option<&Description>> {
        match self.queue.front() {
            Some(Request::Stale(description)) => Some(description.as_deref()),
            _ => None,
        }
    }

    /// The message of ours whose turn it is.
    pub fn own_turn(&self) -> Option<Own> {
        match self.queue.front() {
            Some(Request::Own(own)) => Some(*own),
            _ => None,
        }
    }

    /// True while the answers belong to a Query of ours.
    pub fn is_own_query(&self) -> bool {
        matches!(self.queue.front(), Some(Request::Own(Own::Query)))
    }

    /// True when the next answer is one that the server does not send.
    pub fn is_fake_turn(&self) -> bool {
        matches!(self.queue.front(), Some(Request::Fake(..)))
    }

    /// The tag of an answer that the server does not send, if it is the turn of one.
    pub fn take_fake(&mut self) -> Option<u8> {
        self.drop_marks();
        match self.queue.front() {
            Some(Request::Fake(tag, _)) => {
                let tag = *tag;
                self.queue.pop_front();
                Some(tag)
            }
            _ => None,
        }
    }

    /// The batch that has just failed is to be sent again: its end is not the client's.
    pub fn own_sync(&mut self) {
        if let Some(sync @ Request::Sync) = self.queue.front_mut() {
            *sync = Request::Own(Own::Sync);
        }
    }

    /// A request was sent. It comes back when the server passes it over because of an error before it.
    pub fn sent(&mut self, request: Request) -> Option<Request> {
        match request {
            Request::Sync => {
                if self.copying_in {
                    return None;
                }
                self.open = false;
                self.skipping = false;
            }
            // Without a COPY and with nothing before it the server passes over it, and nothing will ever answer.
            Request::CopyEnd if self.is_idle() => return None,
            Request::CopyEnd => self.copying_in = false,
            // They end what was begun without a Sync, unless the server passes over them too.
            Request::Query { .. } | Request::FunctionCall => self.open &= self.skipping,
            Request::Own(_) => {}
            _ => self.open = true,
        }
        if self.skipping {
            return Some(request);
        }
        self.queue.push_back(request);
        None
    }

    /// The server sent a message with this tag.
    pub fn received(&mut self, tag: u8) -> Answered {
        if let Some(Request::Own(own)) = self.queue.front() {
            let own = *own;
            return self.own_received(own, tag);
        }
        match tag {
            b'Z' => self.ready(),
            b'C' | b'I' | b's' => self.completed(),
            b'E' => self.failed(),
            b'1' => {
                match self.pop_if(|request| matches!(request, Request::Parse(_) | Request::ParseUnnamed(_))) {
                    Some(Request::Parse(parsing)) => Answered::Parsed(parsing),
                    _ => Answered::Nothing,
                }
            }
            b'2' => self.end(|request| matches!(request, Request::Bind)),
            b'3' => self.end(|request| matches!(request, Request::Close(_))),
            b'T' | b'n' => {
                self.end(|request| matches!(request, Request::Describe(_) | Request::DescribePortal))
            }
            b'G' | b'W' => {
                self.copy_started();
                Answered::Nothing
            }
            _ => Answered::Nothing,
        }
    }

    fn own_received(&mut self, own: Own, tag: u8) -> Answered {
        let ends = match own {
            Own::Query | Own::Sync => tag == b'Z',
            Own::Parse(_) => tag == b'1',
            Own::Describe(_) => matches!(tag, b'T' | b'n'),
            Own::Close(_) | Own::Forget => tag == b'3',
            Own::Ask | Own::Border => tag == b'C',
        };
        if tag == b'E' && !matches!(own, Own::Query | Own::Sync) {
            return self.failed();
        }
        if ends {
            self.queue.pop_front();
        }
        Answered::Own(own)
    }

    /// The backend is gone: nothing will be answered any more. Returns what was outstanding, oldest first.
    pub fn abandon(&mut self) -> impl DoubleEndedIterator<Item = Request> + use<> {
        std::mem::take(self).queue.into_iter()
    }

    fn pop_if(&mut self, fits: impl Fn(&Request) -> bool) -> Option<Request> {
        self.drop_marks();
        if self.queue.front().is_some_and(fits) { self.queue.pop_front() } else { None }
    }

    fn end(&mut self, fits: impl Fn(&Request) -> bool) -> Answered {
        self.pop_if(fits);
        Answered::Nothing
    }

    /// Copy marks at the front have done their work once the COPY before them was answered.
    fn drop_marks(&mut self) {
        while matches!(self.queue.front(), Some(Request::CopyEnd)) {
            self.queue.pop_front();
        }
    }

    fn completed(&mut self) -> Answered {
        self.drop_marks();
        match self.queue.front_mut() {
            Some(Request::Query { effects, next, .. }) => {
                let number = *next;
                *next += 1;
                effects.clone().map_or(Answered::Nothing, |effects| Answered::Statement(effects, number))
            }
            Some(Request::Execute { .. }) => match self.queue.pop_front() {
                Some(Request::Execute { effects: Some(effects), .. }) => Answered::Statement(effects, 0),
                _ => Answered::Nothing,
            },
            _ => Answered::Nothing,
        }
    }

    /// The server failed: in the extended protocol nothing up to the next Sync will be answered.
    fn failed(&mut self) -> Answered {
        self.drop_marks();
        self.copying_in = false;
        let mut skipped = Vec::new();
        if !self.queue.front().is_some_and(Request::ends_segment) && !self.queue.is_empty() {
            let is_sync = |request: &Request| matches!(request, Request::Sync | Request::Own(Own::Sync));
            while self.queue.front().is_some_and(|request| !is_sync(request)) {
                skipped.extend(self.queue.pop_front());
            }
            self.skipping = self.queue.is_empty();
            self.open |= self.skipping;
        }
        let kept = match self.queue.front_mut() {
            Some(Request::Query { next: 0, dropped, .. }) if skipped.is_empty() => std::mem::take(dropped),
            _ => Vec::new(),
        };
        Answered::Failed(skipped, kept)
    }

    fn ready(&mut self) -> Answered {
        while let Some(request) = self.queue.pop_front() {
            if request.ends_segment() {
                break;
            }
        }
        self.drop_marks();
        self.copying_in = false;
        Answered::Ready
    }

    /// The server reads CopyData now and ignores any Sync that came before the end of the copy.
    fn copy_started(&mut self) {
        let mut ended = false;
        let mut first = true;
        self.queue.retain(|request| {
            let keep = first || ended || !matches!(request, Request::Sync);
            ended |= matches!(request, Request::CopyEnd);
            first = false;
            keep
        });
        self.copying_in = !ended;
        if !ended && matches!(self.queue.front(), Some(Request::Execute { .. })) {
            self.open = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query() -> Request {
        Request::Query { effects: None, next: 0, unnamed: 0, dropped: Vec::new() }
    }

    fn execute() -> Request {
        Request::Execute { effects: None, dropped: Vec::new() }
    }

    fn batch(pipeline: &mut Pipeline) {
        for request in
            [Request::Parse(Box::default()), Request::Bind, Request::Describe(None), execute(), Request::Sync]
        {
            pipeline.sent(request);
        }
    }

    fn reply(pipeline: &mut Pipeline, tags: &[u8]) {
        for tag in tags {
            pipeline.received(*tag);
        }
    }

    #[test]
    fn a_batch_is_over_at_ready_for_query() {
        let mut pipeline = Pipeline::default();
        batch(&mut pipeline);
        batch(&mut pipeline);
        reply(&mut pipeline, b"12TDDCZ");
        assert!(!pipeline.is_idle());
        reply(&mut pipeline, b"12nCZ");
        assert!(pipeline.is_idle());
    }

    #[test]
    fn an_error_skips_to_the_sync_sent_or_to_come() {
        let mut pipeline = Pipeline::default();
        batch(&mut pipeline);
        pipeline.sent(query());
        reply(&mut pipeline, b"1EZ");
        assert!(!pipeline.is_idle());
        reply(&mut pipeline, b"TDCZ");
        assert!(pipeline.is_idle());

        pipeline.sent(Request::Parse(Box::default()));
        reply(&mut pipeline, b"E");
        pipeline.sent(Request::Bind);
        assert!(pipeline.is_open());
        pipeline.sent(Request::Sync);
        reply(&mut pipeline, b"Z");
        assert!(pipeline.is_idle());
    }

    #[test]
    fn copy_in_ignores_the_syncs_before_its_end() {
        let mut pipeline = Pipeline::default();
        for request in [Request::Bind, execute(), Request::Sync] {
            pipeline.sent(request);
        }
        reply(&mut pipeline, b"2G");
        assert!(pipeline.is_copying_in());
        pipeline.sent(Request::Sync);
        pipeline.sent(Request::CopyEnd);
        pipeline.sent(Request::Sync);
        reply(&mut pipeline, b"C");
        assert!(!pipeline.is_idle());
        reply(&mut pipeline, b"Z");
        assert!(pipeline.is_idle());

        pipeline.sent(query());
        reply(&mut pipeline, b"G");
        pipeline.sent(Request::CopyEnd);
        reply(&mut pipeline, b"CZ");
        assert!(pipeline.is_idle());
    }

    #[test]
    fn a_suspended_portal_ends_its_execute() {
        let mut pipeline = Pipeline::default();
        pipeline.sent(Request::Bind);
        pipeline.sent(execute());
        reply(&mut pipeline, b"2Ds");
        assert_eq!(pipeline.requests().count(), 0);
        assert!(pipeline.is_open() && !pipeline.is_idle());
        pipeline.sent(Request::Sync);
        reply(&mut pipeline, b"Z");
        assert!(pipeline.is_idle());
    }

    proptest! {
        /// A model server answers every batch; each may fail at any message. The books must balance at the end.
        #[test]
        fn the_books_balance(batches in proptest::collection::vec((1usize..6, proptest::option::of(0usize..6)), 1..8)) {
            let mut pipeline = Pipeline::default();
            let mut replies = Vec::new();
            for (len, fails_at) in batches {
                let mut failed = false;
                for at in 0..len {
                    let (request, tag) = match at % 4 {
                        0 => (Request::Parse(Box::default()), b'1'),
                        1 => (Request::Bind, b'2'),
                        2 => (Request::Describe(None), b'T'),
                        _ => (execute(), b'C'),
                    };
                    pipeline.sent(request);
                    if !failed {
                        failed = fails_at == Some(at);
                        replies.push(if failed { b'E' } else { tag });
                    }
                }
                pipeline.sent(Request::Sync);
                replies.push(b'Z');
            }
            for (at, tag) in replies.iter().enumerate() {
                prop_assert!(!pipeline.is_idle(), "idle before reply {at}");
                pipeline.received(*tag);
            }
            prop_assert!(pipeline.is_idle());
        }
    }
}
