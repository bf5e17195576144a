#!/usr/bin/env bash
# Makes src/sql/builtins/table.rs anew: what each built-in function means to a read on a standby.
#
#   scripts/builtins.sh FOLDER ...     each with a server's programs (initdb, pg_ctl); one for every major version
#
# Run it when a new major version is out, look at the difference, and move names between the lists below where a new
# function is no plain read though its volatility says so. scripts/matrix.sh keeps servers of several versions.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$here/scripts/lib.sh"

[ $# -gt 0 ] || die "usage: scripts/builtins.sh FOLDER ..."

# Volatile, but any node may answer: nothing is changed, and no two calls are promised to agree anyway. Also what the
# grammar writes like a call without there being a function of that name.
harmless='^(array_sample|array_shuffle|bernoulli|clock_timestamp|current_date|current_query|current_time|current_timestamp|gen_random_uuid|localtime|localtimestamp|pg_is_in_recovery|pg_partition_ancestors|pg_partition_tree|pg_sleep|pg_sleep_for|pg_sleep_until|random|random_normal|system|timeofday|timezone|uuidv4|uuidv7)$'

# Not volatile, but no plain reads: they assign a transaction number, or run what their argument names.
acting='^(pg_current_xact_id|txid_current|(table|schema|database|cursor|query)_to_xml.*|pg_input_.*)$'

# About one node: its files, processes, positions and statistics, or about which node it is.
local='^(inet_(client|server)_.*|pg_(stat|ls|control|last|current_wal|walfile|replication|show|hba|ident|get_(aios|backend|loaded|replication_slots|shmem|wait|wal))_.*|pg_(is|get)_wal_replay_.*|pg_get_(aios|replication_slots|backend_memory_contexts|shmem_allocations|loaded_modules)|pg_walfile_name|pg_split_walfile_name|pg_is_in_backup|pg_backup_start_time|pg_(wal_replay|available)_.*|pg_(read|stat)_.*file.*|.*_actual_version|pg_(database|indexes|relation|table|tablespace|total_relation)_size|pg_tablespace_(databases|location)|pg_(backend_pid|blocking_pids|conf_load_time|config|current_logfile|current_snapshot|cursor|extension_update_paths|jit_available|listening_channels|lock_status|notification_queue_usage|numa_available|postmaster_start_time|prepared_statement|prepared_xact|safe_snapshot_blocking_pids|xact_status|xact_commit_timestamp.*)|txid_(current_snapshot|status))$'

run=$(mktemp -d "${TMPDIR:-/tmp}/pgsteer-builtins.XXXXXX")
chmod 755 "$run"
base=$run
trap 'stop_server_and_proxy; rm -rf "$base"' EXIT
trap 'exit 130' INT TERM

# Functions that a statement can call, but not those that only implement an operator.
cat >"$base/functions.sql" <<'SQL'
SELECT proname, bool_or(provolatile = 'v') FROM pg_proc p
WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind <> 'p' AND proname !~ '^(binary_upgrade_|fmgr_|pg_event_trigger_)'
  AND NOT EXISTS (SELECT FROM unnest(proargtypes::oid[] || prorettype) of (type)
      WHERE type::regtype::text ~ '^(internal|cstring|trigger|event_trigger|.*_handler)$')
  AND coalesce(obj_description(p.oid, 'pg_proc'), '') NOT LIKE 'implementation of %'
GROUP BY 1
SQL
cat >"$base/operators.sql" <<'SQL'
SELECT DISTINCT oprname FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace
SQL
cat >"$base/types.sql" <<'SQL'
SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm')
  AND typcategory <> 'A' AND typcategory <> 'Z' OR oid IN ('int2vector'::regtype, 'oidvector'::regtype)
SQL
chmod a+r "$base"/*.sql

versions=()
for bindir in "$@"; do
    versions+=("$("$bindir/postgres" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')")
    say "asking $("$bindir/postgres" --version)"
    run=$base/server
    mkdir "$run"
    chmod 755 "$run"
    server_port=$(free_port)
    init_server "max_connections = 10"
    for what in functions operators types; do
        psql -XAtq -F ' ' -h "$run/socket" -p "$server_port" -U postgres -f "$base/$what.sql" >>"$base/$what"
    done
    stop_server_and_proxy
done
listed=$(printf '%s\n' "${versions[@]}" | sort -n | paste -sd ' ')

# classes: each name once, as "class length name"; volatile in one version is volatile.
awk -v harmless="$harmless" -v acting="$acting" -v local="$local" '
    { seen[$1] = 1; if ($2 == "t") volatile[$1] = 1 }
    END {
        split("current_date current_time current_timestamp localtime localtimestamp bernoulli system", syntax, " ")
        for (i in syntax) seen[syntax[i]] = 1
        for (name in seen) {
            class = "READ"
            if (name ~ acting) class = "ACTS"
            else if (name ~ local) class = "LOCAL"
            else if (name in volatile && name !~ harmless) class = "ACTS"
            print class, length(name), name
        }
    }' "$base/functions" | LC_ALL=C sort -k1,1 -k2,2n -k3,3 >"$base/classes"

# words NAME DOC: lines of a table, sorted by length and then by bytes.
words() {
    printf '\n/// %s\npub(super) const %s: &str = "\\\n' "$2" "$1"
    fold -s -w 112 | sed 's/ *$/ \\/; s/^/    /'
    printf '\n    ";\n'
}
by_class() { awk -v class="$1" '$1 == class { printf "%s ", $3 }' "$base/classes"; }
by_length() { LC_ALL=C sort -u "$base/$1" | awk '{ print length($1), $1 }' | LC_ALL=C sort -k1,1n -k2,2 | awk '{ printf "%s ", $2 }'; }

to=$here/src/sql/builtins/table.rs
{
    printf '//! What PostgreSQL %s bring along. Made by scripts/builtins.sh; do not edit.\n//!\n' "$listed"
    printf '//! In: nothing. Out: names, shorter ones first. Must not know what is done with them.\n'
    by_class ACTS | words ACTS "Functions that change something, or run what their argument names."
    by_class LOCAL | words LOCAL "Functions about one node."
    by_class READ | words READ "Functions whose answer any node may give."
    by_length operators | words OPERATORS "Operators; none of them is over a volatile function."
    by_length types | words TYPES "Types, by the names that the catalogue has for them."
} >"$to"
rustfmt --edition 2024 --check "$to" >/dev/null 2>&1 || say "note: rustfmt would write $to in another way"
say "wrote $to: $(wc -l <"$base/classes") functions"
