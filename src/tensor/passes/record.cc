// Records the launches of the steps, and then places what they write: results that a root wants in memory of their own,
// everything else by lifetime in one arena.
#include <unordered_map>

#include "tensor/context.h"
#include "tensor/kernel_call.h"
#include "tensor/launch.h"
#include "tensor/passes/memory_plan.h"
#include "tensor/passes/passes.h"

namespace sporkle::tensor {
namespace {

size_t size_bytes(const TensorSpec& spec) {
  return static_cast<size_t>(element_count(spec.shape)) * static_cast<size_t>(ir::dtype_size(spec.dtype));
}

Status launch(Launcher& launcher, const Step& step, std::span<const std::shared_ptr<Storage>> unwanted) {
  launcher.set_source(step.node->source);
  switch (step.kind) {
    case Step::Kind::pointwise:
      return launch_pointwise(launcher, step);
    case Step::Kind::reduce:
      return launch_reduce(launcher, step);
    case Step::Kind::matmul:
      return launch_matmul(launcher, step);
    case Step::Kind::call:
      return launch_call(launcher, step, unwanted);
  }
  return {};
}

// Calls `visit` with the number of each binding of a command.
template <typename Visit>
void for_each_binding(hal::CommandBuffer::Command& command, const Visit& visit) {
  size_t count = 1;
  if (const auto* dispatch = std::get_if<hal::DispatchCommand>(&command)) count = dispatch->bindings.size();
  if (std::holds_alternative<hal::CopyCommand>(command)) count = 2;
  for (size_t i = 0; i < count; ++i) visit(i, binding_of(command, i));
}

// Launches with stand-ins for all memory but the leaves'. Takes the stand-ins away from the nodes in the end.
class Recorder {
 public:
  explicit Recorder(Planning& planning) : planning_(planning), launcher_(planning.graph.context()) {}

  Status run() {
    Status status;
    for (const Step& step : planning_.steps) {
      status = record(step);
      if (!status.ok()) break;
    }
    if (status.ok()) finish();
    for (const Step& step : planning_.steps)
      for (Node* result : step.results)
        if (result) result->storage.reset();
    return status;
  }

 private:
  Status record(const Step& step) {
    std::vector<std::shared_ptr<Storage>> unwanted;
    for (size_t i = 0; i < step.results.size(); ++i) {
      Node* result = step.results[i];
      const TensorSpec spec = result ? TensorSpec{result->dtype, result->shape} : step.node->call->results[i];
      std::shared_ptr<Storage> storage = launcher_.allocate(size_bytes(spec));
      if (result)
        result->storage = std::move(storage);
      else
        unwanted.push_back(std::move(storage));
    }
    return launch(launcher_, step, unwanted);
  }

  void finish() {
    Plan& plan = *planning_.plan;
    // By buffer: leaves, and the results of roots.
    std::unordered_map<const hal::Buffer*, int32_t> leaves;
    for (size_t i = 0; i < planning_.inputs->leaves.size(); ++i)
      leaves.emplace(planning_.inputs->leaves[i]->storage->buffer().get(), static_cast<int32_t>(i));
    const auto& buffers = launcher_.buffers();
    std::vector<int32_t> results(buffers.size(), -1);  // the place among the plan's results
    for (const NodeRef& root : planning_.graph.roots()) {
      const hal::Buffer* buffer = root->storage->buffer().get();
      if (const auto leaf = leaves.find(buffer); leaf != leaves.end()) {
        plan.roots.push_back({.leaf = leaf->second});
        continue;
      }
      const auto& planned = static_cast<const PlannedBuffer&>(*buffer);
      int32_t& place = results[static_cast<size_t>(planned.number())];
      if (place < 0) {
        place = static_cast<int32_t>(plan.results.size());
        plan.results.push_back({planned.size_bytes()});
        plan.memory.result_bytes += planned.size_bytes();
      }
      plan.roots.push_back({.result = place});
    }

    plan.commands = std::move(launcher_.commands());
    plan.number_uses = std::move(launcher_.number_uses());
    plan.call_uses = std::move(launcher_.call_uses());
    const std::span<hal::CommandBuffer::Command> commands = plan.commands.mutable_commands();
    std::vector<Lifetime> lives(buffers.size(), {0, -1, -1});
    for (size_t i = 0; i < commands.size(); ++i) {
      plan.launches += std::holds_alternative<hal::DispatchCommand>(commands[i]);
      for_each_binding(commands[i], [&](size_t number, hal::Binding& binding) {
        const Plan::BufferUse use{static_cast<uint32_t>(i), static_cast<uint32_t>(number), -1};
        if (const auto leaf = leaves.find(binding.buffer.get()); leaf != leaves.end()) {
          plan.leaf_uses.push_back({use.command, use.binding, leaf->second});
          return;
        }
        const auto& planned = static_cast<const PlannedBuffer&>(*binding.buffer);
        const auto index = static_cast<size_t>(planned.number());
        if (results[index] >= 0) {
          plan.result_uses.push_back({use.command, use.binding, results[index]});
          return;
        }
        // What lies behind it in the arena is not the kernel's.
        binding.size_bytes = planned.size_bytes() - binding.offset_bytes;
        plan.arena_uses.push_back({use.command, use.binding, planned.number()});
        lives[index].size_bytes = planned.size_bytes();
        if (lives[index].first < 0) lives[index].first = static_cast<int>(i);
        lives[index].last = static_cast<int>(i);
      });
    }

    // Numbers of stand-ins that live in the arena.
    std::vector<Lifetime> placed;
    std::vector<size_t> places(buffers.size());
    for (size_t i = 0; i < lives.size(); ++i) {
      if (lives[i].first < 0) continue;
      places[i] = placed.size();
      placed.push_back(lives[i]);
      plan.memory.unplanned_bytes += lives[i].size_bytes;
    }
    const Placement placement = place(placed);
    plan.memory.arena_bytes = placement.size_bytes;
    for (const Plan::BufferUse& use : plan.arena_uses)
      binding_of(commands[use.command], use.binding).offset_bytes +=
          placement.offsets[places[static_cast<size_t>(use.index)]];
    plan.forget_buffers();
  }

  Planning& planning_;
  Launcher launcher_;
};

}  // namespace

Status record_launches(Planning& planning) {
  planning.plan = std::make_unique<Plan>();
  return Recorder(planning).run();
}

}  // namespace sporkle::tensor
