//! What is said of statements and nodes, word by word.

use insta::assert_snapshot;

use super::*;
use crate::admin::fixture;
use crate::sql::catalogue::{Facts, Overrides, Relation};

fn text(lines: &[Line]) -> String {
    lines.iter().map(|(item, value)| format!("{item}: {value}")).collect::<Vec<_>>().join("\n")
}

fn catalogue() -> Catalogue {
    let table = Relation {
        oid: 20_000,
        schema: "public".to_owned(),
        name: "t".to_owned(),
        kind: 'r',
        is_unlogged: false,
    };
    Catalogue::new(&Facts { relations: vec![table], ..Facts::default() }, Overrides::default(), 1)
}

fn about(sql: &str, split: Split) -> String {
    let mut settings = Settings::for_tests();
    settings.route.split = split;
    let question =
        Question { sql, database: "app", catalogue: &catalogue(), failure: None, settings: &settings };
    let lines = statement(&question).1;
    lines
        .iter()
        .take_while(|(item, _)| item != "split")
        .map(|(_, value)| value.as_str())
        .collect::<Vec<_>>()
        .join(" | ")
}

#[test]
fn every_kind_of_statement_is_explained() {
    let all = [
        "SELECT * FROM t",
        "SELECT * FROM t FOR UPDATE",
        "SELECT nextval('s')",
        "SELECT * FROM gone",
        "/* pgsteer: standby */ SELECT nextval('s')",
        "/* pgsteer: primary */ SELECT 1",
        "BEGIN",
        "BEGIN READ ONLY",
        "BEGIN READ WRITE",
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET default_transaction_read_only = off",
        "SET TRANSACTION READ ONLY",
        "EXECUTE q(1)",
        " ; -- nothing",
        "SELECT 1; BEGIN",
    ];
    let lines: Vec<_> = all.iter().map(|sql| format!("{sql}\n    {}", about(sql, Split::Auto))).collect();
    assert_snapshot!(lines.join("\n"), @r#"
    SELECT * FROM t
        standby | read | it only reads; inside a transaction it goes where that is
    SELECT * FROM t FOR UPDATE
        primary | locking | FOR locks rows
    SELECT nextval('s')
        primary | acting_function | nextval is a function that changes something on the server
    SELECT * FROM gone
        primary | unknown_relation | gone is a relation that the catalogue does not have
    /* pgsteer: standby */ SELECT nextval('s')
        standby | hint | a comment at its beginning asks for it
    /* pgsteer: primary */ SELECT 1
        primary | hint | a comment at its beginning asks for it
    BEGIN
        primary | read_write_transaction | the transaction may write, unless the session's default_transaction_read_only is on: all of it goes to the primary
    BEGIN READ ONLY
        standby | declared | the transaction is declared read-only: all of it goes to a standby
    BEGIN READ WRITE
        primary | read_write_transaction | the transaction may write: all of it goes to the primary
    START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY
        primary | serializable | SERIALIZABLE, which no standby has
    SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY
        standby | declared | transactions that follow are read-only: they go to a standby
    SET default_transaction_read_only = off
        primary | read_write_transaction | transactions that follow may write: they go to the primary
    SET TRANSACTION READ ONLY
        standby | declared | as the first statement of a transaction it makes that read-only: all of it goes to a standby
    EXECUTE q(1)
        - | it goes where the statement prepared as q would: explain that one
     ; -- nothing
        - | there is no statement in it
    SELECT 1; BEGIN
        primary | mixed | the statement stands among several statements that do not all read
    "#);
    let read = all[0];
    assert_snapshot!(about(read, Split::Declared), @r#"primary | not_split | route.split leaves what is not declared read-only to the primary; it only reads, and would go to a standby with "auto""#);
    assert_snapshot!(about("BEGIN READ ONLY", Split::Off), @r#"primary | not_split | with route.split = "off" only sessions of listeners for reads go to standbys"#);
    assert_snapshot!(about("/* pgsteer: standby */ SELECT 1", Split::Off), @r#"primary | not_split | route.split leaves what is not declared read-only to the primary; it only reads, and would go to a standby with "auto""#);
}

#[test]
fn what_is_not_known_of_a_database_is_said() {
    let settings = Settings::for_tests();
    let unknown = Catalogue::unknown(Overrides::default());
    let question = Question {
        sql: "SELECT 1",
        database: "My app",
        catalogue: &unknown,
        failure: None,
        settings: &settings,
    };
    assert_snapshot!(text(&statement(&question).1), @r#"
    verdict: primary
    reason: not_split
    because: route.split leaves what is not declared read-only to the primary; it only reads, and would go to a standby with "auto"
    split: declared: only what clients declare read-only goes to standbys
    database: My app: all of its own names count as writes, since they are not known: the log says why; often this helps: GRANT CONNECT ON DATABASE "My app" TO pgsteer;
    "#);
}

#[tokio::test]
async fn nodes_are_told_with_what_speaks_for_and_against_them() {
    let state = fixture::state();
    let mut report = Report::of(&state);
    let mut settings = Settings::for_tests();
    assert_snapshot!(text(&nodes(Some(Wants::Standby), &settings, &report)), @r#"
    target: 127.0.0.1:5433, the only standby that may serve reads now
    node 127.0.0.1:5432: primary, up; out of recovery on timeline 3
    node 127.0.0.1:5433: standby, 100 % of the reads: lag 1.5 ms (220 bytes), weight 100, in flight 0, latency 3 ms
    "#);
    assert_snapshot!(text(&nodes(Some(Wants::Primary), &settings, &report)[..1]), @"target: 127.0.0.1:5432");
    assert!(nodes(None, &settings, &report).is_empty());
    let second = NodeReport {
        name: "third".to_owned(),
        zone: Some("b".to_owned()),
        latency_ms: Some(0.5),
        ..report.nodes[1].clone()
    };
    report.nodes.push(second);
    assert_snapshot!(text(&nodes(Some(Wants::Standby), &settings, &report)), @r#"
    target: 127.0.0.1:5433 or third, drawn by share, and by what is in flight; a session keeps the one it has
    node 127.0.0.1:5432: primary, up; out of recovery on timeline 3
    node 127.0.0.1:5433: standby, 100 % of the reads: lag 1.5 ms (220 bytes), weight 100, in flight 0, latency 3 ms
    node third: standby, 100 % of the reads: lag 1.5 ms (220 bytes), weight 100, in flight 0, latency 0.5 ms, zone b
    "#);
    for node in &mut report.nodes {
        node.read_share = 0.0;
    }
    report.nodes[1].reads = "lagging".to_owned();
    report.nodes.pop();
    for fallback in [Fallback::Primary, Fallback::LeastStale, Fallback::Error] {
        settings.cluster.fallback = fallback;
        let lines = nodes(Some(Wants::Standby), &settings, &report);
        assert!(lines[0].1.contains("(cluster.fallback)"), "{lines:?}");
        assert!(lines[2].1.starts_with("standby, up, serves no reads: lagging"), "{lines:?}");
    }
    report.writable = false;
    assert!(nodes(Some(Wants::Primary), &settings, &report)[0].1.starts_with("none now"));
}
