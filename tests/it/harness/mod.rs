//! What the tests stand on: clusters, the program under test, a link that can be cut, a client that
//! speaks bytes, drivers, and an oracle that knows which writes were acknowledged.

pub mod cluster;
pub mod drivers;
pub mod link;
pub mod loss;
pub mod oracle;
pub mod proxy;
pub mod raw;
pub mod scene;
pub mod scram;

use std::time::Duration;

/// The deadline of every wait in the tests: generous, since two cores are shared with everything else.
pub const LIMIT: Duration = Duration::from_secs(20);

/// True when the proxies of this run lease backends for transactions, as `PGSTEER_TEST_POOL_MODE` says. Few tests may ask:
/// what a client sees is the same, but for the process id it is told and when it waits for a backend.
pub fn shares_backends() -> bool {
    pool_mode().as_deref() == Some("transaction")
}

/// `pool.mode` of this run, when it is given.
pub fn pool_mode() -> Option<String> {
    std::env::var("PGSTEER_TEST_POOL_MODE").ok()
}

/// Looks until the condition holds; panics with `what` when it does not come true in time.
pub async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let condition = pgsteer::demo::wait::until(what, LIMIT, async || Ok(look().await.then_some(())));
    condition.await.unwrap();
}

/// The future's result, or a panic that says what did not happen in time.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("in {LIMIT:?}: no {what}"))
}
