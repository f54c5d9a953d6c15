// Every message of the verifier, in one place, so that a test can provoke each (ir/verifier_test.cc): one that nobody
// can provoke is a rule that never holds. Internal to the verifier. Thread-safe.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>

#include "base/status.h"

namespace sporkle::ir {

// What is wrong with a kernel. In the order of kVerifierMessages.
enum class Broken : uint8_t {
  // The kernel as a whole.
  no_context,
  no_block,
  many_arguments,
  long_name,
  untyped_argument,
  many_nodes,
  deep_nodes,
  // A node by itself and its sources.
  source_count,
  result_type,
  source_type,
  comparison_type,
  value_for_statement,
  no_store_in_together,
  statement_for_value,
  no_memory,
  memory_for_value,
  constant_bits,
  undeclared_argument,
  declared_type,
  declared_name,
  scratch_count_type,
  scratch_count_unknown,
  range_kind,
  thread_extent,
  vector_extent,
  invocation_extent,
  condition_type,
  branch_type,
  bitcast_size,
  index_type,
  value_type,
  mask_without_value,
  mask_type,
  otherwise_type,
  reads_write_only,
  writes_read_only,
  combine,
  fma_sources,
  dot_sources,
  dot_factor_type,
  dot_reduce_factor_type,
  dot_sum_type,
  dot_reduce_sum_type,
  dot_numerics,
  dot_reduce_numerics,
  dot_reduce_type,
  reduce_sources,
  reduce_range,
  fma_type,
  lanes,
  lane_combine,
  lane_range,
  loop_range,
  serial_loop_range,
  // Where nodes stand.
  opened_by_both,
  many_ranges,
  opened_twice,
  outside_its_loop,
  many_statements,
  deep_statements,
  vector_in_vector,
  thread_not_outermost,
  invocation_inside,
  count
};

// {} stands for what is filled in: first the node that is wrong, where there is one.
inline constexpr std::string_view kVerifierMessages[] = {
    "the kernel has no context",
    "the kernel's body is not a block",
    "the kernel has more than {} buffers or scalars",
    "a name is longer than {} bytes",
    "argument \"{}\" has no type",
    "the kernel has more than {} nodes",
    "{} is nested deeper than {} nodes",

    "{} has {} sources; it takes {}",
    "{} does not exist for type {}",
    "{} of type {} has a source of type {}",
    "{} gives a bool, not {}",
    "{} has a value ({}) where a statement is wanted",
    "{} holds {}; it takes stores alone",
    "{} uses a statement ({}) as a value",
    "{} needs a buffer or scratch as its first source, not {}",
    "{} uses {} as a value; load reads memory",
    "{} of type {} has bits outside its type",
    "{} is argument {}; the kernel declares {}",
    "{} has type {}; the kernel declares {}",
    "{} is declared under another name, \"{}\"",
    "{} needs an element count of type i64, not {}",
    "{} needs an element count made of scalars and constants alone",
    "{} is of an unknown kind",
    "{} is a thread range and needs an extent made of scalars and constants alone",
    "{} is a vector range and needs a constant power of two up to {} as its extent",
    "{} is an invocation range and needs a constant from 1 to {} as its extent",
    "{} needs a bool as its condition, not {}",
    "{} of type {} has a branch of type {}",
    "{} from {} to {} changes the size",
    "{} needs an index of type i64, not {}",
    "{} has a value of type {}; the memory holds {}",
    "{} has a mask but no value for where the mask is false",
    "{} needs a mask of type bool, not {}",
    "{} has a value of type {} for where its mask is false",
    "{} reads what is declared write-only",
    "{} writes what is declared read-only",
    "{} has an unknown way to combine",
    "{} by fma takes init, range, a and b",
    "{} by dot takes init, range, a and b",
    "{} multiplies what is packed in u32, not {}",
    "{} by dot multiplies what is packed in u32, not {}",
    "{} of type {} adds to {}",
    "{} by dot of type {} adds to {}",
    "{} of bf16 rounds as the processor likes; a {} kernel cannot have it",
    "{} by dot of bf16 rounds as the processor likes; a {} kernel cannot have it",
    "{} by dot does not exist for type {}",
    "{} takes init, range and one value",
    "{} needs a serial range as its second source, not {}",
    "{} by fma does not exist for type {}",
    "{} has {} lanes; it takes a power of two, and 1 by fma or dot",
    "{} combines by add, max or min alone",
    "{} needs a vector range as its second source, not {}",
    "{} needs a range as its first source, not {}",
    "{} runs in order and cannot open the thread or vector {}",

    "{} is opened by a loop and by a reduction",
    "the kernel has {} ranges; at most {} are allowed",
    "{} is opened again where it is open already",
    "{} uses {} outside the loop that opens it",
    "the kernel has more than {} statements",
    "loops and blocks nest deeper than {}",
    "{} over the vector {} is inside another vector loop",
    "{} over the thread {} is not outermost and alone; all else must be inside it",
    "{} over the invocation {} is inside {}",
};
static_assert(std::size(kVerifierMessages) == static_cast<size_t>(Broken::count));

// invalid_argument with the message, filled in from the left.
Status broken(Broken what, std::initializer_list<std::string> parts = {});

}  // namespace sporkle::ir
