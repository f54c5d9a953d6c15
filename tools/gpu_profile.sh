#!/usr/bin/env bash
# Where a GPU's training step goes: tokens per second of GPT-2's size in bf16, and then its kernels by time.
#
#   tools/gpu_profile.sh BUILD_FOLDER OUTPUT_FOLDER [DEVICE]        DEVICE: vulkan:0 by default
#
# BUILD_FOLDER has the program sporkle (and the libraries it needs in lib/, if there is such a folder). Writes
# OUTPUT_FOLDER/train.jsonl (the steps' measurements) and kernels.jsonl (a kernel a line). STEPS and PROFILE_STEPS: 40
# and 30 by default; LAYERS, WIDTH, HEADS, CONTEXT, BATCH, NUMERICS, PRECISION: GPT-2's 12, 768, 12, 1024, then 8, fast,
# bf16. VOCAB: a byte-pair vocabulary of so many tokens (GPT-2's: 50257) instead of bytes.
set -euo pipefail
build=$(realpath "${1:?BUILD_FOLDER}") output=$(mkdir -p "${2:?OUTPUT_FOLDER}" && realpath "$2")
[ -d "$build/lib" ] && export LD_LIBRARY_PATH="$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export SPORKLE_DEVICE=${3:-vulkan:0} LC_ALL=C.UTF-8
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SPORKLE_CACHE="$work/cache" SPORKLE_HOME="$work/home"
if [ -n "${VOCAB:-}" ]; then  # text in which there are so many parts to be learned
  head -c "${TEXT_BYTES:-6000000}" /dev/urandom | od -An -tx1 -w9 | tr -d ' ' >"$work/text.txt"
  tokenizer="tokenizer = \"bpe\"
vocab_size = $VOCAB"
else
  for i in $(seq 20000); do echo "Line $i: the quick brown fox jumps over the lazy dog $((i * i)) times."; done >"$work/text.txt"
  tokenizer='tokenizer = "bytes"'
fi
cat >"$work/run.toml" <<EOF
[data]
path = "$work/text.txt"
$tokenizer
[model]
layers = ${LAYERS:-12}
heads = ${HEADS:-12}
width = ${WIDTH:-768}
context = ${CONTEXT:-1024}
[train]
steps = ${STEPS:-40}
batch_size = ${BATCH:-8}
numerics = "${NUMERICS:-fast}"
precision = "${PRECISION:-bf16}"
eval_every = 100000
checkpoint_every = 100000
[output]
directory = "$work/run"
EOF
"$build/sporkle" train "$work/run.toml" --json >"$output/train.jsonl"
tail -2 "$output/train.jsonl"
rm -rf "$work/run"
sed -i "s/^steps = .*/steps = ${PROFILE_STEPS:-30}/" "$work/run.toml"
"$build/sporkle" profile --json --top 60 -- train "$work/run.toml" --json >"$output/kernels.jsonl" 2>"$output/profile.log"
