//! Findings and output for made-up answers of nodes; real nodes are asked by the integration tests.

use insta::assert_snapshot;

use super::facts::{AuthAnswer, Facts, NodeReport, Rights, ServerLimits, Unreachable};
use super::judge::judge;
use super::report::Report;
use super::*;
use crate::config::{NodeAddress, Settings};
use crate::topology::{Lsn, Timeline};

fn primary() -> Facts {
    Facts {
        version_num: 150_020,
        in_recovery: false,
        lsn: Some(Lsn(0x0500_0000)),
        timeline: Some(Timeline(3)),
        system_identifier: Some(7_301_234_567_890_123_456),
        receiver: None,
        archive_fed: None,
        limits: ServerLimits {
            wal_level: "replica".to_owned(),
            hot_standby: true,
            max_connections: 100,
            reserved: 3,
        },
        closed: Vec::new(),
        rights: Rights { superuser: false, monitor: true, control: true, promote: true },
        auth: Some(AuthAnswer::Works),
    }
}

fn standby() -> Facts {
    Facts {
        in_recovery: true,
        receiver: Some("streaming".to_owned()),
        archive_fed: Some(false),
        lsn: Some(Lsn(0x0500_0000 - 4096)),
        ..primary()
    }
}

fn named(answers: Vec<Result<Facts, Unreachable>>) -> Vec<NodeReport> {
    let node = |(index, answer)| NodeReport {
        name: format!("db{index}"),
        address: NodeAddress::new("10.0.0.1", 5432),
        answer,
    };
    answers.into_iter().enumerate().map(node).collect()
}

fn report(answers: Vec<Result<Facts, Unreachable>>) -> Report {
    let nodes = named(answers);
    let findings = judge(&Settings::for_tests(), &nodes);
    Report::of(&[], nodes, findings)
}

fn text(report: &Report) -> String {
    let mut out = Vec::new();
    report.write_text(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_sound_cluster_is_ready() {
    let report = report(vec![Ok(primary()), Ok(standby()), Ok(standby())]);
    assert_eq!((report.verdict(), report.verdict().code()), (Verdict::Fine, 0));
    assert_snapshot!(text(&report), @r#"
    node  role     version  system identifier    timeline  lag   replication  rights
    db0   primary  15.20    7301234567890123456  3         -     -            monitor, auth query
    db1   standby  15.20    7301234567890123456  3         4 kB  streaming    monitor, auth query
    db2   standby  15.20    7301234567890123456  3         4 kB  streaming    monitor, auth query

    ready
    "#);
}

#[test]
fn what_is_wrong_with_single_nodes() {
    let refused =
        Unreachable { text: "password authentication failed".to_owned(), sqlstate: Some("28P01".to_owned()) };
    let silent = Unreachable { text: "connection refused".to_owned(), sqlstate: None };
    let bare = Facts {
        rights: Rights::default(),
        system_identifier: None,
        receiver: None,
        archive_fed: None,
        timeline: None,
        auth: Some(AuthAnswer::Refused("42883".to_owned(), "function does not exist".to_owned())),
        limits: ServerLimits {
            wal_level: "minimal".to_owned(),
            hot_standby: false,
            max_connections: 20,
            reserved: 3,
        },
        ..standby()
    };
    let report = report(vec![Ok(primary()), Ok(bare), Err(refused), Err(silent)]);
    assert_eq!(report.verdict(), Verdict::BadCluster);
    assert_snapshot!(text(&report), @r#"
    node  role         version  system identifier    timeline  lag   replication  rights
    db0   primary      15.20    7301234567890123456  3         -     -            monitor, auth query
    db1   standby      15.20    ?                    ?         4 kB  none         no monitor, no auth query
    db2   unreachable  -        -                    -         -     -            -
    db3   unreachable  -        -                    -         -     -            -

    problem: db1: has wal_level "minimal", so it can have no standby
        ALTER SYSTEM SET wal_level = 'replica';
        -- then restart the server

    problem: db1: has room for 17 connections (max_connections 20 less 3 reserved), but pool.max_backends_per_node is 90 and 3 more are needed; lower it to 14 or raise max_connections
        ALTER SYSTEM SET max_connections = 96;
        -- standbys first, then the primary; each needs a restart

    problem: db1: the role pgsteer lacks pg_monitor: it cannot see whether replication runs
        GRANT pg_monitor TO pgsteer;

    problem: db1: the role pgsteer may not call pg_control_system: clusters cannot be told apart
        GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO pgsteer;
        GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_checkpoint() TO pgsteer;
        GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_recovery() TO pgsteer;

    problem: db1: auth.query fails for pgsteer: function does not exist (42883); nobody could log in
        -- in the database postgres:
        CREATE SCHEMA IF NOT EXISTS pgsteer;
        CREATE OR REPLACE FUNCTION pgsteer.get_auth(role text)
        RETURNS TABLE (name text, secret text)
        LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS $$
            SELECT rolname::text, rolpassword FROM pg_catalog.pg_authid
            WHERE rolname = $1 AND rolcanlogin AND (rolvaliduntil IS NULL OR rolvaliduntil > now())
        $$;
        REVOKE ALL ON SCHEMA pgsteer FROM PUBLIC;
        REVOKE ALL ON FUNCTION pgsteer.get_auth(text) FROM PUBLIC;
        GRANT USAGE ON SCHEMA pgsteer TO pgsteer;
        GRANT EXECUTE ON FUNCTION pgsteer.get_auth(text) TO pgsteer;

    problem: db2: cannot be asked: password authentication failed; the role is missing or its password differs from the one configured
        ALTER ROLE pgsteer LOGIN PASSWORD 'the configured one';
        -- if the role is not there yet:
        CREATE ROLE pgsteer LOGIN PASSWORD 'choose one';
        GRANT pg_monitor TO pgsteer;

    problem: db3: cannot be asked: connection refused; is the server up, is the address right, does a firewall drop it?

    advice: db1: has hot_standby off: as a standby it would answer nobody
        ALTER SYSTEM SET hot_standby = on;
        -- then restart the server

    advice: db1: the role pgsteer may not promote; only planned switchovers need that
        GRANT EXECUTE ON FUNCTION pg_catalog.pg_promote(boolean, integer) TO pgsteer;

    7 problems
    "#);
}

#[test]
fn what_only_shows_side_by_side() {
    let stranger = Facts { system_identifier: Some(1), ..standby() };
    let zombie = Facts { timeline: Some(Timeline(2)), ..primary() };
    let old = Facts { timeline: Some(Timeline(2)), version_num: 130_005, ..standby() };
    let lost = Facts { receiver: None, lsn: Some(Lsn(0x0100_0000)), ..standby() };
    let waiting = Facts { receiver: Some("waiting".to_owned()), ..standby() };
    let archive = Facts { receiver: None, archive_fed: Some(true), ..standby() };
    let answers = vec![primary(), stranger, zombie, old, lost, waiting, archive];
    assert_snapshot!(text(&report(answers.into_iter().map(Ok).collect())), @r#"
    node  role     version  system identifier    timeline  lag    replication  rights
    db0   primary  15.20    7301234567890123456  3         -      -            monitor, auth query
    db1   standby  15.20    1                    3         4 kB   streaming    monitor, auth query
    db2   primary  15.20    7301234567890123456  2         -      -            monitor, auth query
    db3   standby  13.5     7301234567890123456  2         4 kB   streaming    monitor, auth query
    db4   standby  15.20    7301234567890123456  3         64 MB  none         monitor, auth query
    db5   standby  15.20    7301234567890123456  3         4 kB   waiting      monitor, auth query
    db6   standby  15.20    7301234567890123456  3         4 kB   archive      monitor, auth query

    problem: db3: runs PostgreSQL 13; 14 or later is needed

    problem: db3: is on timeline 2, the primary on 3; it needs pg_rewind or a new base backup

    problem: db4: no WAL receiver runs, so it gets nothing; check primary_conninfo and the server's log

    problem: db5: its WAL receiver is "waiting", not streaming; see the server's log

    problem: cluster: the nodes are of different clusters, by system identifier: 1 on db1, 7301234567890123456 on db0 and db2 and db3 and db4 and db5 and db6; list only copies of one cluster

    problem: cluster: 2 nodes are primaries: db0 (timeline 3, 0/5000000), db2 (timeline 2, 0/5000000); stop the one that is out of date and make it a standby again (pg_rewind)

    advice: db4: is 64 MB behind, more than cluster.max_lag_bytes (16MB): no reads now

    advice: db6: lives from an archive: it is judged by lag, which jumps with each file

    6 problems
    "#);
}

#[test]
fn no_primary_and_one_node() {
    assert_snapshot!(text(&report(vec![Ok(standby())])), @r#"
    node  role     version  system identifier    timeline  lag  replication  rights
    db0   standby  15.20    7301234567890123456  3         ?    streaming    monitor, auth query

    problem: cluster: no node is a primary: writes would wait; promote a standby
        SELECT pg_promote();

    advice: cluster: there is only one node: nothing can take over when it fails

    1 problem
    "#);
}

#[test]
fn pg_authid_will_do_and_an_odd_query_will_not() {
    let by_authid = Facts { auth: Some(AuthAnswer::Superuser), ..primary() };
    let odd = Facts { auth: Some(AuthAnswer::Columns(1)), ..standby() };
    let locked_out = Facts { auth: Some(AuthAnswer::NoLogin("no such role".to_owned())), ..standby() };
    assert_snapshot!(text(&report(vec![Ok(by_authid), Ok(odd), Ok(locked_out)])), @r#"
    node  role     version  system identifier    timeline  lag   replication  rights
    db0   primary  15.20    7301234567890123456  3         -     -            monitor, auth by pg_authid
    db1   standby  15.20    7301234567890123456  3         4 kB  streaming    monitor, no auth query
    db2   standby  15.20    7301234567890123456  3         4 kB  streaming    monitor, no auth query

    problem: db1: auth.query returns rows of 1; name and secret are needed

    problem: db2: pgsteer cannot log in for auth.query: no such role; check auth.query_user and its password

    2 problems
    "#);
}

#[test]
fn databases_that_cannot_be_read_matter_where_they_are_read() {
    let closed = Facts { closed: vec!["app".to_owned(), "My app".to_owned()], ..primary() };
    let nodes = named(vec![Ok(closed.clone()), Ok(Facts { in_recovery: true, ..closed })]);
    let mut settings = Settings::for_tests();
    let told = |settings: &Settings| {
        let findings = judge(settings, &nodes);
        let about = findings.into_iter().filter(|finding| finding.text.contains("may not connect"));
        about.map(|finding| (finding.is_problem, finding.sql)).collect::<Vec<_>>()
    };
    assert_eq!(told(&settings), []);
    settings.route.split = crate::config::Split::Auto;
    let grants =
        "GRANT CONNECT ON DATABASE app TO pgsteer;\nGRANT CONNECT ON DATABASE \"My app\" TO pgsteer;\n";
    assert_eq!(told(&settings), [(false, grants.to_owned())]);
}

#[test]
fn json_for_scripts() {
    let silent = Unreachable { text: "connection refused".to_owned(), sqlstate: None };
    let report = report(vec![Ok(primary()), Ok(standby()), Err(silent)]);
    let mut out = Vec::new();
    report.write_json(&mut out).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(value["exit_code"], 2);
    assert_eq!(value["nodes"][1]["lag_bytes"], 4096);
    assert_eq!(value["nodes"][1]["role"], "standby");
    assert_eq!(value["nodes"][0]["system_identifier"], "7301234567890123456");
    assert_eq!(value["nodes"][2]["reachable"], false);
    assert_eq!(value["problems"][0]["node"], "db2");
}

#[tokio::test]
async fn a_bad_file_asks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.toml");
    std::fs::write(&path, "[cluster]\nnodes = [\"127.0.0.1:1\"]\n[pool]\nsize = 0\nsiez = 1\n").unwrap();
    let mut out = Vec::new();
    assert_eq!(run(Some(&path), false, &mut out).await.unwrap(), Verdict::BadConfiguration);
    let shown = String::from_utf8(out).unwrap().replace(&path.display().to_string(), "proxy.toml");
    assert_snapshot!(shown, @r#"
    error: proxy.toml:4: pool.size: is 0; write a number between 1 and 1000000
    error: proxy.toml:5: pool.siez: unknown option; did you mean "size"?
    2 errors in the configuration; no node was asked
    "#);
    let mut out = Vec::new();
    assert_eq!(run(Some(&path), true, &mut out).await.unwrap().code(), 1);
    let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(value["configuration"]["errors"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_certificate_that_is_none_is_a_bad_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.toml");
    std::fs::write(folder.path().join("ca.pem"), "not a certificate").unwrap();
    let tls = "tls = { mode = \"verify-ca\", ca = \"ca.pem\" }";
    std::fs::write(&path, format!("[cluster]\nnodes = [\"127.0.0.1:1\"]\n{tls}\n")).unwrap();
    let mut out = Vec::new();
    assert_eq!(run(Some(&path), false, &mut out).await.unwrap(), Verdict::BadConfiguration);
    assert!(String::from_utf8(out).unwrap().contains("cluster.tls: "));
}
