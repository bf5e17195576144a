#!/usr/bin/env bash
# How long writes stand still when the primary is killed, frozen or cut off: scripts/failover.sh [runs of each, default 5]
#
# Prints a table: milliseconds from the moment at which the promoted standby accepts writes to the first write acknowledged
# through pgsteer, and to the one with which the last of 8 writers is back. The promotion is asked for a second after the
# fault. A second table: how long a standby that has got too old (500 ms) or is on a dead branch is still read from.
# Clusters of three servers, proxy and clients share this machine: it should have nothing else to do.
# PGSTEER_PROGRAM=path measures that program instead of a fresh release build.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$here/scripts/lib.sh"

need_rust
need_postgres
cd "$here"
PGSTEER_PROGRAM=${PGSTEER_PROGRAM:-$(release_build "$here")}
PGSTEER_RUNS=${1:-5}
export PGSTEER_PROGRAM PGSTEER_RUNS
say "load of the machine: $(cut -d ' ' -f 1-3 /proc/loadavg)"
cargo test --locked --quiet --test it -- --nocapture gap::
