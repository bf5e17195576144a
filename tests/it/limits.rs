//! Bad input and greed cost only those they come from.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::harness::drivers::{connect, sqlstate};
use crate::harness::proxy::ProxySpec;
use crate::harness::raw::{self, Frame, Raw};
use crate::harness::scene::scene;
use crate::harness::{eventually, soon};

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let scene = scene(0, |spec| {
        spec.set("limits.login_timeout", "1s");
    })
    .await;
    let mut silent = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(scene.proxy.address()).await.unwrap();
        // Some say half a word.
        if number % 2 == 1 {
            tokio::io::AsyncWriteExt::write_all(&mut stream, &[0, 0, 39]).await.unwrap();
        }
        silent.push(stream);
    }
    assert!(scene.raw().await.is_alive().await);
    let mut first = Raw::over(silent.swap_remove(0));
    soon("the end of a silent connection", first.end()).await;
    scene.finish().await;
}

#[tokio::test]
async fn too_many_clients_are_told_so() {
    let scene = scene(0, |spec| {
        spec.raw("pool.max_clients", "3");
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(connect(&scene.proxy.config()).await.unwrap());
    }
    assert_eq!(sqlstate(connect(&scene.proxy.config()).await), "53300");
    clients.pop();
    eventually("a free place", async || connect(&scene.proxy.config()).await.is_ok()).await;
    drop(clients);
    scene.finish().await;
}

#[tokio::test]
async fn a_low_soft_limit_of_open_files_is_no_limit() {
    let scene = scene(0, |spec| {
        spec.open_files(64);
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(connect(&scene.proxy.console_config()).await.unwrap());
    }
    assert_eq!(scene.proxy.page("/livez").await.unwrap().0, 200);
    drop(clients);
    scene.finish().await;
}

#[tokio::test]
async fn huge_messages_pass_without_being_held() {
    let scene = scene(0, |_| {}).await;
    let mut raw = scene.raw().await;
    raw.query("SELECT 1").await;
    let before = scene.proxy.peak_memory();
    // A row of 300 MB.
    let frames = raw.query("SELECT repeat('x', 300000000)").await;
    assert!(frames.iter().any(|frame| frame.tag == b'D' && frame.body.len() > 300_000_000));
    drop(frames);
    // A parameter and a query text of 100 MB.
    let long = "y".repeat(100_000_000);
    let batch =
        [raw::parse("", "SELECT length($1)"), raw::bind("", "", &[&long]), raw::execute("", 0), raw::sync()];
    for message in batch {
        raw.send(&message).await;
    }
    let frames = raw.until(b'Z').await;
    assert!(
        frames.iter().any(|frame| frame.tag == b'D' && frame.columns()[0].as_deref() == Some("100000000"))
    );
    assert_eq!(raw.value(&format!("SELECT length('{long}')")).await, "100000000");
    drop(long);
    // 200 MB of COPY into a server that stands still for a while.
    raw.query("CREATE TEMP TABLE t (a text)").await;
    let pid = raw.backend_pid().await;
    raw.send(&raw::query("COPY t FROM STDIN")).await;
    raw.expect("G").await;
    signal(pid, "STOP");
    let writer = tokio::spawn(async move {
        let line = raw::copy_data(&[vec![b'z'; 999_999], vec![b'\n']].concat());
        for _ in 0..200 {
            // Each waits as long as it must: LIMIT is for a server that takes what it is sent.
            raw.send(&line).await;
        }
        raw.send(&raw::copy_done()).await;
        raw
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!writer.is_finished(), "somebody takes what the server does not");
    signal(pid, "CONT");
    let mut raw = writer.await.unwrap();
    raw.until(b'Z').await;
    assert_eq!(raw.value("SELECT count(*) FROM t").await, "200");
    let grown = scene.proxy.peak_memory().saturating_sub(before);
    assert!(grown < 4_096, "{grown} kB more than before");
    drop(raw);
    scene.finish().await;
}

fn signal(pid: i32, name: &str) {
    let done =
        std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(done.success());
}

#[tokio::test]
async fn a_slow_reader_costs_only_itself() {
    let scene = scene(0, |_| {}).await;
    let mut slow = scene.raw().await;
    let mut quick = scene.raw().await;
    quick.query("SELECT 1").await;
    let before = scene.proxy.peak_memory();
    slow.send(&raw::query("SELECT repeat('x', 1000) FROM generate_series(1, 300000)")).await;
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'";
    scene.primary_says(blocked, "1").await;
    for _ in 0..200 {
        assert_eq!(quick.value("SELECT 1").await, "1");
    }
    let mut rows = 0;
    while let Some(frame) = slow.next().await {
        rows += u32::from(frame.tag == b'D');
        if frame.tag == b'Z' {
            break;
        }
    }
    assert_eq!(rows, 300_000);
    let grown = scene.proxy.peak_memory().saturating_sub(before);
    assert!(grown < 4_096, "{grown} kB for a reader that does not read");
    drop((slow, quick));
    scene.finish().await;
}

#[tokio::test]
async fn garbage_from_many_harms_nobody() {
    let scene = scene(0, |_| {}).await;
    let mut honest = scene.raw().await;
    let (before, lines) = (scene.proxy.peak_memory(), scene.proxy.log_text().lines().count());
    for round in 0..60_u8 {
        let mut raw = Raw::tcp(&scene.proxy.address()).await;
        let noise: Vec<u8> = (0..200).map(|i: u8| i.wrapping_mul(round).wrapping_add(round)).collect();
        raw.try_send(&noise).await;
        drop(raw);
        if round % 10 == 0 {
            assert!(honest.is_alive().await);
        }
    }
    let lines = scene.proxy.log_text().lines().count() - lines;
    assert!(lines <= 60, "{lines} lines in the log, at most one for each client");
    let grown = scene.proxy.peak_memory() - before;
    assert!(grown < 4_096, "{grown} kB for garbage");
    drop(honest);
    scene.finish().await;
}

#[tokio::test]
async fn a_server_that_talks_garbage_is_left() {
    let fake = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = fake.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = fake.accept().await.unwrap();
            tokio::spawn(async move {
                let noise =
                    tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
                drop(noise.await);
                tokio::time::sleep(Duration::from_millis(200)).await;
            });
        }
    });
    let scene = scene(0, |_| {}).await;
    let cluster = scene.cluster.n(0);
    let nodes = vec![(cluster.address(), cluster.port()), (address, 1)];
    let proxy = ProxySpec::to(nodes).start().await;
    let driver = connect(&proxy.config()).await.unwrap();
    assert_eq!(driver.value("SELECT 1").await.unwrap(), "1");
    let topology = proxy.topology().await.unwrap();
    assert_eq!(topology["nodes"][1]["health"], "down", "{topology}");
    drop(driver);
    proxy.stop().await;
    task.abort();
    scene.finish().await;
}

/// A server in front of the real one that forwards everything and, when a client says `word`, says `noise` instead.
async fn noisy(
    target: String,
    word: &'static [u8],
    noise: &'static [u8],
) -> (String, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let Ok(mut far) = TcpStream::connect(&target).await else { continue };
            tokio::spawn(async move {
                let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
                loop {
                    tokio::select! {
                        count = near.read(&mut up) => {
                            let Ok(count @ 1..) = count else { return };
                            if up[..count].windows(word.len()).any(|part| part == word) {
                                near.write_all(noise).await.ok();
                                continue;
                            }
                            far.write_all(&up[..count]).await.ok();
                        }
                        count = far.read(&mut down) => {
                            let Ok(count @ 1..) = count else { return };
                            near.write_all(&down[..count]).await.ok();
                        }
                    }
                }
            });
        }
    });
    (address, task)
}

const NOISE: [&[u8]; 6] = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\0\0\0\0\0\0\0\0",
    b"T\xff\xff\xff\xff",
    b"D\0\0\0\x03",
    b"D\x7f\xff\xff\xff",
    b"~\0\0\0\x04",
];

#[tokio::test]
async fn garbage_from_a_server_ends_one_session() {
    let cluster = crate::harness::cluster::cluster(0).await;
    for noise in NOISE {
        let (address, task) = noisy(cluster.n(0).address(), b"noise", noise).await;
        let proxy = ProxySpec::to(vec![(address, cluster.n(0).port())]).start().await;
        let mut honest = Raw::login(&proxy.address(), "app", "app-secret", "app").await;
        let mut raw = Raw::login(&proxy.address(), "app", "app-secret", "app").await;
        raw.send(&raw::query("SELECT 'noise'")).await;
        let frames = raw.end().await;
        assert_eq!(frames.iter().map(Frame::sqlstate).collect::<Vec<_>>(), ["08P01"], "{noise:?}");
        assert!(honest.is_alive().await, "others go on");
        assert_eq!(proxy.log_text().matches("invalid message").count(), 1);
        drop((raw, honest));
        proxy.stop().await;
        task.abort();
    }
}

#[tokio::test]
async fn garbage_instead_of_a_login_is_an_error_and_no_hang() {
    let cluster = crate::harness::cluster::cluster(0).await;
    for noise in NOISE {
        // The monitor gets in, the sessions do not.
        let (address, task) = noisy(cluster.n(0).address(), b"user\0app\0", noise).await;
        let mut spec = ProxySpec::to(vec![(address, cluster.n(0).port())]);
        let proxy = spec.set("cluster.hold_timeout", "500ms").start().await;
        let before = proxy.peak_memory();
        let mut raw = Raw::tcp(&proxy.address()).await;
        let frames = raw.start(raw::V3_0, &[("user", "app"), ("database", "app")], "app-secret").await;
        assert_eq!(frames.iter().map(Frame::sqlstate).collect::<Vec<_>>(), ["57P03"], "{noise:?}");
        assert!(proxy.peak_memory() - before < 4_096);
        assert!(proxy.log_text().lines().count() < 40, "{}", proxy.log_text());
        proxy.stop().await;
        task.abort();
    }
}

#[tokio::test]
async fn a_stranger_is_never_used() {
    let ours = scene(1, |_| {}).await;
    let stranger = crate::harness::cluster::stranger().await;
    let known = |node: &pgsteer::demo::node::Node| (node.address(), node.port());
    let id = ours.cluster.n(0).one("SELECT system_identifier FROM pg_control_system()").await.unwrap();
    let mut spec =
        ProxySpec::to(vec![known(ours.cluster.n(0)), known(ours.cluster.n(1)), known(stranger.n(0))]);
    spec.set("cluster.system_identifier", &id);
    let proxy = spec.start().await;
    eventually("the stranger to be seen", async || {
        proxy.topology().await.unwrap()["nodes"][2]["role"] == "stranger"
    })
    .await;
    for _ in 0..4 {
        let driver = connect(&proxy.standby_config()).await.unwrap();
        assert_ne!(driver.value("SHOW port").await.unwrap(), stranger.n(0).port().to_string());
    }
    proxy.stop().await;
    ours.finish().await;
}
