// The scalar arguments of a launch, and which of them are numbers of the graph that a plan takes anew at every run.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "tensor/plan.h"

namespace sporkle::tensor {

struct Scalars {
  struct RunTime {
    size_t position;
    int number;  // Node::run_time
    NumberPart part;
  };
  std::vector<uint64_t> bits;
  std::vector<RunTime> run_time;

  void push_back(uint64_t value) { bits.push_back(value); }
  void push_back(uint64_t value, int number, NumberPart part) {
    if (number >= 0) run_time.push_back({bits.size(), number, part});
    bits.push_back(value);
  }
};

}  // namespace sporkle::tensor
