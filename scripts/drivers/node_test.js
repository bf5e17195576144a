// node-postgres: prints what the driver sees; arguments are the port, the folder with the modules and, for many clients
// at once, `crowd`.
'use strict';
const path = require('path');
const [, , port, modules, how] = process.argv;
const { Client, Pool } = require(path.join(modules, 'pg'));
const Cursor = require(path.join(modules, 'pg-cursor'));
const { from, to } = require(path.join(modules, 'pg-copy-streams'));
const { pipeline } = require('stream/promises');
const { Readable } = require('stream');

const where = { host: '127.0.0.1', port: Number(port), user: 'app', password: 'secret', database: 'drivers' };

async function state(promise) {
    try {
        await promise;
        return 'no error';
    } catch (error) {
        return error.code || error.message;
    }
}

async function basics(client) {
    const pid = await client.query('SELECT pg_backend_pid() AS pid');
    console.log('pid', pid.rows[0].pid === client.processID);
    console.log((await client.query('SELECT $1::int AS a, $2::text AS b, now() > $3 AS c', [1, 'x', new Date(0)])).rows);
    console.log((await client.query('SELECT 1 AS a; SELECT 2 AS b')).map((result) => result.rows));
    await client.query('CREATE TABLE nd (id int PRIMARY KEY, v text)');
    console.log(await state(client.query('SELECT nothing')), await state(client.query('SELECT $1::int', ['x'])));
    const named = { name: 'by-id', text: 'SELECT v FROM nd WHERE id = $1' };
    for (let n = 0; n < 20; n++) await client.query({ ...named, values: [n] });
    const all = await Promise.all(Array.from({ length: 200 }, (_, n) => client.query('SELECT $1::int AS n', [n])));
    console.log(all.reduce((sum, result) => sum + result.rows[0].n, 0));
}

async function transactions(client) {
    await client.query('BEGIN');
    await client.query("INSERT INTO nd VALUES (1, 'a')");
    console.log(await state(client.query("INSERT INTO nd VALUES (1, 'b')")), await state(client.query('SELECT 1')));
    console.log((await client.query('COMMIT')).command, (await client.query('SELECT count(*) FROM nd')).rows);
}

async function copies(client) {
    const rows = Array.from({ length: 20000 }, (_, n) => `${n}\trow ${n}\n`);
    await pipeline(Readable.from(rows), client.query(from('COPY nd FROM STDIN')));
    let bytes = 0;
    for await (const chunk of client.query(to('COPY nd TO STDOUT'))) bytes += chunk.length;
    console.log(bytes, await state(pipeline(Readable.from(['x\n']), client.query(from('COPY nd FROM STDIN')))));
    console.log((await client.query('SELECT count(*) FROM nd')).rows);
}

async function cancels(client, other) {
    // In shared backends the process that runs the statement is another one than the client was told.
    const text = 'SELECT pg_sleep(60) /* node */';
    const cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE state = 'active' AND query = $1";
    const sleeping = state(client.query(text));
    while ((await other.query(cancel, [text])).rowCount === 0);
    console.log(await sleeping);
    console.log((await client.query("SELECT 'alive' AS a")).rows);
}

async function notifications(client, other) {
    const heard = new Promise((resolve) => client.once('notification', resolve));
    await client.query('LISTEN nd_channel');
    await other.query("NOTIFY nd_channel, 'hello'");
    const { channel, payload } = await heard;
    console.log(channel, payload);
}

async function pools() {
    const pool = new Pool({ ...where, max: 8 });
    const all = await Promise.all(Array.from({ length: 300 }, (_, n) => pool.query('SELECT $1::int AS n', [n])));
    console.log(all.reduce((sum, result) => sum + result.rows[0].n, 0));
    await pool.end();
}

async function crowdMember(number) {
    const client = new Client(where);
    await client.connect();
    await client.query('SET search_path = crowd');
    let total = 0;
    const insert = { name: 'insert', text: 'INSERT INTO items VALUES ($1, $2)' };
    for (let turn = 0; turn < 20; turn++) {
        await client.query('BEGIN');
        await client.query({ ...insert, values: [number, turn] });
        await client.query('SAVEPOINT here');
        await client.query({ ...insert, values: [number, -turn] });
        if ((await state(client.query('SELECT 1 / $1::int', [0]))) === '22012') total++;
        await client.query('ROLLBACK TO here');
        await client.query('COMMIT');
        for (let text = 0; text < turn % 12; text++) {
            // The same name has another text in every client.
            const named = { name: `sum-${text}`, text: `SELECT ${text + number} + $1::int AS n`, values: [turn] };
            total += (await client.query(named)).rows[0].n;
        }
    }
    await client.query('BEGIN');
    const cursor = client.query(new Cursor('SELECT turn FROM items WHERE who = $1', [number]));
    for (let rows = await cursor.read(5); rows.length > 0; rows = await cursor.read(5)) {
        total += rows.reduce((sum, row) => sum + row.turn, 0);
    }
    await cursor.close();
    await client.query('COMMIT');
    const rows = Array.from({ length: 100 }, (_, n) => `${number}\t${100 + n}\n`);
    await pipeline(Readable.from(rows), client.query(from('COPY items FROM STDIN')));
    let text = '';
    for await (const chunk of client.query(to(`COPY (SELECT turn FROM items WHERE who = ${number}) TO STDOUT`))) text += chunk;
    total += text.trim().split('\n').reduce((sum, line) => sum + Number(line), 0);
    const [shown] = (await client.query('SHOW search_path')).rows;
    await client.end();
    return [number, total, shown.search_path];
}

async function crowd() {
    const client = new Client(where);
    await client.connect();
    await client.query('CREATE SCHEMA crowd; CREATE TABLE crowd.items (who int, turn int)');
    const lines = await Promise.all(Array.from({ length: 12 }, (_, number) => crowdMember(number)));
    lines.forEach((line) => console.log(line));
    console.log((await client.query('SELECT count(*), sum(turn) FROM crowd.items')).rows);
    await client.query('DROP SCHEMA crowd CASCADE');
    await client.end();
}

async function main() {
    const client = new Client(where);
    const other = new Client(where);
    await client.connect();
    await other.connect();
    for (const part of [basics, transactions, copies, cancels, notifications]) {
        console.log(`-- ${part.name}`);
        await part(client, other);
    }
    await client.query('DROP TABLE nd');
    await client.end();
    await other.end();
    await pools();
    console.log(await state(new Client({ ...where, password: 'wrong' }).connect()));
    console.log(await state(new Client({ ...where, database: 'nowhere' }).connect()));
}

(how === 'crowd' ? crowd : main)();
