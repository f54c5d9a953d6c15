// The contract between generated CPU code and its loader (hal/cpu).
//
// An object file defines four symbols:
//   sporkle_kernel         runs iterations [begin, end) of the thread loop (of [0, 1) when the kernel has none)
//   sporkle_thread_extent  how many iterations the thread loop has, from the scalars
//   sporkle_scratch_bytes  how much scratch one call of sporkle_kernel needs, from the scalars; 64-byte aligned
//   sporkle_signature      constant 32-bit integers: the number of buffers, the number of scalars, then each buffer's
//                          element size in bytes; a launch with other arguments is an error and not a crash
// It may refer to the C library's fmaf and fma (where the target has no fused multiply-add) and memset/memcpy, and to
// nothing else outside itself. Code is position-independent and writes no data of its own, so calls may run at once on
// any number of threads, each with scratch of its own.
#pragma once

#include <cstdint>

namespace sporkle::codegen {

using CpuKernelFunction = void (*)(void* const* buffers, const uint64_t* scalars, void* scratch, int64_t begin,
                                   int64_t end);
using CpuThreadExtentFunction = int64_t (*)(const uint64_t* scalars);
using CpuScratchBytesFunction = int64_t (*)(const uint64_t* scalars);

inline constexpr char kKernelSymbol[] = "sporkle_kernel";
inline constexpr char kThreadExtentSymbol[] = "sporkle_thread_extent";
inline constexpr char kScratchBytesSymbol[] = "sporkle_scratch_bytes";
inline constexpr char kSignatureSymbol[] = "sporkle_signature";

}  // namespace sporkle::codegen
