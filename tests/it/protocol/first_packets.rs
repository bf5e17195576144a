//! Everything up to the first statement: startup packets whole and broken, negotiation, what a login says.

use super::{comparable, same};
use crate::harness::raw::{self, Frame, Raw, query, startup};
use crate::harness::scene::scene;

/// Sends first bytes; the answer up to its end or to silence.
async fn knock(address: &str, bytes: &[u8]) -> Vec<String> {
    let mut raw = Raw::tcp(address).await;
    raw.try_send(bytes).await;
    raw.half_close().await;
    // Which versions a server speaks depends on its own.
    let known = |line: String| line.split(": server supports").next().unwrap_or_default().to_owned();
    comparable(&raw.end().await).into_iter().map(known).collect()
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
        ("length 1 MB and its bytes", [1_000_000_u32.to_be_bytes().to_vec(), vec![b'x'; 999_996]].concat()),
        (
            "key without value, with an end",
            raw::untyped(&[&version[..], b"user\0app\0database\0\0"].concat()),
        ),
        ("more behind the end", raw::untyped(&[&version[..], b"user\0app\0\0more"].concat())),
        ("cancel without a key", raw::cancel_request(1, &[])),
        ("protocol 4.0", startup(4 << 16, &[("user", "app")])),
    ];
    // A kind of encryption is asked for once.
    let twice = async |one: Vec<u8>, two: Vec<u8>| {
        let mut said = Vec::new();
        for address in [scene.cluster.n(0).address(), scene.proxy.address()] {
            let mut raw = Raw::tcp(&address).await;
            raw.send(&one).await;
            assert_eq!(raw.byte().await, b'N');
            raw.send(&two).await;
            said.push(raw.end().await.iter().map(Frame::sqlstate).collect::<Vec<_>>());
        }
        assert_eq!(said[0], said[1]);
    };
    twice(raw::ssl_request(), raw::ssl_request()).await;
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

/// Everything a login says, except who it is; parameters in any order.
fn greeting(frames: &[Frame]) -> Vec<String> {
    let mut lines: Vec<String> = frames
        .iter()
        // Sessions name themselves once they are in, without the notice that a long name was cut.
        .filter(|frame| frame.tag != b'N')
        .map(|frame| match frame.tag {
            b'K' => format!("K {} bytes", frame.body.len()),
            _ => frame.to_string(),
        })
        .collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn logins_say_what_the_server_says() {
    let scene = scene(0, |_| {}).await;
    let long = "n".repeat(9000);
    let who = [("user", "app"), ("database", "app")];
    let ideograms = ["\u{6f22}".repeat(40), format!("n{}", "\u{6f22}".repeat(40))];
    let more: [&[(&str, &str)]; 21] = [
        &[],
        &[("application_name", "mine")],
        &[("application_name", &long)],
        &[("application_name", "na\u{ef}ve\tname")],
        &[("application_name", &ideograms[0])],
        &[("application_name", &ideograms[1])],
        &[("application_name", r"it's a \ name"), ("standard_conforming_strings", "off")],
        &[("application_name", "\u{ef}"), ("client_encoding", "LATIN1")],
        &[("client_encoding", "LATIN1"), ("DateStyle", "German")],
        &[("options", "-c work_mem=5MB --statement_timeout=7s -c search_path=a,\\ b")],
        &[("options", "-c application_name=other -c TimeZone=UTC")],
        &[("options", "-c no_such=1")],
        &[("options", "-c work_mem=nonsense")],
        &[("options", "-c")],
        &[("options", "--nonsense")],
        &[("options", "-c work_mem")],
        &[("no_such", "1")],
        &[("work_mem", "nonsense")],
        &[("max_connections", "1")],
        &[("custom.setting", "7"), ("_pq_.unknown", "1")],
        &[("TimeZone", "nowhere")],
    ];
    for params in more {
        let mut said = Vec::new();
        for address in [scene.cluster.n(0).address(), scene.proxy.address()] {
            let mut raw = Raw::tcp(&address).await;
            let params: Vec<_> = who.iter().chain(params).copied().collect();
            let mut words = greeting(&raw.start(raw::V3_0, &params, "app-secret").await);
            if words.last().is_some_and(|last| last.starts_with('Z')) {
                words.push(raw.value("SHOW application_name").await);
                // Told again only if it is another one.
                words.extend(raw.params.get("application_name").cloned());
            }
            said.push(words);
        }
        assert_eq!(said[0], said[1], "{params:?}");
    }
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
