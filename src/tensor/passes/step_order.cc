#include <algorithm>
#include <limits>
#include <numeric>

#include "tensor/context.h"
#include "tensor/kernel_call.h"
#include "tensor/passes/passes.h"

namespace sporkle::tensor {
namespace {

constexpr int kForward = std::numeric_limits<int>::max();

// Gradients are listed parameter by parameter: by itself a graph would compute the whole way back to its first
// parameter before it turns to the other gradients, with everything that they need still in memory. So the way back
// goes through the way forward in reverse: a step comes the earlier, the later the earliest value that it or what it is
// made of reads was computed. What is computed a second time runs right before its first reader. What takes over the
// memory of a leaf (KernelCall::takes) comes after all that read it.
class StepOrder {
 public:
  explicit StepOrder(Planning& planning) : planning_(planning), steps_(planning.steps) {
    const uint64_t epoch = planning.graph.context().next_epoch();
    for (size_t i = 0; i < steps_.size(); ++i)
      for (Node* result : steps_[i].results)
        if (result) {
          result->epoch = epoch;
          result->plan_index = static_cast<int>(i);
        }
    leaders_.resize(steps_.size());
    for (size_t i = 0; i < steps_.size(); ++i)
      for (const Node* read : steps_[i].reads)
        if (read->epoch == epoch) leaders_[i].push_back(read->plan_index);
  }

  void run() {
    std::vector<int> keys(steps_.size(), kForward), positions(steps_.size(), -1);
    std::vector<bool> backward(steps_.size());
    for (size_t i = 0; i < steps_.size(); ++i) {
      const Node& node = *steps_[i].node;
      const auto leads = [&](int leader) { return static_cast<bool>(backward[static_cast<size_t>(leader)]); };
      backward[i] = !node.recomputed && (node.gradient || std::ranges::any_of(leaders_[i], leads));
      positions[i] = node.position;
      for (const int leader : leaders_[i]) {
        const auto from = static_cast<size_t>(leader);
        if (backward[i]) keys[i] = std::min(keys[i], backward[from] ? keys[from] : positions[from]);
        // A copy that fusion has put in stands where what it copies does.
        if (node.position < 0) positions[i] = std::max(positions[i], positions[from]);
      }
    }
    for (size_t i = 0; i < steps_.size(); ++i)
      if (steps_[i].kind == Step::Kind::call)
        for (const int taken : steps_[i].node->call->takes)
          if (taken >= 0) wait_for_readers(i, steps_[i].reads[static_cast<size_t>(taken)]);

    std::vector<size_t> order(steps_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(
        order, [&](size_t a, size_t b) { return backward[a] != backward[b] ? !backward[a] : keys[a] > keys[b]; });
    ordered_.reserve(steps_.size());
    done_.resize(steps_.size());
    for (const size_t i : order)
      if (!steps_[i].node->recomputed) require(i);
    for (const size_t i : order) require(i);
    planning_.steps = std::move(ordered_);
  }

 private:
  // But not after those that need what it makes.
  void wait_for_readers(size_t step, const Node* leaf) {
    if (!leaf->storage) return;
    std::vector<bool> later(steps_.size());
    later[step] = true;
    for (size_t i = 0; i < steps_.size(); ++i)
      for (const int leader : leaders_[i])
        if (later[static_cast<size_t>(leader)]) later[i] = true;
    for (size_t i = 0; i < steps_.size(); ++i)
      if (!later[i] && std::ranges::any_of(steps_[i].reads, [&](const Node* n) { return n->storage == leaf->storage; }))
        leaders_[step].push_back(static_cast<int>(i));
  }

  // Runs a step, after what has to come before it. Goes deep only where steps were taken out of their order.
  void require(size_t step) {
    if (done_[step]) return;
    done_[step] = true;
    for (const int leader : leaders_[step]) require(static_cast<size_t>(leader));
    ordered_.push_back(std::move(steps_[step]));
  }

  Planning& planning_;
  std::vector<Step>& steps_;
  std::vector<std::vector<int>> leaders_;  // steps that come before this one
  std::vector<bool> done_;
  std::vector<Step> ordered_;
};

}  // namespace

Status order_steps(Planning& planning) {
  StepOrder(planning).run();
  return {};
}

}  // namespace sporkle::tensor
