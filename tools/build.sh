#!/usr/bin/env bash
# tools/build.sh PRESET JOBS [TARGET...]: configures build/PRESET when needed and builds the targets (default: all).
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1 jobs=$2
shift 2

if [ ! -e "build/$preset/build.ninja" ]; then
  options=()
  command -v ccache >/dev/null && options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  mkdir -p "build/$preset"
  cmake --preset "$preset" "${options[@]}" >"build/$preset/configure.log" || { cat "build/$preset/configure.log"; exit 1; }
fi
cmake --build "build/$preset" -j "$jobs" ${1:+--target "$@"}
