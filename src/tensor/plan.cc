#include "tensor/plan.h"

#include "tensor/context.h"

namespace sporkle::tensor {
namespace {

uint64_t part_of(uint64_t number, NumberPart part) {
  switch (part) {
    case NumberPart::high:
      return number >> 32;
    case NumberPart::low:
      return number & 0xFFFFFFFF;
    default:
      return number;
  }
}

}  // namespace

hal::Binding& binding_of(hal::CommandBuffer::Command& command, size_t binding) {
  if (auto* dispatch = std::get_if<hal::DispatchCommand>(&command)) return dispatch->bindings[binding];
  if (auto* copy = std::get_if<hal::CopyCommand>(&command)) return binding == 0 ? copy->source : copy->destination;
  return std::get<hal::FillCommand>(command).destination;
}

Result<std::vector<std::shared_ptr<Storage>>> Plan::run(Context& context, const PlanInputs& inputs,
                                                        std::chrono::steady_clock::time_point start) {
  std::vector<std::shared_ptr<Storage>> made;
  made.reserve(results.size());
  for (const PlannedResult& result : results) {
    if (result.leaf >= 0) {
      made.push_back(inputs.leaves[static_cast<size_t>(result.leaf)]->storage);
      continue;
    }
    SPORKLE_ASSIGN_OR_RETURN(std::shared_ptr<Storage> storage, context.allocate(result.size_bytes));
    made.push_back(std::move(storage));
  }
  std::span<const hal::BufferRef> arena;
  if (memory.arena_bytes > 0) {
    SPORKLE_ASSIGN_OR_RETURN(arena, context.arena(memory.arena_bytes));
  }

  SPORKLE_RETURN_IF_ERROR(context.wait());
  const std::span<hal::CommandBuffer::Command> all = commands.mutable_commands();
  const auto bind = [&](const BufferUse& use, const hal::BufferRef& buffer) {
    hal::Binding& binding = binding_of(all[use.command], use.binding);
    if (binding.buffer != buffer) binding.buffer = buffer;
  };
  for (const BufferUse& use : leaf_uses) bind(use, inputs.leaves[static_cast<size_t>(use.index)]->storage->buffer());
  for (const BufferUse& use : result_uses) bind(use, made[static_cast<size_t>(use.index)]->buffer());
  for (const BufferUse& use : arena_uses) bind(use, arena[static_cast<size_t>(use.index)]);
  for (const NumberUse& use : number_uses)
    std::get<hal::DispatchCommand>(all[use.command]).scalars[use.scalar] =
        part_of(inputs.numbers[static_cast<size_t>(use.number)], use.part);
  for (const CallUse& use : call_uses)
    std::get<hal::DispatchCommand>(all[use.command]).scalars = *inputs.scalars[static_cast<size_t>(use.call)];
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  context.mutable_counters().host_seconds += taken.count();
  context.set_last_plan(memory);
  SPORKLE_RETURN_IF_ERROR(context.submit(commands, launches));

  std::vector<std::shared_ptr<Storage>> values;
  values.reserve(roots.size());
  for (const Root& root : roots)
    values.push_back(root.result >= 0 ? made[static_cast<size_t>(root.result)]
                                      : inputs.leaves[static_cast<size_t>(root.leaf)]->storage);
  for (const PlannedResult& result : results) {
    if (result.leaf < 0) continue;
    Node* leaf = inputs.leaves[static_cast<size_t>(result.leaf)];
    leaf->storage.reset();
    leaf->op = Op::error;
    leaf->error = std::make_unique<Status>(
        invalid_argument("the tensor's memory was given to an update in place; use what the update returned"));
  }
  return values;
}

void Plan::forget_buffers() {
  const std::span<hal::CommandBuffer::Command> all = commands.mutable_commands();
  for (const auto* uses : {&leaf_uses, &result_uses, &arena_uses})
    for (const BufferUse& use : *uses) binding_of(all[use.command], use.binding).buffer.reset();
}

}  // namespace sporkle::tensor
