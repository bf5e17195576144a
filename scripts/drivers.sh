#!/usr/bin/env bash
# Real drivers and PostgreSQL's own tools, directly and through pgsteer in both modes of pooling. What they print must
# not differ in a single line. In transaction mode twelve clients at once share four connections; process ids and what
# pg_prepared_statements shows are the server's there, and not compared.
#
#   scripts/drivers.sh                        everything
#   scripts/drivers.sh NAME...                some of: psql psycopg asyncpg node jdbc targets dump pgbench
#   scripts/drivers.sh --session NAME...      in this mode only; or --transaction
#
# PGSTEER=path          the program under test (default: a release build of this tree)
# PGSTEER_DRIVERS_DIR   where drivers are installed and kept between runs (default: under the temp folder)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$here/scripts/lib.sh"

modes=(session transaction)
case ${1:-} in
    -h | --help)
        sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --session | --transaction)
        modes=("${1#--}")
        shift
        ;;
esac
parts=("$@")
[ $# -gt 0 ] || parts=(psql psycopg asyncpg node jdbc targets dump pgbench)

need_postgres
command -v curl >/dev/null || apt_install curl
bindir=${PGSTEER_PGBIN:-$(postgres_bindir)}
tests=$here/scripts/drivers
cache=${PGSTEER_DRIVERS_DIR:-${TMPDIR:-/tmp}/pgsteer-drivers}
mkdir -p "$cache"
failed=0

# ---- drivers -----------------------------------------------------------------------------------

python() {
    if [ ! -e "$cache/venv/ready" ]; then
        python3 -m venv "$cache/venv" 2>/dev/null || {
            apt_install python3-venv
            python3 -m venv --clear "$cache/venv"
        }
        "$cache/venv/bin/pip" install -q 'psycopg[binary]' asyncpg >&2 ||
            die "please make these packages of PyPI available to pip: psycopg[binary] asyncpg"
        touch "$cache/venv/ready"
    fi
    "$cache/venv/bin/python" "$@"
}

node_modules() {
    if [ ! -d "$cache/node_modules/pg-cursor" ]; then
        command -v npm >/dev/null || apt_install npm
        (cd "$cache" && npm install --silent --no-save --prefix . pg pg-cursor pg-copy-streams >&2) ||
            die "please make these packages available to npm: pg pg-cursor pg-copy-streams"
    fi
    printf '%s/node_modules\n' "$cache"
}

jdbc() {
    [ -e /usr/share/java/postgresql.jar ] || apt_install libpostgresql-jdbc-java
    command -v javac >/dev/null || apt_install default-jdk-headless
    java -cp "/usr/share/java/*" "$tests/Jdbc.java" "$@"
}

# ---- one server and one proxy ------------------------------------------------------------------

run=$(mktemp -d "${TMPDIR:-/tmp}/pgsteer-drivers-run.XXXXXX")
chmod 755 "$run"
trap stop_server_and_proxy EXIT
trap 'exit 130' INT TERM

start_all() {
    server_port=$(free_port)
    proxy_port=$(free_port)
    standby_port=$(free_port)
    init_server "max_connections = 200" "max_prepared_transactions = 10"
    server_sql -d postgres -c "SET password_encryption = 'scram-sha-256'" \
        -c "CREATE ROLE app SUPERUSER LOGIN PASSWORD 'secret'" \
        -c "CREATE ROLE monitor SUPERUSER LOGIN PASSWORD 'watching'"
    fresh_database
    printf 'local all all trust\nhost all all all scram-sha-256\n' >"$run/data/pg_hba.conf"
    server_sql -d postgres -c "SELECT pg_reload_conf()" >"$run/reload.log"
}

# start_mode MODE: pgsteer in this mode of pooling.
start_mode() {
    mode=$1
    local size=100
    [ "$mode" = session ] || size=4
    start_proxy <<CONF
[cluster]
nodes = ["127.0.0.1:$server_port"]
state_file = "$run/state"
tls = { mode = "off" }
[cluster.monitor]
user = "monitor"
password = "watching"
[[listen]]
address = "127.0.0.1:$proxy_port"
[[listen]]
address = "127.0.0.1:$standby_port"
role = "standby"
[pool]
mode = "$mode"
size = $size
max_backends_per_node = 150
CONF
}

fresh_database() {
    server_sql -d postgres -c "SET client_min_messages = warning" \
        -c "DROP DATABASE IF EXISTS drivers WITH (FORCE)" -c "CREATE DATABASE drivers OWNER app"
}

# Through libpq: libpq_at PORT COMMAND...
libpq_at() {
    local port=$1
    shift
    PGHOST=127.0.0.1 PGPORT=$port PGUSER=app PGPASSWORD=secret PGDATABASE=drivers "$@"
}

# Process ids, object ids and durations differ from run to run.
without_numbers() {
    sed -E 's/PID [0-9]+/PID n/; s/^lo_(import|unlink) [0-9]+/lo_\1 n/; s/^[A-Z][a-z]{2} [A-Z][a-z]{2} +[0-9].*(every.*)$/\1/'
}

# ---- parts -------------------------------------------------------------------------------------

# run_driver NAME PORT [crowd]
run_driver() {
    case $1 in
        psql) libpq_at "$2" "$bindir/psql" -X -a -f "$tests/psql.sql" 2>&1 | without_numbers ;;
        psycopg) python "$tests/psycopg_test.py" "${@:2}" ;;
        asyncpg) python "$tests/asyncpg_test.py" "${@:2}" ;;
        node) node --no-deprecation "$tests/node_test.js" "$2" "$(node_modules)" "${@:3}" ;;
        jdbc) jdbc "${@:2}" ;;
    esac
}

# What only the backend itself could say the same.
comparable() {
    if [ "$mode" = session ]; then cat "$1"; else grep -vE '^(pid|kept) ' "$1"; fi
}

fail() {
    say "$*"
    failed=1
}

# compare NAME [crowd]: the same program at both ports.
compare() {
    local name=$1 file=$cache/$mode-$1${2:+-$2}
    run_driver "$name" "$server_port" "${@:2}" >"$file.direct" 2>&1 || fail "$name: exit $? directly"
    fresh_database
    run_driver "$name" "$proxy_port" "${@:2}" >"$file.proxied" 2>&1 || fail "$name: exit $? through pgsteer"
    if diff <(comparable "$file.direct") <(comparable "$file.proxied") >"$file.diff"; then
        say "$mode mode, $name ${2:-}: $(wc -l <"$file.direct") lines, no difference"
    else
        say "$mode mode, $name ${2:-}: DIFFERENCES, see $file.diff"
        head -n 40 "$file.diff"
        failed=1
    fi
}

expect() {
    local what=$1 want=$2 have
    shift 2
    have=$("$@" 2>&1 | tail -n 1) || true
    if [ "$have" = "$want" ]; then
        say "$what: ok"
    else
        say "$what: expected $want, got $have"
        failed=1
    fi
}

# target_session_attrs of libpq and targetServerType of pgjdbc find the right one of the two listeners.
check_targets() {
    local attrs want
    for attrs in any:off read-write:off primary:off read-only:on standby:on prefer-standby:on; do
        want=${attrs#*:}
        expect "libpq ${attrs%:*}" "$want" env PGHOST=127.0.0.1,127.0.0.1 PGPORT="$proxy_port,$standby_port" \
            PGUSER=app PGPASSWORD=secret PGDATABASE=drivers PGTARGETSESSIONATTRS="${attrs%:*}" \
            "$bindir/psql" -XAtc 'SHOW transaction_read_only'
    done
    jdbc "$proxy_port" "$standby_port" >"$cache/targets.out" 2>&1 || true
    diff "$cache/targets.out" - <<'WANT' || failed=1
any: read-only off
primary: read-only off
secondary: read-only on
preferSecondary: read-only on
preferPrimary: read-only off
any: read-only on
primary: read-only off
secondary: read-only on
preferSecondary: read-only on
preferPrimary: read-only off
08001
08001
WANT
    say "targets: done"
}

# Tables of pgbench, a view, a function, large objects: dumped, restored and dumped again through pgsteer.
check_dump() {
    libpq_at "$proxy_port" "$bindir/pgbench" -i -q -s 2 >"$cache/dump.out" 2>&1
    libpq_at "$proxy_port" "$bindir/psql" -Xq -c "SELECT lo_from_bytea(0, 'large') IS NOT NULL" \
        -c "CREATE VIEW tellers AS SELECT tid, bid FROM pgbench_tellers" \
        -c "CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * \$1'" >>"$cache/dump.out"
    libpq_at "$server_port" "$bindir/pg_dump" >"$cache/direct.sql"
    libpq_at "$proxy_port" "$bindir/pg_dump" >"$cache/proxied.sql"
    libpq_at "$proxy_port" "$bindir/pg_dump" -Fd -j 4 -f "$run/dump"
    libpq_at "$proxy_port" "$bindir/createdb" restored
    libpq_at "$proxy_port" "$bindir/pg_restore" -j 4 -d restored "$run/dump"
    libpq_at "$proxy_port" "$bindir/pg_dump" -d restored >"$cache/restored.sql"
    local file
    for file in proxied restored; do
        if diff <(grep -v '^\\\(un\)\?restrict' "$cache/direct.sql") \
            <(grep -v '^\\\(un\)\?restrict' "$cache/$file.sql") >"$cache/$file.diff"; then
            say "dump $file: $(wc -l <"$cache/$file.sql") lines, no difference"
        else
            say "dump $file: DIFFERENCES, see $cache/$file.diff"
            failed=1
        fi
    done
    libpq_at "$server_port" "$bindir/psql" -Xq -d postgres -c 'DROP DATABASE restored WITH (FORCE)'
}

check_pgbench() {
    libpq_at "$proxy_port" "$bindir/pgbench" -i -q -s 4 >"$cache/pgbench.out" 2>&1
    local protocol more out threads=4
    # A thread of pgbench waits for the answer when it prepares: where clients outnumber backends, one that serves
    # several of them would wait for itself.
    [ "$mode" = session ] || threads=64
    for protocol in simple extended prepared; do
        for more in "" "-S" "-C" "-S -C"; do
            # shellcheck disable=SC2086 # several words on purpose
            out=$(libpq_at "$proxy_port" "$bindir/pgbench" -n -M $protocol $more -c 64 -j $threads -T "${PGBENCH_SECONDS:-5}" 2>&1) ||
                out="$out; it failed"
            printf '%s\n' "$out" >>"$cache/pgbench.out"
            if grep -q 'failed transactions: 0 ' <<<"$out" && ! grep -qiE 'error:|fatal:|it failed' <<<"$out"; then
                say "$mode mode, pgbench -M $protocol $more: $(sed -n 's/^tps = \([0-9]*\).*/\1 per second/p' <<<"$out"), no error"
            else
                say "$mode mode, pgbench -M $protocol $more: ERRORS, see $cache/pgbench.out"
                failed=1
            fi
        done
    done
}

# run_part NAME
run_part() {
    fresh_database
    case $1 in
        psql) compare "$1" ;;
        psycopg | asyncpg | node | jdbc)
            compare "$1"
            fresh_database
            compare "$1" crowd
            ;;
        targets) check_targets ;;
        dump) check_dump ;;
        pgbench) check_pgbench ;;
        *) die "unknown part $1" ;;
    esac
}

need_pgsteer "$here"
start_all
for mode in "${modes[@]}"; do
    start_mode "$mode"
    for part in "${parts[@]}"; do
        run_part "$part"
    done
    proxy_lives
    stop_proxy
done
exit $failed
