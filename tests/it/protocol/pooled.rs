//! The same conversations where sessions share two backends and others use them at every moment: a lease that ended too
//! early, or carried something over, would show in the answers.

use std::time::Duration;

use super::{fresh_table, same, scripts, talk, words};
use crate::harness::raw::{self, Raw, bind, close, execute, parse, query, sync};
use crate::harness::scene::{Scene, scene};

/// Sessions that take the backends in between.
const OTHERS: usize = 3;
/// How long answers to a message may take until the next one is sent anyway: long enough that most have come.
const PACE: Duration = Duration::from_millis(1);

/// Does for ever what must not be seen by others.
async fn disturb(scene: &Scene, number: usize) -> tokio::task::JoinHandle<()> {
    let mut raw = scene.raw().await;
    let (text, setting) = (format!("SELECT 'other {number}'"), format!("SET work_mem = '{}MB'", 7 + number));
    tokio::spawn(async move {
        loop {
            let named = [parse("s", &text), bind("", "s", &[]), execute("", 0), close(b'S', "s"), sync()];
            raw.send(&[query(&setting), query("BEGIN"), named.concat(), query("COMMIT")].concat()).await;
            raw.send(&[parse("", &text), sync(), bind("", "", &[]), execute("", 0), sync()].concat()).await;
            for _ in 0..6 {
                let frames = raw.until(b'Z').await;
                assert!(frames.iter().all(|frame| frame.tag != b'E'), "{frames:?}");
            }
        }
    })
}

/// The messages of a script that are whole.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some(length) = bytes.get(1..5) {
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let (message, rest) = bytes.split_at((length + 1).min(bytes.len()));
        parts.push(message);
        bytes = rest;
    }
    parts
}

/// The same as [`talk`], with a pause behind each message in which the backend may be given to others.
async fn talk_slowly(address: &str, bytes: &[u8]) -> Vec<String> {
    let mut raw = Raw::login(address, "app", "app-secret", "app").await;
    fresh_table(&mut raw).await;
    let mut frames = Vec::new();
    let goodbye = [query("SELECT 'goodbye'"), raw::terminate()].concat();
    for message in messages(bytes).into_iter().chain(messages(&goodbye)) {
        raw.try_send(message).await;
        while let Some(frame) = raw.within(PACE).await {
            frames.push(frame);
        }
    }
    frames.extend(raw.end().await);
    words(&frames)
}

#[tokio::test]
async fn conversations_are_the_same_on_shared_backends() {
    let scene = scene(0, |spec| {
        spec.set("pool.mode", "transaction").raw("pool.size", "2").raw("pool.max_prepared", "2");
    })
    .await;
    let mut others = Vec::new();
    for number in 0..OTHERS {
        others.push(disturb(&scene, number).await);
    }
    let mut wrong = Vec::new();
    for (name, bytes) in scripts::conversations() {
        let direct = talk(&scene.cluster.n(0).address(), &bytes, true).await;
        let at_once = talk(&scene.proxy.address(), &bytes, true).await;
        let slowly = talk_slowly(&scene.proxy.address(), &bytes).await;
        for (how, proxied) in [("at once", at_once), ("slowly", slowly)] {
            if !same(&direct, &proxied) {
                wrong.push(format!("{name}, {how}:\n  direct {direct:?}\n proxied {proxied:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for other in others {
        assert!(!other.is_finished(), "the others were disturbed");
        other.abort();
    }
    scene.finish().await;
}
