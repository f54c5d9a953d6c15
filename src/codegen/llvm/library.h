// libLLVM, opened at run time through its C interface; any version from 16 on. One instance a process.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "codegen/cpu_target.h"

namespace sporkle::codegen::llvm {

class Library {
 public:
  // Opens the library at the first call: $SPORKLE_LLVM if set, else the usual names. unsupported lists what was tried.
  static Result<Library*> get();

  // "19.1.7"
  const std::string& version() const { return version_; }

  // LLVM IR text, checked by LLVM's verifier, to a relocatable object, or to the text of the assembly that makes it.
  // Calls are serialised. internal carries LLVM's own message; unsupported says
  // that this library has no code generator for the target.
  enum class Output { object, assembly };
  Result<std::vector<std::byte>> compile(std::string_view ir_text, const CpuTarget& target,
                                         Output output = Output::object);

 private:
  struct Functions;
  Library() = default;
  static Result<Library*> open();
  Functions* functions_ = nullptr;
  std::string version_;
};

}  // namespace sporkle::codegen::llvm
