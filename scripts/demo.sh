#!/usr/bin/env bash
# Everything for the demonstration, from a clean machine on: installs PostgreSQL's server programs (Debian,
# Ubuntu), builds pgsteer, shows a failover.   Arguments go to `pgsteer demo`: see `scripts/demo.sh --help`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$here/scripts/lib.sh"

has_bindir=no
for arg in "$@"; do
    case $arg in --bindir | --bindir=*) has_bindir=yes ;; esac
done

need_rust
if [ $has_bindir = no ]; then
    need_postgres
fi
program=$(release_build "$here")
exec "$program" demo "$@"
