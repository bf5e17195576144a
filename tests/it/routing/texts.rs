//! Texts that mean something else than they look like: settings decide where a string ends.

use crate::harness::eventually;
use crate::harness::raw::{Raw, bind, describe, execute, message, parse, sync};

use super::stage::{BOTH, Place, Protocol, Stage, failure, stage};

/// Where `standard_conforming_strings` is off the string ends behind `\'`, and a function is called; where it is on all of
/// it is one string.
const CALLS_WHEN_OFF: &str = r"SELECT 'a\'' , writes() --'";
/// The other way round.
const CALLS_WHEN_ON: &str = r"SELECT 'a\', writes(), 'b\'";

async fn written_by(stage: &Stage, raw: &mut Raw, protocol: Protocol, sql: &str) -> u64 {
    let before = stage.written().await;
    let frames = match protocol {
        Protocol::Simple => raw.query(sql).await,
        Protocol::Extended => {
            raw.send(&[parse("", sql), bind("", "", &[]), execute("", 0), sync()].concat()).await;
            raw.until(b'Z').await
        }
    };
    assert_eq!(failure(&frames), None, "{sql}: {frames:?}");
    stage.written().await - before
}

#[tokio::test]
async fn backslashes_in_strings_are_read_as_the_server_reads_them() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    for (off, on) in [
        ("SET standard_conforming_strings = off", "SET standard_conforming_strings = on"),
        (
            "SELECT set_config('standard_conforming_strings', 'off', false)",
            "RESET standard_conforming_strings",
        ),
    ] {
        for protocol in BOTH {
            stage.settle(&mut raw).await;
            assert_eq!(written_by(&stage, &mut raw, protocol, CALLS_WHEN_OFF).await, 0);
            assert_eq!(written_by(&stage, &mut raw, protocol, CALLS_WHEN_ON).await, 1);
            raw.query(off).await;
            for _ in 0..5 {
                stage.settle(&mut raw).await;
                assert_eq!(written_by(&stage, &mut raw, protocol, CALLS_WHEN_OFF).await, 1, "{off}");
            }
            // What has no backslash reads as ever, under the session's setting.
            eventually("a plain string on a standby", async || {
                let outcome = stage.run(&mut raw, protocol, "SELECT 'a' || b FROM plain").await;
                assert_eq!(outcome.value(), "ax");
                outcome.places == [Place::Standby]
            })
            .await;
            assert_eq!(raw.params["standard_conforming_strings"], "off");
            // One that a transaction takes back.
            raw.query("BEGIN; SET standard_conforming_strings = on; ROLLBACK").await;
            stage.settle(&mut raw).await;
            assert_eq!(written_by(&stage, &mut raw, protocol, CALLS_WHEN_OFF).await, 1, "taken back");
            raw.query(on).await;
            stage.settle(&mut raw).await;
            assert_eq!(written_by(&stage, &mut raw, protocol, CALLS_WHEN_OFF).await, 0, "{on}");
        }
    }
    let mut at_startup = stage.login(&[("options", "-c standard_conforming_strings=off")]).await;
    stage.settle(&mut at_startup).await;
    assert_eq!(written_by(&stage, &mut at_startup, Protocol::Simple, CALLS_WHEN_OFF).await, 1);
    assert_eq!(stage.reruns().await, 0);
    stage.finish().await;
}

/// A statement keeps the meaning it had when it was prepared, on whichever backend it runs.
#[tokio::test]
async fn prepared_texts_keep_their_meaning() {
    if crate::harness::shares_backends() {
        // There a text is prepared again as the session's settings read it at that moment, split or not.
        return;
    }
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    stage.settle(&mut raw).await;
    raw.send(&[parse("q", r"SELECT 'a\'"), describe(b'S', "q"), sync()].concat()).await;
    raw.until(b'Z').await;
    raw.query("SET standard_conforming_strings = off").await;
    for _ in 0..3 {
        stage.settle(&mut raw).await;
        raw.send(&[bind("", "q", &[]), execute("", 0), sync()].concat()).await;
        let frames = raw.until(b'Z').await;
        let row = frames.iter().find(|frame| frame.tag == b'D').unwrap_or_else(|| panic!("{frames:?}"));
        assert_eq!(row.columns()[0].as_deref(), Some(r"a\"));
        raw.query("SELECT writes()").await;
    }
    stage.finish().await;
}

/// In SJIS the second byte of a character may be a backslash. With strings that are not standard it hides the quote from
/// whoever reads bytes.
#[tokio::test]
async fn characters_that_end_in_a_backslash_hide_nothing() {
    /// KATAKANA LETTER SO.
    const SO: &[u8] = b"\x83\x5c";
    let stage = stage(|_| {}).await;
    let mut set = stage.scene.raw().await;
    set.query("SET client_encoding = 'SJIS'").await;
    let mut at_startup = stage.login(&[("client_encoding", "SJIS")]).await;
    for raw in [&mut set, &mut at_startup] {
        assert_eq!(raw.params["client_encoding"], "SJIS");
        for strings in ["off", "on"] {
            raw.query(&format!("SET standard_conforming_strings = {strings}")).await;
            // 'ソ', writes() --'
            let text = [b"SELECT '", SO, b"', writes() --'"].concat();
            for protocol in BOTH {
                stage.settle(raw).await;
                let before = stage.written().await;
                let all = match protocol {
                    Protocol::Simple => message(b'Q', &[&text[..], b"\0"].concat()),
                    Protocol::Extended => {
                        let parse = message(b'P', &[b"\0", &text[..], b"\0\0\0"].concat());
                        [parse, bind("", "", &[]), execute("", 0), sync()].concat()
                    }
                };
                raw.send(&all).await;
                let frames = raw.until(b'Z').await;
                assert_eq!(failure(&frames), None, "{frames:?}");
                let row = frames.iter().find(|frame| frame.tag == b'D').unwrap();
                assert_eq!(&row.body[2..8], [&[0, 0, 0, 2], SO].concat(), "{row}");
                assert_eq!(stage.written().await, before + 1);
            }
        }
        // Standbys answer in the session's encoding.
        eventually("a character from a standby", async || {
            let outcome = stage.query(raw, "SELECT chr(12477)").await;
            let row = outcome.frames.iter().find(|frame| frame.tag == b'D').unwrap();
            assert_eq!(&row.body[2..8], [&[0, 0, 0, 2], SO].concat(), "{row}");
            outcome.places == [Place::Standby]
        })
        .await;
    }
    assert_eq!(stage.reruns().await, 0);
    stage.finish().await;
}
