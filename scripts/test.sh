#!/usr/bin/env bash
# All tests, from a clean machine on: unit, property, architecture and integration tests on real clusters.
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
say "testing"
cargo test --locked --no-fail-fast -- "$@"
