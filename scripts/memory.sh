#!/usr/bin/env bash
# Resident memory of an idle client: on the console, with a backend of its own, and logged in from memory while no server
# is there. Starts a server and a proxy of its own; the clients are this shell's sockets. Fails above the limit.
#   scripts/memory.sh [CLIENTS]      default 2000
# PGSTEER=path      the program under test (default: a release build of this tree)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$here/scripts/lib.sh"

clients=${1:-2000}
limit_kb=6
need_postgres
command -v curl >/dev/null || apt_install curl
need_pgsteer "$here"
bindir=$(postgres_bindir)
# Each client with a backend is two sockets of the proxy.
files=$((clients * 2 + 500))
[ "$(ulimit -Hn)" = unlimited ] || [ "$(ulimit -Hn)" -ge "$files" ] ||
    die "$clients clients need $files open files; this shell may have $(ulimit -Hn) (ulimit -Hn)"
ulimit -Sn "$files"

run=$(mktemp -d)
chmod 755 "$run"
trap stop_server_and_proxy EXIT
server_port=$(free_port) proxy_port=$(free_port)
say "starting a server that takes $clients connections"
init_server "max_connections = $((clients + 100))" "shared_buffers = 16MB"

proxy() {
    start_proxy <<CONF
$(config_head)
[pool]
size = $clients
max_backends_per_node = $((clients + 50))
max_connecting_per_node = 32
[limits]
max_logins_per_address = $((clients + 10))
CONF
    # One client has come and gone: what the first login needs once is not what a client costs.
    psql -h 127.0.0.1 -p "$proxy_port" -U postgres -Atc 'SELECT 1' postgres >/dev/null
}

resident() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$proxy_pid/status"; }
counts() { [ "$(metric "$1")" -ge "$2" ]; }

# A startup packet of protocol 3.0 (55.2.1) for this database.
startup() {
    local body="user\\0postgres\\0database\\0$1\\0client_encoding\\0UTF8\\0application_name\\0idle\\0\\0"
    local len
    len=$(printf '%b' "\\0\\03\\0\\0$body" | wc -c)
    printf '%b' "\\0\\0\\0\\0$(printf '%03o' $((len + 4)))\\0\\03\\0\\0$body"
}

# measure NAME DATABASE GAUGE: opens the clients, prints what one costs, and stops the proxy.
measure() {
    local before after fd sockets=() packet=$run/startup
    startup "$2" >"$packet"
    before=$(resident)
    for ((i = 0; i < clients; i++)); do
        exec {fd}<>"/dev/tcp/127.0.0.1/$proxy_port"
        cat "$packet" >&"$fd"
        sockets+=("$fd")
        # A few at a time: what many logins at once need is not what idle clients cost.
        if ((i % 50 == 49)); then
            wait_until 60 counts "$3" $((i - 48)) || die "the clients did not get in: $(tail -n 3 "$run/proxy.log")"
        fi
    done
    wait_until 60 counts "$3" "$clients" || die "the clients did not get in: $(tail -n 3 "$run/proxy.log")"
    after=$(resident)
    for fd in "${sockets[@]}"; do
        exec {fd}>&-
    done
    stop_proxy
    printf '%-24s %6d kB before, %6d kB with %d clients: %d.%02d kB each\n' "$1" "$before" "$after" "$clients" \
        $(((after - before) / clients)) $(((after - before) * 100 / clients % 100))
    [ $((after - before)) -le $((clients * limit_kb)) ] || failed=yes
}

failed=
proxy
measure "on the console" pgsteer pgsteer_console_sessions
proxy
measure "with a backend" postgres pgsteer_sessions
proxy
# One login as the clients will do it: what the server said then is what they are told later.
exec {first}<>"/dev/tcp/127.0.0.1/$proxy_port"
startup postgres >&"$first"
wait_until 20 counts pgsteer_sessions 1 || die "the first client did not get in"
as_postgres "$bindir/pg_ctl" -D "$run/data" -m immediate -w stop >/dev/null
measure "without a server" postgres pgsteer_sessions
exec {first}>&-
[ -z "$failed" ] || die "an idle client may cost $limit_kb kB"
