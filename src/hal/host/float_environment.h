// The floating-point environment that kernels assume: round to nearest, gradual underflow, no traps. Whoever calls
// Sporkle may run with flush-to-zero (a host program built with -ffast-math does, in every thread it starts), which
// would change bits.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace sporkle::hal {

// Sets it on this thread until the end of the scope.
class StrictFloatEnvironment {
 public:
  StrictFloatEnvironment() : saved_(get()) { set(kStrict); }
  ~StrictFloatEnvironment() { set(saved_); }
  StrictFloatEnvironment(const StrictFloatEnvironment&) = delete;
  StrictFloatEnvironment& operator=(const StrictFloatEnvironment&) = delete;

 private:
#if defined(__x86_64__)
  static constexpr uint64_t kStrict = 0x1f80;  // MXCSR: every exception masked, nearest, neither FTZ nor DAZ
  static uint64_t get() { return _mm_getcsr(); }
  static void set(uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
#elif defined(__aarch64__)
  static constexpr uint64_t kStrict = 0;  // FPCR: no traps, nearest, no flush to zero
  static uint64_t get() {
    uint64_t value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void set(uint64_t value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
#else
#error "say here how this processor's floating-point environment is read and set"
#endif
  const uint64_t saved_;
};

}  // namespace sporkle::hal
