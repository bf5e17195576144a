#!/usr/bin/env bash
# Compares pgsteer with a direct connection, and with pgbouncer (session mode) where it is installed: transactions per
# second and CPU of the proxy per transaction. Every round runs each of them once, so that a busy machine is unfair to
# all alike; the median of the rounds is printed. Compare within one run only.
#   scripts/bench.sh [ROUNDS [SECONDS]]      default 3 rounds of 2 seconds
# PGSTEER=path      the program under test (default: a release build of this tree)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$here/scripts/lib.sh"

rounds=${1:-3} seconds=${2:-2}
need_postgres
command -v curl >/dev/null || apt_install curl
need_pgsteer "$here"
bindir=$(postgres_bindir)

run=$(mktemp -d)
chmod 755 "$run"
server_port=$(free_port) proxy_port=$(free_port) bouncer_port=$(free_port) scram_port=$(free_port)
bouncer_pid='' scram_pid=''
clean_up() {
    [ -z "$bouncer_pid" ] || kill "$bouncer_pid" || true
    [ -z "$scram_pid" ] || kill "$scram_pid" || true
    stop_server_and_proxy
}
trap clean_up EXIT

say "starting a server and filling it"
init_server "max_connections = 300"
export PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres PGPASSWORD=secret
sql() { psql -p "$server_port" -qAtc "$1"; }
sql "CREATE ROLE prover LOGIN SUPERUSER PASSWORD 'secret'"
printf 'host all prover 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\nlocal all all trust\n' |
    as_postgres tee "$run/data/pg_hba.conf" >/dev/null
sql "SELECT pg_reload_conf()" >/dev/null
pgbench -p "$server_port" -i -q -s 5 2>"$run/fill.log"
sql "CREATE TABLE wide AS SELECT i, repeat('x', 90) AS text FROM generate_series(1, 600000) i"
sql "CREATE UNLOGGED TABLE sink (LIKE wide)"
psql -p "$server_port" -qc "\\copy wide to '$run/wide.tsv'"

start_proxy <<CONF
[cluster]
nodes = ["127.0.0.1:$server_port"]
state_file = ""
[cluster.monitor]
user = "postgres"
[auth]
source = "query"
[[auth.rule]]
type = "all"
user = ["postgres"]
method = "trust"
[[auth.rule]]
type = "all"
user = ["all"]
method = "scram-sha-256"
[[listen]]
address = "127.0.0.1:$proxy_port"
[pool]
size = 100
max_backends_per_node = 200
[limits]
max_logins_per_address = 1000
CONF

proxies=(direct pgsteer)
if command -v pgbouncer >/dev/null; then
    verifier=$(sql "SELECT rolpassword FROM pg_authid WHERE rolname = 'prover'")
    printf '"postgres" ""\n"prover" "%s"\n' "$verifier" | as_postgres tee "$run/users.txt" >/dev/null
    bouncer_pid=$(start_bouncer bouncer "$bouncer_port" trust session 100)
    scram_pid=$(start_bouncer prover "$scram_port" scram-sha-256 session 100)
    proxies+=(pgbouncer)
fi

# place PROXY USER: where it listens, and its process.
place() {
    case $1-$2 in
        direct-*) echo "$server_port" ;;
        pgsteer-*) echo "$proxy_port $proxy_pid" ;;
        pgbouncer-prover) echo "$scram_port $scram_pid" ;;
        *) echo "$bouncer_port $bouncer_pid" ;;
    esac
}

# Each prints how many transactions (or megabytes) were done and how many per second.
bench() {
    local port=$1 out
    shift
    out=$(pgbench -p "$port" -n -S -j 1 -T "$seconds" "$@" 2>&1) || die "$out"
    awk '/actually processed/ { count = $NF } /^tps/ { tps = $3 } END { print count + 0, tps }' <<<"$out"
}
copy() {
    local port=$1 began ended size
    size=$(($(stat -c %s "$run/wide.tsv") / 1000000))
    sql 'TRUNCATE sink'
    began=$(date +%s%N)
    case $2 in
        in) psql -p "$port" -qc "\\copy sink from '$run/wide.tsv'" ;;
        out) psql -p "$port" -qc "\\copy wide to /dev/null" ;;
    esac
    ended=$(date +%s%N)
    awk -v mb="$size" -v ns="$((ended - began))" 'BEGIN { print mb, mb * 1e9 / ns }'
}

# compare NAME USER COMMAND...: the command gets the port as its first argument.
compare() {
    local name=$1 user=$2 what=$3 round proxy port pid before after count rate
    shift 3
    rm -f "$run"/result.*
    for ((round = 0; round < rounds; round++)); do
        for proxy in "${proxies[@]}"; do
            read -r port pid <<<"$(place "$proxy" "$user")"
            before=$(cpu_us "$pid")
            read -r count rate <<<"$(PGUSER=$user "$what" "$port" "$@")"
            after=$(cpu_us "$pid")
            echo "$rate" >>"$run/result.$proxy.rate"
            awk -v us="$((${after%.*} - ${before%.*}))" -v count="$count" \
                'BEGIN { print count ? us / count : 0 }' >>"$run/result.$proxy.cpu"
        done
    done
    printf '%-16s' "$name"
    for proxy in "${proxies[@]}"; do
        printf '  %-9s %9.0f/s %7.1f us' "$proxy" "$(median <"$run/result.$proxy.rate")" \
            "$(median <"$run/result.$proxy.cpu")"
    done
    printf '\n'
}

say "$rounds rounds of $seconds s each; COPY counts megabytes; load now: $(cut -d' ' -f1-3 /proc/loadavg)"
for clients in 1 32; do
    for mode in simple extended prepared; do
        compare "$mode c=$clients" postgres bench -M "$mode" -c "$clients"
    done
done
compare 'connect trust' postgres bench -C -c 8
compare 'connect SCRAM' prover bench -C -c 8
compare 'COPY out' postgres copy out
compare 'COPY in' postgres copy in
