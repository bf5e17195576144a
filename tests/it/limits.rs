//! Bad input and greed cost only those they come from.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::harness::drivers::{connect, sqlstate};
use crate::harness::raw::{self, Raw};
use crate::harness::scene::{Scene, scene};
use crate::harness::{eventually, soon};

/// Resident memory of the proxy in kB.
fn memory(scene: &Scene) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.proxy.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let scene = scene(0, |spec| {
        spec.set("limits.login_timeout", "1s");
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..90 {
        silent.push(TcpStream::connect(scene.proxy.address()).await.unwrap());
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
async fn huge_messages_pass_without_being_held() {
    let scene = scene(0, |_| {}).await;
    let mut raw = scene.raw().await;
    raw.query("SELECT 1").await;
    let before = memory(&scene);
    // A row, a query text and a COPY, each far beyond any buffer.
    let frames = raw.query("SELECT length(repeat('x', 60000000)), repeat('x', 60000000)").await;
    assert!(frames.iter().any(|frame| frame.tag == b'D' && frame.body.len() > 60_000_000));
    let text = format!("SELECT length('{}')", "y".repeat(30_000_000));
    assert_eq!(raw.value(&text).await, "30000000");
    raw.query("CREATE TEMP TABLE t (a text)").await;
    let line = [vec![b'z'; 999_999], vec![b'\n']].concat();
    raw.send(&raw::query("COPY t FROM STDIN")).await;
    for _ in 0..30 {
        raw.send(&raw::copy_data(&line)).await;
    }
    raw.send(&raw::copy_done()).await;
    raw.until(b'Z').await;
    assert_eq!(raw.value("SELECT count(*) FROM t").await, "30");
    let grown = memory(&scene).saturating_sub(before);
    assert!(grown < 16_384, "{grown} kB more than before");
    drop(raw);
    scene.finish().await;
}

#[tokio::test]
async fn a_slow_reader_costs_only_itself() {
    let scene = scene(0, |_| {}).await;
    let mut slow = scene.raw().await;
    let mut quick = scene.raw().await;
    quick.query("SELECT 1").await;
    let before = memory(&scene);
    slow.send(&raw::query("SELECT repeat('x', 1000) FROM generate_series(1, 200000)")).await;
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'";
    scene.primary_says(blocked, "1").await;
    for _ in 0..200 {
        assert_eq!(quick.value("SELECT 1").await, "1");
    }
    let grown = memory(&scene).saturating_sub(before);
    assert!(grown < 8_192, "{grown} kB for a reader that does not read");
    assert_eq!(slow.until(b'Z').await.iter().filter(|frame| frame.tag == b'D').count(), 200_000);
    drop((slow, quick));
    scene.finish().await;
}

#[tokio::test]
async fn garbage_from_many_harms_nobody() {
    let scene = scene(0, |_| {}).await;
    let mut honest = scene.raw().await;
    for round in 0..60_u8 {
        let mut raw = Raw::tcp(&scene.proxy.address()).await;
        let noise: Vec<u8> = (0..200).map(|i: u8| i.wrapping_mul(round).wrapping_add(round)).collect();
        raw.try_send(&noise).await;
        drop(raw);
        if round % 10 == 0 {
            assert!(honest.is_alive().await);
        }
    }
    let lines = scene.proxy.log_text().lines().count();
    assert!(lines < 300, "{lines} lines in the log");
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
    let proxy = crate::harness::proxy::ProxySpec::to(nodes).start().await;
    let driver = connect(&proxy.config()).await.unwrap();
    assert_eq!(driver.value("SELECT 1").await.unwrap(), "1");
    let topology = proxy.topology().await.unwrap();
    assert_eq!(topology["nodes"][1]["health"], "down", "{topology}");
    drop(driver);
    proxy.stop().await;
    task.abort();
    scene.finish().await;
}

#[tokio::test]
async fn a_stranger_is_never_used() {
    let ours = scene(1, |_| {}).await;
    let stranger = crate::harness::cluster::stranger().await;
    let known = |node: &pgsteer::demo::node::Node| (node.address(), node.port());
    let id = ours.cluster.n(0).one("SELECT system_identifier FROM pg_control_system()").await.unwrap();
    let mut spec = crate::harness::proxy::ProxySpec::to(vec![
        known(ours.cluster.n(0)),
        known(ours.cluster.n(1)),
        known(stranger.n(0)),
    ]);
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
