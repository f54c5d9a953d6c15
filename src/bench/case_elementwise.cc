// elementwise: y = gelu(x w + b) + r in one kernel, x and r [rows, columns], w and b of a row. Memory decides its time,
// so its rival copies as many bytes.
//
// Rows repeat after a period that does not divide a power of two, so that the interpreter, which says what the bits
// must be, computes one period only.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "bench/case_list.h"
#include "bench/cases.h"
#include "bench/judge.h"
#include "bench/tensor_case.h"

namespace sporkle::bench {
namespace {

using tensor::Tensor;

constexpr const char* kForm = "ROWSxCOLUMNS";
constexpr int64_t kPeriodElements = 1 << 16;
// As in tensor/pointwise.cc, of which this is the definition in float64.
constexpr double kGeluCubic = 0.044715;

double definition(double x, double w, double b, double r) {
  const double z = x * w + b;
  return 0.5 * z * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (z + kGeluCubic * z * z * z))) + r;
}

Tensor expression(std::span<const Tensor> in) { return tensor::gelu(in[0] * in[1] + in[2]) + in[3]; }

class ElementwiseCase final : public TensorCase {
 public:
  ElementwiseCase(const Setting& setting, int64_t rows, int64_t columns)
      : TensorCase(setting),
        rows_(rows),
        columns_(columns),
        // Odd: no period starts where another one does in blocks of a power of two.
        period_(std::min(rows, std::max<int64_t>(kPeriodElements / columns - 1, 1) | 1)) {}

  Work work() const override { return work_of(rows_, columns_); }
  std::string unit() const override { return "GB/s"; }
  double value(double seconds) const override { return work().bytes / seconds * 1e-9; }
  // What the bandwidth of memory allows says nothing about what stays in a cache.
  bool has_roofline() const override { return work().bytes > kInCacheBytes; }

  static Work work_of(int64_t rows, int64_t columns) {
    return {0, 4.0 * static_cast<double>(3 * rows * columns + 2 * columns)};
  }
  static int sets_of(const Work& work) { return set_count(work.bytes, work.bytes <= kInCacheBytes); }

 protected:
  Status make_sets(std::vector<std::vector<HostArray>>* sets, Problem* problem) override {
    problem->outputs = {{"y", ir::DType::f32, {rows_, columns_}, {}}};
    // The first period of the inputs in a context of the interpreter's own, each operation in a kernel of its own.
    SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<tensor::Context> interpreter,
                             tensor::Context::open("reference", {}, {.fuse = false}));
    uint64_t seed = 1;
    for (int i = 0; i < sets_of(work()); ++i) {
      std::vector<HostArray>& set = sets->emplace_back();
      set.push_back(make_array("x", ir::DType::f32, {rows_, columns_}));
      set.push_back(make_array("w", ir::DType::f32, {columns_}));
      set.push_back(make_array("b", ir::DType::f32, {columns_}));
      set.push_back(make_array("r", ir::DType::f32, {rows_, columns_}));
      const size_t count = static_cast<size_t>(period_ * columns_);
      for (HostArray& array : set) {
        const std::span<float> values = array.values<float>();
        fill_random<float>(values.first(std::min(count, values.size())), seed++, -2, 2);
        for (size_t at = count; at < values.size(); at += count)
          std::copy_n(values.begin(), std::min(count, values.size() - at), values.begin() + static_cast<ptrdiff_t>(at));
      }
      SPORKLE_RETURN_IF_ERROR(define(*interpreter, set));
    }
    return {};
  }

  std::vector<Tensor> build(std::span<const Tensor> inputs) override { return {expression(inputs)}; }

  Result<double> judge(int set, std::span<const HostArray> outputs, bool) override {
    const size_t index = static_cast<size_t>(set);
    SPORKLE_RETURN_IF_ERROR(compare_bits<float>(outputs[0], bits_[index]));
    // Gelu is good to 30 units in the last place of each element; the largest element has the largest such unit.
    return compare_values(outputs[0], in_double_[index], 64 * rounding_unit(ir::DType::f32));
  }

 private:
  Status define(tensor::Context& interpreter, const std::vector<HostArray>& set) {
    const size_t count = static_cast<size_t>(period_ * columns_);
    std::vector<Tensor> inputs;
    for (const HostArray& array : set) {
      const std::span<const float> values = array.values<float>();
      const bool row = array.shape.size() == 1;
      inputs.push_back(tensor::from_host<float>(interpreter, values.first(row ? values.size() : count),
                                                row ? tensor::Shape{columns_} : tensor::Shape{period_, columns_}));
    }
    SPORKLE_ASSIGN_OR_RETURN(std::vector<float> bits, expression(inputs).to_host<float>());
    bits_.push_back(std::move(bits));
    const std::span<const float> x = set[0].values<float>(), w = set[1].values<float>(), b = set[2].values<float>(),
                                 r = set[3].values<float>();
    std::vector<double>& in_double = in_double_.emplace_back();
    for (size_t i = 0; i < count; ++i) {
      const size_t column = i % static_cast<size_t>(columns_);
      in_double.push_back(definition(x[i], w[column], b[column], r[i]));
    }
    return {};
  }

  int64_t rows_, columns_, period_;
  std::vector<std::vector<float>> bits_;        // of each set: one period
  std::vector<std::vector<double>> in_double_;  // likewise
};

Result<std::unique_ptr<Case>> make_elementwise(const Setting& setting) {
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<int64_t> extents, parse_extents(setting.shape, 2, kForm));
  const Work work = ElementwiseCase::work_of(extents[0], extents[1]);
  // Device, host and rival hold the inputs and outputs; a row's period is there in float64 too.
  return within_memory(setting.shape, 4 * work.bytes * ElementwiseCase::sets_of(work),
                       std::make_unique<ElementwiseCase>(setting, extents[0], extents[1]));
}

}  // namespace

CaseKind elementwise_case() {
  CaseKind kind;
  kind.name = "elementwise";
  kind.summary = "gelu(x w + b) + r in one kernel, which memory bounds";
  kind.shape_form = kForm;
  kind.default_shapes = {"8192x8192", "64x4096"};
  kind.dtypes = {ir::DType::f32};
  kind.numerics = {ir::Numerics::strict};
  kind.rivals = kind.default_rivals = {"memcpy"};
  kind.make = make_elementwise;
  return kind;
}

}  // namespace sporkle::bench
