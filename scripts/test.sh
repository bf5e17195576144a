#!/usr/bin/env bash
# All tests, from a clean machine on: unit, property, architecture and integration tests on real clusters, these in both
# modes of pooling.
# Arguments go to the test programs: scripts/test.sh failover
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$here/scripts/lib.sh"

need_rust
need_postgres
cd "$here"

# The integration tests are one program: it makes its template cluster once and holds the number of
# clusters that live at once down. A runner with a process per test would do neither, so it is not used.
say "building"
cargo test --locked --no-run
failed=
say "testing"
cargo test --locked --no-fail-fast -- "$@" || failed=yes
# What a client sees is the same when backends are shared, so nearly all of it must pass again; the rest chooses its mode
# of pooling itself, or has no client.
say "testing with pool.mode = \"transaction\""
PGSTEER_TEST_POOL_MODE=transaction cargo test --locked --test it -- \
    --skip check:: --skip demo:: --skip harness_self:: --skip leaks:: --skip pooled:: --skip sharing:: "$@" || failed=yes
[ -z "$failed" ] || die "some tests failed"
