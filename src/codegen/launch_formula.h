// How many iterations a kernel's thread loop has and how much scratch memory each needs, as expressions of the kernel's
// scalar arguments that the host evaluates at every launch.
//
// Its text is a kernel in the IR's text form (ir/text.h) that stores the two numbers, so what is read from a file goes
// through the parser's and the verifier's checks. Immutable; thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "ir/kernel.h"

namespace sporkle::codegen {

struct LaunchSizes {
  int64_t iterations = 0;
  int64_t scratch_bytes = 0;  // for each iteration
};

class LaunchFormula {
 public:
  // No iterations, whatever the scalars.
  LaunchFormula() = default;
  // Both nodes: i64, made of `kernel`'s scalars and constants alone; invalid_argument otherwise.
  static Result<LaunchFormula> make(const ir::Kernel& kernel, const ir::Node* iterations,
                                    const ir::Node* scratch_bytes);
  // corrupt_data when it is no text of a LaunchFormula.
  static Result<LaunchFormula> parse(std::string_view text);

  const std::string& text() const { return text_; }
  size_t scalar_count() const { return scalar_count_; }
  // `scalars`: scalar_count() of them, the bits as in constant nodes of their types.
  LaunchSizes evaluate(std::span<const uint64_t> scalars) const;

 private:
  // One node; sources are earlier steps.
  struct Step {
    ir::Op op;
    ir::DType type, from;
    uint32_t sources[3];
    uint64_t value;  // a constant's bits, a scalar's number
  };
  static Result<LaunchFormula> of_kernel(const ir::Kernel& kernel);

  std::string text_;
  size_t scalar_count_ = 0;
  std::vector<Step> steps_;
  uint32_t iterations_ = 0, scratch_bytes_ = 0;  // steps
};

}  // namespace sporkle::codegen
