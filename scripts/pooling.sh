#!/usr/bin/env bash
# How much many clients lose by sharing few backends: pgbench -S with 1,000 clients through pgsteer in transaction mode with
# 16 backends, compared with 16 direct clients, with as many through pgsteer, and, where it is installed, with pgbouncer.
# 1,000 direct clients (once) show what so many cost the server and pgbench itself. Every round runs each of the others once,
# so that a busy machine is unfair to all alike; the medians of the rounds are printed, and those of the ratios in a round.
#   scripts/pooling.sh [ROUNDS [SECONDS]]      default 5 rounds of 3 seconds
# PGSTEER=path      the program under test (default: a release build of this tree)
# CLIENTS=1000 BACKENDS=16
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$here/scripts/lib.sh"

rounds=${1:-5} seconds=${2:-3} clients=${CLIENTS:-1000} backends=${BACKENDS:-16}
need_postgres
command -v curl >/dev/null || apt_install curl
need_pgsteer "$here"
bindir=$(postgres_bindir)
ulimit -n "$(ulimit -Hn)"

run=$(mktemp -d)
chmod 755 "$run"
server_port=$(free_port) proxy_port=$(free_port) bouncer_port=$(free_port)
bouncer_pid=''
clean_up() {
    [ -z "$bouncer_pid" ] || kill "$bouncer_pid" || true
    stop_server_and_proxy
}
trap clean_up EXIT

say "starting a server and filling it"
init_server "max_connections = $((clients + 100))"
export PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres
pgbench -p "$server_port" -i -q -s 5 2>"$run/fill.log"
run_proxy() {
    start_proxy <<CONF
$(config_head)
[pool]
mode = "transaction"
size = $backends
[limits]
max_logins_per_address = $clients
CONF
}
run_proxy
if command -v pgbouncer >/dev/null; then
    echo '"postgres" ""' | as_postgres tee "$run/users.txt" >/dev/null
    bouncer_pid=$(start_bouncer bouncer "$bouncer_port" trust transaction "$backends")
fi

# connected PORT COUNT: so many clients have reached it.
connected() { [ "$(ss -Htn state established "sport = :$1" | wc -l)" -ge "$2" ]; }

# bench NAME PORT PID CLIENTS MODE PATIENCE: adds rate, CPU of the proxy per transaction and mean latency to the results.
# pgbench counts the time to connect, at most PATIENCE seconds, as part of its duration, but not in its rate. CPU is
# taken when all have connected.
bench() {
    local name=$1 port=$2 pid=$3 pgbench before after
    pgbench -p "$port" -n -S -j 1 -T $((seconds + $6)) -c "$4" -M "$5" >"$run/pgbench.log" 2>&1 &
    pgbench=$!
    wait_until "$6" connected "$port" "$4" || say "$name: not all have connected within $6 s"
    before=$(cpu_us "$pid")
    sleep "$seconds"
    after=$(cpu_us "$pid")
    wait "$pgbench" || die "$(cat "$run/pgbench.log")"
    awk -v us="$((after - before))" -v seconds="$seconds" '
        /^latency average/ { ms = $4 } /^tps/ { tps = $3 }
        END { print tps + 0, tps ? us / tps / seconds : 0, ms + 0 }' "$run/pgbench.log" >>"$run/result.$name"
    # Its backends are gone before the next one starts.
    wait_until 30 gone "$port"
}
# The poolers and the monitor keep theirs.
gone() { [ "$(ss -Htn state established "sport = :$1" | wc -l)" -le $((2 * backends + 8)) ]; }

# column NAME NUMBER: the median of a figure over the rounds.
column() { awk -v at="$2" '{ print $at }' "$run/result.$1" | median; }

compare() {
    local mode=$1 round name
    rm -f "$run"/result.*
    for ((round = 0; round < rounds; round++)); do
        bench "direct-$backends" "$server_port" '' "$backends" "$mode" 1
        bench "pgsteer-$backends" "$proxy_port" "$proxy_pid" "$backends" "$mode" 1
        bench "pgsteer-$clients" "$proxy_port" "$proxy_pid" "$clients" "$mode" 4
        # pgbouncer knows prepared statements in transaction mode from 1.21 on.
        if [ -n "$bouncer_pid" ] && [ "$mode" != prepared ]; then
            bench "pgbouncer-$clients" "$bouncer_port" "$bouncer_pid" "$clients" "$mode" 4
        fi
    done
    # Once: it starts a thousand server processes.
    if [ "$mode" = simple ]; then
        bench "direct-$clients" "$server_port" '' "$clients" "$mode" 30
    fi
    printf '%s\n' "$mode"
    for name in "direct-$backends" "pgsteer-$backends" "pgsteer-$clients" "pgbouncer-$clients" "direct-$clients"; do
        [ -f "$run/result.$name" ] || continue
        printf '  %-16s %8.0f/s  ratio %.3f  %6.1f us  %8.2f ms\n' "$name" "$(column "$name" 1)" \
            "$(paste "$run/result.$name" "$run/result.direct-$backends" | awk '{ print $1 / $4 }' | median)" \
            "$(column "$name" 2)" "$(column "$name" 3)"
    done
}

say "$rounds rounds of $seconds s each; load now: $(cut -d' ' -f1-3 /proc/loadavg)"
say "transactions per second, median of the ratios to direct-$backends, CPU of the proxy per transaction, mean latency"
for mode in simple extended prepared; do
    compare "$mode"
done

# A fresh process, so that the quantiles are those of the crowd alone.
stop_proxy
run_proxy
pgbench -p "$proxy_port" -n -S -j 1 -T "$((seconds * 3))" -c "$clients" >"$run/pgbench.log" 2>&1 ||
    die "$(cat "$run/pgbench.log")"
curl -fsS "http://127.0.0.1:$http_port/metrics" | awk '
    $1 ~ /^pgsteer_checkout_wait_seconds{quantile/ { gsub(/[^0-9.]/, "", $1); text = text sprintf("  p%s %.1f", $1 * 100, $2 * 1000) }
    END { print "wait for a backend, ms:" text }'
