// The interpreter as a debugger: values at chosen nodes for chosen indices, reads of what was never written, a limit on
// steps, and the line of the kernel's text in every error. Slower than interpret(), with the same results. Stateless;
// thread-safe.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ir/interpreter.h"
#include "ir/text.h"

namespace sporkle::ir {

// A value to be shown whenever it is computed while these ranges have these indices.
struct WatchPoint {
  const Node* node = nullptr;
  std::vector<std::pair<const Node*, int64_t>> at;
};

struct WatchedValue {
  size_t watch;  // which WatchPoint
  uint64_t bits;
  // The ranges that it depends on, outermost first, with their indices.
  std::span<const std::pair<const Node*, int64_t>> indices;
};

struct DebugOptions {
  std::vector<WatchPoint> watches;
  std::function<void(const WatchedValue&)> seen;
  uint64_t max_steps = 100'000'000;  // iterations of loops and reductions, and stores, all together
  // Which buffers have values before the kernel starts; the others have none until they are written. Empty: all.
  std::vector<bool> initialised;
};

struct DebugReport {
  uint64_t steps = 0;
  // For each buffer the number of its elements that have a value at the end.
  std::vector<uint64_t> elements_with_value;
};

// `text.kernel` is executed as interpret() does. invalid_argument besides its errors: a read of an element of a buffer
// or of scratch that has no value, more than max_steps, and a watch on a range that the node does not depend on.
Result<DebugReport> interpret_with_checks(const ParsedText& text, std::span<const InterpreterBuffer> buffers,
                                          std::span<const uint64_t> scalars, const DebugOptions& options);

// A value's name in the text ("%4", or "4") as a watch. not_found names the nearest, invalid_argument a thing that is
// no computed value. `at`: "i=3,j=0", or empty.
Result<WatchPoint> parse_watch(const ParsedText& text, std::string_view node, std::string_view at);

}  // namespace sporkle::ir
