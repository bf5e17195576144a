//! The requests a client has sent and the server has not answered: what each reply belongs to.
//!
//! In: kinds of client messages as they are forwarded, tags of server messages as they come back. Out: which request a
//! reply ends. A reply that fits no request is let through: the server's word counts, this is only book-keeping. Must
//! not know sockets or texts.

use std::collections::VecDeque;

use super::prepared::{Candidate, SharedEffects};

/// One request that will be answered.
#[derive(Debug)]
pub enum Request {
    /// A Query.
    Query {
        /// The effects of its statements, when any has one.
        effects: Option<SharedEffects>,
        /// Statements completed so far.
        next: usize,
    },
    /// A Parse; the named statement it makes.
    Parse(Option<Box<Candidate>>),
    /// A Bind.
    Bind,
    /// A Describe.
    Describe,
    /// An Execute with the effects of its statement.
    Execute(Option<SharedEffects>),
    /// A Close of a statement by this name, or of a portal.
    Close(Option<Box<[u8]>>),
    /// A Sync.
    Sync,
    /// A FunctionCall.
    FunctionCall,
    /// CopyDone or CopyFail: not answered by itself, it only marks the place.
    CopyEnd,
}

impl Request {
    /// True for what is answered with a ReadyForQuery.
    pub fn ends_segment(&self) -> bool {
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
    Parsed(Option<Box<Candidate>>),
    /// A statement was closed.
    Closed(Option<Box<[u8]>>),
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

    /// True while the server takes CopyData.
    pub fn is_copying_in(&self) -> bool {
        self.copying_in
    }

    /// Outstanding requests, oldest first.
    pub fn requests(&self) -> impl Iterator<Item = &Request> {
        self.queue.iter()
    }

    /// The client sent a request.
    pub fn sent(&mut self, request: Request) {
        match request {
            Request::Sync => {
                if self.copying_in {
                    return;
                }
                self.open = false;
                self.skipping = false;
            }
            // Without a COPY and with nothing before it the server passes over it, and nothing will ever answer.
            Request::CopyEnd if self.is_idle() => return,
            Request::CopyEnd => self.copying_in = false,
            Request::Query { .. } | Request::FunctionCall => {}
            _ => self.open = true,
        }
        if !self.skipping {
            self.queue.push_back(request);
        }
    }

    /// The server sent a message with this tag.
    pub fn received(&mut self, tag: u8) -> Answered {
        match tag {
            b'Z' => self.ready(),
            b'C' | b'I' | b's' => self.completed(),
            b'E' => self.failed(),
            b'1' => match self.pop_if(|request| matches!(request, Request::Parse(_))) {
                Some(Request::Parse(candidate)) => Answered::Parsed(candidate),
                _ => Answered::Nothing,
            },
            b'2' => self.end(|request| matches!(request, Request::Bind)),
            b'3' => match self.pop_if(|request| matches!(request, Request::Close(_))) {
                Some(Request::Close(name)) => Answered::Closed(name),
                _ => Answered::Nothing,
            },
            b'T' | b'n' => self.end(|request| matches!(request, Request::Describe)),
            b'G' | b'W' => {
                self.copy_started();
                Answered::Nothing
            }
            _ => Answered::Nothing,
        }
    }

    /// Forgets everything: the backend is gone.
    pub fn clear(&mut self) {
        *self = Self::default();
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
            Some(Request::Query { effects, next }) => {
                let number = *next;
                *next += 1;
                effects.clone().map_or(Answered::Nothing, |effects| Answered::Statement(effects, number))
            }
            Some(Request::Execute(_)) => match self.queue.pop_front() {
                Some(Request::Execute(Some(effects))) => Answered::Statement(effects, 0),
                _ => Answered::Nothing,
            },
            _ => Answered::Nothing,
        }
    }

    /// The server failed: in the extended protocol nothing up to the next Sync will be answered.
    fn failed(&mut self) -> Answered {
        self.drop_marks();
        self.copying_in = false;
        if !self.queue.front().is_some_and(Request::ends_segment) && !self.queue.is_empty() {
            while self.queue.front().is_some_and(|request| !matches!(request, Request::Sync)) {
                self.queue.pop_front();
            }
            self.skipping = self.queue.is_empty();
        }
        Answered::Nothing
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
        if !ended && matches!(self.queue.front(), Some(Request::Execute(_))) {
            self.open = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query() -> Request {
        Request::Query { effects: None, next: 0 }
    }

    fn batch(pipeline: &mut Pipeline) {
        for request in
            [Request::Parse(None), Request::Bind, Request::Describe, Request::Execute(None), Request::Sync]
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

        pipeline.sent(Request::Parse(None));
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
        for request in [Request::Bind, Request::Execute(None), Request::Sync] {
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
        pipeline.sent(Request::Execute(None));
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
                        0 => (Request::Parse(None), b'1'),
                        1 => (Request::Bind, b'2'),
                        2 => (Request::Describe, b'T'),
                        _ => (Request::Execute(None), b'C'),
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
