//! Settings: each client finds its own, whatever others have set on the same backend and however a transaction ended.

use super::play::{Way, stage};
use crate::harness::drivers::{conninfo, pg_dump};

#[tokio::test]
async fn each_kind_of_set_is_its_owners() {
    let stage = stage(1).await;
    stage
        .same(
            "a: SET work_mem = '5MB'
             b: SHOW work_mem
             b: SET SESSION work_mem TO '6MB'
             a: SHOW work_mem
             b: SHOW work_mem
             c: SHOW work_mem
             a: SET work_mem TO DEFAULT
             b: SHOW work_mem
             a: SHOW work_mem
             a: SET \"work_mem\" = 7000
             b: RESET work_mem
             a: SHOW work_mem
             b: SHOW work_mem
             a: SET LOCAL work_mem = '9MB'
             b: SHOW work_mem
             a: SHOW work_mem
             c: SET datestyle = 'SQL'
             c: SET datestyle = 'DMY'
             a: SET datestyle = 'German'
             b: SET intervalstyle TO iso_8601
             a: SELECT date '2024-02-01', interval '1 day'
             b: SELECT date '2024-02-01', interval '1 day'
             c: SELECT date '2024-02-01', interval '1 day'
             a: SET extra_float_digits = 0
             a: SELECT 0.1::float8 + 0.2
             b: SELECT 0.1::float8 + 0.2
             a: SET bytea_output = escape
             b: SELECT '\\x4142'::bytea
             a: SELECT '\\x4142'::bytea
             a: RESET ALL
             b: SELECT date '2024-02-01', interval '1 day'
             a: SELECT date '2024-02-01', interval '1 day'
             b: DISCARD ALL
             b: SELECT date '2024-02-01', interval '1 day'
             a: SET nonsense = 1
             a: SET work_mem = 'nonsense'
             a: SHOW work_mem
             b: SHOW work_mem",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn settings_with_a_syntax_of_their_own() {
    let stage = stage(1).await;
    stage
        .same(
            "a: SET TIME ZONE 'Asia/Tokyo'
             b: SET TIME ZONE 3
             c: SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE
             a: SHOW timezone
             b: SELECT timestamptz '2024-01-01 00:00:00+00'
             c: SELECT timestamptz '2024-01-01 00:00:00+00'
             a: SELECT timestamptz '2024-01-01 00:00:00+00'
             a: SET TIME ZONE LOCAL
             b: SET TIME ZONE DEFAULT
             a: SHOW timezone
             b: SHOW timezone
             c: RESET TIME ZONE
             c: SHOW timezone
             a: SET NAMES 'LATIN1'
             b: SHOW client_encoding
             a: SHOW client_encoding
             b: SELECT 'ä', length('ä')
             a: SET NAMES DEFAULT
             a: SHOW client_encoding
             a: SET client_encoding TO SQL_ASCII
             b: SELECT 'ä'
             a: RESET client_encoding
             a: SHOW client_encoding
             a: SET SCHEMA 'pg_catalog'
             b: SHOW search_path
             a: SHOW search_path
             a: SET XML OPTION DOCUMENT
             b: SHOW xmloption
             a: SHOW xmloption
             a: SET SESSION XML OPTION CONTENT
             b: SHOW xmloption
             a: SHOW xmloption
             a: SET xmloption = document
             b: SET LOCAL XML OPTION DOCUMENT
             b: SHOW xmloption
             a: SHOW xmloption
             a: SET standard_conforming_strings = off
             b: SELECT 'a\\nb'
             a: SELECT length('a\\nb')
             a: RESET standard_conforming_strings
             a: SELECT length('a\\nb')",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn settings_follow_their_transaction() {
    let stage = stage(1).await;
    stage
        .same(
            "a: SET work_mem = '1MB'
             a: BEGIN
             a: SET work_mem = '2MB'
             a: COMMIT
             b: SHOW work_mem
             a: SHOW work_mem
             a: BEGIN
             a: SET work_mem = '3MB'
             a: SET LOCAL lock_timeout = '3s'
             a: ROLLBACK
             b: SHOW work_mem
             a: SHOW work_mem
             a: BEGIN
             a: SET work_mem = '4MB'
             a: SAVEPOINT s
             a: SET work_mem = '5MB'
             a: SET lock_timeout = '5s'
             a: SAVEPOINT s
             a: SET work_mem = '6MB'
             a: ROLLBACK TO s
             a: SHOW work_mem
             a: RELEASE s
             a: ROLLBACK TO SAVEPOINT s
             a: SHOW work_mem
             a: SET idle_session_timeout = '1h'
             a: COMMIT
             b: SELECT current_setting('work_mem'), current_setting('lock_timeout')
             a: SELECT current_setting('work_mem'), current_setting('lock_timeout')
             b: SHOW idle_session_timeout
             a: SHOW idle_session_timeout
             a: BEGIN
             a: SET work_mem = '7MB'
             a: SELECT 1/0
             a: SET work_mem = '8MB'
             a: COMMIT
             b: SHOW work_mem
             a: SHOW work_mem
             a: BEGIN
             a: SAVEPOINT s
             a: SET work_mem = '8MB'
             a: SELECT 1/0
             a: ROLLBACK TO s
             a: SET lock_timeout = '9s'
             a: END
             b: SELECT current_setting('work_mem'), current_setting('lock_timeout')
             a: SELECT current_setting('work_mem'), current_setting('lock_timeout')",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn settings_follow_chains_and_resets() {
    let stage = stage(1).await;
    stage
        .same(
            "a: BEGIN
             a: SET work_mem = '2MB'
             a: COMMIT AND CHAIN
             a: SET work_mem = '3MB'
             a: ROLLBACK AND CHAIN
             a: SET lock_timeout = '3s'
             a: COMMIT AND NO CHAIN
             b: SELECT current_setting('work_mem'), current_setting('lock_timeout')
             a: SELECT current_setting('work_mem'), current_setting('lock_timeout')
             a: BEGIN
             a: RESET work_mem
             a: ROLLBACK
             b: SHOW work_mem
             a: SHOW work_mem
             a: BEGIN
             a: RESET ALL
             a: ABORT
             b: SHOW work_mem
             a: SHOW work_mem
             a: BEGIN
             a: RESET ALL
             a: COMMIT
             b: SHOW work_mem
             a: SHOW work_mem
             a: BEGIN
             a: SET application_name = 'inside'
             a: ROLLBACK
             b: SHOW application_name
             a: SHOW application_name
             a: BEGIN
             a: DISCARD ALL
             a: ROLLBACK
             b: SELECT 1
             a: SHOW work_mem",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn settings_in_strings_of_several_statements() {
    let stage = stage(1).await;
    stage
        .same_by(
            &[Way::Simple],
            "a: SET work_mem = '1MB'; SET lock_timeout = '1s'
             b: SHOW work_mem; SHOW lock_timeout
             a: SHOW work_mem; SHOW lock_timeout
             a: SET work_mem = '2MB'; SELECT 1/0; SET lock_timeout = '2s'
             b: SHOW work_mem; SHOW lock_timeout
             a: SHOW work_mem; SHOW lock_timeout
             a: SET work_mem = '3MB'; COMMIT; SET lock_timeout = '3s'; SELECT 1/0
             b: SHOW work_mem; SHOW lock_timeout
             a: SHOW work_mem; SHOW lock_timeout
             a: SET work_mem = '4MB'; ROLLBACK; SET lock_timeout = '4s'
             b: SHOW work_mem; SHOW lock_timeout
             a: SHOW work_mem; SHOW lock_timeout
             a: BEGIN; SET work_mem = '5MB'; COMMIT; SET lock_timeout = '5s'; SELECT nothing
             b: SHOW work_mem; SHOW lock_timeout
             a: SHOW work_mem; SHOW lock_timeout
             a: BEGIN; SET work_mem = '6MB'; SELECT 1/0; COMMIT
             a: SHOW work_mem
             a: COMMIT
             b: SHOW work_mem; SHOW lock_timeout
             a: SHOW work_mem; SHOW lock_timeout
             a: BEGIN; SET work_mem = '7MB'; SAVEPOINT s; SET work_mem = '8MB'; ROLLBACK TO s; COMMIT
             b: SHOW work_mem; SHOW lock_timeout
             a: SHOW work_mem; SHOW lock_timeout
             a: SET work_mem = '9MB'; this is no statement
             b: SHOW work_mem
             a: SHOW work_mem
             a: SET my.a = 'x;y'; SELECT set_config('my.b', 'z', false); SELECT $$ SET my.a = 1; $$
             b: SELECT coalesce(current_setting('my.a', true), ''), coalesce(current_setting('my.b', true), '')
             a: SELECT current_setting('my.a'), current_setting('my.b')
             a: ;; /* SET work_mem = '1GB'; */ -- SET work_mem = '1GB'
             a: SHOW work_mem",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn settings_in_pipelines() {
    let stage = stage(1).await;
    let set = |value: &str| format!("parse - SET work_mem = '{value}' | bind - | execute");
    let program = format!(
        "a: @ {} | sync
         b: SHOW work_mem
         a: SHOW work_mem
         a: @ {} | parse - SELECT 1/0 | bind - | execute | sync
         b: SHOW work_mem
         a: SHOW work_mem
         a: @ {} | sync | parse - SELECT 1/0 | bind - | execute | sync
         b: SHOW work_mem
         a: SHOW work_mem
         a: @ {} | flush
         a: @ parse - SELECT nothing | flush
         a: @ sync
         b: SHOW work_mem
         a: SHOW work_mem
         a: @ {} | query SELECT 2 | query SHOW work_mem
         b: SHOW work_mem
         a: SHOW work_mem
         a: @ query BEGIN | {} | sync | query ROLLBACK | {} | sync | query SHOW work_mem
         b: SHOW work_mem
         a: SHOW work_mem",
        set("1MB"),
        set("2MB"),
        set("3MB"),
        set("4MB"),
        set("5MB"),
        set("6MB"),
        set("7MB"),
    );
    stage.same_by(&[Way::Simple], &program).await;
    stage.finish().await;
}

#[tokio::test]
async fn set_config_in_all_its_forms() {
    let stage = stage(1).await;
    stage
        .same(
            "a: SELECT set_config('work_mem', '5MB', false)
             b: SHOW work_mem
             a: SHOW work_mem
             a: SELECT set_config('work_mem', '6MB', true)
             b: SHOW work_mem
             a: SHOW work_mem
             a: BEGIN
             a: SELECT set_config('work_mem', '7MB', true)
             a: SHOW work_mem
             a: COMMIT
             b: SHOW work_mem
             a: SHOW work_mem
             a: BEGIN
             a: SELECT pg_catalog.set_config('work_mem', '8MB', false)
             a: ROLLBACK
             b: SHOW work_mem
             a: SHOW work_mem
             a: BEGIN
             a: SELECT pg_catalog.set_config('search_path', '', false);
             a: COMMIT
             b: SHOW search_path
             a: SHOW search_path
             a: SELECT set_config('nonsense', '1', false)
             b: SELECT set_config('TimeZone', 'Asia/Tokyo', false)
             a: SHOW timezone
             b: SHOW timezone",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn settings_that_only_the_server_can_read() {
    let stage = stage(2).await;
    stage
        .same(
            "a: SELECT set_config('work_mem', 5000 + 120 || 'kB', false)
             b: SHOW work_mem
             a: SHOW work_mem
             a: SELECT set_config('work_mem', NULL, false)
             a: SHOW work_mem
             b: SELECT set_config(name, '6MB', false) FROM (VALUES ('maintenance_work_mem')) AS v (name)
             a: SHOW maintenance_work_mem
             a: DISCARD ALL
             a: SHOW work_mem
             b: SHOW maintenance_work_mem
             b: DISCARD ALL
             b: SHOW maintenance_work_mem
             a: SHOW maintenance_work_mem",
        )
        .await;
    stage
        .same_by(
            &[Way::Simple],
            "a: @ parse s SELECT set_config('work_mem', $1, false) | bind s 5MB | execute | sync
             b: SHOW work_mem
             c: SHOW work_mem
             a: SHOW work_mem
             a: @ parse l SELECT set_config('work_mem', $1, true) | bind l 6MB | execute | sync
             a: SHOW work_mem
             a: DISCARD ALL
             a: SHOW work_mem",
        )
        .await;
    let long = "x".repeat(70_000);
    let program = format!(
        "a: SET my.a = '{long}'
         b: SELECT coalesce(current_setting('my.a', true), '')
         c: SELECT coalesce(current_setting('my.a', true), '')
         a: SELECT length(current_setting('my.a'))
         a: DISCARD ALL
         b: LISTEN a
         a: SELECT coalesce(length(current_setting('my.a', true)), 0)
         c: SELECT coalesce(length(current_setting('my.a', true)), 0)
         b: UNLISTEN a
         a: SET my.a = '{}'
         b: SELECT coalesce(current_setting('my.a', true), '')
         a: SELECT length(current_setting('my.a'))
         a: RESET my.a
         a: SELECT length(current_setting('my.a', true))
         a: DISCARD ALL",
        &long[..9000]
    );
    stage.same(&program).await;
    stage.finish().await;
}

#[tokio::test]
async fn a_session_may_have_hundreds_of_settings() {
    let stage = stage(2).await;
    let set = |range: std::ops::Range<usize>| {
        range.fold(String::new(), |program, n| program + &format!("a: SET my.n{n} = {n}\n"))
    };
    let show = |who: &str| {
        format!(
            "{who}: SELECT sum(coalesce(nullif(current_setting('my.n' || n, true), ''), '0')::int) \
                 FROM generate_series(0, 219) n\n"
        )
    };
    let both = show("a") + &show("b");
    let program =
        set(0..20) + &both + &set(20..220) + &both + &set(100..120) + &both + "a: DISCARD ALL\n" + &both;
    stage.same_by(&[Way::Simple], &program).await;
    stage.finish().await;
}

#[tokio::test]
async fn custom_settings_are_their_owners() {
    let stage = stage(1).await;
    stage
        .same(
            "a: SET my.tenant = 'one'
             b: SELECT coalesce(current_setting('my.tenant', true), '')
             b: SET my.tenant = 'two'
             a: SELECT current_setting('my.tenant')
             b: SELECT current_setting('my.tenant')
             a: BEGIN
             a: SET LOCAL my.tenant = 'three'
             a: SELECT current_setting('my.tenant')
             a: COMMIT
             a: SELECT current_setting('my.tenant')
             b: RESET my.tenant
             b: SELECT current_setting('my.tenant')
             a: SELECT current_setting('my.tenant')
             a: SET \"My\".\"Tenant\" = 'x''y\"z'
             b: SELECT coalesce(current_setting('my.tenant', true), '')
             a: SELECT current_setting('my.tenant')
             a: SET plpgsql.variable_conflict = use_column
             b: SELECT coalesce(current_setting('plpgsql.variable_conflict', true), '')
             a: SHOW plpgsql.variable_conflict
             a: DISCARD ALL
             b: SELECT 1
             a: SELECT coalesce(current_setting('my.tenant', true), '')",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn names_of_applications_are_their_owners() {
    let stage = stage(1).await;
    stage
        .same(
            "a: \\login application_name=first
             b: \\login
             a: SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()
             b: SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()
             b: SET application_name = 'second'
             a: SHOW application_name
             b: SHOW application_name
             a: SET application_name TO 'third'
             a: RESET application_name
             a: SHOW application_name
             b: SHOW application_name
             b: RESET ALL
             b: SHOW application_name
             a: SET application_name = 'fourth'
             a: DISCARD ALL
             b: SHOW application_name
             a: SHOW application_name
             a: BEGIN
             a: SET application_name = 'fifth'
             a: RESET application_name
             a: ROLLBACK
             b: SELECT 1
             a: SHOW application_name
             a: SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn search_paths_are_their_owners() {
    let stage = stage(1).await;
    stage
        .same(
            "setup: CREATE SCHEMA one AUTHORIZATION app; CREATE SCHEMA two AUTHORIZATION app
             setup: CREATE TABLE one.t AS SELECT 1 AS id; CREATE TABLE two.t AS SELECT 2 AS id
             setup: GRANT SELECT ON one.t, two.t TO app
             a: SELECT id FROM t
             a: SET search_path = one
             b: SELECT id FROM t
             b: SET search_path TO two, one
             a: SELECT id FROM t
             b: SELECT id FROM t
             c: SELECT id FROM t
             c: SELECT set_config('search_path', 'one, two', false)
             b: SELECT id FROM t
             c: SELECT id FROM t
             a: BEGIN
             a: SET LOCAL search_path = two
             a: SELECT id FROM t
             a: COMMIT
             a: SELECT id FROM t
             a: BEGIN
             a: SET search_path = two
             a: ROLLBACK
             b: SELECT id FROM t
             a: SELECT id FROM t
             b: SELECT current_schemas(true)
             a: SELECT current_schemas(true)
             b: SET search_path = ''
             a: SELECT id FROM t
             b: SELECT id FROM t
             b: RESET search_path
             b: SHOW search_path
             a: SELECT id FROM t",
        )
        .await;
    stage.finish().await;
}

/// What is written in the text, unlike what is given to it, is read when the statement is prepared.
#[tokio::test]
async fn a_text_that_other_settings_read_otherwise_is_not_shared() {
    let stage = stage(1).await;
    let texts = [
        "SELECT date '02/01/2024'",
        "SELECT timestamptz '2024-01-01 00:00' AT TIME ZONE 'UTC'",
        "SELECT extract(epoch FROM interval '-1 2:03:04')",
        "SELECT octet_length('\u{e9}')",
        r"SELECT length('\\')",
        "SELECT ('{null}'::text[])[1] IS NULL",
        "SELECT NULL = NULL",
    ];
    let all = |who: char| texts.map(|text| format!("{who}: {text}\n")).concat();
    let program = "a: SET datestyle = 'ISO, DMY'; SET timezone = 'Asia/Tokyo'
         a: SET intervalstyle = sql_standard
         b: SET standard_conforming_strings = off
         b: SET client_encoding = 'LATIN1'
         c: SET array_nulls = off
         c: SET transform_null_equals = on
"
    .to_owned();
    stage
        .same(&(program + &all('a') + &all('b') + &all('c') + &all('a') + &all('b') + &all('d') + &all('c')))
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn a_dump_empties_nobodys_search_path() {
    let stage = stage(1).await;
    let scene = &stage.scene;
    let mut other = scene.raw().await;
    other.query("CREATE TABLE dumped AS SELECT generate_series(1, 100) AS id").await;
    let programs = scene.cluster.programs();
    let through = pg_dump(programs, &conninfo(&scene.proxy.config())).await;
    assert_eq!(other.value("SELECT count(*) FROM dumped").await, "100");
    assert_eq!(other.value("SHOW search_path").await, "\"$user\", public");
    assert_eq!(scene.raw().await.value("SHOW search_path").await, "\"$user\", public");
    let mut direct = tokio_postgres::Config::new();
    direct.host("127.0.0.1").port(scene.cluster.n(0).port());
    direct.user("app").password(scene.proxy.config().get_password().unwrap()).dbname("app");
    // Newer ones make up a key for each dump.
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with('\\')).map(str::to_owned).collect()
    };
    let wanted = pg_dump(programs, &conninfo(&direct)).await;
    assert_eq!(lines(through.text()), lines(wanted.text()));
    stage.finish().await;
}
