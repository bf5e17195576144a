#!/usr/bin/env bash
# PostgreSQL's own regression and isolation suites, run directly and through pgsteer in session mode.
# The two runs must not differ in a single line. In transaction mode the differences are those of docs/pooling.md.
#
#   scripts/regress.sh                 both suites, direct and proxied, compared
#   scripts/regress.sh --direct-only   only the baseline (needs no pgsteer)
#   scripts/regress.sh --regress       only the regression suite
#   scripts/regress.sh --isolation     only the isolation suite
#   scripts/regress.sh --again         compared with the direct run of the last time
#   scripts/regress.sh --reuse         with backends that serve one session after another, as by default
#   scripts/regress.sh --transaction   in transaction mode; backends are always reused there
#   scripts/regress.sh --split         with two standbys and route.split = "auto": commits wait until standbys have replayed
#                                      them, since what another session has just committed need not be there otherwise
#   scripts/regress.sh --judge         only the judge of reads and writes, against PostgreSQL's grammar, for every
#                                      statement of the sources' tests and a million mixed from them (needs libclang)
#
# PGSTEER=path          the program under test (default: a release build of this tree)
# PGSTEER_PGBIN=path    the server's programs (default: the newest /usr/lib/postgresql/*/bin)
# PGSTEER_REGRESS_DIR   where sources and tools are kept between runs (default: under the temp folder)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$here/scripts/lib.sh"

direct_only=no
again=no
mode=session
split=declared
judge=no
# DISCARD ALL does not unload libraries, forget that there was a temporary schema, or count as a new session in
# pg_stat_database: the tests guc, temp and stats tell a used backend from a new one. The suites are about the relay.
lifetime=0s
suites=(regress isolation)
for arg in "$@"; do
    case $arg in
        --direct-only) direct_only=yes ;;
        --regress) suites=(regress) ;;
        --isolation) suites=(isolation) ;;
        --again) again=yes ;;
        --reuse) lifetime=1h ;;
        --transaction) mode=transaction lifetime=1h ;;
        --split) split=auto ;;
        --judge) judge=yes ;;
        -h | --help)
            sed -n '2,21s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) die "unknown argument $arg" ;;
    esac
done

need_postgres
command -v curl >/dev/null || apt_install curl
command -v dpkg-source >/dev/null || apt_install dpkg-dev
command -v make >/dev/null || apt_install build-essential
bindir=${PGSTEER_PGBIN:-$(postgres_bindir)}
version=$("$bindir/postgres" --version | sed 's/^[^0-9]*\([0-9.]*\).*/\1/')
major=${version%%.*}
cache=${PGSTEER_REGRESS_DIR:-${TMPDIR:-/tmp}/pgsteer-regress}
tree=$cache/postgresql-$version
mkdir -p "$cache"

# ---- sources and tools -------------------------------------------------------------------------

# Source entries made from the machine's own package sources, in a folder of their own, so that
# nothing of the machine's set-up changes.
write_source_entries() {
    local to=$1 file
    mkdir -p "$to"
    for file in /etc/apt/sources.list.d/*.sources; do
        if [ -f "$file" ] && grep -q '^URIs:.*debian' "$file"; then
            sed 's/^Types:.*/Types: deb-src/' "$file" >"$to/$(basename "$file")"
        fi
    done
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -f "$file" ] || continue
        sed -n '/debian/s/^deb /deb-src /p' "$file" >>"$to/from-lists.list"
    done
}

fetch_sources() {
    [ -f "$tree/configure" ] && return
    local package apt
    package=$(dpkg-query -W -f '${source:Version}' "postgresql-$major") ||
        die "the sources come from Debian's package, but postgresql-$major is not installed from one"
    say "fetching the sources of postgresql-$major $package"
    write_source_entries "$cache/apt.d"
    mkdir -p "$cache/lists/partial" "$cache/download"
    apt=(-qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$cache/apt.d"
        -o "Dir::State::lists=$cache/lists" -o APT::Sandbox::User=root)
    apt-get "${apt[@]}" update
    (cd "$cache/download" && apt-get "${apt[@]}" --download-only source "postgresql-$major=$package")
    tar -xf "$cache"/download/postgresql-"$major"_"$version".orig.tar.* -C "$cache"
}

build_tools() {
    [ -f "$tree/.pgsteer-built" ] && return
    say "building pg_regress and isolationtester (about two minutes)"
    # Only test tools and regress.so come out of this: libraries the server was built with do not matter.
    (
        cd "$tree"
        ./configure --quiet --without-readline --without-zlib CFLAGS=-O1 >configure.out 2>&1
        make -s -j"$(nproc)" -C src/backend generated-headers
        make -s -j"$(nproc)" -C src/test/regress all
        make -s -j"$(nproc)" -C src/test/isolation all
    ) >"$cache/build.log" 2>&1 || die "the build failed; see $cache/build.log"
    touch "$tree/.pgsteer-built"
}

# ---- one server and one proxy ------------------------------------------------------------------

run=$(mktemp -d "${TMPDIR:-/tmp}/pgsteer-regress-run.XXXXXX")
chmod 755 "$run"
trap stop_server_and_proxy EXIT
trap 'exit 130' INT TERM

start_pgsteer() {
    proxy_port=$(free_port)
    # One worker: the isolation tester expects a notice of one session before the next answer of another, and
    # threads that compete for a processor would be free to pass them on in another order.
    start_proxy <<CONF
workers = 1
$(config_head)
[cluster.tls]
mode = "off"
[pool]
mode = "$mode"
size = 60
max_pinned = 60
lifetime = "$lifetime"
[route]
split = "$split"
CONF
    [ $split = declared ] || wait_until 30 reads_are_split || die "the standbys do not qualify"
}

# Reads of a session that came for the primary run on standbys.
# shellcheck disable=SC2317 # wait_until runs it
reads_are_split() {
    "$bindir/psql" -XAtq -h 127.0.0.1 -p "$proxy_port" -U postgres postgres -c "SELECT pg_is_in_recovery()" | grep -qx t
}

# What pg_regress sets on a database that it creates itself.
fresh_database() {
    server_sql -d postgres -c "SET client_min_messages = warning" -c "DROP DATABASE IF EXISTS $1 WITH (FORCE)" -c "CREATE DATABASE $1 TEMPLATE template0"
    local setting
    for setting in "lc_messages TO 'C'" "lc_monetary TO 'C'" "lc_numeric TO 'C'" "lc_time TO 'C'" \
        "bytea_output TO 'hex'" "timezone_abbreviations TO 'Default'"; do
        server_sql -d postgres -c "ALTER DATABASE $1 SET $setting"
    done
}

# Roles and tablespaces outlive the database of a run that went wrong.
drop_leftovers() {
    server_sql -d postgres -At -c "SELECT format('DROP TABLESPACE IF EXISTS %I', spcname)
        FROM pg_tablespace WHERE spcname LIKE 'regress%'" | server_sql -d postgres
    server_sql -d postgres -At -c "SELECT format('DROP ROLE IF EXISTS %I', rolname)
        FROM pg_roles WHERE rolname LIKE 'regress%'" | server_sql -d postgres || true
}

# ---- runs --------------------------------------------------------------------------------------

# run_suite SUITE LABEL PORT: exits 0 when the suite passed; its output stays in $cache/LABEL-SUITE.
run_suite() {
    local suite=$1 label=$2 port=$3 out tester database schedule start=$SECONDS result=0
    out=$cache/$label-$suite
    rm -rf "$out"
    mkdir -p "$out"
    own_by_postgres "$out"
    case $suite in
        regress) tester=pg_regress database=regression schedule=parallel_schedule ;;
        isolation) tester=pg_isolation_regress database=isolation_regression schedule=isolation_schedule ;;
    esac
    fresh_database "$database"
    say "$suite suite, $label"
    as_postgres env -C "$tree/src/test/$suite" PATH="$bindir:$PATH" "./$tester" \
        --inputdir=. --outputdir="$out" --bindir="$bindir" --dlpath="$tree/src/test/regress" \
        --host=127.0.0.1 --port="$port" --user=postgres --use-existing --dbname="$database" \
        --max-concurrent-tests=20 --schedule="./$schedule" >"$out/summary" 2>&1 || result=$?
    sed -n '/^ \(All\|[0-9]* of\) /p' "$out/summary"
    say "$suite suite, $label: $((SECONDS - start)) s, exit $result"
    # The pools keep connections to it.
    server_sql -d postgres -c "DROP DATABASE $database WITH (FORCE)"
    drop_leftovers
    return "$result"
}

# The statements of all tests in the sources.
judge_statements() {
    have_libclang || apt_install libclang1
    have_libclang || die "there is no libclang (or set LIBCLANG_PATH)"
    say "building the judge with PostgreSQL's grammar"
    cargo build --locked --quiet --manifest-path "$here/fuzz/Cargo.toml" --features oracle --bin judge_files
    find "$tree/src/test" "$tree/src/pl" "$tree/contrib" -path '*/sql/*.sql' -print0 | sort -z |
        xargs -0 "${CARGO_TARGET_DIR:-$here/fuzz/target}/debug/judge_files" --mix 1000000
}

fetch_sources
if [ $judge = yes ]; then
    need_rust
    judge_statements
    exit
fi
build_tools
chmod -R a+rX "$tree"
server_port=$(free_port)
init_server "max_connections = 100" "max_prepared_transactions = 10"
if [ $split = auto ]; then
    # Commits wait for replay, and that for transactions on a standby that are in its way: not for long.
    add_standby "max_standby_streaming_delay = 2s"
    add_standby "max_standby_streaming_delay = 2s"
    server_sql -d postgres -c "ALTER SYSTEM SET synchronous_standby_names = 'ANY 2 (*)'" \
        -c "ALTER SYSTEM SET synchronous_commit = remote_apply" -c "SELECT pg_reload_conf()" >/dev/null
fi
if [ $direct_only = no ]; then
    need_pgsteer "$here"
    start_pgsteer
fi

failed=0
for suite in "${suites[@]}"; do
    if [ $again = no ] || [ ! -f "$cache/direct-$suite/summary" ]; then
        run_suite "$suite" direct "$server_port" || say "note: the direct run has differences of its own"
    fi
    [ $direct_only = yes ] && continue
    run_suite "$suite" proxied "$proxy_port" || true
    if diff -r "$cache/direct-$suite/results" "$cache/proxied-$suite/results" >"$cache/$suite.diff"; then
        say "$suite suite: the proxied run differs in nothing from the direct one"
    else
        say "$suite suite: DIFFERENCES, see $cache/$suite.diff"
        head -n 60 "$cache/$suite.diff"
        failed=1
    fi
done
proxy_lives
[ $split = declared ] || [ $direct_only = yes ] ||
    say "batches for standbys: $(metric pgsteer_routed_total 'route="standby"'), refused there: $(metric pgsteer_rerouted_total)"
exit $failed
