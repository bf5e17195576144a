//! The catalogue queries on a real server: what they find decides whether a statement may go to a standby, and the standby
//! itself is asked whether that was right.

use pgsteer::session::catalogues::facts;
use pgsteer::sql::catalogue::{Catalogue, Overrides, queries};
use pgsteer::sql::judge::{Context, Encoding, Verdict, judge};
use tokio_postgres::{Client, Config, Row};

use crate::harness::cluster::{TestCluster, cluster};
use crate::harness::drivers::{connect, sqlstate};
use crate::harness::eventually;

/// Something of each kind that the judge must know.
const OBJECTS: &str = "
    CREATE TABLE log (a int);
    CREATE TABLE t (a int, b text);
    INSERT INTO t VALUES (1, 'x');
    CREATE SEQUENCE s;
    CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS 'INSERT INTO public.log VALUES (1) RETURNING a';
    CREATE FUNCTION writes(int) RETURNS bool LANGUAGE sql AS 'INSERT INTO public.log VALUES (1) RETURNING true';
    CREATE FUNCTION reads() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION of_row(t) RETURNS int LANGUAGE sql AS 'INSERT INTO public.log VALUES (1) RETURNING a';
    CREATE FUNCTION with_default(a bigint DEFAULT nextval('s')) RETURNS bigint STABLE LANGUAGE sql AS 'SELECT a';
    CREATE VIEW good_view AS SELECT a, reads() FROM t;
    CREATE VIEW bad_view AS SELECT a, writes() FROM t;
    CREATE VIEW view_of_view AS SELECT * FROM bad_view;
    CREATE VIEW next_view AS SELECT nextval('s');
    CREATE VIEW xid_view AS SELECT txid_current();
    CREATE VIEW default_view AS SELECT a FROM t WHERE with_default(a) > 0;
    CREATE MATERIALIZED VIEW kept AS SELECT a, reads() FROM t;
    CREATE TABLE guarded (a int);
    INSERT INTO guarded VALUES (1);
    ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON guarded USING (writes() > 0);
    CREATE FUNCTION pair_writes(int, int) RETURNS int LANGUAGE sql AS 'INSERT INTO public.log VALUES (1) RETURNING a';
    CREATE FUNCTION sum2(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + $2';
    CREATE OPERATOR ### (FUNCTION = pair_writes, LEFTARG = int, RIGHTARG = int);
    CREATE OPERATOR +++| (FUNCTION = sum2, LEFTARG = int, RIGHTARG = int);
    CREATE VIEW operator_view AS SELECT 1 ### 2;
    CREATE AGGREGATE bad_sum (int) (SFUNC = pair_writes, STYPE = int);
    CREATE AGGREGATE good_sum (int) (SFUNC = sum2, STYPE = int);
    CREATE DOMAIN checked AS int CHECK (writes(VALUE));
    CREATE DOMAIN plain AS int CHECK (VALUE > 0);
    CREATE TABLE with_checked (a checked);
    CREATE TABLE with_checked_array (a checked[]);
    CREATE TYPE pair AS (a int, b plain);
    CREATE TABLE with_pair (a pair);
    CREATE TYPE odd AS (a int);
    CREATE FUNCTION odd_to_int(odd) RETURNS int LANGUAGE sql AS 'INSERT INTO public.log VALUES (1) RETURNING a';
    CREATE CAST (odd AS int) WITH FUNCTION odd_to_int(odd) AS IMPLICIT;
    CREATE TABLE with_odd (a odd);
    CREATE FUNCTION make_odd() RETURNS odd IMMUTABLE LANGUAGE sql AS 'SELECT ROW(1)::odd';
    CREATE UNLOGGED TABLE quick (a int);
    CREATE TABLE parent (a int);
    CREATE UNLOGGED TABLE child () INHERITS (parent);
    CREATE FOREIGN DATA WRAPPER w;
    CREATE SERVER far FOREIGN DATA WRAPPER w;
    CREATE FOREIGN TABLE far_t (a int) SERVER far;
    CREATE SCHEMA other;
    CREATE UNLOGGED TABLE other.t (a int);
    CREATE FUNCTION other.lower(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
    GRANT USAGE ON SCHEMA other TO app;
    GRANT ALL ON ALL TABLES IN SCHEMA public, other TO app;
    GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app;";

fn login(cluster: &TestCluster, node: usize, user: &str, password: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(cluster.n(node).port()).user(user).password(password).dbname("app");
    config
}

/// Every row of a query, read by `read`.
async fn rows<T>(client: &Client, sql: &str, read: impl Fn(&Row) -> T) -> Vec<T> {
    client.query(sql, &[]).await.unwrap().iter().map(read).collect()
}

/// `read`, or the label of the reason why not.
fn verdict(sql: &str, catalogue: &Catalogue) -> &'static str {
    let context = Context { standard_strings: true, encoding: Encoding::Utf8 };
    let path = catalogue.path(["public"]);
    match judge(sql.as_bytes(), context, &mut catalogue.seen(Some(&path))).verdict {
        Verdict::Read => "read",
        Verdict::Write(stop) => stop.reason.as_str(),
        other => panic!("{sql}: {other:?}"),
    }
}

/// What the judge may call a read; a standby must answer it.
const READS: &[&str] = &[
    "SELECT * FROM t",
    "SELECT t.a, t.b, reads() FROM public.t",
    "SELECT * FROM good_view, kept",
    "SELECT good_sum(a) FROM t",
    "SELECT 1 +++| 2, 1 OPERATOR(public.+++|) 2",
    "SELECT 1::plain, (1, 2)::pair, 'x'::pg_catalog.text",
    "SELECT a FROM with_pair",
    "SELECT lower('X'), pg_catalog.lower('X')",
    "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace",
    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'",
    "SELECT column_name FROM information_schema.columns WHERE table_name = 't'",
    "SELECT conname FROM pg_catalog.pg_constraint",
    "SELECT * FROM pg_tables, pg_views, pg_indexes LIMIT 1",
    "SELECT * FROM pg_roles",
    "SELECT * FROM pg_stats LIMIT 1",
    "SELECT random(), clock_timestamp(), gen_random_uuid(), pg_sleep(0), txid_current_if_assigned(), version()",
    "SELECT current_setting('search_path'), current_setting('app.tenant', true)",
    "SELECT pg_get_viewdef('good_view'::regclass), obj_description('t'::regclass), has_table_privilege('t', 'select')",
    "COPY (SELECT * FROM t) TO STDOUT",
    "COPY t TO STDOUT",
    "EXPLAIN ANALYZE SELECT * FROM t",
    "SHOW server_version",
    "WITH x AS MATERIALIZED (SELECT a FROM t) SELECT count(*) FILTER (WHERE x.a > 0) OVER () FROM x, t TABLESAMPLE BERNOULLI (100)",
    "SELECT * FROM ROWS FROM (generate_series(1, 2), unnest(array[1])) WITH ORDINALITY AS x (a, b, c)",
    "SELECT * FROM json_to_recordset('[]') AS x (a int, b plain)",
];

/// What it must call a write, why, and whether a standby refuses it.
const WRITES: &[(&str, &str, bool)] = &[
    ("SELECT writes()", "volatile_function", true),
    ("SELECT of_row(t) FROM t", "volatile_function", true),
    ("SELECT t.of_row FROM t", "volatile_function", true),
    ("SELECT (x).of_row FROM t x", "volatile_function", true),
    ("SELECT with_default()", "volatile_function", true),
    ("SELECT bad_sum(a) FROM (VALUES (1), (2)) v (a)", "volatile_function", true),
    ("SELECT make_odd()", "volatile_function", false),
    ("SELECT other.lower('X')", "volatile_function", false),
    ("SELECT * FROM bad_view", "volatile_relation", true),
    ("SELECT * FROM view_of_view", "volatile_relation", true),
    ("SELECT * FROM next_view", "volatile_relation", true),
    ("SELECT * FROM xid_view", "volatile_relation", true),
    ("SELECT * FROM default_view", "volatile_relation", false),
    ("SELECT * FROM operator_view", "volatile_relation", true),
    ("SELECT * FROM guarded", "volatile_relation", true),
    ("SELECT 1 ### 2", "volatile_operator", true),
    ("SELECT 1::checked", "volatile_type", true),
    ("SELECT * FROM with_checked", "volatile_relation", false),
    ("SELECT * FROM with_checked_array", "volatile_relation", false),
    ("SELECT a + 1 FROM with_odd", "volatile_relation", false),
    ("SELECT ROW(1)::odd + 1", "volatile_type", true),
    ("SELECT * FROM s", "sequence", false),
    ("SELECT * FROM quick", "unlogged_table", true),
    ("SELECT * FROM parent", "unlogged_table", true),
    ("SELECT * FROM other.t", "unlogged_table", true),
    ("SELECT * FROM far_t", "foreign_table", false),
    ("SELECT nextval('s')", "acting_function", true),
    ("SELECT txid_current()", "acting_function", true),
    ("SELECT pg_advisory_lock(1)", "acting_function", false),
    ("SELECT * FROM pg_stat_activity", "node_local", false),
    ("SELECT * FROM pg_stat_user_tables", "node_local", false),
    ("SELECT * FROM pg_locks", "node_local", false),
    ("SELECT * FROM pg_settings", "node_local", false),
    ("SELECT * FROM pg_prepared_xacts", "node_local", false),
    ("SELECT * FROM pg_replication_slots", "node_local", false),
    ("SELECT * FROM no_such_table", "unknown_relation", true),
];

#[tokio::test]
async fn what_the_catalogue_calls_a_read_runs_on_a_standby() {
    let cluster = cluster(1).await;
    let mut superuser = cluster.n(0).sql_in("app").await.unwrap();
    superuser.run(OBJECTS).await.unwrap();
    cluster.wait_caught_up(cluster.n(1), cluster.n(0)).await.unwrap();
    // The monitor's role owns nothing and may read no table: the catalogue is open to all.
    let logins = cluster.logins();
    let monitor = connect(&login(&cluster, 0, pgsteer::demo::setup::MONITOR, &logins.monitor)).await.unwrap();
    let facts = facts(&monitor).await.unwrap();
    let catalogue = Catalogue::new(&facts, Overrides::default(), 1);
    let app = connect(&login(&cluster, 1, "app", &logins.app)).await.unwrap();
    for sql in READS {
        assert_eq!(verdict(sql, &catalogue), "read", "{sql}");
        let answered = if sql.starts_with("COPY") {
            // Refused before the first row, if at all.
            app.copy_out(*sql).await.map(drop)
        } else {
            app.batch_execute(sql).await
        };
        answered.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    for (sql, reason, refused) in WRITES {
        assert_eq!(verdict(sql, &catalogue), *reason, "{sql}");
        if *refused {
            let state = sqlstate(app.simple_query(sql).await);
            assert!(["25006", "0A000", "55000", "42P01"].contains(&state.as_str()), "{sql}: {state}");
        }
    }
    assert!(catalogue.doubts_types());
    let trusting = Catalogue::new(&facts, Overrides::new(["public.writes", "pair_writes"], ["reads"]), 2);
    for (sql, expected) in [
        ("SELECT writes()", "read"),
        ("SELECT * FROM view_of_view, guarded, with_checked", "read"),
        ("SELECT 1 ### 2, bad_sum(a) FROM t", "read"),
        ("SELECT reads()", "declared_write"),
        ("SELECT * FROM good_view", "volatile_relation"),
    ] {
        assert_eq!(verdict(sql, &trusting), expected, "{sql}");
    }
}

/// Built-in functions that the table calls reads, with no argument: none of them may be refused by a standby.
#[tokio::test]
async fn built_in_reads_run_on_a_standby() {
    let cluster = cluster(1).await;
    let logins = cluster.logins();
    let app = connect(&login(&cluster, 1, "app", &logins.app)).await.unwrap();
    let names = rows(
        &app,
        "SELECT DISTINCT proname::text FROM pg_proc p
         WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND pronargs = 0
             AND prorettype::regtype::text !~ '^(internal|cstring|trigger|event_trigger|.*_handler)$'",
        |row| row.get::<_, String>(0),
    )
    .await;
    let catalogue = Catalogue::unknown(Overrides::default());
    let calls = names.iter().map(|name| format!("SELECT * FROM pg_catalog.{name}()"));
    let reads: Vec<_> = calls.filter(|sql| verdict(sql, &catalogue) == "read").collect();
    assert!(reads.len() > 15, "{reads:?}");
    for sql in reads {
        app.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

/// While a server says that nothing has changed, nothing is read again: so it must say when something has.
#[tokio::test]
async fn every_change_that_matters_is_counted() {
    let cluster = cluster(1).await;
    let primary = cluster.n(0);
    // Counters of a session are told at its end at the latest.
    let run = async |sql: &str| primary.sql_in("app").await.unwrap().run(sql).await.unwrap();
    run(OBJECTS).await;
    let logins = cluster.logins();
    let monitor = connect(&login(&cluster, 0, pgsteer::demo::setup::MONITOR, &logins.monitor)).await.unwrap();
    let counted = async || {
        monitor.query_one(queries::CHANGES, &[]).await.unwrap().get::<_, Option<String>>(0).expect("a count")
    };
    for sql in [
        "CREATE FUNCTION one_more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER FUNCTION reads() VOLATILE",
        "CREATE OR REPLACE FUNCTION reads() RETURNS int STABLE LANGUAGE sql AS 'SELECT 2'",
        "CREATE OR REPLACE VIEW good_view AS SELECT a, writes() AS reads FROM t",
        "CREATE TABLE another (a int)",
        "ALTER TABLE another SET UNLOGGED",
        "ALTER TABLE another RENAME TO other_name",
        "CREATE POLICY q ON guarded USING (writes() > 1)",
        "CREATE DOMAIN third AS int CHECK (writes(VALUE))",
        "CREATE CAST (pair AS odd) WITH INOUT",
        "DROP OPERATOR ### (int, int) CASCADE",
        "ALTER FUNCTION writes() SET SCHEMA other",
        "DROP SCHEMA other CASCADE",
    ] {
        let before = counted().await;
        run(sql).await;
        eventually(&format!("{sql} to be counted"), async || counted().await != before).await;
    }
    let standby = connect(&login(&cluster, 1, pgsteer::demo::setup::MONITOR, &logins.monitor)).await.unwrap();
    let told = standby.query_one(queries::CHANGES, &[]).await.unwrap();
    assert_eq!(told.get::<_, Option<String>>(0), None, "a standby does not know");
}
