//! Who gets in, and as whom the proxy then logs in at the servers.

use crate::harness::drivers::{connect, conninfo, psql, sqlstate};
use crate::harness::eventually;
use crate::harness::raw::{self, Raw};
use crate::harness::scene::{Scene, scene};

async fn run(scene: &Scene, sql: &str) {
    scene.cluster.n(0).sql().await.unwrap().run(sql).await.unwrap();
}

#[tokio::test]
async fn md5_roles_log_in() {
    let scene = scene(0, |spec| {
        spec.tables("[[auth.rule]]\nmethod = \"md5\"");
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

#[tokio::test]
async fn a_changed_password_counts_from_the_second_try() {
    let scene = scene(0, |_| {}).await;
    run(&scene, "CREATE ROLE changing LOGIN PASSWORD 'first'").await;
    let first = connect(&scene.proxy.login("changing", "first", "app")).await.unwrap();
    run(&scene, "ALTER ROLE changing PASSWORD 'second'").await;
    // The first try may still be judged by the verifier that was kept; its failure fetches the new one.
    let config = scene.proxy.login("changing", "second", "app");
    let refused = connect(&config).await.is_err();
    let second = connect(&config).await.unwrap();
    eprintln!("first try refused: {refused}");
    assert_eq!(second.value("SELECT 1").await.unwrap(), "1");
    assert_eq!(first.value("SELECT 1").await.unwrap(), "1", "who was in stays in");
    drop((first, second));
    scene.finish().await;
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
