#!/usr/bin/env bash
# tools/test.sh PRESET JOBS: builds everything in build/PRESET, runs every test, and prints how long both took.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1 jobs=$2

# Address sanitizer of GCC 12 takes what glibc keeps in front of a library's thread-local memory for a size: with that, its
# search for leaks reads where nothing is.
export ASAN_OPTIONS="intercept_tls_get_addr=0:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:${UBSAN_OPTIONS:-}"
export TSAN_OPTIONS="second_deadlock_stack=1:suppressions=$PWD/tools/tsan_suppressions.txt:${TSAN_OPTIONS:-}"

started=$SECONDS
tools/build.sh "$preset" "$jobs"
built=$SECONDS
status=0
ctest --test-dir "build/$preset" -j2 --output-on-failure --no-tests=error || status=$?
printf '%s: build %d s, tests %d s, together %d s\n' "$preset" $((built - started)) $((SECONDS - built)) $((SECONDS - started))
exit "$status"
