#!/usr/bin/env bash
# tools/test.sh PRESET JOBS: builds everything in build/PRESET, runs every test, and prints how long both took.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1 jobs=$2

export UBSAN_OPTIONS="print_stacktrace=1:${UBSAN_OPTIONS:-}"
export TSAN_OPTIONS="second_deadlock_stack=1:${TSAN_OPTIONS:-}"

started=$SECONDS
tools/build.sh "$preset" "$jobs"
built=$SECONDS
status=0
ctest --test-dir "build/$preset" -j2 --output-on-failure --no-tests=error || status=$?
printf '%s: build %d s, tests %d s, together %d s\n' "$preset" $((built - started)) $((SECONDS - built)) $((SECONDS - started))
exit "$status"
