//! Chaos: clusters and proxies under a mixed load, with everything happening to them that may happen, in an order drawn
//! from a seed; and a judge who knows what was promised.
//!
//! Among the other tests it is two short episodes. `scripts/chaos.sh --minutes 60` makes it an evening of many; a failure
//! prints the line that runs its episode again.
#![expect(clippy::disallowed_methods, reason = "tests spawn freely: their runtime ends with them")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

mod episode;
mod figures;
#[path = "../it/harness/mod.rs"]
#[allow(dead_code, reason = "a toolbox: not every tool is in use here")]
mod harness;
mod history;
mod line;
mod oracle;
mod plan;
mod readers;
mod stage;
mod writers;

use std::time::Duration;

use tokio::time::Instant;

use episode::episode;
use figures::Figures;
use plan::Plan;

/// Steps of an episode of a long run, and of one among the other tests.
const STEPS: [usize; 2] = [14, 3];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

/// One short episode; the seed says with which settings.
async fn short(seed: u64) {
    if number("PGSTEER_SEED").is_some() {
        // A run of its own.
        return;
    }
    let mut figures = Figures::default();
    episode(&Plan::draw(seed, STEPS[1]), &mut figures).await;
    println!("{}", figures.text());
}

#[tokio::test]
async fn sessions_of_their_own() {
    short(38).await;
}

#[tokio::test]
async fn shared_backends() {
    short(67).await;
}

/// As long as `PGSTEER_MINUTES` says, from the seed `PGSTEER_SEED` on; without minutes just that one.
#[tokio::test]
async fn from_a_seed() {
    let Some(mut seed) = number("PGSTEER_SEED") else { return };
    let steps = number("PGSTEER_STEPS").map_or(STEPS[0], |steps| steps as usize);
    let end = Instant::now() + Duration::from_mins(number("PGSTEER_MINUTES").unwrap_or(0));
    let mut figures = Figures::default();
    loop {
        episode(&Plan::draw(seed, steps), &mut figures).await;
        println!("{}", figures.text());
        if let Some(file) = std::env::var_os("PGSTEER_JSON") {
            std::fs::write(file, format!("{:#}\n", figures.json())).unwrap();
        }
        if Instant::now() >= end {
            return;
        }
        seed += 1;
    }
}
