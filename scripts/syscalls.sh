#!/usr/bin/env bash
# System calls of pgsteer per transaction of pgbench, by strace: simple, extended and prepared statements and a
# connection for each, in session and in transaction mode. Fails when a round trip of a prepared statement takes more than
# four socket calls, or any call but those and waiting (so no futex: nobody waits for a lock).
#   scripts/syscalls.sh [TRANSACTIONS]      per client, default 2000
# PGSTEER=path      the program under test (default: a release build of this tree)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$here/scripts/lib.sh"

transactions=${1:-2000}
need_postgres
for tool in curl strace; do
    command -v "$tool" >/dev/null || apt_install "$tool"
done
need_pgsteer "$here"
bindir=$(postgres_bindir)

run=$(mktemp -d)
chmod 755 "$run"
trap stop_server_and_proxy EXIT
server_port=$(free_port) proxy_port=$(free_port)
init_server "max_connections = 100"
export PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres
pgbench -p "$server_port" -i -q -s 1 2>"$run/fill.log"

# run_proxy MODE
run_proxy() {
    start_proxy <<CONF
$(config_head)
interval = "10s"
[pool]
mode = "$1"
size = 50
CONF
}

load() { pgbench -p "$proxy_port" -n -S -j 1 "$@" >"$run/pgbench.log" 2>&1 || die "$(cat "$run/pgbench.log")"; }

# count NAME ARGS...: the calls while pgbench runs, as "call count errors" lines in $run/calls.
count() {
    local strace_pid per=$transactions
    case $* in *-C*) per=$((transactions / 20)) ;; esac
    strace -c -f -q -o "$run/strace" -p "$proxy_pid" 2>"$run/strace.log" &
    strace_pid=$!
    # Attached: the tracer's id stands in the status of every thread.
    wait_until 10 grep -q "^TracerPid:[^0-9]*$strace_pid$" "/proc/$proxy_pid/task/$proxy_pid/status" ||
        die "strace did not attach: $(cat "$run/strace.log")"
    load -t "$per" "$@"
    kill -INT "$strace_pid"
    wait "$strace_pid" || true
    awk '$4 ~ /^[0-9]+$/ && $NF != "total" { print $NF, $4, (NF > 5 ? $5 : 0) }' "$run/strace" >"$run/calls"
}

# report NAME ROUND_TRIPS
report() {
    printf '%-16s' "$1"
    sort -k2,2nr "$run/calls" |
        awk -v n="$2" '$2 / n >= 0.005 { printf "  %s %.2f", $1, $2 / n; if ($3 / n >= 0.005) printf " (%.2f failed)", $3 / n }
            END { print "" }'
}

failed=
for pooling in session transaction; do
    run_proxy "$pooling"
    printf '%s mode\n' "$pooling"
    for clients in 1 32; do
        for mode in simple extended prepared; do
            # The first run fills the pool, so that the second one opens no backends.
            load -t 10 -M "$mode" -c "$clients"
            count -M "$mode" -c "$clients"
            report "$mode c=$clients" $((transactions * clients))
            if [ "$mode" = prepared ]; then
                # What logins, logouts and probes need is spread over all round trips: a hundredth of a call is none.
                awk -v n=$((transactions * clients)) '
                    $1 ~ /^(recv|send|read|write)/ { socket += $2; failed += $3; next }
                    $1 !~ /^epoll_p?wait/ { other += $2 }
                    END { exit !(socket / n <= 4.1 && failed / n <= 0.01 && other / n <= 0.05) }' \
                    "$run/calls" || failed=yes
            fi
        done
    done
    load -t 10 -C -c 8
    count -C -c 8
    report "connect c=8" $((transactions * 8 / 20))
    stop_proxy
done
[ -z "$failed" ] || die "a round trip took more system calls than two reads and two writes"
