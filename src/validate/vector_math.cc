#include "validate/vector_math.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>

namespace sporkle::validate {
namespace {

#if defined(__x86_64__)

typedef float Float4 __attribute__((vector_size(16)));
typedef float Float8 __attribute__((vector_size(32)));
typedef float Float16 __attribute__((vector_size(64)));

// Whole vectors; the last one is filled up with zeros. A macro, since only a function with the attribute itself may
// pass vectors of its target.
#define SPORKLE_APPLY_VECTORS(Vector)                                 \
  const auto call = reinterpret_cast<Vector (*)(Vector)>(function);   \
  constexpr size_t kLanes = sizeof(Vector) / sizeof(float);           \
  for (size_t i = 0; i < count; i += kLanes) {                        \
    const size_t bytes = std::min(kLanes, count - i) * sizeof(float); \
    Vector x = {};                                                    \
    std::memcpy(&x, from + i, bytes);                                 \
    const Vector y = call(x);                                         \
    std::memcpy(to + i, &y, bytes);                                   \
  }

void apply4(void* function, const float* from, float* to, size_t count) { SPORKLE_APPLY_VECTORS(Float4) }
__attribute__((target("avx2"))) void apply8(void* function, const float* from, float* to, size_t count) {
  SPORKLE_APPLY_VECTORS(Float8)
}
__attribute__((target("avx512f"))) void apply16(void* function, const float* from, float* to, size_t count) {
  SPORKLE_APPLY_VECTORS(Float16)
}
#undef SPORKLE_APPLY_VECTORS

#endif

}  // namespace

#if defined(__x86_64__)

Result<VectorFunction> VectorFunction::open(std::string_view name) {
  void* const library = ::dlopen("libmvec.so.1", RTLD_NOW);  // never closed: it is part of the C library
  if (!library) return unavailable("libmvec.so.1, a part of glibc, was not found");
  const int lanes = __builtin_cpu_supports("avx512f") ? 16 : __builtin_cpu_supports("avx2") ? 8 : 4;
  // As the x86-64 vector function ABI names them.
  const char* const prefix = lanes == 16 ? "_ZGVeN16v_" : lanes == 8 ? "_ZGVdN8v_" : "_ZGVbN4v_";
  void* const function = ::dlsym(library, (prefix + std::string(name) + "f").c_str());
  if (!function) return unavailable("libmvec.so.1 has no function " + std::string(name));
  return VectorFunction(function, lanes);
}

void VectorFunction::apply(std::span<const float> from, std::span<float> to) const {
  const auto apply = lanes_ == 16 ? apply16 : lanes_ == 8 ? apply8 : apply4;
  apply(function_, from.data(), to.data(), from.size());
}

#else

Result<VectorFunction> VectorFunction::open(std::string_view name) {
  return unavailable("vector functions, such as " + std::string(name) + ", are looked for on x86-64 alone");
}
void VectorFunction::apply(std::span<const float>, std::span<float>) const {}

#endif

}  // namespace sporkle::validate
