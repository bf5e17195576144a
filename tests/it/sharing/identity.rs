//! Who a session is, and what its transactions are by default.

use super::play::{Stage, Way, stage};

/// Roles for a stage, once.
async fn with_roles() -> Stage {
    let stage = stage(1).await;
    let roles = "CREATE ROLE one; CREATE ROLE two; CREATE ROLE three LOGIN; GRANT one, two TO app";
    stage.scene.cluster.n(0).sql().await.unwrap().run(roles).await.unwrap();
    stage
}

const WHO: &str = "SELECT current_user, session_user, current_setting('is_superuser')";

#[tokio::test]
async fn roles_are_their_owners() {
    let stage = with_roles().await;
    let program = "setup: CREATE TABLE t (id int); GRANT ALL ON t TO one
         a: SET ROLE one
         b: WHO
         b: SELECT * FROM t
         a: SELECT * FROM t
         a: WHO
         b: SET SESSION ROLE two
         c: WHO
         a: WHO
         b: WHO
         b: SELECT * FROM t
         a: BEGIN
         a: SET LOCAL ROLE two
         a: WHO
         a: COMMIT
         a: WHO
         a: BEGIN
         a: SET ROLE two
         a: ROLLBACK
         b: WHO
         a: WHO
         a: RESET ALL
         b: WHO
         a: WHO
         a: SET ROLE NONE
         b: WHO
         a: WHO
         b: RESET ROLE
         b: WHO
         a: SET role TO one
         b: WHO
         a: WHO
         a: SET ROLE three
         a: WHO
         a: SELECT set_config('role', 'two', false)
         b: WHO
         a: WHO
         a: DISCARD ALL
         b: WHO
         a: WHO";
    stage.same(&program.replace("WHO", WHO)).await;
    stage.finish().await;
}

#[tokio::test]
async fn session_authorizations_are_their_owners() {
    let stage = with_roles().await;
    let node = stage.scene.cluster.n(0);
    node.sql().await.unwrap().run("ALTER ROLE app SUPERUSER").await.unwrap();
    let program = "a: SET SESSION AUTHORIZATION three
         b: WHO
         a: WHO
         b: SET ROLE one
         a: SET ROLE one
         a: SHOW session_authorization
         b: WHO
         a: WHO
         b: SET SESSION AUTHORIZATION 'two'
         b: WHO
         a: WHO
         c: WHO
         b: BEGIN
         b: SET LOCAL SESSION AUTHORIZATION three
         b: WHO
         b: COMMIT
         b: WHO
         b: RESET ALL
         a: WHO
         b: WHO
         b: SET ROLE one
         a: SELECT 1
         b: RESET SESSION AUTHORIZATION
         b: WHO
         a: WHO
         a: SET SESSION AUTHORIZATION DEFAULT
         b: WHO
         a: WHO
         a: BEGIN
         a: SET SESSION AUTHORIZATION one
         a: ROLLBACK
         b: WHO
         a: WHO
         a: SET session_authorization = 'one'
         b: WHO
         a: WHO
         a: DISCARD ALL
         b: WHO
         a: WHO";
    stage.same(&program.replace("WHO", WHO)).await;
    stage.finish().await;
}

#[tokio::test]
async fn read_only_sessions_leave_others_writing() {
    let stage = stage(1).await;
    stage
        .same(
            "a: CREATE TABLE t (id int)
             a: SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY
             b: INSERT INTO t VALUES (1)
             a: INSERT INTO t VALUES (2)
             b: SET default_transaction_read_only = on
             c: INSERT INTO t VALUES (3)
             b: INSERT INTO t VALUES (4)
             b: BEGIN READ WRITE
             b: INSERT INTO t VALUES (5)
             b: COMMIT
             c: BEGIN READ ONLY
             c: INSERT INTO t VALUES (6)
             c: ROLLBACK
             c: INSERT INTO t VALUES (7)
             c: BEGIN
             c: SET TRANSACTION READ ONLY
             c: INSERT INTO t VALUES (8)
             c: ROLLBACK
             c: BEGIN
             c: SET transaction_read_only = on
             c: COMMIT
             c: INSERT INTO t VALUES (9)
             a: SHOW default_transaction_read_only
             c: SHOW default_transaction_read_only
             a: RESET default_transaction_read_only
             c: SELECT 1
             a: INSERT INTO t VALUES (10)
             b: SHOW transaction_read_only
             b: SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE
             c: SHOW transaction_read_only
             b: INSERT INTO t VALUES (11)
             b: SET default_transaction_read_only = on
             b: RESET ALL
             a: SELECT id FROM t ORDER BY id
             b: INSERT INTO t VALUES (12)
             a: BEGIN
             a: SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY
             a: ROLLBACK
             b: SELECT 1
             a: SHOW transaction_read_only",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn isolation_levels_are_their_owners() {
    let stage = stage(1).await;
    stage
        .same(
            "a: SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE
             b: SHOW transaction_isolation
             a: SHOW transaction_isolation
             b: SHOW transaction_deferrable
             a: SHOW transaction_deferrable
             a: RESET default_transaction_isolation
             b: SHOW transaction_isolation
             a: SHOW transaction_isolation
             a: SHOW transaction_read_only
             b: SET default_transaction_isolation = 'repeatable read'
             a: SHOW transaction_isolation
             b: SHOW transaction_isolation
             b: SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ UNCOMMITTED
             a: SHOW transaction_isolation
             b: SHOW transaction_isolation
             c: BEGIN ISOLATION LEVEL SERIALIZABLE
             c: SHOW transaction_isolation
             c: COMMIT
             c: SHOW transaction_isolation
             c: BEGIN
             c: SET TRANSACTION ISOLATION LEVEL REPEATABLE READ
             c: SHOW transaction_isolation
             c: COMMIT AND CHAIN
             c: SHOW transaction_isolation
             c: SELECT 1
             c: ROLLBACK
             a: SHOW transaction_isolation
             c: SHOW transaction_isolation
             c: SET TRANSACTION ISOLATION LEVEL SERIALIZABLE
             a: SHOW transaction_isolation
             c: SHOW transaction_isolation
             c: BEGIN
             c: SET transaction_isolation = 'serializable'
             c: COMMIT
             a: SHOW transaction_isolation
             c: SHOW transaction_isolation
             a: RESET ALL
             b: DISCARD ALL
             a: SHOW transaction_read_only
             b: SHOW transaction_isolation",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn a_reset_returns_to_what_the_client_asked_for_at_startup() {
    let stage = stage(1).await;
    stage
        .same_by(
            &[Way::Simple, Way::Named],
            "a: \\login options=-c work_mem=3MB --lock-timeout=5s -c search_path=one\\ ,two; TimeZone=Asia/Tokyo
             a: SHOW work_mem
             a: SHOW lock_timeout
             a: SHOW search_path
             a: SHOW timezone
             a: SET work_mem = '9MB'
             a: SET search_path = three
             a: SET TIME ZONE 'UTC'
             a: RESET work_mem
             a: SHOW work_mem
             a: SET TIME ZONE DEFAULT
             a: SHOW timezone
             a: SET work_mem = '9MB'
             a: RESET ALL
             a: SHOW work_mem
             a: SHOW search_path
             a: SET lock_timeout = 0
             a: DISCARD ALL
             a: SHOW lock_timeout
             a: SHOW search_path",
        )
        .await;
    stage.finish().await;
}

#[tokio::test]
async fn sessions_with_other_startup_parameters_do_not_meet() {
    let stage = stage(1).await;
    let each = |sql: &str| ["a", "b", "c", "d"].map(|who| format!("{who}: {sql}\n")).concat();
    let program = "a: \\login options=-c work_mem=3MB
         b: \\login options=-c work_mem=5MB; DateStyle=German
         c: \\login client_encoding=LATIN1
         d: \\login application_name=d; my.own=x\n"
        .to_owned()
        + &each("SHOW work_mem")
        + &each("SET work_mem = '7MB'")
        + &each("SHOW work_mem")
        + &each("RESET work_mem")
        + &each("SHOW work_mem")
        + &each("SELECT current_setting('client_encoding'), date '2024-02-01'")
        + &each("SET ROLE none")
        + &each("DISCARD ALL")
        + &each("SELECT current_setting('work_mem'), current_setting('my.own', true)")
        + "e: \\login nonsense=1
           e: \\login work_mem=nonsense";
    stage.same(&program).await;
    stage.finish().await;
}
