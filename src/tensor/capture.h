// A computation that runs again and again on other data, such as a training step: built, planned and recorded once.
//
// A replay takes data, allocates results, and submits; no graph is built and none is looked at. The bits are those of
// realize(). A Capture belongs to its Context's thread and must not outlive it.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "tensor/plan.h"
#include "tensor/tensor.h"

namespace sporkle::tensor {

class Capture {
 public:
  // What becomes of data that outputs are made from and that is not among the inputs.
  enum class Others {
    refuse,  // an error: a replay would go on with what is old
    keep,    // the capture holds on to it, and every replay reads it as it is then: weights, memory written in place
  };

  // Computes `outputs` as realize() does, and keeps how. Inputs are data: tensors that have values and are no views,
  // and all data that the outputs are made from is among them (but see Others), each once: equal constants that were
  // realised together share their memory, and are refused. What is to change from one replay to the next is an input;
  // constants, random keys and the scalars of kernel calls stay as they are. `outputs` are no views of data; after it
  // they have their values. invalid_argument says what is no such input or output.
  static Result<Capture> record(std::span<const Tensor> inputs, std::span<const Tensor> outputs,
                                Others others = Others::refuse);

  // The outputs made from other inputs of the same types and shapes, in the same order. They have their values and no
  // history. An input whose memory an update takes (KernelCall::takes) is an error afterwards.
  Result<std::vector<Tensor>> replay(std::span<const Tensor> inputs);

  // Of one replay, on the host, without the time in which the device computes; of all so far.
  double host_seconds() const { return host_seconds_; }

 private:
  Capture() = default;
  struct Spec {
    DType dtype;
    Shape shape;
  };
  Context* context_ = nullptr;
  std::shared_ptr<Plan> plan_;
  std::vector<Spec> inputs_, outputs_;
  std::vector<size_t> leaf_inputs_;  // for each leaf of the plan the input that it is; past those, what is kept
  std::vector<NodeRef> kept_;
  std::vector<uint64_t> numbers_;  // as PlanInputs has them
  std::vector<std::vector<uint64_t>> scalars_;
  double host_seconds_ = 0;
};

}  // namespace sporkle::tensor
