//! What a session must find on a node it reads from: its own writes, and whatever it has read before.
//!
//! In: marks (after which probe a reply of which node was read) and [topologies](Topology), whose samples say how far
//! the log was when. Out: whether a node serves the session. Nothing is asked of a server for it. Marks become
//! positions only when somebody wants to read, from samples that come anyway. Pure: knows no clock and no session.

use std::num::NonZeroU64;

use crate::topology::{Lsn, NodeId, NodeView, Timeline, Topology};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

/// A reply of a node, in terms of probes: both numbers are [`crate::topology::Nudges::sent`] at their moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark {
    /// Who replied.
    pub node: NodeId,
    /// Loaded before what was replied to was sent. A prober connection opened until then and still open after
    /// `number` proves that the node did not go back in time in between.
    pub since: u64,
    /// Loaded after the ReadyForQuery was read: a sample with a higher number shows all that the reply could show.
    pub number: u64,
}

/// Does a node have what the session must find?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fresh {
    /// It lacks this position, or did when it was last sampled.
    NotYet(Lsn),
    /// Not known: no sample is young enough yet.
    Unknown,
    /// It does.
    Yes,
}

/// What one session has written and read, as far as it binds its next read. By default nothing.
///
/// It counts on being asked: who lets a node serve a read that [`Floors::serves`] did not allow loses what was known
/// of earlier reads.
#[derive(Clone, Debug, Default)]
pub struct Floors {
    /// The first probe number that is after all the primary was seen to have for this session; 0: it never mattered.
    after: u64,
    /// The position that covers all this, found in `era`.
    lsn: Lsn,
    /// [`Topology::era`] of the sample behind `lsn`; 0 while there is none, [`NO_ERA`] if nobody was the primary.
    era: u64,
    /// The last read from a standby, until a sample covers it.
    read: Option<Read>,
    /// No return from the primary is worth a wait before a standby has what the primary had at this probe.
    hold: u64,
    required: Option<Box<Required>>,
}

/// A read from a standby.
#[derive(Clone, Copy, Debug)]
struct Read {
    node: NodeId,
    since: u64,
    /// The first probe number after its end.
    after: NonZeroU64,
}

/// What the client asks for by itself.
#[derive(Clone, Copy, Debug)]
struct Required {
    /// Bound when it is first looked at, if the client names none.
    timeline: Option<Timeline>,
    lsn: Lsn,
}

/// Differs from every era, so that the floor is found anew in the next one.
const NO_ERA: u64 = u64::MAX;

impl Floors {
    /// The primary has replied to what was not proven a read. Whatever was read before, the primary had it then.
    pub fn wrote(&mut self, mark: Mark) {
        self.await_primary(mark.number.saturating_add(1));
        self.hold = mark.number;
    }

    /// The primary has replied to what the client calls a read. The client may be wrong, so the position is that of a write;
    /// but the next read is worth a wait, or a session that does nothing else would never leave the primary.
    pub fn declared(&mut self, mark: Mark) {
        self.await_primary(mark.number.saturating_add(1));
    }

    /// A node, standby or primary, has replied to a read.
    pub fn read(&mut self, mark: Mark) {
        let after = NonZeroU64::MIN.saturating_add(mark.number);
        self.read = Some(Read { node: mark.node, since: mark.since, after });
    }

    /// The client wants nothing older than this (`SET pgsteer.min_lsn`). Without a timeline the present one is meant.
    /// A position that a crashed primary has lost on its own timeline is waited for until the log is that long again.
    pub fn require(&mut self, timeline: Option<Timeline>, lsn: Lsn) {
        self.required = Some(Box::new(Required { timeline, lsn }));
    }

    /// The client takes back what it [required](Floors::require).
    pub fn relax(&mut self) {
        self.required = None;
    }

    /// The client requires something.
    pub fn is_required(&self) -> bool {
        self.required.is_some()
    }

    /// A wait for a standby to get here, as [`super::Refusal::NotFresh`] proposed it, was in vain. None is proposed
    /// again before a standby has what the primary has now. `number` is [`crate::topology::Nudges::sent`].
    pub fn gave_up(&mut self, number: u64) {
        self.hold = self.hold.max(number);
    }

    /// May `node` serve a read of this session, as far as its own writes and reads go? The primary always may.
    ///
    /// Of a standby only the position is looked at: that it is on the primary's branch is for the caller to know.
    pub fn serves(&mut self, topology: &Topology, node: &NodeView) -> Fresh {
        if topology.primary == Some(node.id) {
            return Fresh::Yes;
        }
        self.resolve(topology);
        if self.read.is_some_and(|read| read.node != node.id) || (self.after > 0 && self.era == 0) {
            return Fresh::Unknown;
        }
        let own = if self.after > 0 { self.lsn } else { Lsn(0) };
        let required = match self.required(topology) {
            Ok(lsn) => lsn,
            Err(fresh) => return fresh,
        };
        let floor = own.max(required);
        match node.samples.latest() {
            _ if floor == Lsn(0) => Fresh::Yes,
            Some(latest) if latest.lsn >= floor => Fresh::Yes,
            Some(_) => Fresh::NotYet(floor),
            None => Fresh::Unknown,
        }
    }

    /// Is `node` kept from serving by reads of this session only, so that the next samples are likely to free it? A
    /// session that reads without a pause from the primary has always just read something younger than any sample.
    pub(super) fn nearly(&self, topology: &Topology, node: &NodeView) -> bool {
        let Some(primary) = topology.era().and(topology.primary).and_then(|id| topology.node(id)) else {
            return false;
        };
        let Some(latest) = node.samples.latest() else { return false };
        primary.samples.first_after(self.hold).is_some_and(|sampled| latest.lsn >= sampled.lsn)
    }

    /// A position that has all the session has written and read, for another session to
    /// [require](Floors::require) (`SHOW pgsteer.lsn`); the primary's latest one if it has done neither. `None` until
    /// a sample says so.
    pub fn position(&mut self, topology: &Topology) -> Option<(Timeline, Lsn)> {
        self.resolve(topology);
        let era = topology.era()?;
        let primary = topology.node(topology.primary?)?;
        let lsn = match self.after {
            _ if self.read.is_some() => return None,
            0 => primary.samples.latest()?.lsn,
            _ if self.era == era => self.lsn,
            _ => return None,
        };
        Some((primary.timeline?, lsn))
    }

    /// Makes positions of marks where samples allow it.
    fn resolve(&mut self, topology: &Topology) {
        if let Some(read) = self.read {
            self.resolve_read(topology, read);
        }
        // Without a primary the floor found last stays: nothing it covers can be missing where it is reached.
        let Some(era) = topology.era().filter(|era| self.after > 0 && *era != self.era) else { return };
        let primary = topology.primary.and_then(|id| topology.node(id));
        if let Some(sampled) = primary.and_then(|p| p.samples.first_after(self.after - 1)) {
            (self.lsn, self.era) = (sampled.lsn, era);
        }
    }

    /// What was read from a standby is what it had replayed at its next sample, unless it may have gone back in time
    /// before that. Then it is what the primary has next: nobody replays what the primary does not have.
    fn resolve_read(&mut self, topology: &Topology, read: Read) {
        let samples = topology.node(read.node).map(|node| &node.samples);
        let steady = samples.filter(|s| !s.of_primary() && s.link() > 0 && s.link() <= read.since);
        let Some(samples) = steady else { return self.await_primary(read.after.get()) };
        if let Some(sampled) = samples.first_after(read.after.get() - 1) {
            self.read = None;
            self.raise(read.after.get(), sampled.lsn, topology.era());
        } else if samples.latest().is_none() {
            self.await_primary(read.after.get());
        }
    }

    /// Adds to the floor what was read before the probe `after`, which `lsn` covers.
    fn raise(&mut self, after: u64, lsn: Lsn, era: Option<u64>) {
        let pending = self.after > 0 && self.era == 0;
        let comparable = self.after == 0 || era.is_none_or(|era| era == self.era);
        self.after = self.after.max(after);
        if pending || !comparable {
            self.era = 0;
        } else {
            (self.lsn, self.era) = (self.lsn.max(lsn), era.unwrap_or(NO_ERA));
        }
    }

    /// Only a sample of the primary with at least this number covers what has been seen until now.
    fn await_primary(&mut self, after: u64) {
        self.after = self.after.max(after);
        self.era = 0;
        self.read = None;
    }

    /// The position that the client's own requirement comes to, or why nobody is known to have it.
    fn required(&mut self, topology: &Topology) -> Result<Lsn, Fresh> {
        let Some(required) = self.required.as_deref_mut() else { return Ok(Lsn(0)) };
        let present = topology.timeline.ok_or(Fresh::Unknown)?;
        let timeline = *required.timeline.get_or_insert(present);
        if timeline >= present {
            return if timeline > present { Err(Fresh::NotYet(required.lsn)) } else { Ok(required.lsn) };
        }
        // What lies beyond the fork is lost: nobody will ever have it, and everybody has what lies before it.
        let fork = topology.fork.filter(|fork| fork.timeline == present).map(|fork| fork.lsn);
        let primary = topology.era().and(topology.primary).and_then(|id| topology.node(id));
        let begun = primary.and_then(|p| p.samples.first_after(0)).map(|sampled| sampled.lsn);
        Ok(fork.or(begun).map_or(required.lsn, |end| end.min(required.lsn)))
    }
}
