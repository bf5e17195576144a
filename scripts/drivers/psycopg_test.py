"""psycopg 3: prints what the driver sees; arguments are the port and, for many clients at once, `crowd`."""

import asyncio
import contextlib
import logging
import sys
import threading
import time

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

DSN = f"host=127.0.0.1 port={sys.argv[1]} user=app password=secret dbname=drivers"


logging.disable(logging.CRITICAL)


def sqlstate(action):
    try:
        action()
    except psycopg.Error as error:
        return type(error).__name__, error.sqlstate
    return "no error"


def basics(conn):
    print("pid", conn.info.backend_pid == conn.execute("SELECT pg_backend_pid()").fetchone()[0])
    names = ["server_version", "server_encoding", "client_encoding", "application_name", "is_superuser", "in_hot_standby",
             "session_authorization", "DateStyle", "IntervalStyle", "TimeZone", "integer_datetimes",
             "standard_conforming_strings", "default_transaction_read_only"]
    print([(name, conn.info.parameter_status(name)) for name in names])
    print(conn.execute("SELECT 1, 'x', NULL, 1.5, now() > '2020-01-01', ARRAY[1,2], '{\"a\": 1}'::jsonb").fetchone())
    cursor = conn.cursor(binary=True, row_factory=dict_row)
    print(cursor.execute("SELECT %s::int AS a, %s::text AS b, %s::bytea AS c", (7, "y", b"\0\1")).fetchone())
    conn.execute("CREATE TABLE ps (id int PRIMARY KEY, v text)")
    conn.commit()
    print(sqlstate(lambda: conn.execute("SELECT nothing")), conn.info.transaction_status.name)
    print(sqlstate(lambda: conn.execute("SELECT 1")))
    conn.rollback()
    print(conn.info.transaction_status.name)


def transactions(conn):
    with conn.transaction():
        conn.execute("INSERT INTO ps VALUES (1, 'a')")
        try:
            with conn.transaction():
                conn.execute("INSERT INTO ps VALUES (1, 'b')")
        except psycopg.errors.UniqueViolation as error:
            print(error.diag.constraint_name, error.diag.message_detail)
    print(conn.execute("SELECT * FROM ps").fetchall())
    conn.commit()
    conn.isolation_level, conn.read_only = psycopg.IsolationLevel.SERIALIZABLE, True
    print(conn.execute("SHOW transaction_isolation").fetchone(), sqlstate(lambda: conn.execute("DELETE FROM ps")))
    conn.rollback()
    conn.isolation_level, conn.read_only = None, None
    conn.tpc_begin("drivers-tpc")
    conn.execute("INSERT INTO ps VALUES (2, 'b')")
    conn.tpc_prepare()
    with psycopg.connect(DSN, autocommit=True) as other:
        print([str(xid) for xid in other.tpc_recover()])
    conn.tpc_commit()


def prepared(conn):
    for n in range(12):
        conn.execute("SELECT v FROM ps WHERE id = %s", (n % 3,), prepare=True)
    print("kept", conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone())
    conn.execute("DEALLOCATE ALL")
    print(conn.execute("SELECT v FROM ps WHERE id = %s", (1,), prepare=True).fetchone())
    conn.commit()
    with conn.cursor() as cursor:
        cursor.executemany("INSERT INTO ps VALUES (%s, %s)", [(n, str(n)) for n in range(10, 2000)])
        cursor.executemany("SELECT %s::int", [(n,) for n in range(3)], returning=True)
        while True:
            print(cursor.fetchone())
            if not cursor.nextset():
                break
    conn.commit()
    with conn.cursor(name="portal") as cursor:
        cursor.itersize = 100
        print(sum(row[0] for row in cursor.execute("SELECT id FROM ps")))
    conn.commit()


def pipelines(conn):
    with conn.pipeline() as pipeline:
        cursors = [conn.execute("SELECT %s::int", (n,)) for n in range(500)]
        pipeline.sync()
        print(sum(cursor.fetchone()[0] for cursor in cursors))
    conn.commit()
    conn.autocommit = True
    # When the error reaches the driver, and at which call, is a matter of time: only its effect is shown.
    with contextlib.suppress(psycopg.Error), conn.pipeline():
        for query in ["INSERT INTO ps VALUES (5000, 'lost')", "SELECT 1/0", "SELECT 2"]:
            conn.execute(query)
    print(conn.execute("SELECT count(*) FROM ps WHERE id = 5000").fetchone())


def copies(conn):
    with conn.cursor() as cursor:
        with cursor.copy("COPY ps (id, v) FROM STDIN") as copy:
            for n in range(10000, 60000):
                copy.write_row((n, "row %d" % n))
        print(cursor.rowcount)
        with cursor.copy("COPY ps (id, v) TO STDOUT (FORMAT BINARY)") as copy:
            print(sum(len(data) for data in copy))
        with cursor.copy(sql.SQL("COPY (SELECT repeat('z', {}) FROM generate_series(1, 20)) TO STDOUT").format(1000000)) as copy:
            print(sum(len(data) for data in copy))

        def broken():
            with cursor.copy("COPY ps FROM STDIN") as copy:
                copy.write("no number\n")

        def given_up():
            with cursor.copy("COPY ps FROM STDIN") as copy:
                copy.write("1")
                raise RuntimeError("given up")

        print(sqlstate(broken))
        try:
            given_up()
        except RuntimeError as error:
            print(error, conn.execute("SELECT count(*) FROM ps").fetchone())


def cancel_when_it_runs(conn, query):
    """Until the server works on it a statement cannot be cancelled."""
    with psycopg.connect(DSN, autocommit=True) as other:
        runs = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = %s"
        while not other.execute(runs, (query,)).fetchone()[0]:
            pass
    conn.cancel_safe()


def cancels(conn):
    query = "SELECT pg_sleep(60) /* psycopg */"
    canceller = threading.Thread(target=cancel_when_it_runs, args=(conn, query))
    began = time.monotonic()
    canceller.start()
    print(sqlstate(lambda: conn.execute(query)), time.monotonic() - began < 45)
    canceller.join()
    print(conn.execute("SELECT 'alive'").fetchone())


def notifications(conn):
    with psycopg.connect(DSN, autocommit=True) as other:
        conn.execute("LISTEN ps_channel")
        for n in range(3):
            other.execute("SELECT pg_notify('ps_channel', %s)", (str(n),))
        notes = list(conn.notifies(timeout=10, stop_after=3))
        print([(note.channel, note.payload) for note in notes])
        print("pid", all(note.pid == other.info.backend_pid for note in notes))
    conn.execute("UNLISTEN *")


def logins():
    print(sqlstate(lambda: psycopg.connect(DSN, password="wrong")))
    print(sqlstate(lambda: psycopg.connect(DSN, dbname="nowhere")))
    print(sqlstate(lambda: psycopg.connect(DSN, options="-c nonsense=1")))
    with psycopg.connect(DSN, options="-c search_path=pg_temp -c work_mem=5MB", application_name="named") as conn:
        print(conn.execute("SELECT current_setting('search_path'), current_setting('work_mem')").fetchone())
        conn.execute("RESET ALL")
        print(conn.execute("SHOW work_mem").fetchone(), conn.info.parameter_status("application_name"))
        conn.execute("SET application_name = 'other'; RESET ALL; SET application_name = 'third'")
        print(conn.execute("SHOW application_name").fetchone(), conn.info.parameter_status("application_name"))
        conn.rollback()
        conn.execute("RESET application_name")
        conn.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        print(conn.execute("SHOW application_name").fetchone(), conn.info.parameter_status("application_name"))


async def asynchronous():
    async with await psycopg.AsyncConnection.connect(DSN) as conn:
        rows = await (await conn.execute("SELECT generate_series(1, 1000)")).fetchall()
        print(len(rows))
        try:
            await asyncio.wait_for(conn.execute("SELECT pg_sleep(60)"), 0.5)
        except (asyncio.TimeoutError, psycopg.errors.QueryCanceled):
            print("timed out", conn.info.transaction_status.name)


def crowd_member(number, told):
    """Autocommit off, prepared from the second use on; more texts than the driver keeps."""
    with psycopg.connect(DSN) as conn:
        conn.prepare_threshold, conn.prepared_max = 1, 8
        conn.execute("SET search_path = crowd")
        conn.commit()
        total = 0
        for turn in range(20):
            with conn.transaction():
                conn.execute("INSERT INTO items VALUES (%s, %s)", (number, turn))
                with contextlib.suppress(psycopg.errors.DivisionByZero), conn.transaction():
                    conn.execute("INSERT INTO items VALUES (%s, %s)", (number, -turn))
                    conn.execute("SELECT 1 / %s", (0,))
            for text in range(turn % 12):
                total += conn.execute(f"SELECT {text} + %s::int", (turn,)).fetchone()[0]
            conn.commit()
        with conn.cursor(name="portal") as cursor:
            cursor.itersize = 5
            total += sum(row[0] for row in cursor.execute("SELECT turn FROM items WHERE who = %s", (number,)))
        conn.rollback()
        with conn.pipeline():
            cursors = [conn.execute("SELECT %s::int", (n,)) for n in range(50)]
            conn.commit()
        total += sum(cursor.fetchone()[0] for cursor in cursors)
        with conn.cursor() as cursor, cursor.copy("COPY items FROM STDIN") as copy:
            for turn in range(100, 200):
                copy.write_row((number, turn))
        conn.commit()
        with conn.cursor() as cursor, cursor.copy("COPY (SELECT turn FROM items WHERE who = %s) TO STDOUT", (number,)) as copy:
            total += sum(int(row[0]) for row in copy.rows())
        path = conn.execute("SHOW search_path").fetchone()
        told[number] = (number, total, path)


def crowd():
    with psycopg.connect(DSN) as conn:
        conn.execute("CREATE SCHEMA crowd; CREATE TABLE crowd.items (who int, turn int)")
    told = [None] * 12
    threads = [threading.Thread(target=crowd_member, args=(number, told)) for number in range(len(told))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for line in told:
        print(line)
    with psycopg.connect(DSN) as conn:
        print(conn.execute("SELECT count(*), sum(turn) FROM crowd.items").fetchone())
        conn.execute("DROP SCHEMA crowd CASCADE")


if len(sys.argv) > 2:
    crowd()
    sys.exit()
with psycopg.connect(DSN) as connection:
    for part in [basics, transactions, prepared, pipelines, copies, cancels, notifications]:
        print(f"-- {part.__name__}")
        part(connection)
    connection.execute("DROP TABLE ps")
print("-- logins")
logins()
asyncio.run(asynchronous())
