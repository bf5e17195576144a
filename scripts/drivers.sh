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
failed=()
# Seconds for one program of a driver: what hangs must not take the time of the others.
limit=300

# ---- drivers -----------------------------------------------------------------------------------

need_python() {
    [ ! -e "$cache/venv/ready" ] || return 0
    python3 -m venv "$cache/venv" 2>/dev/null || {
        apt_install python3-venv
        python3 -m venv --clear "$cache/venv"
    }
    "$cache/venv/bin/pip" install -q 'psycopg[binary]' asyncpg >&2 || die "no package registry: pip cannot" \
        "install psycopg[binary] asyncpg; this says nothing about pgsteer"
    touch "$cache/venv/ready"
}

need_node() {
    [ ! -d "$cache/node_modules/pg-cursor" ] || return 0
    command -v npm >/dev/null || apt_install npm
    (cd "$cache" && npm install --no-audit --no-fund --no-save --prefix . pg pg-cursor pg-copy-streams >&2) ||
        die "no package registry: npm cannot install pg pg-cursor pg-copy-streams; this says nothing about pgsteer"
}

need_jdbc() {
    local packages=()
    [ -e /usr/share/java/postgresql.jar ] || packages+=(libpostgresql-jdbc-java)
    command -v javac >/dev/null || packages+=(default-jdk-headless)
    [ ${#packages[@]} = 0 ] || (apt_install "${packages[@]}") || die "no package registry: apt cannot install" \
        "${packages[*]}; this says nothing about pgsteer"
}

# need_driver NAME: installs what a part runs with, or says why that is not possible. In a subshell, so that the other
# parts run all the same.
need_driver() {
    case $1 in
        psycopg | asyncpg) (need_python) ;;
        node) (need_node) ;;
        jdbc | targets) (need_jdbc) ;;
    esac
}

jdbc() { timeout "$limit" java -cp "/usr/share/java/*" "$tests/Jdbc.java" "$@"; }

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
        psql) libpq_at "$2" timeout "$limit" "$bindir/psql" -X -a -f "$tests/psql.sql" 2>&1 | without_numbers ;;
        psycopg | asyncpg) timeout "$limit" "$cache/venv/bin/python" "$tests/$1_test.py" "${@:2}" ;;
        node) timeout "$limit" node --no-deprecation "$tests/node_test.js" "$2" "$cache/node_modules" "${@:3}" ;;
        jdbc) jdbc "${@:2}" ;;
    esac
}

# What only the backend itself could say the same.
comparable() {
    if [ "$mode" = session ]; then cat "$1"; else grep -vE '^(pid|kept) ' "$1"; fi
}

# fail PART WORD...: notes that this part has failed, and says why.
fail() {
    failed+=("$mode/$1")
    say "$mode mode, $*"
}

# run_to FILE NAME PORT [crowd]: what the program prints, in a file; its end is shown when the program fails.
run_to() {
    local file=$1 status=0
    shift
    run_driver "$@" >"$file" 2>&1 || status=$?
    if [ $status != 0 ]; then
        fail "$1" "${3:-}: FAILED with exit status $status, see $file"
        tail -n 20 "$file" | cut -c 1-300
    fi
}

# compare NAME [crowd]: the same program at both ports, once each: whatever differs is a failure.
compare() {
    local name=$1 file=$cache/$mode-$1${2:+-$2}
    run_to "$file.direct" "$name" "$server_port" "${@:2}"
    fresh_database
    run_to "$file.proxied" "$name" "$proxy_port" "${@:2}"
    if diff <(comparable "$file.direct") <(comparable "$file.proxied") >"$file.diff"; then
        say "$mode mode, $name ${2:-}: $(wc -l <"$file.direct") lines, no difference"
    else
        fail "$name" "${2:-}: DIFFERENCES (< directly, > through pgsteer), see $file.diff"
        head -n 40 "$file.diff" | cut -c 1-300
    fi
}

expect() {
    local what=$1 want=$2 have
    shift 2
    have=$("$@" 2>&1 | tail -n 1) || true
    if [ "$have" = "$want" ]; then
        say "$what: ok"
    else
        fail targets "$what: FAILED, expected $want, got $have"
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
    diff "$cache/targets.out" - <<'WANT' || fail targets "pgjdbc: DIFFERENCES (> is what is expected)"
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
            fail dump "$file: DIFFERENCES, see $cache/$file.diff"
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
                fail pgbench "-M $protocol $more: FAILED, see $cache/pgbench.out"
            fi
        done
    done
}

# run_part NAME
run_part() {
    need_driver "$1" || {
        fail "$1" "not run for lack of a package registry"
        return
    }
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
[ ${#failed[@]} = 0 ] || die "failed: $(printf '%s\n' "${failed[@]}" | sort -u | tr '\n' ' ')"
