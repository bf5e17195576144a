//! The immutable view of all nodes and the pure function that decides it.
//!
//! In: observations of the probers (`health`), nudges of sessions and pools. Out: [`Topology`] snapshots through
//! [`Store`], read by `route`, `pool`, `session` and `admin`. It knows no socket and no SQL; `decide` and what it
//! uses know no clock either: time comes in as a [`Moment`].

mod answers;
pub mod decide;
mod events;
mod lag;
mod moment;
mod node;
mod observe;
mod origin;
mod outage;
mod position;
mod samples;
mod signal;
mod snapshot;
mod store;

pub use answers::Answers;
pub use events::{Event, EventKind, EventLog};
pub use moment::Moment;
pub use node::{Health, Lag, NodeId, NodeView, ReadRefusal, Reads, Role};
pub use observe::{Failure, Observation, Receiver, Sample, Seen};
pub use origin::{Facts, Here, Line, Origin, line};
pub use outage::{Ending, Outage, Recorder, Seen as Recorded, Tally};
pub use position::{Epoch, Lsn, Timeline};
pub use samples::{Sampled, Samples};
pub use signal::{Alive, Nudge, Nudged, Nudges, Proof};
pub use snapshot::{Fork, Topology};
pub use store::Store;
