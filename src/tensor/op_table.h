// The table of tensor operations. For each: its name, how to draw random calls of it (shapes, parameters, the range of
// the operands), how far an f32 result may be from the exact one, and whether it has a gradient. What validates,
// documents or exercises every operation goes over this table; adding an operation to the system means adding its row.
//
// Pointwise rows are made from the table in tensor/pointwise.h. An operation means what it computes in f64 on the
// reference device, unless its call says otherwise (`expected`). Thread-safe; a drawn call is a plain value.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace sporkle::tensor {

// Random choices that are the same everywhere for one seed.
class Draw {
 public:
  // `for_gradient`: calls small enough, and operands tame enough, for central differences. `scale` multiplies how many
  // elements a drawn shape may have.
  Draw(uint64_t seed, DType type, bool for_gradient, int64_t scale = 1)
      : state_(seed), type_(type), for_gradient_(for_gradient), scale_(scale) {}

  DType type() const { return type_; }  // of the operands that have a choice
  bool for_gradient() const { return for_gradient_; }

  uint64_t bits();
  int64_t integer(int64_t lowest, int64_t highest);  // both included
  double uniform();                                  // in [0, 1)
  bool chance(double probability) { return uniform() < probability; }
  template <typename T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[integer(0, static_cast<int64_t>(values.size()) - 1)];
  }

  // An extent from 1 to `most`: ones, primes, powers of two and their neighbours, whatever.
  int64_t extent(int64_t most);
  // Now and then 0, else extent(most).
  int64_t extent_or_none(int64_t most);
  // Small, odd, prime and large shapes, some of one element or none. min_rank <= max_rank <= 4.
  Shape shape(int min_rank, int max_rank);

 private:
  uint64_t state_;
  DType type_;
  bool for_gradient_;
  int64_t scale_;
};

// Which special values an operand may hold beside ordinary ones.
enum Specials : uint8_t {
  kNoSpecials = 0,
  kNan = 1,
  kInfinities = 2,
  kTiny = 4,  // zeros of both signs, denormals, the smallest normal numbers
  kHuge = 8,  // the largest finite numbers
  kModerateSpecials = kNan | kInfinities | kTiny,
  kAllSpecials = kModerateSpecials | kHuge,
};

struct OperandSpec {
  Shape shape;
  DType type = DType::f32;  // f32 becomes f64 where the operation runs in f64
  // Magnitudes. Of i32: whole numbers in [lowest, highest], and their negatives.
  double lowest = 0, highest = 4;
  bool negative = true;
  uint8_t specials = kNoSpecials;
  bool any_view = true;        // may be transposed, broadcast, sliced, padded ...; else row-major
  bool differentiable = true;  // where the operation has a gradient
};

using Tensors = std::vector<Tensor>;
using Apply = std::function<Tensors(std::span<const Tensor> operands)>;

// What a plain loop says the results are, and what to measure their errors at.
struct Expected {
  std::vector<double> values, magnitudes;  // of all results, one after the other
};

struct OpCall {
  std::string parameters;  // for people: "axes [0, 2]"
  std::vector<OperandSpec> operands;
  Apply apply;
  // Gradients flow through the first so many results; -1: through all.
  int differentiable_results = -1;
  // How far an f32 result may be from the exact one: units in the last place; 0: correctly rounded.
  double ulp_limit = 0;
  // What those units are taken at where terms cancel: as many tensors as results, from operands in f64. Null: the exact
  // results.
  Apply magnitude;
  // The definition where f64 on the reference device is none. Null: it is.
  std::function<Expected(std::span<const std::vector<double>> operands)> expected;
};

struct OpRow {
  std::string name;
  std::string group;          // for the documentation: "pointwise", "reductions" ...
  std::vector<DType> types;   // of its operands, the first the usual one
  std::string limit;          // for people: how ulp_limit comes about
  bool has_gradient = false;  // other than zero everywhere
  std::function<OpCall(Draw& draw)> draw;
};

std::span<const OpRow> op_table();

// The longest chain of additions that an element of a sum over n elements passes through, whatever the axes' place: the
// error of such a sum is at most that many units in the last place of the sum of magnitudes.
int64_t sum_depth(int64_t n);

// The rows of tensor/layers.h, tensor/convolution.h and tensor/random.h. For op_table() alone.
void append_layer_rows(std::vector<OpRow>* rows);

}  // namespace sporkle::tensor
