// Records the launches of the steps, and then places what they write: results that a root wants in memory of their own,
// everything else by lifetime in one arena.
#include <algorithm>
#include <unordered_map>

#include "tensor/context.h"
#include "tensor/kernel_call.h"
#include "tensor/launch.h"
#include "tensor/passes/memory_plan.h"
#include "tensor/passes/passes.h"
#include "tensor/tensor.h"

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
    case Step::Kind::pack:
      return {};
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
    number_leaves();
    place_parts();
    Status status;
    for (size_t i = 0; i < planning_.steps.size() && status.ok(); ++i) status = record(i);
    if (status.ok()) status = finish();
    for (const Step& step : planning_.steps)
      for (Node* result : step.results)
        if (result) result->storage.reset();
    return status;
  }

 private:
  // Leaves by their memory, and the last step that reads each.
  void number_leaves() {
    const std::vector<Node*>& leaves = planning_.inputs->leaves;
    last_reader_.resize(leaves.size(), -1);
    taken_.resize(leaves.size());
    for (size_t i = 0; i < leaves.size(); ++i)
      leaves_.emplace(leaves[i]->storage->buffer().get(), static_cast<int32_t>(i));
    for (size_t i = 0; i < planning_.steps.size(); ++i)
      for (const Node* read : planning_.steps[i].reads)
        if (const int32_t leaf = leaf_of(read); leaf >= 0)
          last_reader_[static_cast<size_t>(leaf)] = static_cast<int>(i);
    for (const NodeRef& root : planning_.graph.roots())
      if (const int32_t leaf = leaf_of(root.get()); leaf >= 0)
        last_reader_[static_cast<size_t>(leaf)] = static_cast<int>(planning_.steps.size());
  }

  int32_t leaf_of(const Node* node) const {
    if (!node->storage) return -1;
    const auto found = leaves_.find(node->storage->buffer().get());
    return found == leaves_.end() ? -1 : found->second;
  }

  // Where what a pack is made of can be computed in its place: what a step makes, no root needs for itself, and no
  // other pack has.
  void place_parts() {
    std::unordered_map<const Node*, bool> free;
    for (const Step& step : planning_.steps)
      for (const Node* result : step.results)
        if (result) free.emplace(result, true);
    for (const NodeRef& root : planning_.graph.roots()) free[root.get()] = false;
    for (const Step& step : planning_.steps) {
      if (step.kind != Step::Kind::pack) continue;
      free[step.node] = false;
      std::shared_ptr<Storage> whole = launcher_.allocate(size_bytes({step.node->dtype, step.node->shape}));
      for_each_part(step, [&](Node* base, const Node& part, size_t from, size_t to, size_t bytes) {
        const auto found = free.find(base);
        if (found == free.end() || !found->second || from != 0 || base->count() != part.count()) return;
        found->second = false;
        placed_.emplace(base, launcher_.part_of(*whole, to, bytes));
      });
      placed_.emplace(step.node, std::move(whole));
    }
  }

  // Calls `visit` with the stored node behind each part, the part, and where its bytes are in that and in the pack.
  template <typename Visit>
  static void for_each_part(const Step& step, const Visit& visit) {
    std::vector<Shape> shapes;
    for (const NodeRef& part : step.node->inputs) shapes.push_back(part->shape);
    const std::vector<int64_t> offsets = pack_offsets(shapes);
    const auto element = static_cast<size_t>(ir::dtype_size(step.node->dtype));
    for (size_t i = 0; i < shapes.size(); ++i) {
      View view;
      Node* base = resolve(step.node->inputs[i].get(), &view);
      visit(base, *step.node->inputs[i], static_cast<size_t>(view.offset) * element,
            static_cast<size_t>(offsets[i]) * element, static_cast<size_t>(element_count(shapes[i])) * element);
    }
  }

  Status record(size_t index) {
    const Step& step = planning_.steps[index];
    std::vector<std::shared_ptr<Storage>> unwanted;
    for (size_t i = 0; i < step.results.size(); ++i) {
      Node* result = step.results[i];
      const TensorSpec spec = result ? TensorSpec{result->dtype, result->shape} : step.node->call->results[i];
      std::shared_ptr<Storage> storage = storage_for(step, i, index, size_bytes(spec));
      if (result)
        result->storage = std::move(storage);
      else
        unwanted.push_back(std::move(storage));
    }
    if (step.kind == Step::Kind::pack) return record_pack(step);
    return launch(launcher_, step, unwanted);
  }

  // The memory of a step's result.
  std::shared_ptr<Storage> storage_for(const Step& step, size_t result, size_t index, size_t bytes) {
    if (const auto placed = placed_.find(step.results[result]); placed != placed_.end()) return placed->second;
    const std::vector<int> none, &takes = step.kind == Step::Kind::call ? step.node->call->takes : none;
    if (result >= takes.size() || takes[result] < 0) return launcher_.allocate(bytes);
    View view;
    const Node* base = resolve(step.node->inputs[static_cast<size_t>(takes[result])].get(), &view);
    const int32_t leaf = leaf_of(base);
    if (leaf >= 0 && step.results[result] && base->storage.use_count() == 1 && view.offset == 0 &&
        base->count() * ir::dtype_size(base->dtype) == static_cast<int64_t>(bytes) &&
        last_reader_[static_cast<size_t>(leaf)] <= static_cast<int>(index) && !taken_[static_cast<size_t>(leaf)]) {
      taken_[static_cast<size_t>(leaf)] = step.results[result];
      // Not shared with the leaf's: whether that is its own is seen by its use count.
      return std::make_shared<Storage>(nullptr, base->storage->buffer());
    }
    std::shared_ptr<Storage> copy = launcher_.allocate(bytes);
    const auto offset = static_cast<uint64_t>(view.offset * ir::dtype_size(base->dtype));
    launcher_.commands().copy({base->storage->buffer(), offset}, {copy->buffer(), 0}, bytes);
    return copy;
  }

  // Copies what was not computed in its place, and fills the gaps.
  Status record_pack(const Step& step) {
    const hal::BufferRef& pack = step.node->storage->buffer();
    size_t end = 0;
    const auto fill_to = [&](size_t offset) {
      if (offset > end) launcher_.commands().fill({pack, end}, offset - end, 0);
    };
    for_each_part(step, [&](const Node* base, const Node&, size_t from, size_t to, size_t bytes) {
      fill_to(to);
      end = to + bytes;
      const auto placed = placed_.find(base);
      const auto* part =
          placed == placed_.end() ? nullptr : static_cast<const PlannedBuffer*>(placed->second->buffer().get());
      const auto& whole = static_cast<const PlannedBuffer&>(*pack);
      const bool in_place = part && part->number() == whole.number() && part->offset_bytes() == to;
      if (!in_place && bytes > 0) launcher_.commands().copy({base->storage->buffer(), from}, {pack, to}, bytes);
    });
    fill_to(static_cast<size_t>(step.node->count() * ir::dtype_size(step.node->dtype)));
    return {};
  }

  Status finish() {
    Plan& plan = *planning_.plan;
    const auto& buffers = launcher_.buffers();
    std::vector<int32_t> results(buffers.size(), -1);  // the place among the plan's results
    for (const NodeRef& root : planning_.graph.roots()) {
      const hal::Buffer* buffer = root->storage->buffer().get();
      if (const auto leaf = leaves_.find(buffer); leaf != leaves_.end()) {
        if (!taken_[static_cast<size_t>(leaf->second)]) {
          plan.roots.push_back({.leaf = leaf->second});
          continue;
        }
        plan.roots.push_back({.result = taken_result(leaf->second)});
        continue;
      }
      const auto& planned = static_cast<const PlannedBuffer&>(*buffer);
      int32_t& place = results[static_cast<size_t>(planned.number())];
      if (place < 0) {
        place = static_cast<int32_t>(plan.results.size());
        plan.results.push_back({buffers[static_cast<size_t>(planned.number())]->size_bytes()});
        plan.memory.result_bytes += plan.results.back().size_bytes;
      }
      plan.roots.push_back({.result = place});
    }

    for (size_t i = 0; i < taken_.size(); ++i)
      if (taken_[i]) (void)taken_result(static_cast<int32_t>(i));
    plan.commands = std::move(launcher_.commands());
    plan.number_uses = std::move(launcher_.number_uses());
    plan.call_uses = std::move(launcher_.call_uses());
    const std::span<hal::CommandBuffer::Command> commands = plan.commands.mutable_commands();
    std::vector<Lifetime> lives(buffers.size(), {0, -1, -1});
    for (size_t i = 0; i < commands.size(); ++i) {
      plan.launches += std::holds_alternative<hal::DispatchCommand>(commands[i]);
      for_each_binding(commands[i], [&](size_t number, hal::Binding& binding) {
        const Plan::BufferUse use{static_cast<uint32_t>(i), static_cast<uint32_t>(number), -1};
        if (const auto leaf = leaves_.find(binding.buffer.get()); leaf != leaves_.end()) {
          plan.leaf_uses.push_back({use.command, use.binding, leaf->second});
          return;
        }
        const auto& planned = static_cast<const PlannedBuffer&>(*binding.buffer);
        const auto index = static_cast<size_t>(planned.number());
        const uint64_t left = planned.size_bytes() - binding.offset_bytes;
        binding.offset_bytes += planned.offset_bytes();
        if (planned.offset_bytes() > 0) binding.size_bytes = left;
        if (results[index] >= 0) {
          plan.result_uses.push_back({use.command, use.binding, results[index]});
          return;
        }
        // What lies behind it in the arena is not the kernel's.
        binding.size_bytes = left;
        plan.arena_uses.push_back({use.command, use.binding, planned.number()});
        lives[index].size_bytes = buffers[index]->size_bytes();
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
    plan.memory.keep_every = planning_.keep_every;
    for (const Node* leaf : planning_.inputs->leaves) plan.memory.leaf_bytes += leaf->storage->buffer()->size_bytes();
    plan.memory.live_bytes.resize(plan.roots.size());
    for (size_t root = 0; root < plan.roots.size(); ++root) {
      const auto use = std::ranges::find(plan.result_uses, plan.roots[root].result, &Plan::BufferUse::index);
      if (use == plan.result_uses.end()) continue;
      const int at = static_cast<int>(use->command);
      for (const Lifetime& life : placed)
        if (life.first <= at && at <= life.last) plan.memory.live_bytes[root] += life.size_bytes;
    }
    const size_t segment = planning_.graph.context().segment_bytes();
    for (const Lifetime& life : placed) {
      if (life.size_bytes > segment)
        return Status(Code::out_of_memory, "an intermediate value takes " + std::to_string(life.size_bytes >> 20) +
                                               " MiB, and the device's driver allows no buffer above " +
                                               std::to_string(segment >> 20) + " MiB; smaller batches take less");
    }
    const Placement placement = place(placed, segment);
    plan.memory.arena_bytes = placement.size_bytes;
    for (Plan::BufferUse& use : plan.arena_uses) {
      const size_t offset = placement.offsets[places[static_cast<size_t>(use.index)]];
      binding_of(commands[use.command], use.binding).offset_bytes += offset % segment;
      use.index = static_cast<int32_t>(offset / segment);
    }
    plan.forget_buffers();
    return {};
  }

  // The plan's result that takes over a leaf's memory.
  int32_t taken_result(int32_t leaf) {
    std::vector<Plan::PlannedResult>& results = planning_.plan->results;
    for (size_t i = 0; i < results.size(); ++i)
      if (results[i].leaf == leaf) return static_cast<int32_t>(i);
    results.push_back({0, leaf});
    return static_cast<int32_t>(results.size() - 1);
  }

  Planning& planning_;
  Launcher launcher_;
  std::unordered_map<const hal::Buffer*, int32_t> leaves_;            // their places, by memory
  std::vector<int> last_reader_;                                      // of each leaf: a step; -1: none
  std::vector<const Node*> taken_;                                    // of each leaf: the result that takes its memory
  std::unordered_map<const Node*, std::shared_ptr<Storage>> placed_;  // packs, and what is computed inside them
};

}  // namespace

Status record_launches(Planning& planning) {
  planning.plan = std::make_unique<Plan>();
  return Recorder(planning).run();
}

}  // namespace sporkle::tensor
