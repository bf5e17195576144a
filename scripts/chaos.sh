#!/usr/bin/env bash
# Clusters and proxies under a mixed load, with everything happening to them that may happen: kills, freezes, cut links,
# promotions, switchovers, restarts; judged by what pgsteer promises (docs/failover.md).
#
#   scripts/chaos.sh [--minutes N] [--seed S] [--steps K] [--json]
#
# Episodes of K steps (default 14) with the seeds S (default random), S + 1, ... until N minutes are over; without --minutes
# one. The seed says everything that is done, so the line printed by a failure does it again. Figures are printed at the end, with --json
# as JSON on standard output (all else goes to standard error). Histories and logs of a failure are kept in target/tmp.
# PGSTEER_PROGRAM=path tries that program instead of a fresh release build.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$here/scripts/lib.sh"

minutes=0
seed=$((RANDOM * 32768 + RANDOM + 1))
steps=
json=
while [ $# -gt 0 ]; do
    case $1 in
        --minutes) minutes=${2:?how many}; shift ;;
        --seed) seed=${2:?which}; shift ;;
        --steps) steps=${2:?how many}; shift ;;
        --json) json=yes ;;
        *) die "usage: scripts/chaos.sh [--minutes N] [--seed S] [--steps K] [--json]" ;;
    esac
    shift
done

need_rust
need_postgres
cd "$here"
PGSTEER_PROGRAM=${PGSTEER_PROGRAM:-$(release_build "$here")}
PGSTEER_SEED=$seed
PGSTEER_MINUTES=$minutes
export PGSTEER_PROGRAM PGSTEER_SEED PGSTEER_MINUTES
[ -z "$steps" ] || export PGSTEER_STEPS=$steps
say "seed $seed, load of the machine: $(cut -d ' ' -f 1-3 /proc/loadavg)"
run() { cargo test --locked --quiet --test chaos -- --nocapture from_a_seed; }
if [ -n "$json" ]; then
    PGSTEER_JSON=$(mktemp)
    export PGSTEER_JSON
    trap 'rm -f "$PGSTEER_JSON"' EXIT
    run >&2
    cat "$PGSTEER_JSON"
else
    run
fi
