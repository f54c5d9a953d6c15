// How a GPU kernel reaches its arguments: the push-constant block of codegen/gpu_abi.h, in SPIR-V. Belongs to one
// emission.
#pragma once

#include <unordered_map>

#include "codegen/spirv/scopes.h"
#include "ir/kernel.h"

namespace sporkle::codegen::spirv {

class Arguments {
 public:
  // Declares the block in the module.
  Arguments(Scopes& scopes, const ir::Kernel& kernel);

  // Whether they all fit into the block.
  bool are_inline() const { return inline_; }
  // A 64-bit word of the block, in scope 0.
  Id word(uint32_t number);
  // The 64 bits of an argument: the buffers' addresses, then the scalars.
  Id bits(size_t number);

 private:
  Scopes& s_;
  Module& m_;
  bool inline_;
  Id block_;
  std::unordered_map<uint32_t, Id> words_;
};

}  // namespace sporkle::codegen::spirv
