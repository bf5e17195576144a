# Shared by the scripts of this folder; sourced, never run.
# shellcheck shell=bash

say() { printf '== %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

is_root() { [ "$(id -u)" = 0 ]; }

# Installs Debian packages; asks the person to do it when we may not.
apt_install() {
    if ! command -v apt-get >/dev/null; then
        die "please install by hand (this is no Debian-like system): $*"
    fi
    if ! is_root; then
        die "please run: sudo apt-get install -y $*"
    fi
    say "installing $*"
    if [ -z "${apt_updated:-}" ]; then
        apt-get update -qq || say "the package lists could not all be refreshed; trying with what is there"
        apt_updated=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# The newest folder that holds a server's programs; empty when there is none.
postgres_bindir() {
    local dir
    dir=$(find /usr/lib/postgresql /usr/local/pgsql -maxdepth 3 -name initdb 2>/dev/null | sort -V | tail -n 1)
    if [ -n "$dir" ]; then
        dirname "$dir"
    elif command -v pg_config >/dev/null && [ -x "$(pg_config --bindir)/initdb" ]; then
        pg_config --bindir
    fi
}

# Server and client programs: initdb, postgres, pg_basebackup, pg_rewind, pgbench, psql.
need_postgres() {
    local dir
    dir=$(postgres_bindir)
    if [ -n "$dir" ] && [ -x "$dir/pg_basebackup" ] && [ -x "$dir/pgbench" ] && command -v psql >/dev/null; then
        return
    fi
    # The package would start a server of its own at once, which nobody asked for.
    if is_root && [ -d /etc ] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    fi
    apt_install postgresql postgresql-contrib postgresql-client
    [ -n "$(postgres_bindir)" ] || die "no PostgreSQL server programs were found after the installation"
}

# A C compiler is what the TLS library and the allocator are built with.
need_rust() {
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
    fi
    if ! command -v cargo >/dev/null; then
        die "no Rust toolchain; install one with rustup (https://rustup.rs), then run this again"
    fi
    local have
    have=$(cargo --version | sed 's/^cargo 1\.\([0-9]*\).*/\1/')
    if [ "$have" -lt 95 ]; then
        die "Rust 1.95 or newer is needed, this is $(cargo --version); try: rustup update stable"
    fi
    local missing=()
    command -v cc >/dev/null || missing+=(build-essential)
    if [ ${#missing[@]} -gt 0 ]; then
        apt_install "${missing[@]}"
    fi
}

# What the bindings to PostgreSQL's grammar are made with; sets what bindgen looks for. False when it is not there.
have_libclang() {
    local found
    if [ -z "${LIBCLANG_PATH:-}" ]; then
        found=$(find /usr/lib /usr/local/lib -name 'libclang.so*' -o -name 'libclang-[0-9]*.so*' 2>/dev/null | head -n 1)
        [ -n "$found" ] || return 1
        export LIBCLANG_PATH=${found%/*}
    fi
    # The library may have come without the headers of its compiler: those of ours serve as well.
    export BINDGEN_EXTRA_CLANG_ARGS=${BINDGEN_EXTRA_CLANG_ARGS:--I$(cc -print-file-name=include)}
}

# Prints the path of a release build of the tree given.
release_build() {
    say "building pgsteer (release)"
    cargo build --release --locked --quiet --manifest-path "$1/Cargo.toml" >&2
    printf '%s/release/pgsteer\n' "${CARGO_TARGET_DIR:-$1/target}"
}

# Sets $pgsteer, the program under test: $PGSTEER, else a release build of the tree given.
need_pgsteer() {
    pgsteer=${PGSTEER:-}
    if [ -z "$pgsteer" ]; then
        need_rust
        pgsteer=$(release_build "$1")
    fi
}

# PostgreSQL refuses to run as root: its programs run as this account then.
as_postgres() {
    if is_root; then
        runuser -u postgres -- "$@"
    else
        "$@"
    fi
}

own_by_postgres() {
    if is_root; then
        chown -R postgres "$@"
    fi
}

# A TCP port nobody listens on, outside the range from which the kernel takes client ports.
free_port() {
    local port
    while :; do
        port=$((10000 + RANDOM % 20000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            printf '%s\n' "$port"
            return
        fi
    done
}

# wait_until SECONDS COMMAND...: runs the command until it succeeds or the time is over.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.05
    done
}

# ---- one server, maybe with standbys, and one pgsteer in the folder $run ---------------------------
# The script that uses them sets these.
: "${run=}" "${bindir=}" "${server_port=}" "${proxy_port=}" "${pgsteer=}"
proxy_pid=
standby_ports=()

# For a trap at the end of the script.
stop_server_and_proxy() {
    if [ -n "$proxy_pid" ]; then
        kill "$proxy_pid" 2>/dev/null || true
        wait "$proxy_pid" 2>/dev/null || true
    fi
    local data
    for data in "$run"/data*; do
        if [ -f "$data/postmaster.pid" ]; then
            as_postgres "$bindir/pg_ctl" -D "$data" -m immediate -w stop >/dev/null || true
        fi
    done
    rm -rf "$run"
}

# init_server SETTING...: a fresh cluster at $server_port that trusts everybody.
init_server() {
    mkdir "$run/socket"
    own_by_postgres "$run"
    as_postgres "$bindir/initdb" -D "$run/data" -U postgres -A trust --no-locale -E UTF8 -N >"$run/initdb.log"
    printf '%s\n' "listen_addresses = '127.0.0.1'" "port = $server_port" "fsync = off" \
        "unix_socket_directories = '$run/socket'" "$@" >>"$run/data/postgresql.conf"
    as_postgres "$bindir/pg_ctl" -D "$run/data" -l "$run/server.log" -w start >/dev/null
}

# add_standby SETTING...: a standby of it, whose port goes to $standby_ports.
add_standby() {
    local port data
    port=$(free_port)
    data=$run/data-$port
    as_postgres "$bindir/pg_basebackup" -D "$data" -R --checkpoint=fast --no-sync \
        -d "host=127.0.0.1 port=$server_port user=postgres application_name=standby"
    printf '%s\n' "port = $port" "$@" >>"$data/postgresql.conf"
    as_postgres "$bindir/pg_ctl" -D "$data" -l "$run/server-$port.log" -w start >/dev/null
    standby_ports+=("$port")
}

# As the superuser, not through pgsteer.
server_sql() {
    as_postgres "$bindir/psql" -X -q -v ON_ERROR_STOP=1 -h "$run/socket" -p "$server_port" -U postgres "$@"
}

# The tables of a configuration that scripts have in common: the server and its standbys are the nodes, everybody is trusted,
# clients come to $proxy_port. What is put behind them may begin with more of [cluster.monitor].
config_head() {
    local nodes
    nodes=$(printf ', "127.0.0.1:%s"' "$server_port" "${standby_ports[@]}")
    cat <<CONF
[auth]
source = "trust"
[[listen]]
address = "127.0.0.1:$proxy_port"
[cluster]
nodes = [${nodes:2}]
state_file = ""
[cluster.monitor]
user = "postgres"
CONF
}

# Runs $pgsteer with the configuration on standard input and waits until it is ready. In a session of its own, as a
# service has and as the servers here have: the kernel's scheduler shares the cores among sessions (sched_autogroup).
start_proxy() {
    http_port=$(free_port)
    cat - >"$run/proxy.toml"
    printf '[admin]\nhttp = "127.0.0.1:%s"\n' "$http_port" >>"$run/proxy.toml"
    setsid "$pgsteer" run -c "$run/proxy.toml" >"$run/proxy.log" 2>&1 &
    proxy_pid=$!
    wait_until 30 curl -fsS -o /dev/null "http://127.0.0.1:$http_port/readyz" || {
        tail -n 20 "$run/proxy.log" >&2
        die "pgsteer did not become ready"
    }
}

stop_proxy() {
    kill "$proxy_pid"
    wait "$proxy_pid" || die "pgsteer did not stop cleanly: $(tail -n 5 "$run/proxy.log")"
    proxy_pid=
}

# metric NAME [LABEL]: the sum of a metric of the running proxy over its labels, or of those samples that have this one.
metric() {
    curl -fsS "http://127.0.0.1:$http_port/metrics" | grep -F -- "${2:-}" |
        awk -v name="$1" '$1 ~ "^" name "([{]|$)" { sum += $2 } END { print sum + 0 }'
}

# Ends the script when pgsteer has ended during it.
proxy_lives() {
    if [ -n "$proxy_pid" ] && ! kill -0 "$proxy_pid" 2>/dev/null; then
        tail -n 20 "$run/proxy.log" >&2
        die "pgsteer ended during the run"
    fi
}

# ---- measuring -----------------------------------------------------------------------------------

# start_bouncer NAME PORT AUTH POOL_MODE POOL_SIZE: a pgbouncer in front of the server, for the users in $run/users.txt;
# prints its process id. It refuses to run as root.
start_bouncer() {
    cat >"$run/$1.ini" <<CONF
[databases]
* = host=127.0.0.1 port=$server_port
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $2
unix_socket_dir =
auth_type = $3
auth_file = $run/users.txt
pool_mode = $4
default_pool_size = $5
max_client_conn = 2000
ignore_startup_parameters = extra_float_digits
server_tls_sslmode = disable
logfile = $run/$1.log
pidfile = $run/$1.pid
CONF
    as_postgres pgbouncer -q -d "$run/$1.ini"
    wait_until 5 test -s "$run/$1.pid" || die "pgbouncer did not start: $(tail -n 3 "$run/$1.log")"
    cat "$run/$1.pid"
}

# cpu_us [PID]: the CPU that a process has used so far, in microseconds; children have none.
cpu_us() {
    if [ -z "${1:-}" ]; then
        echo 0
    else
        awk -v ticks="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); printf "%d\n", ($12 + $13) * 1000000 / ticks }' \
            "/proc/$1/stat"
    fi
}

# The median of the numbers on standard input.
median() { sort -g | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
