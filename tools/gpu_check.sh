#!/usr/bin/env bash
# Everything to know about a GPU, in one run: what the device list and the strict probe say, the conformance suite,
# every operation, one strict training run whose parameters' hash must equal the processor's, and the matrix product.
#
#   tools/gpu_check.sh BUILD_FOLDER OUTPUT_FOLDER [DEVICE]        DEVICE: vulkan:0 by default
#
# BUILD_FOLDER has the programs sporkle and hal_test (and the libraries they need in lib/, if there is such a folder).
# Each step writes OUTPUT_FOLDER/STEP.log and a line of summary.jsonl; a failing step does not stop the next. Exit
# status 1 if one failed. TRAIN_HASH: the expected SHA-256, where the processor's cannot be computed here. GEMM_SHAPES: those of the
# matrix products, 1024 and 4096 cubed by default.
set -uo pipefail
build=$(realpath "${1:?BUILD_FOLDER}") output=$(mkdir -p "${2:?OUTPUT_FOLDER}" && realpath "$2") device=${3:-vulkan:0}
[ -d "$build/lib" ] && export LD_LIBRARY_PATH="$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SPORKLE_CACHE="$work/cache" SPORKLE_HOME="$work/home" LC_ALL=C.UTF-8
failed=0

step() {  # NAME SECONDS COMMAND...
  local name=$1 limit=$2 start=$EPOCHREALTIME status
  shift 2
  local run=(timeout "$limit" "$@")
  declare -F "$1" >/dev/null && run=("$@")  # a function of this script
  "${run[@]}" >"$output/$name.log" 2>&1
  status=$?
  [ $status -eq 0 ] || failed=1
  printf '{"step":"%s","status":%d,"seconds":%.1f}\n' "$name" "$status" "$(awk "BEGIN { print $EPOCHREALTIME - $start }")" |
    tee -a "$output/summary.jsonl"
}

train() {  # DEVICE FOLDER: a hundred strict steps of a small GPT; prints the parameters' SHA-256
  for i in $(seq 4000); do echo "Line $i: the quick brown fox jumps over the lazy dog $((i * i)) times."; done >"$work/text.txt"
  cat >"$work/$2.toml" <<EOF
[data]
path = "$work/text.txt"
tokenizer = "bytes"
[model]
layers = 2
heads = 2
width = 64
context = 64
[train]
steps = 100
batch_size = 4
eval_every = 100
checkpoint_every = 100
[output]
directory = "$work/$2"
EOF
  SPORKLE_DEVICE=$1 "$build/sporkle" train "$work/$2.toml" --json >"$output/train-$2.jsonl" || return 1
  grep -o '"parameters_sha256":"[0-9a-f]*"' "$output/train-$2.jsonl" | cut -d'"' -f4
}

same_hash() {
  local gpu cpu
  gpu=$(train "$device" gpu) || { echo "training on $device failed"; tail -3 "$output/train-gpu.jsonl"; return 1; }
  if cpu=$(train cpu cpu); then echo "cpu      $cpu"; else cpu=${TRAIN_HASH:-unknown}; echo "expected $cpu"; fi
  echo "$device $gpu"
  [ "$gpu" = "$cpu" ]
}

nvidia-smi >"$output/nvidia-smi.log" 2>&1 || true
step devices 120 "$build/sporkle" devices --json
cat "$output/devices.log"
step conformance 300 "$build/hal_test" "--gtest_filter=*ulkan*"
tail -3 "$output/conformance.log"
step same_hash 300 same_hash
cat "$output/same_hash.log"
step validate 240 "$build/sporkle" validate --device "$device" --rounds 4 --json
shapes=()
for shape in ${GEMM_SHAPES:-1024x1024x1024 4096x4096x4096}; do shapes+=(--shape "$shape"); done
step gemm 200 "$build/sporkle" bench gemm --device "$device" --against none "${shapes[@]}" --rounds 7 --json
cat "$output/gemm.log"
exit $failed
