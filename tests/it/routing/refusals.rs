//! The net below the judge: a read that was none comes back from the standby, and runs on the primary without its client
//! noticing, once. The next of its kind goes there at once.

use crate::harness::raw::{Raw, bind, describe, execute, parse, sync};

use super::stage::{BOTH, Place, Protocol, Stage, stage};

/// Functions that say they read. PostgreSQL believes them, and so does the catalogue.
const LIARS: &str = "
    CREATE FUNCTION sly(int) RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN writes() + $1; END $$;
    CREATE FUNCTION sly_by_name(int) RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN writes() + $1; END $$;
    CREATE FUNCTION sly_in_parts(int) RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN writes() + $1; END $$;
    CREATE FUNCTION sly_in_a_batch(int) RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN writes() + $1; END $$;
    CREATE FUNCTION named(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$ BEGIN RETURN writes() + $1; END $$;";

const TRIED_TWICE: [Place; 2] = [Place::Primary, Place::Standby];

async fn with_liars(functions: &str) -> Stage {
    let stage = stage(|spec| {
        spec.raw("route.read_functions", functions);
    })
    .await;
    stage.on_primary(&format!("SET ROLE app; {LIARS}")).await;
    stage
}

#[tokio::test]
async fn a_write_that_looked_like_a_read_is_run_on_the_primary_once() {
    let stage = with_liars("[]").await;
    let mut raw = stage.scene.raw().await;
    stage.settle(&mut raw).await;
    let outcome = stage.query(&mut raw, "SELECT sly(10)").await;
    assert_eq!((outcome.error(), outcome.value().as_str()), (None, "11"), "{outcome:?}");
    assert_eq!(outcome.places, TRIED_TWICE);
    assert_eq!(stage.written().await, 1);
    assert_eq!(stage.reruns().await, 1);
    // The next one goes there at once: in the same words, with another constant, by another session, another way.
    let mut other = stage.scene.raw().await;
    for (number, sql) in [(2, "SELECT sly(10)"), (3, "SELECT sly(20)"), (4, "select  SLY ( 30 )")] {
        for (more, raw) in [&mut raw, &mut other].into_iter().enumerate() {
            stage.settle(raw).await;
            let outcome = stage.run(raw, BOTH[more], sql).await;
            outcome.ran_on(Place::Primary, sql);
            assert_eq!(stage.written().await, 2 * number - 2 + more as u64);
        }
    }
    assert_eq!(stage.reruns().await, 1);
    // Other reads are what they were.
    stage.settle(&mut raw).await;
    stage.finish().await;
}

#[tokio::test]
async fn a_function_wrongly_called_a_read_is_run_on_the_primary_once() {
    let stage = with_liars("[\"named\"]").await;
    let mut raw = stage.scene.raw().await;
    for (number, protocol) in [(1, Protocol::Extended), (2, Protocol::Simple), (3, Protocol::Extended)] {
        stage.settle(&mut raw).await;
        let outcome = stage.run(&mut raw, protocol, "SELECT named(1)").await;
        assert_eq!((outcome.error(), outcome.value().as_str()), (None, "2"), "{outcome:?}");
        let wanted = if number == 1 { &TRIED_TWICE[..] } else { &[Place::Primary] };
        assert_eq!(outcome.places, wanted);
        assert_eq!(stage.written().await, number);
        assert_eq!(stage.reruns().await, 1);
    }
    stage.finish().await;
}

async fn answer(raw: &mut Raw, bytes: &[u8]) -> Vec<String> {
    raw.send(bytes).await;
    raw.until(b'Z').await.iter().map(ToString::to_string).collect()
}

/// Prepared in the batch that fails, and before it: the name stands for the statement on the primary, too.
#[tokio::test]
async fn a_refused_statement_with_a_name_keeps_it() {
    let stage = with_liars("[]").await;
    let mut raw = stage.scene.raw().await;
    let mark = stage.mark();
    let sql = mark.on("SELECT sly_by_name($1)");
    let run = |value: &str| [bind("", "n", &[value]), execute("", 0), sync()].concat();
    stage.settle(&mut raw).await;
    let frames = answer(&mut raw, &[parse("n", &sql), describe(b'S', "n"), run("10")].concat()).await;
    assert!(frames.contains(&"D 11".to_owned()), "{frames:?}");
    assert_eq!(frames.iter().filter(|frame| frame.starts_with('1')).count(), 1, "{frames:?}");
    assert_eq!(stage.places(&mark), TRIED_TWICE);
    for value in ["20", "30"] {
        stage.settle(&mut raw).await;
        let frames = answer(&mut raw, &run(value)).await;
        assert!(frames.contains(&format!("D {}1", &value[..1])), "{frames:?}");
    }
    let again = answer(&mut raw, &[parse("n", "SELECT 1"), sync()].concat()).await;
    assert!(again[0].contains("42P05"), "the name is taken: {again:?}");
    assert_eq!(stage.places(&mark), [Place::Primary, Place::Primary, Place::Primary, Place::Standby]);
    assert_eq!(stage.written().await, 3);
    assert_eq!(stage.reruns().await, 1);
    stage.finish().await;
}

/// A batch is one transaction: it runs again as a whole, or fails as a whole where the client has heard a part of it. In
/// neither case does it fail the same way for ever.
#[tokio::test]
async fn a_batch_of_which_one_statement_is_refused_runs_as_a_whole() {
    let stage = with_liars("[]").await;
    let mut raw = stage.scene.raw().await;
    let one = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    let batch =
        [one("SELECT a FROM plain"), one("SELECT sly_in_a_batch(5)"), one("SELECT 3"), sync()].concat();
    let mut succeeded = 0;
    for attempt in 0..3 {
        stage.settle(&mut raw).await;
        let frames = answer(&mut raw, &batch).await;
        let rows: Vec<_> = frames.iter().filter(|frame| frame.starts_with('D')).cloned().collect();
        if rows == ["D 1", "D 6", "D 3"] {
            succeeded += 1;
        } else {
            assert!(attempt == 0 && frames.iter().any(|frame| frame.contains("25006")), "{frames:?}");
        }
        assert_eq!(stage.written().await, succeeded);
    }
    assert!(succeeded >= 2);
    stage.finish().await;
}

/// What the client has heard cannot be taken back: the error is its own to deal with, and the next try succeeds.
#[tokio::test]
async fn a_refusal_behind_delivered_rows_is_told() {
    let stage = with_liars("[]").await;
    let mut raw = stage.scene.raw().await;
    let sql = "SELECT repeat('x', 1000), CASE WHEN n = 2000 THEN sly_in_parts(1) END FROM generate_series(1, 2000) n";
    for protocol in BOTH {
        stage.settle(&mut raw).await;
        let outcome = stage.run(&mut raw, protocol, sql).await;
        if protocol == Protocol::Simple {
            assert_eq!(outcome.places, [Place::Standby], "it runs once");
            assert!(["25006", "40001"].contains(&outcome.error().unwrap().as_str()));
            assert_eq!(stage.written().await, 0);
        } else {
            outcome.ran_on(Place::Primary, sql);
            assert_eq!(stage.written().await, 1);
        }
    }
    assert!(raw.is_alive().await);
    stage.finish().await;
}

/// Which errors only a standby gives, and which are the statement's own.
#[tokio::test]
async fn errors_of_recovery_are_not_the_clients() {
    let stage = with_liars("[]").await;
    let codes = [
        ("25006", true),
        ("0A000", true),
        ("55000", true),
        ("XX000", true),
        ("40001", true),
        ("40P01", true),
        ("57014", false),
        ("22012", false),
        ("P0001", false),
        ("42P01", false),
    ];
    for (code, _) in codes {
        // Of each two: one that only a standby gives, and one that the primary gives as well.
        let body = |when: &str| {
            format!(
                "BEGIN IF {when} THEN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END IF; RETURN 'fine'; END"
            )
        };
        let make = |name: &str, when: &str| {
            format!(
                "CREATE FUNCTION {name}_{code}() RETURNS text STABLE LANGUAGE plpgsql AS $$ {} $$;",
                body(when)
            )
        };
        stage
            .on_primary(&format!(
                "SET ROLE app; {}{}",
                make("here", "pg_is_in_recovery()"),
                make("always", "true")
            ))
            .await;
    }
    let mut raw = stage.scene.raw().await;
    for protocol in BOTH {
        for (code, is_recovery) in codes {
            let sql = format!("SELECT here_{code}()");
            stage.settle(&mut raw).await;
            let outcome = stage.run(&mut raw, protocol, &sql).await;
            if is_recovery {
                assert_eq!((outcome.error(), outcome.value().as_str()), (None, "fine"), "{sql}: {outcome:?}");
            } else {
                outcome.failed_on(Place::Standby, code, &sql);
            }
            let sql = format!("SELECT always_{code}()");
            stage.settle(&mut raw).await;
            let outcome = stage.run(&mut raw, protocol, &sql).await;
            assert_eq!(outcome.error().as_deref(), Some(code), "{sql}: {outcome:?}");
            let errors = outcome.frames.iter().filter(|frame| frame.tag == b'E').count();
            assert_eq!(errors, 1, "it is told once: {outcome:?}");
            // In a transaction that the client has declared to be read-only the standby's word stands.
            stage.settle(&mut raw).await;
            raw.query("BEGIN READ ONLY").await;
            stage.run(&mut raw, protocol, &sql).await.failed_on(Place::Standby, code, &sql);
            raw.query("ROLLBACK").await;
        }
    }
    stage.finish().await;
}
