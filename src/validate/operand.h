// Operands for validation: values drawn for an OperandSpec, lying in memory in some way (row-major, transposed,
// broadcast, sliced, strided, padded), which can be made in any context and element type. Plain values; thread-safe.
#pragma once

#include <string>
#include <vector>

#include "tensor/op_table.h"

namespace sporkle::validate {

class Operand {
 public:
  static Operand draw(tensor::Draw& draw, const tensor::OperandSpec& spec);

  // What a context holds of it, and the operand as the operation sees it. f32 values become `real`, f32 or f64.
  struct Made {
    tensor::Tensor stored, seen;
  };
  Made make(tensor::Context& context, tensor::DType real) const;
  // A call's operands, as it sees them.
  static std::vector<tensor::Tensor> make_all(std::span<const Operand> operands, tensor::Context& context,
                                              tensor::DType real);

  // "f32[3, 4] transposed".
  std::string describe() const;
  const tensor::OperandSpec& spec() const { return spec_; }
  std::vector<double>& values() { return values_; }  // of what is stored
  const std::vector<double>& values() const { return values_; }

 private:
  enum class View { row_major, transposed, broadcast, sliced, strided, padded, transposed_slice };

  void choose_view(tensor::Draw& draw);

  tensor::OperandSpec spec_;
  View view_ = View::row_major;
  tensor::Shape stored_;
  tensor::Dims permutation_;
  int axis_ = 0;
  int64_t before_ = 0, after_ = 0;
  std::vector<double> values_;
};

}  // namespace sporkle::validate
