#!/usr/bin/env bash
# Runs every fuzz target for some seconds each: scripts/fuzz.sh [seconds, 20 by default] [target ...]
#
# Needs a nightly toolchain and a C++ compiler; without them it says so and succeeds, since the seeds are replayed by
# the ordinary tests in any case (tests/corpus.rs). The target judge_tree, which holds the judge of reads and writes
# against PostgreSQL's own grammar, runs when it is named: it also needs libclang (Debian: libclang1), and as long again
# to be built. A crash leaves its input in fuzz/artifacts/<target>/: once it is understood, it belongs into
# fuzz/corpus/<target>/ under a name that says what it is.
set -eu
cd "$(dirname "$0")/.."

seconds=${1:-20}
[ $# -gt 0 ] && shift
case $seconds in
'' | *[!0-9]*)
    echo "usage: scripts/fuzz.sh [seconds for each target] [target ...]" >&2
    exit 2
    ;;
esac

skip() {
    echo "fuzz: skipped: $1 (tests/corpus.rs has replayed the seeds)"
    exit 0
}

cargo +nightly --version >/dev/null 2>&1 || skip "there is no nightly toolchain"
command -v c++ >/dev/null 2>&1 || skip "there is no C++ compiler, which libFuzzer needs"
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz: installing cargo-fuzz"
    cargo install cargo-fuzz --locked --quiet || skip "cargo-fuzz cannot be installed"
fi

# No address sanitizer: it looks for what `forbid(unsafe_code)` rules out, and doubles the time of the build. That is long
# in any case, since everything is built anew with coverage; on a slow machine longer than it is worth.
limit=${FUZZ_BUILD_LIMIT:-900}
built=0
timeout "$limit" cargo +nightly fuzz build --sanitizer none --fuzz-dir fuzz || built=$?
case $built in
0) ;;
124) skip "the targets were not built within $limit s (FUZZ_BUILD_LIMIT)" ;;
*) exit "$built" ;;
esac

oracle=no
case " $* " in
*" judge_tree "*)
    # shellcheck source=scripts/lib.sh
    . scripts/lib.sh
    built=0
    if ! have_libclang; then
        echo "fuzz: judge_tree left out: there is no libclang (Debian: libclang1, or set LIBCLANG_PATH)"
    elif timeout "$limit" cargo +nightly fuzz build --sanitizer none --fuzz-dir fuzz --features oracle judge_tree; then
        oracle=yes
    else
        built=$?
        [ "$built" = 124 ] || exit "$built"
        echo "fuzz: judge_tree left out: it was not built within $limit s (FUZZ_BUILD_LIMIT)"
    fi
    ;;
esac

[ $# -gt 0 ] || set -- startup frames scram_server scram_client config sql_lexer judge
for target in "$@"; do
    features=
    seeds=$target
    if [ "$target" = judge_tree ]; then
        [ "$oracle" = yes ] || continue
        features="--features oracle"
        seeds=judge
    fi
    # New inputs go to a folder outside the repository's seeds.
    found=fuzz/target/corpus/$target
    mkdir -p "$found"
    echo "fuzz: $target for $seconds s"
    # shellcheck disable=SC2086
    cargo +nightly fuzz run --sanitizer none --fuzz-dir fuzz $features "$target" "$found" "fuzz/corpus/$seeds" -- \
        -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=2048 -print_final_stats=0 -verbosity=0
done
echo "fuzz: nothing found"
