// Loads a relocatable ELF object, as codegen makes it, into executable memory of this process.
//
// The object is data from a file: every offset, size and index in it is checked, and an object that breaks a rule is
// refused with corrupt_data (unsupported for one made for another processor). What its code does once called is not
// checked; the kernel cache vouches for that with a hash.
//
// One anonymous mapping holds, page-aligned, the code with the stubs of far calls, and then the constants with the
// global offset table; the first ends up executable, the second read-only, and nothing is ever writable and executable
// at once. Symbols outside the object resolve to fmaf, fma, memset, memcpy and memmove alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace sporkle::hal {

// The memory of one object. Movable; unmapped at destruction. Reading it is thread-safe.
class LoadedObject {
 public:
  LoadedObject(LoadedObject&& other) noexcept;
  LoadedObject& operator=(LoadedObject&& other) noexcept;
  ~LoadedObject();

  // A global function of the object; corrupt_data when there is none of this name.
  Result<const void*> function(std::string_view name) const;
  // The bytes of a global constant, up to the symbol's size; empty when there is none of this name.
  std::span<const std::byte> constant(std::string_view name) const;

 private:
  friend Result<LoadedObject> load_elf_object(std::span<const std::byte> file);
  struct Symbol {
    size_t offset;
    size_t size_bytes;
    bool executable;
  };
  LoadedObject(std::byte* memory, size_t size_bytes) : memory_(memory), size_bytes_(size_bytes) {}

  std::byte* memory_;
  size_t size_bytes_;
  std::map<std::string, Symbol, std::less<>> symbols_;
};

Result<LoadedObject> load_elf_object(std::span<const std::byte> file);

}  // namespace sporkle::hal
