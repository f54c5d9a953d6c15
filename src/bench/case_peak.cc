// peak: what the rooflines are drawn with. `fma` keeps nine chains of fused multiply-adds a thread in registers, `read`
// sums an array larger than the caches, `copy` writes one array to another.
#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <tuple>

#include "bench/case_list.h"
#include "bench/cases.h"
#include "bench/judge.h"
#include "bench/peak.h"
#include "bench/tensor_case.h"
#include "ir/node.h"
#include "tensor/kernel_call.h"

namespace sporkle::bench {
namespace {

using tensor::DType;
using tensor::Tensor;

// Of one vector of the device, in elements of a type.
int lanes_of(const tensor::Context& context, DType dtype) {
  return std::max(context.vector_width() * 4 / ir::dtype_size(dtype), 1);
}

// Nine chains fit the sixteen registers of AVX2 with their factors, and cover the latency of two units.
// Blocks start from one of four numbers each, so that no block's chains are another's and a compiler cannot compute
// them once for all.
constexpr int64_t kRows = 3, kVectors = 3, kDepth = 8192, kStarts = 4;
// A GPU runs each chain in a lane of its own, and needs several a lane to cover its latency.
constexpr int64_t kBlocksPerThread = 256, kBlocksOfGpu = 16384;

class FmaPeak final : public TensorCase {
 public:
  explicit FmaPeak(const Setting& setting) : TensorCase(setting) {}
  Work work() const override { return {2.0 * static_cast<double>(blocks_ * kRows * columns_ * kDepth), 0}; }
  std::string unit() const override { return "GFLOP/s"; }
  double value(double seconds) const override { return work().flops / seconds * 1e-9; }
  bool has_roofline() const override { return false; }

 protected:
  Status make_sets(std::vector<std::vector<HostArray>>* sets, Problem* problem) override {
    const DType dtype = setting().dtype;
    columns_ = kVectors * lanes_of(context(), dtype);
    blocks_ = context().is_gpu() ? kBlocksOfGpu : kBlocksPerThread * std::max(setting().threads, 1);
    sets->push_back(
        {make_array("a", dtype, {kRows}), make_array("b", dtype, {columns_}), make_array("start", dtype, {kStarts})});
    problem->outputs = {{"c", dtype, {blocks_, kRows, columns_}, {}}};
    if (dtype == DType::f64) return define<double>(sets->front());
    return define<float>(sets->front());
  }

  std::vector<Tensor> build(std::span<const Tensor> inputs) override {
    const DType dtype = setting().dtype;
    const int64_t columns = columns_;
    tensor::KernelCall call;
    call.key = "bench fma " + std::string(ir::dtype_name(dtype)) + " " + std::to_string(columns);
    call.define = [dtype, columns](dsl::KernelBuilder& k) {
      const dsl::Buffer a = k.input(dtype, "a"), b = k.input(dtype, "b"), start = k.input(dtype, "start");
      const dsl::Buffer c = k.output(dtype, "c");
      const dsl::Expr blocks = k.size("blocks"), depth = k.size("depth");
      k.range("block", blocks, [&](dsl::Expr block) {
        k.range("m", kRows, [&](dsl::Expr m) {
          k.range("n", columns, [&](dsl::Expr n) {
            c.store((block * kRows + m) * columns + n,
                    k.fma_chain("k", depth, start[block % kStarts], [&](dsl::Expr) { return std::pair(a[m], b[n]); }));
          });
        });
      });
    };
    call.schedule = "block:thread m:tile" + std::to_string(kRows) + " n:vec" +
                    std::to_string(lanes_of(context(), dtype)) + "x" + std::to_string(kVectors) + " k:unroll4";
    call.results = {{dtype, {blocks_, kRows, columns}}};
    call.scalars = {static_cast<uint64_t>(blocks_), static_cast<uint64_t>(kDepth)};
    return call_kernel(std::move(call), inputs);
  }

  Result<double> judge(int, std::span<const HostArray> outputs, bool) override {
    if (setting().dtype == DType::f64)
      SPORKLE_RETURN_IF_ERROR(compare_bits<double>(outputs[0], chains_));
    else
      SPORKLE_RETURN_IF_ERROR(compare_bits<float>(outputs[0], std::vector<float>(chains_.begin(), chains_.end())));
    return compare_values(outputs[0], chains_, 0);
  }

 private:
  template <typename T>
  Status define(std::vector<HostArray>& set) {
    fill_random<T>(set[0].values<T>(), 1, 0.1, 0.5);
    fill_random<T>(set[1].values<T>(), 2, 0.1, 0.5);
    fill_random<T>(set[2].values<T>(), 3, -1, 1);
    for (const T start : set[2].values<T>())
      for (const T a : set[0].values<T>())
        for (const T b : set[1].values<T>()) {
          T chain = start;
          for (int64_t step = 0; step < kDepth; ++step) chain = std::fma(a, b, chain);
          chains_.push_back(static_cast<double>(chain));
        }
    return {};
  }

  int64_t blocks_ = 0, columns_ = 0;
  std::vector<double> chains_;  // [starts, rows, columns], repeated
};

// Arrays of [blocks, depth, width]: a block is contiguous, its columns are summed side by side; on a GPU by a lane
// each, so that neighbours read neighbours.
constexpr int64_t kReadDepth = 512, kGpuWidth = 256;

class MemoryPeak final : public TensorCase {
 public:
  MemoryPeak(const Setting& setting, bool copy, double array_bytes)
      : TensorCase(setting), copy_(copy), array_bytes_(array_bytes) {}

  Work work() const override {
    return {0, (copy_ ? 2.0 : 1.0) * 4 * static_cast<double>(blocks_ * kReadDepth * width_)};
  }
  std::string unit() const override { return "GB/s"; }
  double value(double seconds) const override { return work().bytes / seconds * 1e-9; }
  bool has_roofline() const override { return false; }

 protected:
  Status make_sets(std::vector<std::vector<HostArray>>* sets, Problem* problem) override {
    width_ = context().is_gpu() ? kGpuWidth : 4 * context().vector_width();
    blocks_ = static_cast<int64_t>(std::ceil(array_bytes_ / static_cast<double>(4 * kReadDepth * width_)));
    sets->push_back({make_array("x", DType::f32, {blocks_, kReadDepth, width_})});
    const std::span<float> x = sets->front()[0].values<float>();
    fill_random<float>(x, 3, -1, 1);
    if (copy_) {
      problem->outputs = {{"y", DType::f32, {blocks_, kReadDepth, width_}, {}}};
      expected_.assign(x.begin(), x.end());
      return {};
    }
    problem->outputs = {{"y", DType::f32, {blocks_, width_}, {}}};
    expected_.assign(static_cast<size_t>(blocks_ * width_), 0.0f);
    for (size_t i = 0; i < x.size(); ++i) {
      const size_t width = static_cast<size_t>(width_), block = i / (width * kReadDepth);
      float& sum = expected_[block * width + i % width];
      sum = sum + x[i];
    }
    return {};
  }

  std::vector<Tensor> build(std::span<const Tensor> inputs) override {
    const int64_t width = width_;
    const bool copy = copy_;
    tensor::KernelCall call;
    call.key = std::string("bench ") + (copy ? "copy " : "read ") + std::to_string(width);
    call.define = [copy, width](dsl::KernelBuilder& k) {
      const dsl::Buffer x = k.input(DType::f32, "x"), y = k.output(DType::f32, "y");
      k.range("block", k.size("blocks"), [&](dsl::Expr block) {
        const dsl::Expr first = block * (kReadDepth * width);
        if (copy) {
          k.range("n", kReadDepth * width, [&](dsl::Expr n) { y.store(first + n, x[first + n]); });
          return;
        }
        k.range("n", width, [&](dsl::Expr n) {
          y.store(block * width + n, k.reduce("k", ir::Combine::add, 1, kReadDepth, dsl::constant(DType::f32, 0),
                                              [&](dsl::Expr i) { return x[first + i * width + n]; }));
        });
      });
    };
    call.schedule = "block:thread n:vecx4";
    call.results = {copy ? tensor::TensorSpec{DType::f32, {blocks_, kReadDepth, width}}
                         : tensor::TensorSpec{DType::f32, {blocks_, width}}};
    call.scalars = {static_cast<uint64_t>(blocks_)};
    return call_kernel(std::move(call), inputs);
  }

  Result<double> judge(int, std::span<const HostArray> outputs, bool) override {
    SPORKLE_RETURN_IF_ERROR(compare_bits<float>(outputs[0], expected_));
    return 0.0;
  }

 private:
  bool copy_;
  double array_bytes_;
  int64_t blocks_ = 0, width_ = 0;
  std::vector<float> expected_;
};

double bytes_beyond_caches() { return std::min(1.25 * last_level_cache_bytes(), 640.0 * 0x1p20); }

Result<std::unique_ptr<Case>> make_peak(const Setting& setting, double array_bytes) {
  if (setting.shape == "fma") return std::unique_ptr<Case>(std::make_unique<FmaPeak>(setting));
  if (setting.shape != "read" && setting.shape != "copy")
    return invalid_argument("shape \"" + setting.shape + "\" of the case peak is none of fma, read, copy");
  if (setting.dtype != DType::f32)
    return invalid_argument("the case peak " + setting.shape + " moves bytes: measure it with --dtype f32 alone");
  return within_memory(setting.shape, 5 * array_bytes,
                       std::make_unique<MemoryPeak>(setting, setting.shape == "copy", array_bytes));
}

// The fastest of samples of at least `kSample_s` each, in the case's unit. They go on until `patience` of them in a row
// brought no more than half a percent: on a shared machine most samples fall short of what is possible.
Result<double> best_value(Setting setting, const std::string& shape, PeakEffort effort) {
  constexpr double kSample_s = 0.02;
  const bool brief = effort == PeakEffort::brief;
  const int patience = brief ? 4 : 12, most = brief ? 12 : 60;
  setting.shape = shape;
  if (shape != "fma") setting.dtype = DType::f32;
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<Case> subject,
                           make_peak(setting, brief ? 0x1p27 : bytes_beyond_caches()));
  SPORKLE_RETURN_IF_ERROR(subject->prepare());
  SPORKLE_RETURN_IF_ERROR(subject->poison_outputs());
  SPORKLE_ASSIGN_OR_RETURN(const Sample first, subject->run(1));
  const int runs = static_cast<int>(std::clamp(kSample_s / std::max(first.wall_seconds, 1e-6), 1.0, 1e4));
  double best = 0;
  for (int sample = 0, since = 0; sample < most && since < patience; ++sample, ++since) {
    SPORKLE_ASSIGN_OR_RETURN(const Sample timed, subject->run(runs));
    const double value = subject->value(timed.wall_seconds / runs);
    if (value > 1.005 * best) since = -1;
    best = std::max(best, value);
  }
  SPORKLE_RETURN_IF_ERROR(subject->check().status());
  return best;
}

}  // namespace

CaseKind peak_case() {
  CaseKind kind;
  kind.name = "peak";
  kind.summary = "What this machine can do: arithmetic in registers, memory read and copied";
  kind.shape_form = "fma|read|copy";
  kind.default_shapes = {"fma", "read", "copy"};
  kind.dtypes = {DType::f32, DType::f64};
  kind.numerics = {ir::Numerics::strict};
  kind.make = [](const Setting& setting) { return make_peak(setting, bytes_beyond_caches()); };
  return kind;
}

Result<Peak> peak_of(const Setting& setting, PeakEffort effort) {
  static std::mutex mutex;
  static std::map<std::tuple<std::string, int, DType, PeakEffort>, Peak> known;
  const std::lock_guard lock(mutex);
  const auto key = std::tuple(setting.device, setting.threads, setting.dtype, effort);
  if (const auto found = known.find(key); found != known.end()) return found->second;
  SPORKLE_ASSIGN_OR_RETURN(const double gflops, best_value(setting, "fma", effort));
  SPORKLE_ASSIGN_OR_RETURN(const double read, best_value(setting, "read", effort));
  SPORKLE_ASSIGN_OR_RETURN(const double copy, best_value(setting, "copy", effort));
  return known[key] = {gflops * 1e9, std::max(read, copy) * 1e9};
}

}  // namespace sporkle::bench
