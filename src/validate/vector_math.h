// The C library's vector functions (glibc's libmvec): what compilers call in loops under -ffast-math, opened at run
// time. Thread-safe.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace sporkle::validate {

class VectorFunction {
 public:
  // The f32 function of this name ("exp"), for the widest vectors of this processor. unavailable, with the reason,
  // where there is no libmvec, or it lacks the function.
  static Result<VectorFunction> open(std::string_view name);

  // to[i] = function(from[i]); both are equally long.
  void apply(std::span<const float> from, std::span<float> to) const;
  int lanes() const { return lanes_; }

 private:
  VectorFunction(void* function, int lanes) : function_(function), lanes_(lanes) {}
  void* function_;
  int lanes_;
};

}  // namespace sporkle::validate
