//! Many clients of tokio-postgres and pgbench on few backends, in both modes of pooling. Other drivers are exercised by
//! `scripts/drivers.sh`.

use std::pin::pin;

use futures_util::future::{join_all, try_join_all};
use futures_util::{SinkExt, TryStreamExt};
use tokio_postgres::{Client, Config, Error, NoTls};

use crate::harness::cluster::programs;
use crate::harness::drivers::{conninfo, pgbench};
use crate::harness::scene::{Scene, scene};

const CLIENTS: i32 = 12;
const BACKENDS: &str = "4";

async fn few_backends(mode: &str) -> Scene {
    scene(0, |spec| {
        spec.set("pool.mode", mode).raw("pool.size", BACKENDS);
    })
    .await
}

fn direct(scene: &Scene) -> Config {
    let mut config = Config::new();
    let port = scene.cluster.n(0).port();
    config.host("127.0.0.1").port(port).user("app").password("app-secret").dbname("app");
    config
}

/// What one client is told on its way through all that the driver can do.
async fn member(config: &Config, who: i32) -> Result<Vec<i64>, Error> {
    let (mut client, connection) = config.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    client.batch_execute("SET search_path = crowd").await?;
    let mut told = vec![transactions(&mut client, who).await?];
    told.push(pipelines(&client).await?);
    told.push(portals(&mut client, who).await?);
    told.extend(copies(&client, who).await?);
    drop(client);
    let _ = connection.await;
    Ok(told)
}

/// Statements that the client keeps, in transactions with savepoints of which every other fails.
async fn transactions(client: &mut Client, who: i32) -> Result<i64, Error> {
    let insert = client.prepare("INSERT INTO items VALUES ($1, $2)").await?;
    let count = client.prepare("SELECT count(*) FROM items WHERE who = $1").await?;
    let mut sum = 0;
    for turn in 0..20 {
        let mut transaction = client.transaction().await?;
        transaction.execute(&insert, &[&who, &turn]).await?;
        let inner = transaction.transaction().await?;
        inner.execute(&insert, &[&who, &-turn]).await?;
        if turn % 2 == 0 {
            inner.commit().await?;
        } else {
            assert!(inner.query("SELECT 1 / $1::int", &[&0]).await.is_err());
            inner.rollback().await?;
        }
        sum += transaction.query_one(&count, &[&who]).await?.get::<_, i64>(0);
        if turn % 5 == 0 { transaction.rollback().await? } else { transaction.commit().await? }
    }
    Ok(sum)
}

/// Queries sent before the answers to those before them; one in ten fails.
async fn pipelines(client: &Client) -> Result<i64, Error> {
    let text = "SELECT 100 / $1::int";
    let statements = try_join_all((0..5).map(|_| client.prepare(text))).await?;
    let values: Vec<i32> = (0..50).map(|n| n % 10).collect();
    let queries = values.iter().enumerate().map(|(n, value)| {
        let statement = &statements[n % statements.len()];
        async move { client.query_one(statement, &[value]).await.map(|row| i64::from(row.get::<_, i32>(0))) }
    });
    let answers = join_all(queries).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_err()).count(), 5);
    Ok(answers.into_iter().flatten().sum())
}

/// Rows in parts.
async fn portals(client: &mut Client, who: i32) -> Result<i64, Error> {
    let transaction = client.transaction().await?;
    let portal = transaction.bind("SELECT turn FROM items WHERE who = $1", &[&who]).await?;
    let mut sum = 0;
    loop {
        let rows = transaction.query_portal(&portal, 7).await?;
        if rows.is_empty() {
            break;
        }
        sum += rows.iter().map(|row| i64::from(row.get::<_, i32>(0))).sum::<i64>();
    }
    transaction.commit().await?;
    Ok(sum)
}

async fn copies(client: &Client, who: i32) -> Result<[i64; 2], Error> {
    let mut sink = pin!(client.copy_in("COPY items FROM STDIN").await?);
    for turn in 100..200 {
        sink.send(bytes::Bytes::from(format!("{who}\t{turn}\n"))).await?;
    }
    let rows = sink.finish().await?;
    let out = client.copy_out(&format!("COPY (SELECT turn FROM items WHERE who = {who}) TO STDOUT")).await?;
    let chunks: Vec<bytes::Bytes> = out.try_collect().await?;
    let text = String::from_utf8(chunks.concat()).unwrap();
    let sum = text.lines().map(|line| line.parse::<i64>().unwrap()).sum();
    Ok([i64::try_from(rows).unwrap(), sum])
}

async fn crowd(config: &Config) -> Vec<Vec<i64>> {
    let members = (0..CLIENTS).map(async |who| member(config, who).await.unwrap());
    join_all(members).await
}

async fn same_as_directly(mode: &str) {
    let scene = few_backends(mode).await;
    let mut told = Vec::new();
    for config in [direct(&scene), scene.proxy.config()] {
        let mut ground = scene.cluster.n(0).sql_in("app").await.unwrap();
        let tables = "DROP SCHEMA IF EXISTS crowd CASCADE; CREATE SCHEMA crowd AUTHORIZATION app; \
                      SET ROLE app; CREATE TABLE crowd.items (who int, turn int)";
        ground.run(tables).await.unwrap();
        told.push(crowd(&config).await);
    }
    assert_eq!(told[1], told[0]);
    assert_eq!(told[0].len(), 12);
    scene.finish().await;
}

#[tokio::test]
async fn tokio_postgres_in_session_mode() {
    same_as_directly("session").await;
}

#[tokio::test]
async fn tokio_postgres_in_transaction_mode() {
    same_as_directly("transaction").await;
}

/// 32 clients on 4 backends: no error, and the books are right.
#[tokio::test]
async fn pgbench_in_transaction_mode() {
    let scene = few_backends("transaction").await;
    let programs = programs().await;
    let init = pgbench(&programs, &conninfo(&direct(&scene)), &["-i", "-q", "-s", "4"]).await;
    assert!(init.ok, "{init:?}");
    let mut admin = scene.cluster.n(0).sql_in("app").await.unwrap();
    for protocol in ["simple", "extended", "prepared"] {
        admin.run("TRUNCATE pgbench_history; UPDATE pgbench_branches SET bbalance = 0").await.unwrap();
        // Its threads wait for the answer to a Parse: one that serves several clients would wait for itself.
        let arguments = ["-n", "-M", protocol, "-c", "32", "-j", "32", "-t", "20"];
        let output = pgbench(&programs, &conninfo(&scene.proxy.config()), &arguments).await;
        assert!(output.ok && !output.stderr.contains("error"), "{protocol}: {output:?}");
        assert!(output.stdout.contains("number of failed transactions: 0 "), "{protocol}: {output:?}");
        assert_eq!(admin.one("SELECT count(*) FROM pgbench_history").await.unwrap(), "640");
        let balanced =
            "SELECT sum(delta) = (SELECT sum(bbalance) FROM pgbench_branches) FROM pgbench_history";
        assert_eq!(admin.one(balanced).await.unwrap(), "t", "{protocol}");
    }
    let backends = admin.one("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'").await.unwrap();
    assert_eq!(backends, BACKENDS);
    scene.finish().await;
}
