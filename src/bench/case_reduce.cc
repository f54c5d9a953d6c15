// reduce: the sums or the maxima of rows, or the sum of everything. The order in which a sum goes is written out here
// once more, in plain C++ that shares nothing with the kernels: the bits of `strict` depend on it.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "bench/case_list.h"
#include "bench/cases.h"
#include "bench/judge.h"
#include "bench/tensor_case.h"

namespace sporkle::bench {
namespace {

using tensor::Tensor;

constexpr const char* kForm = "ROWSxCOLUMNS[:sum|max|all]";
constexpr size_t kLanes = 16;

struct Reduction {
  int64_t rows = 1, columns = 1;
  bool maximum = false;  // of each row; else sums
  bool whole = false;    // one sum of everything
};

// Element k goes to lane k % 16; the upper half of the lanes is added to the lower half until one is left.
float lane_sum(std::span<const float> values) {
  std::array<float, kLanes> lanes;
  lanes.fill(-0.0f);
  for (size_t k = 0; k < values.size(); ++k) lanes[k % kLanes] += values[k];
  for (size_t half = kLanes / 2; half > 0; half /= 2)
    for (size_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return 0.0f + lanes[0];
}

// Where few long rows are summed, chunks of a fixed size are summed on their own, and then their sums.
float row_sum(std::span<const float> values, int64_t rows) {
  constexpr size_t kChunk = 16384, kLongRow = 65536;
  constexpr int64_t kFewRows = 64;
  if (values.size() < kLongRow || rows >= kFewRows) return lane_sum(values);
  std::vector<float> partial;
  for (size_t at = 0; at < values.size(); at += kChunk)
    partial.push_back(lane_sum(values.subspan(at, std::min(kChunk, values.size() - at))));
  return row_sum(partial, rows);
}

class ReduceCase final : public TensorCase {
 public:
  ReduceCase(const Setting& setting, const Reduction& reduction) : TensorCase(setting), reduction_(reduction) {}

  Work work() const override { return work_of(reduction_); }
  std::string unit() const override { return "GB/s"; }
  double value(double seconds) const override { return work().bytes / seconds * 1e-9; }
  // What the bandwidth of memory allows says nothing about what stays in a cache.
  bool has_roofline() const override { return work().bytes > kInCacheBytes; }

  static Work work_of(const Reduction& r) {
    return {static_cast<double>(r.rows * r.columns),
            4 * (static_cast<double>(r.rows * r.columns) + static_cast<double>(r.whole ? 1 : r.rows))};
  }
  static int sets_of(const Work& work) { return set_count(work.bytes, work.bytes <= kInCacheBytes); }

 protected:
  Status make_sets(std::vector<std::vector<HostArray>>* sets, Problem* problem) override {
    const auto [rows, columns, maximum, whole] = reduction_;
    problem->outputs = {{"y", ir::DType::f32, whole ? std::vector<int64_t>{} : std::vector<int64_t>{rows}, {}}};
    for (int i = 0; i < sets_of(work()); ++i) {
      std::vector<HostArray>& set = sets->emplace_back();
      set.push_back(make_array("x", ir::DType::f32, {rows, columns}));
      fill_random<float>(set[0].values<float>(), static_cast<uint64_t>(i) + 1, -1, 1);
      define(set[0].values<float>());
    }
    return {};
  }

  std::vector<Tensor> build(std::span<const Tensor> inputs) override {
    if (reduction_.whole) return {tensor::sum(inputs[0])};
    return {reduction_.maximum ? tensor::max(inputs[0], {1}) : tensor::sum(inputs[0], {1})};
  }

  Result<double> judge(int set, std::span<const HostArray> outputs, bool) override {
    const size_t index = static_cast<size_t>(set);
    SPORKLE_RETURN_IF_ERROR(compare_bits<float>(outputs[0], bits_[index]));
    // A maximum is exact. A sum's roundings add up like a random walk, over the elements of a lane and their order of
    // magnitude, sqrt(length), which the largest sum has as well unless all of them happen to cancel.
    const double length =
        static_cast<double>(reduction_.whole ? reduction_.rows * reduction_.columns : reduction_.columns);
    const double limit = reduction_.maximum ? 0 : 8 * rounding_unit(ir::DType::f32) * (length + 16);
    return compare_values(outputs[0], in_double_[index], limit);
  }

 private:
  void define(std::span<const float> x) {
    std::vector<float>& bits = bits_.emplace_back();
    std::vector<double>& in_double = in_double_.emplace_back();
    const int64_t rows = reduction_.whole ? 1 : reduction_.rows;
    const size_t length = x.size() / static_cast<size_t>(rows);
    for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
      const std::span<const float> values = x.subspan(row * length, length);
      if (reduction_.maximum) {
        bits.push_back(*std::ranges::max_element(values));
        in_double.push_back(static_cast<double>(bits.back()));
        continue;
      }
      bits.push_back(row_sum(values, rows));
      double sum = 0;
      for (const float value : values) sum += static_cast<double>(value);
      in_double.push_back(sum);
    }
  }

  Reduction reduction_;
  std::vector<std::vector<float>> bits_;  // of each set
  std::vector<std::vector<double>> in_double_;
};

Result<std::unique_ptr<Case>> make_reduce(const Setting& setting) {
  Reduction reduction;
  const size_t colon = setting.shape.find(':');
  if (colon != std::string::npos) {
    const std::string suffix = setting.shape.substr(colon + 1);
    if (suffix != "sum" && suffix != "max" && suffix != "all")
      return invalid_argument("shape \"" + setting.shape + "\" ends in \":" + suffix +
                              "\", which is none of :sum, :max, :all");
    reduction.maximum = suffix == "max";
    reduction.whole = suffix == "all";
  }
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<int64_t> extents,
                           parse_extents(std::string_view(setting.shape).substr(0, colon), 2, kForm));
  reduction.rows = extents[0];
  reduction.columns = extents[1];
  const Work work = ReduceCase::work_of(reduction);
  return within_memory(setting.shape, 4 * work.bytes * ReduceCase::sets_of(work),
                       std::make_unique<ReduceCase>(setting, reduction));
}

}  // namespace

CaseKind reduce_case() {
  CaseKind kind;
  kind.name = "reduce";
  kind.summary = "Sums and maxima of rows, and the sum of everything";
  kind.shape_form = kForm;
  kind.default_shapes = {"8192x8192:sum", "8192x8192:max", "8192x8192:all", "256x4096:sum"};
  kind.dtypes = {ir::DType::f32};
  kind.numerics = {ir::Numerics::strict};
  kind.rivals = kind.default_rivals = {"memcpy"};
  kind.make = make_reduce;
  return kind;
}

}  // namespace sporkle::bench
