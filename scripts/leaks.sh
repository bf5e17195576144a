#!/usr/bin/env bash
# Random sessions in transaction mode beside the same on connections of their own, for a long time.
#
#   scripts/leaks.sh [ROUNDS [STEPS]]     20 rounds of 3,000 steps by default; a failure prints the seed that repeats it
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$here"

rounds=${1:-20}
steps=${2:-3000}
for round in $(seq "$rounds"); do
    seed=$((RANDOM * 32768 + RANDOM + 1))
    echo "== round $round of $rounds, seed $seed"
    PGSTEER_SEED=$seed PGSTEER_STEPS=$steps cargo test --quiet --test it leaks:: -- --nocapture
done
