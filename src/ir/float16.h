// The 16-bit storage formats: IEEE half (f16) and bfloat16. Arithmetic happens in f32. Thread-safe.
#pragma once

#include <cstdint>

namespace sporkle::ir {

// Rounded to nearest even, with gradual underflow; beyond the largest half: infinity. A NaN becomes the quiet NaN of
// its sign.
uint16_t float_to_half(float number);
float half_to_float(uint16_t bits);

uint16_t float_to_bfloat16(float number);
float bfloat16_to_float(uint16_t bits);

}  // namespace sporkle::ir
