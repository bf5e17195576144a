//! Reads on standbys, everything else on the primary, and no client that can tell: a primary and two standbys write every
//! statement to their logs, each statement carries a mark of its own, and the mark must be in the log of exactly the
//! nodes that had to run it.
//!
//! `stage` holds the cluster and the marks; the other files are about what must stay on the primary (`writes`, `sessions`),
//! what must not (`reads`), what clients declare (`declared`), texts that are read otherwise than they look (`texts`), and
//! what happens when a standby fails a read (`refusals`, `conflicts`).

mod conflicts;
mod declared;
mod reads;
mod refusals;
mod sessions;
mod stage;
mod texts;
mod writes;
