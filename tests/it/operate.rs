//! What operators do: look, reload, kill, check.

use pgsteer::demo::process::Signal;
use tokio::process::Command;

use crate::harness::drivers::{conninfo, psql};
use crate::harness::proxy::ProxySpec;
use crate::harness::raw::{Raw, query};
use crate::harness::scene::{Scene, scene};
use crate::harness::{LIMIT, eventually};

async fn console(scene: &Scene, command: &str) -> String {
    let conninfo = conninfo(&scene.proxy.console_config());
    psql(scene.cluster.programs(), &conninfo, &["-c", command]).await.text().to_owned()
}

#[tokio::test]
async fn the_console_shows_everything() {
    let scene = scene(1, |_| {}).await;
    let mut client = scene.raw().await;
    client.query("BEGIN").await;
    let pid = client.backend_pid().await.to_string();
    let nodes = console(&scene, "SHOW NODES").await;
    assert!(nodes.contains("node1") && nodes.contains("primary") && nodes.contains("standby"), "{nodes}");
    assert!(console(&scene, "SHOW CLIENTS").await.contains("app"));
    assert!(console(&scene, "SHOW BACKENDS").await.contains(&pid));
    assert!(console(&scene, "SHOW POOLS").await.contains("app"));
    let config = console(&scene, "SHOW CONFIG").await;
    assert!(config.contains("pool.size") && !config.contains("pgsteer-secret"), "{config}");
    for command in ["SHOW STATS", "SHOW EVENTS", "SHOW HELP"] {
        assert!(!console(&scene, command).await.is_empty(), "{command}");
    }
    let nobody = scene.proxy.login("app", "app-secret", "pgsteer");
    let refused = psql(scene.cluster.programs(), &conninfo(&nobody), &["-c", "SHOW NODES"]).await;
    assert!(!refused.ok, "the console is for admin.users");
    drop(client);
    scene.finish().await;
}

#[tokio::test]
async fn kill_ends_one_session() {
    let scene = scene(0, |_| {}).await;
    let (mut victim, mut other) = (scene.raw().await, scene.raw().await);
    victim.query("BEGIN").await;
    let pid = victim.backend_pid().await.to_string();
    let clients = console(&scene, "SHOW CLIENTS").await;
    let line = clients.lines().find(|line| line.split('|').any(|field| field == pid));
    let id = line.unwrap_or_else(|| panic!("{pid} is not in\n{clients}")).split('|').next().unwrap();
    console(&scene, &format!("KILL {id}")).await;
    let frames = victim.end().await;
    assert_eq!(frames[0].sqlstate(), "57P01", "{frames:?}");
    assert!(other.is_alive().await);
    drop(other);
    scene.finish().await;
}

#[tokio::test]
async fn a_reload_applies_what_it_can() {
    let scene = scene(0, |_| {}).await;
    let mut spec = ProxySpec::new(&scene.cluster);
    spec.raw("pool.max_clients", "1");
    scene.proxy.rewrite(&spec);
    console(&scene, "RELOAD").await;
    // The console takes one of the places until the proxy has seen that psql is gone.
    eventually("psql to be gone", async || scene.proxy.metric("pgsteer_console_sessions").await == 0.0).await;
    let first = scene.raw().await;
    let frames = Raw::tcp(&scene.proxy.address())
        .await
        .start(crate::harness::raw::V3_0, &[("user", "app"), ("database", "app")], "app-secret")
        .await;
    assert_eq!(frames.last().unwrap().sqlstate(), "53300");
    drop(first);
    // What needs a restart is named and stays.
    spec.raw("workers", "7").set("cluster.hold_timeout", "123ms");
    scene.proxy.rewrite(&spec);
    scene.proxy.signal(Signal::Hup).unwrap();
    scene.proxy.logged("workers: ").await;
    scene.proxy.logged("restart").await;
    let shown = console(&scene, "SHOW CONFIG").await;
    let line = |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    assert!(line("cluster.hold_timeout").contains("123ms"), "{shown}");
    assert!(!line("workers").contains('7'), "{shown}");
    // A broken file changes nothing and is told.
    scene.proxy.write_config("[pool]\nsize = \"many\"\n").unwrap();
    scene.proxy.signal(Signal::Hup).unwrap();
    scene.proxy.logged("pool.size").await;
    eventually("a login", async || {
        let mut raw = Raw::tcp(&scene.proxy.address()).await;
        let params = [("user", "app"), ("database", "app")];
        raw.start(crate::harness::raw::V3_0, &params, "app-secret")
            .await
            .last()
            .is_some_and(|last| last.tag == b'Z')
    })
    .await;
    scene.finish().await;
}

#[tokio::test]
async fn pages_and_commands_tell_the_state() {
    let scene = scene(1, |_| {}).await;
    scene.raw().await.query("SELECT 1").await;
    assert_eq!(scene.proxy.page("/livez").await.unwrap().0, 200);
    assert_eq!(scene.proxy.page("/nowhere").await.unwrap().0, 404);
    assert!(scene.proxy.metric("pgsteer_logins_total").await >= 1.0);
    let program = env!("CARGO_BIN_EXE_pgsteer");
    for command in ["check", "status"] {
        let output = Command::new(program).arg(command).arg("-c").arg(scene.proxy.config_file()).output();
        let output = output.await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{command}: {said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("node1") && said.contains("node2"), "{command}: {said}");
        assert!(!said.contains("pgsteer-secret"), "{said}");
    }
    scene.cluster.n(0).kill().unwrap();
    eventually("readyz to say no", async || scene.proxy.page("/readyz").await.unwrap().0 != 200).await;
    assert_eq!(scene.proxy.page("/livez").await.unwrap().0, 200);
    scene.finish().await;
}

#[tokio::test]
async fn a_bad_file_is_told_whole_and_stops_the_start() {
    let scene = scene(0, |_| {}).await;
    let path = scene.proxy.dir().join("bad.toml");
    std::fs::write(&path, "[pool]\nsise = 3\n[cluster]\nmax_lag = \"soon\"\n").unwrap();
    for command in ["check", "run"] {
        let output = Command::new(env!("CARGO_BIN_EXE_pgsteer")).arg(command).arg("-c").arg(&path).output();
        let output = output.await.unwrap();
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(!output.status.success());
        assert!(said.contains("pool.sise") && said.contains("size"), "{command}: {said}");
        assert!(said.contains("cluster.max_lag"), "{command}: {said}");
    }
    scene.finish().await;
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let scene = scene(0, |spec| {
        spec.set("limits.drain_timeout", "400ms");
    })
    .await;
    let (mut idle, mut inside, mut running) = (scene.raw().await, scene.raw().await, scene.raw().await);
    inside.query("BEGIN").await;
    running.send(&query("SELECT pg_sleep(600)")).await;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    scene.primary_says(sleeping, "1").await;
    scene.proxy.signal(Signal::Term).unwrap();
    assert_eq!(idle.end().await[0].sqlstate(), "57P01");
    assert!(inside.is_alive().await, "a transaction goes on for a while");
    for raw in [&mut inside, &mut running] {
        let frames = raw.end().await;
        assert_eq!(frames[0].sqlstate(), "57P01", "{frames:?}");
    }
    assert!(scene.proxy.wait_exit().await.unwrap().success());
    scene.primary_says(sleeping, "0").await;
}

/// What a service manager hears over its socket (sd_notify(3)).
#[tokio::test]
async fn a_service_manager_is_told_of_start_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = tokio::net::UnixDatagram::bind(&path).unwrap();
    let ports = pgsteer::demo::workspace::free_ports(3).unwrap();
    let file = folder.path().join("proxy.toml");
    let text = ProxySpec::to(vec![("127.0.0.1:1".to_owned(), 1)]).file(folder.path(), &ports);
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgsteer"));
    command.arg("run").arg("-c").arg(&file).env("NOTIFY_SOCKET", &path).kill_on_drop(true);
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let told = async || {
        let mut word = [0; 256];
        let length = tokio::time::timeout(LIMIT, manager.recv(&mut word)).await.unwrap().unwrap();
        String::from_utf8_lossy(&word[..length]).into_owned()
    };
    assert_eq!(told().await.trim(), "READY=1");
    let address = format!("127.0.0.1:{}", ports[0]);
    assert!(tokio::net::TcpStream::connect(address).await.is_ok(), "ready means that clients can connect");
    pgsteer::demo::process::send(Signal::Term, &[child.id().unwrap()]).unwrap();
    assert_eq!(told().await.trim(), "STOPPING=1");
    assert!(child.wait().await.unwrap().success());
}
