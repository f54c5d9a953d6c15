// One of the processes of `sporkle bench allreduce`, which is told what to do line by line:
//
//   < ID PORT                     its node ID, and where it listens on 127.0.0.1
//   > join ID@PORT ID@PORT ...    all processes, in the order of their numbers
//   < ready
//   > check                       one all-reduce, every element of which is compared bit for bit
//   < ok
//   > run COUNT                   one all-reduce that makes all begin together, then COUNT that are timed
//   < SECONDS                     of one
//   > lose NUMBER                 one all-reduce in the middle of which that process kills itself
//   < SECONDS                     until the survivors have their sum, every element of which is then compared
//
// Any answer may be "error" and why instead.
#pragma once

#include <cstdint>
#include <iosfwd>

#include "base/status.h"

namespace sporkle::app {

// The command that serves: `sporkle bench allreduce-worker ELEMENTS`.
inline constexpr const char* kAllreduceWorker = "allreduce-worker";

// Element i of process `number`'s array, in [-0.5, 0.5): allreduce_rival.h makes the same ones.
inline float allreduce_element(uint32_t number, uint64_t i) {
  const auto bits = static_cast<uint32_t>(i * 2654435761u + number * 1013904223u);
  return static_cast<float>(bits >> 8) * 0x1p-24f - 0.5f;
}

// Serves until the input ends. `count` elements of f32.
Status serve_allreduce(int64_t count, std::istream& input, std::ostream& output);

}  // namespace sporkle::app
