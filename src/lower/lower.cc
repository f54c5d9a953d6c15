#include "lower/lower.h"

#include "base/log.h"
#include "ir/builder.h"
#include "ir/math.h"
#include "ir/text.h"
#include "ir/verifier.h"

namespace sporkle::lower {
namespace {

Status check(const char* pass, const ir::Kernel& kernel, const PassSink& seen) {
  if (seen) seen(pass, kernel);
  if (debug_level() >= 4) log(LogLevel::info, "ir", kernel.name + ", after " + pass + ":\n" + ir::print(kernel));
  // In every build: it costs microseconds beside the milliseconds of code generation, and a code generator may then
  // trust what it gets, wherever the kernel came from.
  return ir::verify(kernel).with_context(std::string("after ") + pass);
}

}  // namespace

ir::Kernel clone(const ir::Kernel& kernel) {
  ir::Kernel copy = kernel;
  copy.context = std::make_shared<ir::Context>();
  ir::NodeMap copies;
  ir::visit_post_order(kernel.body, [&](const ir::Node* node) {
    std::vector<const ir::Node*> sources;
    for (const ir::Node* source : node->src()) sources.push_back(copies.at(source));
    copies[node] =
        copy.context->make(node->op, node->type, sources, node->value, node->attribute, node->lanes, node->name);
    if (node->op == ir::Op::range || node->op == ir::Op::scratch) copy.context->reserve_number(node->value);
  });
  copy.body = copies.at(kernel.body);
  return copy;
}

Result<Lowered> lower(const ir::Kernel& kernel, const Schedule& schedule, const PassSink& seen) {
  const ir::Kernel expanded = ir::expand_math(clone(kernel));
  SPORKLE_RETURN_IF_ERROR(check("expand_math", expanded, seen));
  SPORKLE_ASSIGN_OR_RETURN(Lowered lowered, apply_schedule(expanded, schedule));
  SPORKLE_RETURN_IF_ERROR(check("apply_schedule", lowered.kernel, seen));
  lowered.kernel = expand_lanes(lowered.kernel);
  SPORKLE_RETURN_IF_ERROR(check("expand_lanes", lowered.kernel, seen));
  return lowered;
}

Result<ir::Kernel> lower_for_gpu(const ir::Kernel& kernel, const Schedule& schedule, const PassSink& seen) {
  SPORKLE_RETURN_IF_ERROR(check_ranges(kernel, schedule));
  ir::Kernel lowered = ir::expand_math(clone(kernel));
  SPORKLE_RETURN_IF_ERROR(check("expand_math", lowered, seen));
  lowered = expand_dot(lowered);
  SPORKLE_RETURN_IF_ERROR(check("expand_dot", lowered, seen));
  lowered = share_iterations(lowered, schedule);
  SPORKLE_RETURN_IF_ERROR(check("share_iterations", lowered, seen));
  lowered = map_to_invocations(lowered, schedule);
  SPORKLE_RETURN_IF_ERROR(check("map_to_invocations", lowered, seen));
  return lowered;
}

}  // namespace sporkle::lower
