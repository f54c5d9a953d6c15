#!/usr/bin/env bash
# What unequal devices make of one training step together, beside each by itself: tokens per second, and their share of
# the sum.
#
#   tools/two_devices.sh BUILD_FOLDER OUTPUT_FOLDER [FIRST] [SECOND]     vulkan:0 and cpu by default; the faster one first
#
# BUILD_FOLDER has the program sporkle (and the libraries it needs in lib/, if there is such a folder). Trains a
# byte-level GPT in strict f32 on FIRST, on SECOND and on both, and writes OUTPUT_FOLDER/{first,second,both}.jsonl and
# summary.json. STEPS, LAYERS, WIDTH, HEADS, CONTEXT, BATCH, PARTS: 20, 6, 384, 6, 256, 8, 16 by default. Exit status 1
# unless all three end with the same parameters.
set -euo pipefail
build=$(realpath "${1:?BUILD_FOLDER}") output=$(mkdir -p "${2:?OUTPUT_FOLDER}" && realpath "$2")
first=${3:-vulkan:0} second=${4:-cpu}
[ -d "$build/lib" ] && export LD_LIBRARY_PATH="$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export LC_ALL=C.UTF-8
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SPORKLE_CACHE="$work/cache" SPORKLE_HOME="$work/home"
for i in $(seq 20000); do echo "Line $i: the quick brown fox jumps over the lazy dog $((i * i)) times."; done >"$work/text.txt"

train() {  # NAME DEVICES: prints the median of the later steps' tokens per second
  cat >"$work/$1.toml" <<EOF
[data]
path = "$work/text.txt"
tokenizer = "bytes"
[model]
layers = ${LAYERS:-6}
heads = ${HEADS:-6}
width = ${WIDTH:-384}
context = ${CONTEXT:-256}
[train]
steps = ${STEPS:-20}
batch_size = ${BATCH:-8}
gradient_accumulation = ${PARTS:-16}
eval_batches = 1
eval_every = 100000
checkpoint_every = 100000
[output]
directory = "$work/$1"
EOF
  "$build/sporkle" train "$work/$1.toml" --device "$2" --json >"$output/$1.jsonl"
  grep '"event":"step"' "$output/$1.jsonl" | sed 's/.*"tokens":\([0-9]*\).*"seconds":\([0-9.]*\)}.*/\1 \2/' |
    awk 'NR > 6 { print ($1 - tokens) / ($2 - seconds) } { tokens = $1; seconds = $2 }' | sort -n |
    awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'
}
hash_of() { grep -o '"parameters_sha256":"[0-9a-f]*"' "$output/$1.jsonl" | cut -d'"' -f4; }

of_first=$(train first "$first") of_second=$(train second "$second") of_both=$(train both "$first,$second")
awk -v a="$of_first" -v b="$of_second" -v both="$of_both" -v first="$first" -v second="$second" 'BEGIN {
  printf "{\"first\":\"%s\",\"second\":\"%s\",\"first_tokens_per_second\":%.0f,\"second_tokens_per_second\":%.0f,", first, second, a, b
  printf "\"both_tokens_per_second\":%.0f,\"share_of_sum\":%.3f}\n", both, both / (a + b) }' | tee "$output/summary.json"
[ "$(hash_of first)" = "$(hash_of second)" ] && [ "$(hash_of first)" = "$(hash_of both)" ] && echo "the same parameters"
