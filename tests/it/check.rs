//! `pgsteer check` against real nodes: what it says is wrong, and that what it says to do puts it right.

use std::fmt::Write as _;

use pgsteer::cli::check::{Verdict, run};
use serde_json::Value;

use crate::harness::cluster::{TestCluster, cluster, stranger};

/// Checks a file that names all nodes of the clusters, as that monitor.
async fn check(clusters: &[&TestCluster], more: &str) -> (Verdict, Value) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.toml");
    let nodes = clusters.iter().flat_map(|one| one.nodes()).map(|node| format!("\"{}\"", node.address()));
    let mut text =
        format!("[cluster]\nnodes = [{}]\nstate_file = \"\"\n", nodes.collect::<Vec<_>>().join(", "));
    let password = &clusters[0].logins().monitor;
    writeln!(text, "[cluster.monitor]\nuser = \"pgsteer\"\npassword = \"{password}\"\n{more}").unwrap();
    std::fs::write(&path, text).unwrap();
    let mut out = Vec::new();
    let verdict = run(Some(&path), true, &mut out).await.unwrap();
    (verdict, serde_json::from_slice(&out).unwrap())
}

fn problems(value: &Value) -> Vec<String> {
    value["problems"].as_array().unwrap().iter().map(|one| one["text"].as_str().unwrap().to_owned()).collect()
}

/// Runs as superuser on the primary what the problems say to run.
async fn do_as_told(value: &Value, primary: &TestCluster) {
    let mut sql = primary.n(0).sql().await.unwrap();
    for problem in value["problems"].as_array().unwrap() {
        sql.run(problem["sql"].as_str().unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn a_sound_cluster_passes() {
    let cluster = cluster(1).await;
    let (verdict, value) = check(&[&cluster], "").await;
    assert_eq!(verdict, Verdict::Fine, "{value:#}");
    let nodes = value["nodes"].as_array().unwrap();
    let roles: Vec<_> = nodes.iter().map(|node| node["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["primary", "standby"]);
    for node in nodes {
        assert_eq!(
            (&node["timeline"], &node["auth_query"]),
            (&Value::from(1), &Value::from(true)),
            "{node:#}"
        );
        assert_eq!(node["system_identifier"], nodes[0]["system_identifier"]);
        assert!(node["server_version_num"].as_u64().unwrap() >= 140_000);
    }
    assert_eq!(nodes[1]["receiver"], "streaming");
    assert!(nodes[1]["lag_bytes"].as_u64().is_some());
}

#[tokio::test]
async fn what_it_says_to_do_puts_rights_and_function_right() {
    let cluster = cluster(0).await;
    let mut sql = cluster.n(0).sql().await.unwrap();
    sql.run(
        "DROP SCHEMA pgsteer CASCADE; REVOKE pg_monitor FROM pgsteer;
         REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
    )
    .await
    .unwrap();
    let (verdict, value) = check(&[&cluster], "").await;
    assert_eq!(verdict, Verdict::BadCluster);
    let found = problems(&value);
    for part in ["lacks pg_monitor", "may not call pg_control_system", "auth.query fails"] {
        assert!(found.iter().any(|text| text.contains(part)), "{part}: {found:?}");
    }
    do_as_told(&value, &cluster).await;
    let (verdict, value) = check(&[&cluster], "").await;
    assert_eq!(verdict, Verdict::Fine, "{value:#}");
}

#[tokio::test]
async fn a_superuser_needs_no_function() {
    let cluster = cluster(0).await;
    cluster.n(0).sql().await.unwrap().run("DROP SCHEMA pgsteer CASCADE").await.unwrap();
    let password = &cluster.logins().superuser;
    let auth = format!("[auth]\nquery_user = \"postgres\"\nquery_password = \"{password}\"");
    let (verdict, value) = check(&[&cluster], &auth).await;
    assert_eq!(verdict, Verdict::Fine, "{value:#}");
}

#[tokio::test]
async fn the_function_gives_nothing_of_roles_that_may_not_log_in() {
    let cluster = cluster(0).await;
    let mut sql = cluster.n(0).sql().await.unwrap();
    sql.run(
        "CREATE ROLE able LOGIN PASSWORD 'x'; CREATE ROLE unable PASSWORD 'x';
         CREATE ROLE expired LOGIN PASSWORD 'x' VALID UNTIL '2001-01-01'",
    )
    .await
    .unwrap();
    let count =
        |name: &str| format!("SELECT count(*) FROM pgsteer.get_auth('{name}') WHERE secret LIKE 'SCRAM%'");
    for (name, expected) in [("able", "1"), ("unable", "0"), ("expired", "0"), ("nobody", "0")] {
        assert_eq!(sql.one(&count(name)).await.unwrap(), expected, "{name}");
    }
    let mut everybody =
        sql.rows("SELECT has_function_privilege('able', 'pgsteer.get_auth(text)', 'EXECUTE')").await;
    assert_eq!(everybody.as_mut().unwrap()[0][0].as_deref(), Some("f"));
}

#[tokio::test]
async fn nodes_that_do_not_belong_together() {
    let (cluster, other) = (cluster(0).await, stranger().await);
    let (verdict, value) = check(&[&cluster, &other], "").await;
    assert_eq!(verdict, Verdict::BadCluster);
    let found = problems(&value);
    assert!(found.iter().any(|text| text.contains("different clusters")), "{found:?}");
    assert!(found.iter().any(|text| text.contains("2 nodes are primaries")), "{found:?}");
}

#[tokio::test]
async fn a_wrong_password_and_a_silent_node() {
    let cluster = cluster(1).await;
    cluster.n(1).kill_and_wait().await.unwrap();
    let auth = "[auth]\nquery_user = \"app\"\nquery_password = \"wrong\"";
    let (verdict, value) = check(&[&cluster], auth).await;
    assert_eq!(verdict, Verdict::BadCluster);
    let found = problems(&value);
    assert!(found.iter().any(|text| text.contains("cannot log in for auth.query")), "{found:?}");
    assert!(found.iter().any(|text| text.contains("connection refused")), "{found:?}");
    assert_eq!(value["nodes"][1]["reachable"], false);
}

#[tokio::test]
async fn databases_that_the_role_may_not_read_are_named() {
    let cluster = cluster(1).await;
    let mut sql = cluster.n(0).sql().await.unwrap();
    sql.run("REVOKE CONNECT ON DATABASE app FROM PUBLIC").await.unwrap();
    let advice = async || {
        let (_, value) = check(&[&cluster], "[pool]\nmode = \"transaction\"").await;
        let all = value["advice"].as_array().unwrap().iter();
        let about = all.filter(|one| one["text"].as_str().unwrap().contains("may not connect to app"));
        about.map(|one| one["sql"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let told = advice().await;
    assert_eq!(told, ["GRANT CONNECT ON DATABASE app TO pgsteer;\n"]);
    sql.run(&told[0]).await.unwrap();
    assert!(advice().await.is_empty());
}
