//! The protocol as the server speaks it: the same bytes are sent to both, the same messages must come back.

use std::time::Duration;

use crate::harness::raw::{
    self, Frame, Raw, bind, close, copy_data, copy_done, copy_fail, describe, execute, flush, message, parse,
    query, startup, sync,
};
use crate::harness::scene::{Scene, scene};

/// What may differ: the process id and key, the nonces of a login, when a parameter is reported.
fn comparable(frames: &[Frame]) -> Vec<String> {
    let fixed = frames.iter().filter(|frame| !matches!(frame.tag, b'K' | b'S' | b'R'));
    fixed.map(ToString::to_string).collect()
}

/// Sends the bytes after a login, then says goodbye; everything that comes back.
async fn talk(address: &str, bytes: &[u8], goodbye: bool) -> Vec<String> {
    let mut raw = Raw::login(address, "app", "app-secret", "app").await;
    raw.query("CREATE TEMP TABLE t (a int)").await;
    raw.try_send(bytes).await;
    if goodbye {
        raw.send(&query("SELECT 'goodbye'")).await;
        raw.send(&raw::terminate()).await;
    }
    comparable(&raw.end().await)
}

async fn compare(scene: &Scene, scripts: &[Script], goodbye: bool) {
    for (name, bytes) in scripts {
        eprintln!("{name}");
        let direct = talk(&scene.cluster.n(0).address(), bytes, goodbye).await;
        let proxied = talk(&scene.proxy.address(), bytes, goodbye).await;
        assert!(same(&direct, &proxied), "{name}:\n  direct {direct:?}\n proxied {proxied:?}");
        assert!(!direct.is_empty() || !goodbye, "{name}: nothing came back");
    }
}

fn batch(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

/// The same words; or one that says what was wrong where the server only closes the connection.
fn same(direct: &[String], proxied: &[String]) -> bool {
    let told = |one: &String| one.starts_with("E FATAL 08P01 ");
    // The proxy itself speaks 3.2, whatever the server behind it does.
    let newest = |one: &String| one.replace("3.0 to 3.0", "3.0 to 3.2");
    let direct: Vec<String> = direct.iter().map(newest).collect();
    direct == proxied || (direct.is_empty() && matches!(proxied, [one] if told(one)))
}

type Script = (&'static str, Vec<u8>);

fn simple_scripts() -> Vec<Script> {
    vec![
        ("simple", query("SELECT 1; SELECT 'two'; SELECT")),
        ("empty", query("")),
        ("error in a multi-statement", query("SELECT 1; SELECT 1/0; SELECT 2")),
        ("failed block", batch(&[query("BEGIN"), query("SELECT 1/0"), query("SELECT 1"), query("COMMIT")])),
    ]
}

fn extended_scripts() -> Vec<Script> {
    let rows = "SELECT i FROM generate_series(1, 5) i";
    vec![
        (
            "extended",
            batch(&[
                parse("s", rows),
                describe(b'S', "s"),
                bind("p", "s", &[]),
                describe(b'P', "p"),
                execute("p", 0),
                close(b'P', "p"),
                close(b'S', "s"),
                sync(),
            ]),
        ),
        (
            "row limit",
            batch(&[
                parse("", rows),
                bind("", "", &[]),
                execute("", 2),
                execute("", 2),
                execute("", 2),
                sync(),
            ]),
        ),
        (
            "flush",
            batch(&[
                parse("", "SELECT $1::int"),
                flush(),
                bind("", "", &["7"]),
                flush(),
                execute("", 0),
                flush(),
                sync(),
            ]),
        ),
        (
            "error in a pipeline",
            batch(&[
                parse("", "SELECT 1/0"),
                bind("", "", &[]),
                execute("", 0),
                parse("", "SELECT 1"),
                sync(),
                parse("", "SELECT 2"),
                bind("", "", &[]),
                execute("", 0),
                sync(),
            ]),
        ),
        ("error, flush, sync", batch(&[parse("", "nonsense"), flush(), bind("", "", &[]), flush(), sync()])),
        (
            "query in a pipeline",
            batch(&[parse("", "SELECT 1"), bind("", "", &[]), execute("", 0), query("SELECT 2"), sync()]),
        ),
        ("missing statement", batch(&[bind("", "missing", &[]), sync(), describe(b'S', "missing"), sync()])),
        ("same name twice", batch(&[parse("s", "SELECT 1"), parse("s", "SELECT 2"), sync()])),
        ("empty statement", batch(&[parse("", ""), bind("", "", &[]), execute("", 0), sync()])),
    ]
}

fn copy_scripts() -> Vec<Script> {
    vec![
        ("copy out", query("COPY (SELECT generate_series(1, 3)) TO STDOUT")),
        (
            "copy in",
            batch(&[
                query("COPY t FROM STDIN"),
                copy_data(b"1\n2\n"),
                copy_data(b"3\n"),
                copy_done(),
                query("SELECT sum(a) FROM t"),
            ]),
        ),
        (
            "copy fail",
            batch(&[
                query("COPY t FROM STDIN"),
                copy_data(b"1\n"),
                copy_fail("enough"),
                query("SELECT count(*) FROM t"),
            ]),
        ),
        (
            "copy error",
            batch(&[query("COPY t FROM STDIN"), copy_data(b"x\n"), copy_data(b"1\n"), copy_done()]),
        ),
        (
            "copy by extended",
            batch(&[
                parse("", "COPY t FROM STDIN"),
                bind("", "", &[]),
                execute("", 0),
                sync(),
                copy_data(b"5\n"),
                copy_done(),
                sync(),
                query("TABLE t"),
            ]),
        ),
        ("copy data when idle", batch(&[copy_data(b"1\n"), copy_done(), query("SELECT 1")])),
    ]
}

fn odd_scripts() -> Vec<Script> {
    vec![
        ("function call", raw::function_call(1397, &["-42"])),
        ("unknown function", raw::function_call(1, &[])),
        ("sync alone", batch(&[sync(), sync()])),
        ("flush alone", flush()),
        ("sync with a body", message(b'S', b"x")),
        ("close of nothing", batch(&[close(b'S', "none"), close(b'P', "none"), sync()])),
        ("set reports", batch(&[query("SET application_name = 'x'"), query("SET datestyle = German")])),
    ]
}

#[tokio::test]
async fn conversations_are_the_servers_own() {
    let scene = scene(0, |_| {}).await;
    for scripts in [simple_scripts(), extended_scripts(), copy_scripts(), odd_scripts()] {
        compare(&scene, &scripts, true).await;
    }
    scene.finish().await;
}

#[tokio::test]
async fn broken_messages_are_answered_as_by_the_server() {
    let scene = scene(0, |_| {}).await;
    let header = |tag: u8, length: i32| [&[tag][..], &length.to_be_bytes()].concat();
    let scripts = [
        ("unknown type", message(b'y', b"what")),
        ("garbage", b"\x00\x01\x02\x03\x04\x05\x06\x07".to_vec()),
        ("length 0", header(b'Q', 0)),
        ("length 3", header(b'Q', 3)),
        ("negative length", header(b'Q', -5)),
        ("2 GiB", header(b'Q', i32::MAX)),
        ("password when idle", message(b'p', b"secret\0")),
        ("an HTTP request", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ];
    compare(&scene, &scripts, false).await;
    assert!(scene.raw().await.is_alive().await, "others go on");
    scene.finish().await;
}

/// Sends first bytes; the answer up to its end or to silence.
async fn knock(address: &str, bytes: &[u8]) -> Vec<String> {
    let mut raw = Raw::tcp(address).await;
    raw.try_send(bytes).await;
    raw.half_close().await;
    comparable(&raw.end().await)
}

#[tokio::test]
async fn broken_startup_packets_are_answered_as_by_the_server() {
    let scene = scene(0, |_| {}).await;
    let whole = startup(raw::V3_0, &[("user", "app"), ("database", "app")]);
    let version = raw::V3_0.to_be_bytes();
    let no_end = raw::untyped(&[&version[..], b"user\0app\0"].concat());
    let no_value = raw::untyped(&[&version[..], b"user\0app\0database\0"].concat());
    let scripts = [
        ("nothing", Vec::new()),
        ("half a length", whole[..3].to_vec()),
        ("half a packet", whole[..12].to_vec()),
        ("no terminator", no_end),
        ("key without value", no_value),
        ("no user", startup(raw::V3_0, &[("database", "app")])),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("length 7", 7_u32.to_be_bytes().to_vec()),
        ("length 1 MB", [&1_000_000_u32.to_be_bytes()[..], &version].concat()),
        ("length huge", [&u32::MAX.to_be_bytes()[..], &version].concat()),
        ("protocol 4.0", startup(4 << 16, &[("user", "app")])),
    ];
    for (name, bytes) in scripts {
        let direct = knock(&scene.cluster.n(0).address(), &bytes).await;
        let proxied = knock(&scene.proxy.address(), &bytes).await;
        assert!(same(&direct, &proxied), "{name}:\n  direct {direct:?}\n proxied {proxied:?}");
    }
    scene.finish().await;
}

#[tokio::test]
async fn a_startup_packet_may_come_in_any_pieces() {
    let scene = scene(0, |_| {}).await;
    let long = "n".repeat(9000);
    let params = [("user", "app"), ("database", "app"), ("application_name", long.as_str())];
    let packet = startup(raw::V3_0, &params);
    let mut raw = Raw::tcp(&scene.proxy.address()).await;
    for byte in &packet[..200] {
        raw.send(&[*byte]).await;
    }
    raw.send(&packet[200..]).await;
    let frames = raw.authenticate("app-secret").await;
    assert_eq!(frames.last().unwrap().tag, b'Z', "{frames:?}");
    assert_eq!(raw.params["application_name"].len(), 63, "cut as the server cuts it");
    // Encryption that is not there is declined, twice, and plain goes on.
    let mut raw = Raw::tcp(&scene.proxy.address()).await;
    raw.send(&raw::gssenc_request()).await;
    assert_eq!(raw.byte().await, b'N');
    raw.send(&raw::ssl_request()).await;
    assert_eq!(raw.byte().await, b'N');
    let frames = raw.start(raw::V3_0, &params[..2], "app-secret").await;
    assert_eq!(frames.last().unwrap().tag, b'Z', "{frames:?}");
    scene.finish().await;
}

#[tokio::test]
async fn newer_protocols_are_negotiated() {
    let scene = scene(0, |_| {}).await;
    let params = [("user", "app"), ("database", "app")];
    for (version, extra) in
        [(raw::V3_2, None), (raw::V3_0 + 9999, None), (raw::V3_0, Some(("_pq_.unknown", "1")))]
    {
        let mut raw = Raw::tcp(&scene.proxy.address()).await;
        let params: Vec<_> = params.into_iter().chain(extra).collect();
        let frames = raw.start(version, &params, "app-secret").await;
        assert_eq!(frames.last().unwrap().tag, b'Z', "{frames:?}");
        let offered = frames.iter().find(|frame| frame.tag == b'v');
        match (version, extra) {
            // Either 3.2 is spoken, or 3.0 is offered instead.
            (raw::V3_2, _) => assert_eq!(offered.is_none(), raw.key.len() > 4, "{frames:?}"),
            (_, Some((name, _))) => {
                let body = &offered.expect("the option is declined").body;
                assert!(body.windows(name.len()).any(|part| part == name.as_bytes()));
            }
            _ => assert!(offered.is_some(), "{frames:?}"),
        }
        assert!(raw.is_alive().await);
    }
    scene.finish().await;
}

#[tokio::test]
async fn ten_thousand_pipelined_queries_answer_in_order() {
    let scene = scene(0, |_| {}).await;
    let mut raw = scene.raw().await;
    let one = |i: usize| {
        batch(&[parse("", "SELECT $1::int"), bind("", "", &[&i.to_string()]), execute("", 0), sync()])
    };
    let all: Vec<u8> = (0..10_000).flat_map(one).collect();
    let mut sender = Vec::new();
    // In slices, so that neither side has to hold all of it.
    for slice in all.chunks(32_768) {
        raw.send(slice).await;
        while let Some(frame) = raw.within(Duration::from_millis(1)).await {
            sender.push(frame);
        }
    }
    while sender.iter().filter(|frame| frame.tag == b'Z').count() < 10_000 {
        sender.push(raw.frame().await);
    }
    let values =
        sender.iter().filter(|frame| frame.tag == b'D').map(|frame| frame.columns()[0].clone().unwrap());
    assert!(values.eq((0..10_000).map(|i| i.to_string())), "order or number");
    scene.finish().await;
}

#[tokio::test]
async fn a_statement_behind_the_startup_packet_runs() {
    let scene = scene(0, |spec| {
        spec.set("auth.source", "trust");
    })
    .await;
    scene.cluster.n(0).write_hba("local all all trust\nhost all all all trust\n").unwrap();
    scene.cluster.n(0).reload().unwrap();
    let first = startup(raw::V3_0, &[("user", "app"), ("database", "app")]);
    let mut raw = Raw::tcp(&scene.proxy.address()).await;
    let bytes = [first, query("CREATE TABLE early AS SELECT 1"), raw::terminate()].concat();
    raw.send(&bytes).await;
    raw.end().await;
    scene.raw().await.query("SELECT 1").await;
    let mut sql = scene.cluster.n(0).sql_in("app").await.unwrap();
    assert_eq!(sql.one("SELECT to_regclass('early')::text").await.unwrap(), "early");
    scene.finish().await;
}
