"""asyncpg: prints what the driver sees; arguments are the port and, for many clients at once, `crowd`."""

import asyncio
import io
import sys

import asyncpg

TO = {"host": "127.0.0.1", "port": int(sys.argv[1]), "user": "app", "password": "secret", "database": "drivers"}
# Until the server works on it a statement cannot be cancelled.
RUNS = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = $1"


async def sqlstate(action):
    try:
        await action
    except asyncpg.PostgresError as error:
        return type(error).__name__, error.sqlstate
    except asyncio.TimeoutError:
        return "timeout"
    return "no error"


async def basics(conn):
    print("pid", conn.get_server_pid() == await conn.fetchval("SELECT pg_backend_pid()"))
    print(await conn.fetchrow("SELECT $1::int AS a, $2::text[] AS b, $3::jsonb AS c", 1, ["x", None], '{"a": 1}'))
    await conn.execute("CREATE TABLE ap (id int PRIMARY KEY, v text); INSERT INTO ap VALUES (1, 'a')")
    await conn.execute("CREATE TYPE ap_mood AS ENUM ('sad', 'ok')")
    print(await conn.fetchval("SELECT ARRAY['sad', 'ok']::ap_mood[]"))
    print(await sqlstate(conn.execute("SELECT 1; SELECT nothing")), await conn.fetchval("SELECT 'alive'"))
    print(conn.get_settings().application_name, conn.get_settings().TimeZone)


async def statements(conn):
    statement = await conn.prepare("SELECT v FROM ap WHERE id = $1")
    print(await statement.fetchval(1), statement.get_parameters()[0].name, statement.get_attributes()[0].name)
    for n in range(300):
        await conn.fetchval(f"SELECT {n} + $1::int", n)
    await conn.execute("ALTER TABLE ap ADD COLUMN w int DEFAULT 9")
    print(await conn.fetch("SELECT * FROM ap"))
    await conn.executemany("INSERT INTO ap VALUES ($1, $2)", [(n, str(n)) for n in range(10, 3000)])
    print(await conn.fetchval("SELECT count(*) FROM ap"))


async def transactions(conn):
    print(await sqlstate(failing_transaction(conn)), await conn.fetchval("SELECT count(*) FROM ap WHERE id = 5"))
    async with conn.transaction(isolation="serializable", readonly=True):
        total = 0
        async for record in conn.cursor("SELECT id FROM ap", prefetch=50):
            total += record["id"]
        print(total)


async def failing_transaction(conn):
    async with conn.transaction():
        await conn.execute("INSERT INTO ap VALUES (5, 'x')")
        async with conn.transaction():
            await conn.execute("INSERT INTO ap VALUES (6, 'x')")
        await conn.execute("INSERT INTO ap VALUES (5, 'x')")


async def copies(conn):
    print(await conn.copy_records_to_table("ap", records=[(n, "c", 1) for n in range(5000, 25000)]))
    sink = io.BytesIO()
    print(await conn.copy_from_query("SELECT id FROM ap ORDER BY id", output=sink), len(sink.getvalue()))
    # The round trip also lets asyncpg finish with the error: it may stop the timer of a statement that follows at once.
    print(await sqlstate(conn.copy_to_table("ap", source=io.BytesIO(b"x\n"))), await conn.fetchval("SELECT 'alive'"))


async def cancels(conn):
    """The next statement waits for the end of the one before: that it is soon there shows that the server was told."""
    clock = asyncio.get_running_loop().time
    began = clock()
    told = await sqlstate(conn.execute("SELECT pg_sleep(60)", timeout=0.5))
    print(told, await conn.fetchval("SELECT 'alive'"), clock() - began < 45)
    began = clock()
    task = asyncio.ensure_future(conn.execute("SELECT pg_sleep(60) /* asyncpg */"))
    other = await asyncpg.connect(**TO)
    while not await other.fetchval(RUNS, "SELECT pg_sleep(60) /* asyncpg */"):
        pass
    await other.close()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print("cancelled", await conn.fetchval("SELECT 'alive'"), clock() - began < 45)


async def notifications(conn):
    heard = asyncio.Queue()
    await conn.add_listener("ap_channel", lambda _, pid, channel, payload: heard.put_nowait((channel, payload)))
    other = await asyncpg.connect(**TO)
    await other.execute("NOTIFY ap_channel, 'one'")
    print(await asyncio.wait_for(heard.get(), 10))
    await other.close()


async def pools():
    async with asyncpg.create_pool(min_size=4, max_size=8, **TO) as pool:
        print(sum(await asyncio.gather(*(pool.fetchval("SELECT $1::int", n) for n in range(500)))))


async def crowd_member(number):
    """The driver's cache of statements, smaller than what is used."""
    conn = await asyncpg.connect(statement_cache_size=8, **TO)
    await conn.execute("SET search_path = crowd")
    total = 0
    for turn in range(20):
        async with conn.transaction():
            await conn.execute("INSERT INTO items VALUES ($1, $2)", number, turn)
            try:
                async with conn.transaction():
                    await conn.execute("INSERT INTO items VALUES ($1, $2)", number, -turn)
                    await conn.execute("SELECT 1 / $1::int", 0)
            except asyncpg.DivisionByZeroError:
                total += 1
        for text in range(turn % 12):
            total += await conn.fetchval(f"SELECT {text} + $1::int", turn)
    statement = await conn.prepare("SELECT turn FROM items WHERE who = $1 ORDER BY turn")
    total += sum(record["turn"] for record in await statement.fetch(number))
    async with conn.transaction(isolation="repeatable_read"):
        async for record in conn.cursor("SELECT turn FROM items WHERE who = $1", number, prefetch=5):
            total += record["turn"]
    await conn.copy_records_to_table("items", records=[(number, turn) for turn in range(100, 200)])
    sink = io.BytesIO()
    await conn.copy_from_query("SELECT turn FROM items WHERE who = $1", number, output=sink)
    total += sum(map(int, sink.getvalue().split()))
    line = number, total, await conn.fetchval("SHOW search_path")
    await conn.close()
    return line


async def crowd():
    conn = await asyncpg.connect(**TO)
    await conn.execute("CREATE SCHEMA crowd; CREATE TABLE crowd.items (who int, turn int)")
    for line in await asyncio.gather(*(crowd_member(number) for number in range(12))):
        print(line)
    print(await conn.fetchrow("SELECT count(*), sum(turn) FROM crowd.items"))
    await conn.execute("DROP SCHEMA crowd CASCADE")
    await conn.close()


async def main():
    conn = await asyncpg.connect(**TO)
    for part in [basics, statements, transactions, copies, cancels, notifications]:
        print(f"-- {part.__name__}")
        await part(conn)
    await conn.reset()
    await conn.execute("DROP TABLE ap; DROP TYPE ap_mood")
    await conn.close()
    await pools()
    print(await sqlstate(asyncpg.connect(**{**TO, "password": "wrong"})))
    print(await sqlstate(asyncpg.connect(**{**TO, "database": "nowhere"})))
    conn = await asyncpg.connect(server_settings={"search_path": "pg_temp", "jit": "off"}, **TO)
    await conn.execute("SET jit = on; RESET ALL")
    print(await conn.fetchval("SHOW jit"))
    await conn.close()


asyncio.run(crowd() if len(sys.argv) > 2 else main())
