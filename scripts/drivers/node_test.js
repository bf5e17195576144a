// node-postgres: prints what the driver sees; arguments are the port and the folder with the modules.
'use strict';
const path = require('path');
const [, , port, modules] = process.argv;
const { Client, Pool } = require(path.join(modules, 'pg'));
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
    console.log(pid.rows[0].pid === client.processID);
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
    const sleeping = state(client.query('SELECT pg_sleep(20)'));
    await new Promise((resolve) => setTimeout(resolve, 500));
    await other.query('SELECT pg_cancel_backend($1)', [client.processID]);
    console.log(await sleeping, (await client.query("SELECT 'alive' AS a")).rows);
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

main();
