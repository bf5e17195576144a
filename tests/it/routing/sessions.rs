//! What a session has made for itself is on the primary: transactions, temporary tables, cursors, prepared statements,
//! locks. Its reads find it there.

use crate::harness::eventually;
use crate::harness::raw::{Raw, bind, describe, execute, parse, sync};

use super::stage::{BOTH, Place, Protocol, Stage, failure, stage};

/// A read in a block that may write is on the primary, whatever it reads; so is all that follows in the block.
#[tokio::test]
async fn reads_inside_a_transaction_that_may_write_run_on_the_primary() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    for begin in ["BEGIN", "START TRANSACTION", "BEGIN READ WRITE", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
        for protocol in BOTH {
            stage.settle(&mut raw).await;
            let before = stage.written().await;
            for sql in [
                begin,
                "SELECT a FROM plain",
                "INSERT INTO log VALUES (1)",
                "SELECT count(*) FROM log",
                "SAVEPOINT p",
            ] {
                stage.run(&mut raw, protocol, sql).await.ran_on(Place::Primary, sql);
            }
            let seen = stage.run(&mut raw, protocol, "SELECT count(*) FROM log").await.value();
            assert_eq!(seen, (before + 1).to_string(), "it sees its own row");
            // A failed block stays where it is, too.
            stage.run(&mut raw, protocol, "SELECT 1 / (a - 1) FROM plain").await.failed_on(
                Place::Primary,
                "22012",
                begin,
            );
            let refused = stage.run(&mut raw, protocol, "SELECT 1").await;
            assert_eq!(refused.error().as_deref(), Some("25P02"));
            stage.run(&mut raw, protocol, "ROLLBACK TO p").await;
            stage.run(&mut raw, protocol, "SELECT 1").await.ran_on(Place::Primary, "SELECT 1");
            stage.run(&mut raw, protocol, "COMMIT").await.ran_on(Place::Primary, "COMMIT");
            assert_eq!(stage.written().await, before + 1);
        }
    }
    stage.settle(&mut raw).await;
    stage.query(&mut raw, "BEGIN").await;
    stage.query(&mut raw, "COMMIT AND CHAIN").await.ran_on(Place::Primary, "COMMIT AND CHAIN");
    stage.query(&mut raw, "SELECT a FROM plain").await.ran_on(Place::Primary, "in the chained transaction");
    stage.query(&mut raw, "ROLLBACK").await;
    stage.settle(&mut raw).await;
    stage.finish().await;
}

/// No standby has SERIALIZABLE: it says 0A000.
#[tokio::test]
async fn serializable_runs_on_the_primary() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    for begin in [
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
        "START TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE, DEFERRABLE",
    ] {
        for protocol in BOTH {
            stage.settle(&mut raw).await;
            for sql in [begin, "SELECT a FROM plain", "COMMIT"] {
                stage.run(&mut raw, protocol, sql).await.ran_on(Place::Primary, sql);
            }
        }
    }
    stage.query(&mut raw, "BEGIN").await;
    stage.query(&mut raw, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await.ran_on(Place::Primary, "SET");
    stage.query(&mut raw, "SELECT a FROM plain").await.ran_on(Place::Primary, "SELECT");
    stage.query(&mut raw, "COMMIT").await;
    for (set, reset) in [
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "RESET default_transaction_isolation",
        ),
        (
            "SET default_transaction_isolation = 'serializable'",
            "SET default_transaction_isolation = 'read committed'",
        ),
        ("SET default_transaction_isolation TO serializable", "SET default_transaction_isolation TO DEFAULT"),
        ("SELECT set_config('default_transaction_isolation', 'serializable', false)", "RESET ALL"),
    ] {
        stage.settle(&mut raw).await;
        stage.query(&mut raw, set).await.ran_on(Place::Primary, set);
        for protocol in BOTH {
            for sql in [
                "SELECT a FROM plain",
                "BEGIN",
                "SELECT 1",
                "COMMIT",
                "BEGIN READ ONLY",
                "SELECT 1",
                "COMMIT",
            ] {
                stage.run(&mut raw, protocol, sql).await.ran_on(Place::Primary, &format!("{set}; {sql}"));
            }
        }
        let level = stage.query(&mut raw, "SHOW default_transaction_isolation").await;
        assert_eq!(level.value(), "serializable", "{set}");
        stage.query(&mut raw, reset).await;
    }
    stage.settle(&mut raw).await;
    let mut at_startup = stage.login(&[("options", "-c default_transaction_isolation=serializable")]).await;
    for _ in 0..5 {
        stage.query(&mut at_startup, "SELECT a FROM plain").await.ran_on(Place::Primary, "since startup");
    }
    stage.finish().await;
}

/// A temporary table hides the table of its name, however it was made: what the session sees is its own.
#[tokio::test]
async fn temporary_tables_hide_what_standbys_have() {
    let stage = stage(|_| {}).await;
    let own = "CREATE FUNCTION hide() RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN CREATE TEMP TABLE plain (a int); RETURN 1; END $$";
    stage.on_primary(own).await;
    for make in [
        "CREATE TEMP TABLE plain (a int)",
        "CREATE TABLE pg_temp.plain (a int)",
        "SELECT a INTO TEMP plain FROM public.plain WHERE false",
        "CREATE TEMP VIEW plain AS SELECT 1 AS a WHERE false",
        "SELECT public.hide()",
        "DO $$ BEGIN CREATE TEMP TABLE plain (a int); END $$",
    ] {
        let mut raw = stage.scene.raw().await;
        stage.settle(&mut raw).await;
        stage.query(&mut raw, make).await.ran_on(Place::Primary, make);
        for protocol in BOTH {
            // As long as a standby would take to be fresh enough.
            for _ in 0..30 {
                let outcome = stage.run(&mut raw, protocol, "SELECT count(*) FROM plain").await;
                assert_eq!((outcome.error(), outcome.value().as_str()), (None, "0"), "{make}: {outcome:?}");
            }
        }
        let drop = if make.contains("VIEW") { "DROP VIEW pg_temp.plain" } else { "DROP TABLE pg_temp.plain" };
        stage.query(&mut raw, drop).await.ran_on(Place::Primary, drop);
        let outcome = stage.query(&mut raw, "SELECT count(*) FROM plain").await;
        assert_eq!(outcome.value(), "1", "{make}: the table of all is there again");
    }
    stage.finish().await;
}

/// Unqualified names mean what the session's `search_path` says.
#[tokio::test]
async fn the_search_path_decides_what_a_name_means() {
    let stage = stage(|_| {}).await;
    stage.on_primary("SET ROLE app; INSERT INTO other.twin VALUES (1), (2), (3)").await;
    let mut raw = stage.scene.raw().await;
    for set in [
        "SET search_path = other, pg_catalog, public",
        "SELECT set_config('search_path', 'other, pg_catalog, public', false)",
    ] {
        stage.settle(&mut raw).await;
        stage.query(&mut raw, set).await;
        let before = stage.written().await;
        for protocol in BOTH {
            for _ in 0..10 {
                let outcome = stage.run(&mut raw, protocol, "SELECT count(*) FROM twin").await;
                assert_eq!(outcome.value(), "3", "an unlogged table: {outcome:?}");
                outcome.ran_on(Place::Primary, "an unlogged table");
            }
            stage
                .run(&mut raw, protocol, "SELECT lower('X')")
                .await
                .ran_on(Place::Primary, "a function that writes");
        }
        assert_eq!(stage.written().await, before + 2);
        stage.query(&mut raw, "RESET search_path").await;
    }
    stage.finish().await;
}

#[tokio::test]
async fn cursors_are_where_they_were_declared() {
    let stage = stage(|_| {}).await;
    for protocol in BOTH {
        let mut raw = stage.scene.raw().await;
        stage.settle(&mut raw).await;
        for sql in [
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT generate_series(1, 10)",
            "FETCH 3 FROM c",
            "MOVE 2 IN c",
            "CLOSE c",
            "COMMIT",
            "DECLARE kept CURSOR WITH HOLD FOR SELECT generate_series(1, 10)",
        ] {
            stage.run(&mut raw, protocol, sql).await.ran_on(Place::Primary, sql);
        }
        stage.query(&mut raw, "SELECT a FROM plain").await;
        let outcome = stage.run(&mut raw, protocol, "FETCH 1 FROM kept").await;
        assert_eq!(outcome.value(), "1");
        outcome.ran_on(Place::Primary, "FETCH");
        stage.run(&mut raw, protocol, "CLOSE kept").await.ran_on(Place::Primary, "CLOSE");
    }
    stage.finish().await;
}

/// PREPARE and EXECUTE of SQL, and statements of the protocol under the same names.
#[tokio::test]
async fn statements_prepared_by_sql_are_found() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    for protocol in BOTH {
        stage.settle(&mut raw).await;
        let before = stage.written().await;
        stage.run(&mut raw, protocol, "PREPARE r (int) AS SELECT b FROM plain WHERE a = $1").await;
        stage.run(&mut raw, protocol, "PREPARE w AS INSERT INTO log VALUES (1) RETURNING a").await;
        for number in 1..=3 {
            let outcome = stage.run(&mut raw, protocol, "EXECUTE r (1)").await;
            assert_eq!(outcome.value(), "x", "{outcome:?}");
            stage.run(&mut raw, protocol, "EXECUTE w").await.ran_on(Place::Primary, "EXECUTE w");
            stage
                .run(&mut raw, protocol, "EXPLAIN ANALYZE EXECUTE w")
                .await
                .ran_on(Place::Primary, "EXPLAIN EXECUTE");
            assert_eq!(stage.written().await, before + 2 * number);
        }
        let outcome = stage.run(&mut raw, protocol, "EXECUTE r (writes())").await;
        assert_eq!(outcome.error(), None, "{outcome:?}");
        assert_eq!(stage.written().await, before + 7);
        // By the protocol, in the same session.
        raw.send(&[bind("", "r", &["1"]), execute("", 0), sync()].concat()).await;
        let frames = raw.until(b'Z').await;
        let row = frames.iter().find(|frame| frame.tag == b'D').unwrap_or_else(|| panic!("{frames:?}"));
        assert_eq!(row.columns()[0].as_deref(), Some("x"));
        stage.run(&mut raw, protocol, "DEALLOCATE ALL").await;
        for name in ["r", "w"] {
            let gone = stage.run(&mut raw, protocol, &format!("EXECUTE {name}")).await;
            assert_eq!(gone.error().as_deref(), Some("26000"), "{gone:?}");
        }
    }
    // A statement of the protocol, run by SQL.
    raw.send(&[parse("p", "SELECT b FROM plain"), describe(b'S', "p"), sync()].concat()).await;
    raw.until(b'Z').await;
    stage.settle(&mut raw).await;
    let outcome = stage.query(&mut raw, "EXECUTE p").await;
    assert_eq!((outcome.error(), outcome.value().as_str()), (None, "x"), "{outcome:?}");
    stage.finish().await;
}

/// EXECUTE goes where the statement of that name goes, in SQL and in the protocol, and where the next one of that name goes.
#[tokio::test]
async fn execute_goes_where_its_statement_goes() {
    let stage = stage(|spec| {
        // In transaction mode a PREPARE binds the session to the primary.
        spec.set("pool.mode", "session");
    })
    .await;
    let mut raw = stage.scene.raw().await;
    stage.query(&mut raw, "PREPARE \"R\" AS SELECT b FROM plain").await;
    raw.send(&[parse("by_name", "EXECUTE \"R\""), sync()].concat()).await;
    raw.until(b'Z').await;
    let by_protocol = |name: &str| [bind("", name, &[]), execute("", 0), sync()].concat();
    for _ in 0..2 {
        stage.settle(&mut raw).await;
        for protocol in BOTH {
            stage.run(&mut raw, protocol, "EXECUTE \"R\"").await.ran_on(Place::Standby, "EXECUTE");
        }
        stage.query(&mut raw, "DEALLOCATE \"R\"").await;
        stage.query(&mut raw, "PREPARE \"R\" AS INSERT INTO log VALUES (1)").await;
        stage.settle(&mut raw).await;
        let before = stage.written().await;
        for name in ["by_name", "R"] {
            raw.send(&by_protocol(name)).await;
            assert_eq!(failure(&raw.until(b'Z').await), None, "{name}");
        }
        stage.settle(&mut raw).await;
        for protocol in BOTH {
            stage.run(&mut raw, protocol, "EXECUTE \"R\"").await.ran_on(Place::Primary, "EXECUTE");
        }
        assert_eq!(stage.written().await, before + 4);
        stage.query(&mut raw, "DEALLOCATE \"R\"").await;
        stage.query(&mut raw, "PREPARE \"R\" AS SELECT b FROM plain").await;
    }
    assert_eq!(stage.reruns().await, 0, "no write was tried on a standby");
    stage.finish().await;
}

/// A lock of the session is one lock for all: taken and given back on the primary, and held in between.
#[tokio::test]
async fn advisory_locks_are_those_of_the_primary() {
    let stage = stage(|_| {}).await;
    for protocol in BOTH {
        let (mut raw, mut other) = (stage.scene.raw().await, stage.scene.raw().await);
        stage.settle(&mut raw).await;
        stage.settle(&mut other).await;
        stage.run(&mut raw, protocol, "SELECT pg_advisory_lock(42)").await.ran_on(Place::Primary, "lock");
        stage.run(&mut raw, protocol, "SELECT count(*) FROM plain").await;
        let refused = stage.run(&mut other, protocol, "SELECT pg_try_advisory_lock(42)").await;
        assert_eq!(refused.value(), "f");
        refused.ran_on(Place::Primary, "try");
        let given = stage.run(&mut raw, protocol, "SELECT pg_advisory_unlock(42)").await;
        assert_eq!(given.value(), "t");
        given.ran_on(Place::Primary, "unlock");
    }
    stage.finish().await;
}

/// What a sequence gave last is told by the primary's backend, whatever was read on standbys meanwhile.
#[tokio::test]
async fn sequences_remember_and_bind_no_reads() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    for protocol in BOTH {
        stage.settle(&mut raw).await;
        let number = stage.run(&mut raw, protocol, "SELECT nextval('s')").await.value();
        stage.settle(&mut raw).await;
        for sql in ["SELECT currval('s')", "SELECT lastval()"] {
            let outcome = stage.run(&mut raw, protocol, sql).await;
            assert_eq!((outcome.error(), outcome.value()), (None, number.clone()), "{sql}: {outcome:?}");
            outcome.ran_on(Place::Primary, sql);
            stage.settle(&mut raw).await;
        }
    }
    stage.finish().await;
}

async fn answers_soon(stage: &Stage, raw: &mut Raw, protocol: Protocol, sql: &str, wanted: &str) {
    eventually(&format!("{sql} on a standby"), async || {
        let outcome = stage.run(raw, protocol, sql).await;
        assert_eq!((outcome.error(), outcome.value().as_str()), (None, wanted), "{sql}: {outcome:?}");
        outcome.places == [Place::Standby]
    })
    .await;
}

/// What is made while sessions are there is found at once, and read on standbys soon.
#[tokio::test]
async fn tables_and_functions_made_later_are_learned() {
    let stage = stage(|_| {}).await;
    let mut raw = stage.scene.raw().await;
    let mut other = stage.scene.raw().await;
    stage.settle(&mut raw).await;
    stage.settle(&mut other).await;
    raw.query("CREATE FUNCTION later() RETURNS int STABLE LANGUAGE sql AS 'SELECT 5'").await;
    raw.query("CREATE FUNCTION later_writes() RETURNS int LANGUAGE sql AS 'INSERT INTO public.log VALUES (1) RETURNING 6'")
        .await;
    raw.query("CREATE TABLE later_table AS SELECT 7 AS a").await;
    for protocol in BOTH {
        for raw in [&mut raw, &mut other] {
            answers_soon(&stage, raw, protocol, "SELECT later()", "5").await;
            answers_soon(&stage, raw, protocol, "SELECT a FROM later_table", "7").await;
            let outcome = stage.run(raw, protocol, "SELECT later_writes()").await;
            assert_eq!(outcome.value(), "6");
            outcome.ran_on(Place::Primary, "SELECT later_writes()");
        }
    }
    assert_eq!(stage.written().await, 4);
    stage.finish().await;
}

/// A function that nobody told us of, and one that has become another behind our back: the client sees success.
#[tokio::test]
async fn functions_made_behind_the_proxy_are_no_trap() {
    let stage = stage(|_| {}).await;
    stage.on_primary("CREATE FUNCTION public.turns() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'").await;
    let mut raw = stage.scene.raw().await;
    answers_soon(&stage, &mut raw, Protocol::Simple, "SELECT turns()", "1").await;
    let writing = "LANGUAGE sql VOLATILE AS 'INSERT INTO public.log VALUES (1) RETURNING 2'";
    stage
        .on_primary(&format!(
            "CREATE OR REPLACE FUNCTION public.turns() RETURNS int {writing};
             CREATE FUNCTION public.hidden() RETURNS int {writing}; GRANT ALL ON log TO app"
        ))
        .await;
    for (number, sql) in [(1, "SELECT turns()"), (2, "SELECT hidden()"), (3, "SELECT turns()")] {
        stage.settle(&mut raw).await;
        let outcome = stage.query(&mut raw, sql).await;
        assert_eq!((outcome.error(), outcome.value().as_str()), (None, "2"), "{sql}: {outcome:?}");
        assert_eq!(stage.written().await, number, "{sql}");
    }
    stage.finish().await;
}
