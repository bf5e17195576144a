//! Waiting for a condition with a deadline: nothing in the demonstration or the tests sleeps and hopes.

use std::time::Duration;

use tokio::time::Instant;

use super::error::DemoError;

/// Between two looks: a look is a statement on a local server (0.2 ms) or a stat of a file.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks until the condition gives a value, an error, or `limit` is over; `what` completes "waited for".
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>, DemoError>,
) -> Result<T, DemoError> {
    let began = Instant::now();
    loop {
        if let Some(value) = look().await? {
            return Ok(value);
        }
        if began.elapsed() >= limit {
            return Err(DemoError::Timeout {
                what: what.to_owned(),
                waited: began.elapsed(),
                last: String::new(),
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
