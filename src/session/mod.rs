//! One client from its first byte to its last.
//!
//! Flow: `startup` reads the first packets into a phase, `auth` proves who it is, `login` greets, `run` relays between
//! the client and the backend it has leased and, when that is lost (`loss`), `attach` finds another while `wait` listens
//! and `hold` counts who waits (for a client that waits for notifications, `listener` does it unasked); `share` leases one
//! for each transaction; `split` sends reads to standbys; `leave` is the end. `state`, `pipeline`, `params`, `name`,
//! `prepared`, `sharing` and `limbo` are sans-IO: messages in, verdicts out.

mod attach;
mod auth;
pub mod buffer;
mod cancel;
pub mod catalogues;
pub mod context;
pub mod directory;
mod doubt;
mod hold;
mod leave;
pub mod limbo;
mod listener;
pub mod login;
mod loss;
mod name;
pub mod params;
pub mod pipeline;
pub mod prepared;
mod relay;
mod replay;
mod resolve;
mod restore;
mod run;
mod share;
pub mod sharing;
pub mod split;
pub mod startup;
pub mod state;
pub mod verifiers;
mod wait;

pub use auth::random;
pub use run::Session;
