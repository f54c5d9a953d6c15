// How a matrix product C[m, n] = A[m, k] B[k, n] runs on a CPU, and what suits a shape on a processor.
//
// Plans differ in speed alone: every element of C is the same chain of fused multiply-adds over k under each of them
// (tensor/kernels/matmul.cc), so tuning one cannot change a bit. Plain values; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"
#include "tune/microarchitecture.h"

namespace sporkle::tune {

struct ProductPlan {
  enum class Kind : uint8_t {
    packed,    // a panel of B is copied, then multiplied with rows of A
    in_place,  // the same without the copy: B has one column, or little use is made of it
    slabs,     // a few rows of B after the other, added to C in the cache: B passes by once, as memory likes it
  };
  Kind kind = Kind::packed;
  int rows = 1, vectors = 1;  // of a register tile
  int unroll = 4;             // of the chain's loop
  int64_t depth = 2048;       // the longest pass over k; of slabs their rows
  int64_t block_rows = 0;     // of C for one thread's turn; 0: all
  int64_t block_columns = 0;  // the same, of slabs; 0: all

  // "packed 5x4 unroll4 depth2048 block0x0".
  std::string text() const;
  // invalid_argument names the word that is wrong, or the number that is out of range.
  static Result<ProductPlan> parse(std::string_view text);
  bool operator==(const ProductPlan&) const = default;
};

// What of a product's shape and operands a plan may depend on.
struct ProductShape {
  int element_bytes = 4;
  int64_t batches = 1, rows = 0, columns = 0, depth = 0;
  bool a_in_rows = true;    // neighbours along k lie side by side in A
  bool b_in_rows = true;    // neighbours along n lie side by side in B
  int64_t b_row_bytes = 0;  // from one row of B to the next

  // Chains of scalars, side by side: their own kernel.
  bool one_column() const { return columns == 1 && a_in_rows; }

  // "f32 nn 1x64x3072x768": element, layouts, batches x rows x columns x depth: how databases name it.
  std::string key() const;
  bool operator==(const ProductShape&) const = default;
};

struct Processor {
  Microarchitecture microarchitecture = Microarchitecture::generic;
  int vector_bytes = 16;
  int threads = 1;

  // "zen4 vector64 threads2".
  std::string key() const;
  // With host_microarchitecture().
  static Processor host(int vector_bytes, int threads);
};

// Whether the product can run so: slabs need B's rows contiguous; accumulators must fit the vector registers.
bool plan_applies(const ProductPlan& plan, const ProductShape& shape, const Processor& processor);

// From the processor's row in the table of presets and the shape. It always applies.
ProductPlan preset_plan(const ProductShape& shape, const Processor& processor);

}  // namespace sporkle::tune
