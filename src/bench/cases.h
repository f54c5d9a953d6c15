// The list of cases, and reading what users write for them.
#pragma once

#include <string_view>

#include "bench/case.h"

namespace sporkle::bench {

// In the order in which `sporkle bench all` runs them.
const std::vector<CaseKind>& case_kinds();

// By name; not_found suggests the nearest.
Result<const CaseKind*> find_case(std::string_view name);

// "f32" and the like; invalid_argument names those that the case has.
Result<ir::DType> parse_dtype(const CaseKind& kind, std::string_view name);
// "strict" and the like; likewise.
Result<ir::Numerics> parse_numerics(const CaseKind& kind, std::string_view name);

// "64x32" as numbers of at least 1: invalid_argument when `text` is not of `count` of them. `form` is for the message.
Result<std::vector<int64_t>> parse_extents(std::string_view text, size_t count, std::string_view form);

// invalid_argument when a shape needs more bytes of memory than this process may use.
Status check_memory(std::string_view shape, double bytes);
// The case, which needs so much memory for its inputs, outputs and references, ours and rivals' (Case::memory_bytes);
// invalid_argument as check_memory gives it.
Result<std::unique_ptr<Case>> within_memory(std::string_view shape, double bytes, std::unique_ptr<Case> subject);

}  // namespace sporkle::bench
