//! Who gets in, and as whom the proxy then logs in at the servers.

use crate::harness::drivers::{connect, conninfo, psql, sqlstate};
use crate::harness::eventually;
use crate::harness::proxy::ProxySpec;
use crate::harness::raw::{self, Raw};
use crate::harness::scene::{Scene, scene};

async fn run(scene: &Scene, sql: &str) {
    scene.cluster.n(0).sql().await.unwrap().run(sql).await.unwrap();
}

#[tokio::test]
async fn md5_roles_log_in() {
    let scene = scene(0, |spec| {
        spec.tables(
            "[[auth.rule]]\nuser = \"old\"\nmethod = \"md5\"\n[[auth.rule]]\nmethod = \"scram-sha-256\"",
        );
    })
    .await;
    run(&scene, "SET password_encryption = md5; CREATE ROLE old LOGIN PASSWORD 'ancient'").await;
    scene
        .cluster
        .n(0)
        .write_hba("local all all trust\nhost all old all md5\nhost all all all scram-sha-256\n")
        .unwrap();
    scene.cluster.n(0).reload().unwrap();
    let driver = connect(&scene.proxy.login("old", "ancient", "app")).await.unwrap();
    assert_eq!(driver.value("SELECT current_user").await.unwrap(), "old");
    assert_eq!(sqlstate(connect(&scene.proxy.login("old", "wrong", "app")).await), "28P01");
    heard_before_login(&scene, "old").await;
    drop(driver);
    scene.finish().await;
}

#[tokio::test]
async fn passwords_may_be_of_any_script() {
    let scene = scene(0, |_| {}).await;
    // The last two: a ligature that SASLprep takes apart, and bytes it refuses and passes as they are.
    for password in ["ünïcödé", "пароль", "with spaces and 'quotes'", "ﬁsh", "tab\tinside"] {
        let quoted = password.replace('\'', "''");
        run(&scene, &format!("DROP ROLE IF EXISTS poly; CREATE ROLE poly LOGIN PASSWORD '{quoted}'")).await;
        let config = scene.proxy.login("poly", password, "app");
        eventually(password, async || connect(&config).await.is_ok()).await;
        let words = format!("host=127.0.0.1 port={} user=poly dbname=app", scene.proxy.port());
        let escaped = password.replace('\\', "\\\\").replace('\'', "\\'");
        let said =
            psql(scene.cluster.programs(), &format!("{words} password='{escaped}'"), &["-c", "SELECT 1"])
                .await;
        assert_eq!(said.text(), "1", "{password}");
    }
    scene.finish().await;
}

/// The frames of a login, without those that only ask.
async fn answers(address: &str, user: &str, password: &str, database: &str) -> Vec<String> {
    let mut raw = Raw::tcp(address).await;
    let frames = raw.start(raw::V3_0, &[("user", user), ("database", database)], password).await;
    let said =
        frames.iter().filter(|frame| !matches!(frame.tag, b'S' | b'K')).map(ToString::to_string).collect();
    raw.try_send(&raw::terminate()).await;
    raw.end().await;
    said
}

#[tokio::test]
async fn refusals_are_the_servers_own() {
    let scene = scene(0, |_| {}).await;
    run(
        &scene,
        "CREATE ROLE idle NOLOGIN PASSWORD 'w'; CREATE ROLE full LOGIN PASSWORD 'w' CONNECTION LIMIT 0; \
         CREATE ROLE gone LOGIN PASSWORD 'w' VALID UNTIL '2001-01-01'; CREATE ROLE bare LOGIN",
    )
    .await;
    run(&scene, "CREATE DATABASE closed").await;
    run(&scene, "REVOKE CONNECT ON DATABASE closed FROM PUBLIC").await;
    run(&scene, "CREATE DATABASE shut").await;
    run(&scene, "ALTER DATABASE shut ALLOW_CONNECTIONS false").await;
    let direct = scene.cluster.n(0).address();
    for (user, password, database, code) in [
        ("app", "wrong", "app", "28P01"),
        ("app", "", "app", "28P01"),
        ("nobody", "w", "app", "28P01"),
        ("gone", "w", "app", "28P01"),
        ("bare", "w", "app", "28P01"),
        ("full", "w", "app", "53300"),
        ("app", "app-secret", "missing", "3D000"),
        ("app", "app-secret", "closed", "42501"),
        ("app", "app-secret", "shut", "55000"),
        ("app", "wrong", "missing", "28P01"),
    ] {
        let from_server = answers(&direct, user, password, database).await;
        assert!(from_server.last().unwrap().contains(code), "{user} {database}: {from_server:?}");
        assert_eq!(
            from_server,
            answers(&scene.proxy.address(), user, password, database).await,
            "{user} {database}"
        );
    }
    // A role that may not log in is not known to the proxy: it learns nothing, not even that its password is right.
    let said = answers(&scene.proxy.address(), "idle", "w", "app").await;
    assert!(said.last().unwrap().contains("28P01"), "{said:?}");
    scene.finish().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_as_starting() {
    let settings = "[[auth.rule]]\nmethod = \"trust\"";
    let nodes = vec![("127.0.0.1:1".to_owned(), 1)];
    let mut spec = ProxySpec::to(nodes);
    spec.set("cluster.hold_timeout", "300ms").tables(settings);
    let proxy = spec.spawn();
    eventually("the listener", async || tokio::net::TcpStream::connect(proxy.address()).await.is_ok()).await;
    assert_eq!(sqlstate(connect(&proxy.config()).await), "57P03");
    proxy.stop().await;
    // Without rules the user must be looked up, which cannot be done.
    spec = ProxySpec::to(vec![("127.0.0.1:1".to_owned(), 1)]);
    let proxy = spec.spawn();
    eventually("the listener", async || tokio::net::TcpStream::connect(proxy.address()).await.is_ok()).await;
    assert_eq!(sqlstate(connect(&proxy.config()).await), "57P03");
    proxy.stop().await;
}

#[tokio::test]
async fn rules_choose_the_method() {
    let scene = scene(0, |spec| {
        spec.tables(
            "[[auth.rule]]\nuser = \"app\"\naddress = \"127.0.0.1/32\"\nmethod = \"trust\"\n\
             [[auth.rule]]\nuser = \"clear\"\nmethod = \"password\"\n\
             [[auth.user]]\nname = \"app\"\npassword = \"app-secret\"",
        );
    })
    .await;
    run(&scene, "CREATE ROLE clear LOGIN PASSWORD 'in the clear'").await;
    // Trusted by address; the way upstream is by the secret in the settings.
    let driver = connect(&scene.proxy.login("app", "whatever", "app")).await.unwrap();
    assert_eq!(driver.value("SELECT current_user").await.unwrap(), "app");
    let clear = connect(&scene.proxy.login("clear", "in the clear", "app")).await.unwrap();
    assert_eq!(clear.value("SELECT current_user").await.unwrap(), "clear");
    assert_eq!(sqlstate(connect(&scene.proxy.login("clear", "wrong", "app")).await), "28P01");
    heard_before_login(&scene, "clear").await;
    drop((driver, clear));
    scene.finish().await;
}

/// Whatever is asked for, only its answer is heard.
async fn heard_before_login(scene: &Scene, user: &str) {
    let mut raw = Raw::tcp(&scene.proxy.address()).await;
    raw.send(&raw::startup(raw::V3_0, &[("user", user), ("database", "app")])).await;
    raw.expect("R").await;
    raw.send(&raw::query("SELECT 1")).await;
    let said = raw.end().await;
    assert_eq!(said[0].sqlstate(), "08P01");
    assert_eq!(said[0].field(b'M').unwrap(), "expected password response, got message type 81");
}

#[tokio::test]
async fn two_proxies_live_in_one_process() {
    let cluster = crate::harness::cluster::cluster(0).await;
    let spec = ProxySpec::new(&cluster);
    let mut running = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    for number in 0..2 {
        let ports = pgsteer::demo::workspace::free_ports(3).unwrap();
        let path = folder.path().join(format!("proxy{number}.toml"));
        let own = folder.path().join(number.to_string());
        std::fs::create_dir(&own).unwrap();
        std::fs::write(&path, spec.file(&own, &ports)).unwrap();
        let loaded = pgsteer::config::load(Some(&path), std::iter::empty()).unwrap();
        let app = pgsteer::app::App::start(loaded.settings, Some(path), Box::new(|_| Ok(()))).await.unwrap();
        running.push((app, ports));
    }
    let address = |port: u16| format!("127.0.0.1:{port}");
    let mut pids = Vec::new();
    for (_, ports) in &running {
        let port = ports[0];
        eventually("a login", async || {
            let login = format!("host=127.0.0.1 port={port} user=app password=app-secret dbname=app");
            connect(&login.parse().unwrap()).await.is_ok()
        })
        .await;
        let mut raw = Raw::login(&address(port), "app", "app-secret", "app").await;
        pids.push(raw.value("SELECT pg_backend_pid()").await);
    }
    assert_ne!(pids[0], pids[1], "each has its own");
    let (first, _) = running.remove(0);
    first.stop().await;
    let mut raw = Raw::login(&address(running[0].1[0]), "app", "app-secret", "app").await;
    assert!(raw.is_alive().await, "one ends, the other does not");
    drop(raw);
    running.remove(0).0.stop().await;
}

#[tokio::test]
async fn static_users_need_no_look_up() {
    let scene = scene(0, |spec| {
        spec.set("auth.source", "static").tables(
            "[[auth.user]]\nname = \"app\"\npassword = \"other\"\nserver_password = \"app-secret\"\n\
             [[auth.user]]\nname = \"postgres\"\npassword = \"postgres-secret\"",
        );
    })
    .await;
    let driver = connect(&scene.proxy.login("app", "other", "app")).await.unwrap();
    assert_eq!(driver.value("SELECT current_user").await.unwrap(), "app");
    assert_eq!(sqlstate(connect(&scene.proxy.login("app", "app-secret", "app")).await), "28P01");
    assert_eq!(sqlstate(connect(&scene.proxy.login("pgsteer", "pgsteer-secret", "app")).await), "28P01");
    let postgres = connect(&scene.proxy.login("postgres", "postgres-secret", "app")).await.unwrap();
    assert_eq!(postgres.value("SELECT current_user").await.unwrap(), "postgres");
    drop((driver, postgres));
    scene.finish().await;
}

#[tokio::test]
async fn rules_decide_as_in_pg_hba() {
    let scene = scene(0, |spec| {
        spec.tables(
            "[[auth.rule]]\ntype = \"host\"\ndatabase = \"app\"\nuser = \"app\"\naddress = \"127.0.0.0/8\"\n\
             method = \"scram-sha-256\"\n\
             [[auth.rule]]\ntype = \"host\"\nuser = \"postgres\"\nmethod = \"reject\"",
        );
    })
    .await;
    let driver = connect(&scene.proxy.config()).await.unwrap();
    assert_eq!(driver.value("SELECT 1").await.unwrap(), "1");
    for (user, database) in [("postgres", "postgres"), ("app", "postgres"), ("pgsteer", "app")] {
        let refused = connect(&scene.proxy.login(user, &format!("{user}-secret"), database)).await;
        assert_eq!(sqlstate(refused), "28000", "{user} {database}");
    }
    drop(driver);
    scene.finish().await;
}

#[tokio::test]
async fn an_unknown_user_is_asked_like_a_known_one() {
    let scene = scene(0, |_| {}).await;
    let mut asked = Vec::new();
    for user in ["app", "nobody_there", "nobody_there"] {
        let mut raw = Raw::tcp(&scene.proxy.address()).await;
        raw.send(&raw::startup(raw::V3_0, &[("user", user), ("database", "app")])).await;
        let methods = raw.frame().await;
        raw.send(&raw::message(b'p', b"SCRAM-SHA-256\0\0\0\0\x14n,,n=,r=abcdefghijkl")).await;
        let challenge = raw.frame().await;
        assert_eq!((methods.tag, challenge.tag), (b'R', b'R'));
        let words = String::from_utf8(challenge.body[4..].to_vec()).unwrap();
        let field =
            |name: &str| words.split(',').find_map(|part| part.strip_prefix(name)).unwrap().to_owned();
        asked.push((methods, field("s=").len(), field("i="), field("s=")));
    }
    assert_eq!((&asked[0].0, asked[0].1, &asked[0].2), (&asked[1].0, asked[1].1, &asked[1].2));
    assert_eq!(asked[1].3, asked[2].3, "the same salt each time, as a real role has");
    scene.finish().await;
}

#[tokio::test]
async fn nothing_but_a_password_is_heard_before_the_login() {
    let scene = scene(0, |_| {}).await;
    let mut said = Vec::new();
    for address in [scene.cluster.n(0).address(), scene.proxy.address()] {
        let mut raw = Raw::tcp(&address).await;
        raw.send(&raw::startup(raw::V3_0, &[("user", "app"), ("database", "app")])).await;
        raw.expect("R").await;
        raw.send(&raw::query("SELECT 1")).await;
        said.push(raw.end().await.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    assert_eq!(said[0], said[1]);
    scene.finish().await;
}

#[tokio::test]
async fn a_unix_socket_and_long_names_work_as_at_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let place = format!("{:?}", folder.path().display().to_string());
    let scene = scene(0, |spec| {
        spec.tables(&format!("[[listen]]\naddress = {place}\nport = 7432"));
    })
    .await;
    let mut raw = Raw::unix(folder.path(), 7432).await;
    let frames = raw.start(raw::V3_0, &[("user", "app"), ("database", "app")], "app-secret").await;
    assert_eq!(frames.last().unwrap().tag, b'Z', "{frames:?}");
    let long = "n".repeat(70);
    run(&scene, &format!("CREATE DATABASE {}", &long[..63])).await;
    let by_socket = format!("host={} port=7432 user=app password=app-secret", folder.path().display());
    let said = psql(
        scene.cluster.programs(),
        &format!("{by_socket} dbname={long}"),
        &["-c", "SELECT current_database()"],
    )
    .await;
    assert_eq!(said.text(), &long[..63]);
    drop(raw);
    scene.finish().await;
    assert!(!folder.path().join(".s.PGSQL.7432").exists(), "the socket goes with the proxy");
}

#[tokio::test]
async fn a_database_suffix_declares_reads() {
    let scene = scene(1, |spec| {
        spec.set("route.database_suffix", "_ro");
    })
    .await;
    let config = scene.proxy.login("app", "app-secret", "app_ro");
    let said = psql(
        scene.cluster.programs(),
        &conninfo(&config),
        &["-c", "SELECT current_database(), pg_is_in_recovery()"],
    )
    .await;
    assert_eq!(said.text(), "app|t");
    scene.finish().await;
}
