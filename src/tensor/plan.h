// What realize() runs: recorded launches with a place for every buffer and number that differs from one run to the
// next.
//
// A plan is made once for each structure of graph (plan_cache.h) and run as often as such a graph comes again, with
// other data, other constants, other random keys: a run takes new buffers and numbers and submits. Internal; belongs to
// its Context's thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hal/device.h"
#include "tensor/node.h"

namespace sporkle::tensor {

// What a graph brings to a run, in the order in which its signature numbers them.
struct PlanInputs {
  std::vector<Node*> leaves;                          // with storage; one for each storage
  std::vector<uint64_t> numbers;                      // bits of constants; random keys
  std::vector<const std::vector<uint64_t>*> scalars;  // of kernel calls

  void clear() {
    leaves.clear();
    numbers.clear();
    scalars.clear();
  }
};

// Which part of a 64-bit number a scalar argument holds.
enum class NumberPart : uint8_t { whole, high, low };

// Where the memory goes in a run, in bytes.
struct PlanMemory {
  size_t arena_bytes = 0;      // intermediate values, which share memory by lifetime
  size_t result_bytes = 0;     // of roots that get memory of their own
  size_t unplanned_bytes = 0;  // what intermediate values would take if none shared
  size_t leaf_bytes = 0;       // of data that it reads
  int keep_every = 0;          // how activations are computed again (passes/passes.h); 0: none are
  // Of intermediate values, while each root is computed, in the order of the roots: at a loss, what the way back needs
  // of the way forward.
  std::vector<size_t> live_bytes;
};

class Plan {
 public:
  struct BufferUse {
    uint32_t command, binding;
    int32_t index;  // of a leaf or a result
  };
  struct NumberUse {
    uint32_t command, scalar;
    int32_t number;
    NumberPart part;
  };
  struct CallUse {
    uint32_t command;
    int32_t call;
  };
  // Memory that a run gives to roots.
  struct PlannedResult {
    size_t size_bytes = 0;
    int32_t leaf = -1;  // >= 0: the memory of this leaf, which gives it up
  };
  // Where a root's value is found after a run.
  struct Root {
    int32_t result = -1, leaf = -1;
  };

  // Gives each root's storage, in order. Waits for what was submitted before, as the device may still read the
  // commands. `start`: from when on the host's time counts as spent on planning (ContextCounters::host_seconds).
  Result<std::vector<std::shared_ptr<Storage>>> run(Context& context, const PlanInputs& inputs,
                                                    std::chrono::steady_clock::time_point start);

  // Forgets the buffers of the last run, so that nothing here keeps them alive.
  void forget_buffers();

  hal::CommandBuffer commands;
  std::vector<BufferUse> leaf_uses, result_uses, arena_uses;  // index of an arena use: its segment
  std::vector<NumberUse> number_uses;
  std::vector<CallUse> call_uses;
  std::vector<PlannedResult> results;
  std::vector<Root> roots;
  PlanMemory memory;
  uint64_t launches = 0;
};

// Binding number `binding` of a command: of a dispatch in order, of a copy source and destination, of a fill the one.
hal::Binding& binding_of(hal::CommandBuffer::Command& command, size_t binding);

}  // namespace sporkle::tensor
