//! Good conversations with bytes changed at random: whatever that makes of them, pgsteer and the server agree on it.
//!
//! A difference names the seed of its round; `MUTANTS=FIRST..LAST` runs those rounds.

use super::{comparable, fresh_table, same, scripts};
use crate::harness::raw::{Raw, query, terminate};
use crate::harness::scene::scene;

/// Rounds of an ordinary run.
const ROUNDS: std::ops::Range<u64> = 0..60;

/// The rounds to run: those of `MUTANTS`, when it is set.
fn rounds() -> std::ops::Range<u64> {
    let wanted = std::env::var("MUTANTS").unwrap_or_default();
    let ends = wanted.split_once("..").map(|(first, last)| (first.parse().unwrap(), last.parse().unwrap()));
    ends.map_or(ROUNDS, |(first, last)| first..last)
}

/// SplitMix64: good enough, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((bits ^ (bits >> 31)) >> 33).unwrap() % limit
    }

    /// One change: a byte replaced, put in or left out, a message header's byte more often than others, or a cut.
    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        let byte = [0, 1, 4, b'S', b'Q', b'd', b'X', 255, b'\''][self.below(9)];
        match self.below(6) {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            2 if bytes.len() > 1 => drop(bytes.remove(at)),
            3 => bytes[at] ^= 1 << self.below(8),
            4 => bytes.truncate(at.max(1)),
            _ => {
                let end = (at + 1 + self.below(12)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
}

/// What comes back when these are the last bytes of a client.
async fn last_words(address: &str, bytes: &[u8]) -> Vec<String> {
    let mut raw = Raw::login(address, "app", "app-secret", "app").await;
    raw.query("SET statement_timeout = '5s'").await;
    fresh_table(&mut raw).await;
    raw.try_send(bytes).await;
    raw.half_close().await;
    comparable(&raw.end().await)
}

#[tokio::test]
async fn changed_bytes_are_answered_as_by_the_server() {
    let scene = scene(0, |_| {}).await;
    let originals = [scripts::conversations(), scripts::violations()].concat();
    for seed in rounds() {
        let mut dice = Dice(seed);
        let (name, original) = &originals[dice.below(originals.len())];
        let mut bytes = [original.clone(), query("SELECT 'more'")].concat();
        for _ in 0..=dice.below(3) {
            dice.change(&mut bytes);
        }
        // Some say goodbye, if what is before it lets that through.
        if dice.below(3) == 0 {
            bytes.extend(terminate());
        }
        let direct = last_words(&scene.cluster.n(0).address(), &bytes).await;
        let proxied = last_words(&scene.proxy.address(), &bytes).await;
        let shown = bytes.escape_ascii().to_string();
        assert!(
            same(&direct, &proxied),
            "seed {seed}, {name}: {shown}\n  direct {direct:?}\n proxied {proxied:?}"
        );
    }
    assert!(scene.raw().await.is_alive().await, "others go on");
    scene.finish().await;
}
