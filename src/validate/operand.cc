#include "validate/operand.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/context.h"

namespace sporkle::validate {
namespace {

using tensor::Draw;
using tensor::DType;
using tensor::OperandSpec;
using tensor::Shape;
using tensor::Tensor;

bool is_real(DType type) { return type == DType::f32 || type == DType::f64; }

// The operand's type where f32 is computed in `real`.
DType type_in(const OperandSpec& spec, DType real) { return spec.type == DType::f32 ? real : spec.type; }

double special_value(Draw& draw, const OperandSpec& spec) {
  const bool single = spec.type == DType::f32;
  std::vector<double> values;
  if (spec.specials & tensor::kNan) values.push_back(std::numeric_limits<double>::quiet_NaN());
  if (spec.specials & tensor::kInfinities) values.push_back(std::numeric_limits<double>::infinity());
  if (spec.specials & tensor::kTiny) {
    if (single)
      values.insert(values.end(), {0.0, 0x1p-149, 0x1.8p-130, 0x1.fffffcp-127, 0x1p-126});
    else
      values.insert(values.end(), {0.0, 0x1p-1074, 0x1.8p-1030, 0x1p-1022});
  }
  if (spec.specials & tensor::kHuge) values.push_back(single ? 0x1.fffffep127 : std::numeric_limits<double>::max());
  const double value = values[static_cast<size_t>(draw.integer(0, static_cast<int64_t>(values.size()) - 1))];
  return draw.chance(0.5) ? value : -value;
}

double whole_number(Draw& draw, const OperandSpec& spec) {
  if (spec.type == DType::boolean) return draw.chance(0.5);
  if ((spec.specials & tensor::kHuge) && draw.chance(0.02))
    return draw.chance(0.5) ? std::numeric_limits<int32_t>::max() : std::numeric_limits<int32_t>::min();
  const auto lowest = static_cast<int64_t>(std::min(spec.lowest, 1000.0));
  const auto highest = static_cast<int64_t>(std::min(spec.highest, 1000.0));
  const double value = static_cast<double>(draw.integer(lowest, highest));
  return spec.negative && draw.chance(0.5) ? -value : value;
}

double real_number(Draw& draw, const OperandSpec& spec) {
  double value;
  if (draw.for_gradient()) {
    const double lowest = std::max(spec.lowest, std::min(0.25, spec.highest / 2));
    value = lowest + (std::min(spec.highest, 2.0) - lowest) * draw.uniform();
  } else if (const double kind = draw.uniform(); kind < 0.1) {
    value = static_cast<double>(draw.integer(0, 3));  // so that some are equal
  } else if (kind < 0.6) {
    value = std::min(spec.highest, 4.0) * draw.uniform();
  } else {
    const double lowest = std::log2(std::max(spec.lowest, 0x1p-30)), highest = std::log2(spec.highest);
    value = std::exp2(lowest + (highest - lowest) * draw.uniform());
  }
  value = std::clamp(value, spec.lowest, spec.highest);
  if (spec.negative && draw.chance(0.5)) value = -value;
  return spec.type == DType::f32 ? static_cast<double>(static_cast<float>(value)) : value;
}

template <typename T>
Tensor upload(tensor::Context& context, const std::vector<double>& values, const Shape& shape) {
  std::vector<T> converted;
  converted.reserve(values.size());
  for (const double value : values) converted.push_back(static_cast<T>(value));
  return tensor::from_host<T>(context, converted, shape);
}

}  // namespace

void Operand::choose_view(Draw& draw) {
  const int rank = spec_.shape.rank();
  stored_ = spec_.shape;
  if (!spec_.any_view || rank == 0 || draw.chance(0.4)) return;
  view_ = draw.one_of(
      {View::transposed, View::broadcast, View::sliced, View::strided, View::padded, View::transposed_slice});
  axis_ = static_cast<int>(draw.integer(0, rank - 1));
  // Zeros from outside have no gradient of their own, and 1 / x has none there.
  if (view_ == View::padded && (spec_.shape[axis_] < 2 || draw.for_gradient())) view_ = View::sliced;
  if (view_ == View::strided && rank >= 5) view_ = View::sliced;
  if (view_ == View::transposed || view_ == View::transposed_slice) {
    for (int i = 0; i < rank; ++i) permutation_.push_back(i);
    for (int i = rank - 1; i > 0; --i) std::swap(permutation_[i], permutation_[static_cast<int>(draw.integer(0, i))]);
    for (int i = 0; i < rank; ++i) stored_[static_cast<int>(permutation_[i])] = spec_.shape[i];
  }
  switch (view_) {
    case View::row_major:
    case View::transposed:
      break;
    case View::broadcast:
      stored_[axis_] = 1;
      break;
    case View::sliced:
    case View::transposed_slice:
      before_ = draw.integer(0, 3);
      after_ = draw.integer(0, 2);
      stored_[axis_] += before_ + after_;
      break;
    case View::strided:
      after_ = draw.integer(2, 3);  // the distance
      before_ = draw.integer(0, after_ - 1);
      stored_.push_back(after_);
      break;
    case View::padded:
      before_ = draw.integer(0, spec_.shape[axis_] - 1);
      after_ = draw.integer(0, spec_.shape[axis_] - 1 - before_);
      stored_[axis_] -= before_ + after_;
      break;
  }
}

Operand Operand::draw(Draw& draw, const OperandSpec& spec) {
  Operand operand;
  operand.spec_ = spec;
  operand.choose_view(draw);
  const bool specials = spec.specials && is_real(spec.type) && !draw.for_gradient() && draw.chance(0.3);
  const int64_t count = tensor::element_count(operand.stored_);
  for (int64_t i = 0; i < count; ++i) {
    double value = is_real(spec.type) ? real_number(draw, spec) : whole_number(draw, spec);
    if (specials && draw.chance(0.08)) value = special_value(draw, spec);
    operand.values_.push_back(value);
  }
  return operand;
}

Operand::Made Operand::make(tensor::Context& context, DType real) const {
  Made made;
  switch (type_in(spec_, real)) {
    case DType::f32:
      made.stored = upload<float>(context, values_, stored_);
      break;
    case DType::f64:
      made.stored = upload<double>(context, values_, stored_);
      break;
    case DType::i32:
      made.stored = upload<int32_t>(context, values_, stored_);
      break;
    default:
      made.stored = upload<uint8_t>(context, values_, stored_);
  }
  made.seen = made.stored;
  switch (view_) {
    case View::row_major:
      break;
    case View::transposed:
      made.seen = made.stored.permute(permutation_);
      break;
    case View::broadcast:
      made.seen = made.stored.expand(spec_.shape);
      break;
    case View::sliced:
      made.seen = made.stored.slice(axis_, before_, spec_.shape[axis_]);
      break;
    case View::transposed_slice:
      made.seen = made.stored.slice(axis_, before_, stored_[axis_] - before_ - after_).permute(permutation_);
      break;
    case View::strided:
      made.seen = made.stored.slice(-1, before_, 1).reshape(spec_.shape);
      break;
    case View::padded:
      made.seen = made.stored.pad(axis_, before_, after_);
      break;
  }
  return made;
}

std::vector<Tensor> Operand::make_all(std::span<const Operand> operands, tensor::Context& context, DType real) {
  std::vector<Tensor> tensors;
  for (const Operand& operand : operands) tensors.push_back(operand.make(context, real).seen);
  return tensors;
}

std::string Operand::describe() const {
  constexpr const char* kNames[] = {"",        " transposed",           " broadcast", " sliced", " strided",
                                    " padded", " sliced and transposed"};
  return std::string(ir::dtype_name(spec_.type)) + tensor::to_string(spec_.shape) + kNames[static_cast<int>(view_)];
}

}  // namespace sporkle::validate
