-- What psql does beyond plain queries. Output must be the same directly and through pgsteer.
\set VERBOSITY verbose
\set SHOW_CONTEXT never
\pset pager off
SELECT current_user, current_database();
SHOW application_name;
SELECT 1 AS a, 'x'::text AS b, now() AS c \gdesc
CREATE TABLE psql_items (id serial PRIMARY KEY, name text);
\copy psql_items (name) FROM PROGRAM 'seq 1 1000'
SELECT count(*), min(id), max(id) FROM psql_items \gset
\echo :count :min :max
\copy (SELECT * FROM psql_items WHERE id < 4) TO STDOUT CSV HEADER
COPY psql_items (name) FROM STDIN;
one
two\tthree
\.
COPY psql_items FROM STDIN;
nonsense
\.
COPY (SELECT name FROM psql_items ORDER BY id DESC LIMIT 2) TO STDOUT;
COPY psql_items (name) FROM STDIN \; SELECT 'behind it' \; COPY (SELECT 5) TO STDOUT;
x
\.
CREATE SEQUENCE psql_rounds;
SELECT 10 / (3 - nextval('psql_rounds')) \watch 0.05
\set FETCH_COUNT 7
SELECT id FROM psql_items WHERE id <= 20;
\unset FETCH_COUNT
SELECT format('SELECT %s AS n', n) FROM generate_series(1, 3) n \gexec
SELECT 1 \; SELECT 2 \; SELECT 1/0 \; SELECT 3;
BEGIN;
SELECT nothing;
SELECT 1;
ROLLBACK;
\set ON_ERROR_ROLLBACK on
BEGIN;
SELECT nothing;
SELECT 'the block lives';
COMMIT;
\set AUTOCOMMIT off
INSERT INTO psql_items (name) VALUES ('rolled back');
ROLLBACK;
SELECT count(*) FROM psql_items WHERE name = 'rolled back';
COMMIT;
\set AUTOCOMMIT on
PREPARE q (int) AS SELECT name FROM psql_items WHERE id = $1;
EXECUTE q (3);
LISTEN psql_channel;
NOTIFY psql_channel, 'hello';
SELECT 'after it';
DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$;
SET statement_timeout = '50ms';
SELECT pg_sleep(5);
RESET statement_timeout;
SET application_name = 'changed';
SET client_encoding = 'LATIN1';
\encoding
RESET ALL;
SHOW application_name;
\encoding
DISCARD ALL;
SHOW application_name;
SELECT sum(length(repeat('x', 1000000) || g)) FROM generate_series(1, 20) g;
SELECT length(string_agg(repeat('y', 1000), '')) FROM generate_series(1, 5000);
\c
SELECT pid = pg_backend_pid() FROM pg_stat_activity WHERE pid = pg_backend_pid();
\lo_import /etc/hostname
SELECT count(*) FROM pg_largeobject_metadata;
\lo_unlink :LASTOID
\d psql_items
DROP TABLE psql_items;
DROP SEQUENCE psql_rounds;
\q
