// Which devices have kernels of their own for products of bf16. Internal.
#pragma once

namespace sporkle::tensor {

class Context;

// Whether the device multiplies bf16 by matrix units, which only a Vulkan driver tells of
// (kernels/matmul_matrix_units.cc).
bool has_matrix_units(Context& context);
// Whether products of bf16 run as such under this Context's numerics: `fast` on a CPU or on matrix units. Elsewhere
// their operands are widened to f32.
bool multiplies_bf16(Context& context);

}  // namespace sporkle::tensor
