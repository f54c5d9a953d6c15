// gemm: C = A B, f32 or f64, either operand transposed in memory; gemv: the same with one row, which is the reading of
// a matrix. In `strict` every element must equal the chain of fused multiply-adds bit for bit. In `fast` the operands
// may be bf16, whose products are summed in f32: C is f32, and within the same limit of the product in float64.
#include <cmath>

#include "bench/case_list.h"
#include "bench/cases.h"
#include "bench/fma_chain.h"
#include "bench/judge.h"
#include "bench/tensor_case.h"
#include "ir/float16.h"
#include "ir/node.h"

namespace sporkle::bench {
namespace {

using tensor::Tensor;

constexpr const char* kForm = "MxNxK[:nn|nt|tn|tt]";

class GemmCase final : public TensorCase {
 public:
  GemmCase(const Setting& setting, const ProductShape& shape, bool rate_is_bytes)
      : TensorCase(setting), shape_(shape), rate_is_bytes_(rate_is_bytes) {}

  Work work() const override { return work_of(shape_, setting().dtype); }
  std::string unit() const override { return rate_is_bytes_ ? "GB/s" : "GFLOP/s"; }
  double value(double seconds) const override {
    return (rate_is_bytes_ ? work().bytes : work().flops) / seconds * 1e-9;
  }

  bool has_roofline() const override { return !is_low(); }  // the peak that is measured is that of f32 and f64

  static Work work_of(const ProductShape& s, ir::DType dtype) {
    const double m = static_cast<double>(s.m), n = static_cast<double>(s.n), k = static_cast<double>(s.k);
    return {2 * m * n * k, ir::dtype_size(dtype) * (m * k + k * n + m * n)};
  }
  // Below this many operations a byte, memory decides the time of a product.
  static int sets_of(const Work& work) { return set_count(work.bytes, work.flops / work.bytes >= 10); }

 protected:
  Status make_sets(std::vector<std::vector<HostArray>>* sets, Problem* problem) override {
    const ProductShape& s = shape_;
    if (!is_low()) problem->operation = "gemm";
    problem->parameters = {
        {"m", s.m}, {"n", s.n}, {"k", s.k}, {"transpose_a", s.transpose_a}, {"transpose_b", s.transpose_b}};
    problem->outputs = {{"c", array_type(), {s.m, s.n}, {}}};
    sets->resize(static_cast<size_t>(sets_of(work())));
    uint64_t seed = 1;
    for (std::vector<HostArray>& set : *sets) {
      using Extents = std::vector<int64_t>;
      set.push_back(make_array("a", array_type(), s.transpose_a ? Extents{s.k, s.m} : Extents{s.m, s.k}));
      set.push_back(make_array("b", array_type(), s.transpose_b ? Extents{s.n, s.k} : Extents{s.k, s.n}));
      for (HostArray& array : set) {
        if (setting().dtype == ir::DType::f64)
          fill_random<double>(array.values<double>(), seed++, -0.5, 0.5);
        else
          fill_random<float>(array.values<float>(), seed++, -0.5, 0.5);
        if (is_low())
          for (float& value : array.values<float>()) value = ir::bfloat16_to_float(ir::float_to_bfloat16(value));
      }
    }
    ThreadPool pool(std::max(setting().threads, 1));
    for (const std::vector<HostArray>& set : *sets) {
      std::vector<double>& in_double = in_double_.emplace_back(static_cast<size_t>(s.m * s.n));
      if (setting().dtype == ir::DType::f64) {
        fma_chain_product(pool, s, set[0].values<double>(), set[1].values<double>(), in_double);
        continue;
      }
      fma_chain_product(pool, s, set[0].values<float>(), set[1].values<float>(), std::span(in_double));
      if (setting().numerics != ir::Numerics::strict) continue;
      std::vector<float>& chain = chain_.emplace_back(in_double.size());
      fma_chain_product(pool, s, set[0].values<float>(), set[1].values<float>(), std::span(chain));
    }
    return {};
  }

  std::vector<Tensor> build(std::span<const Tensor> inputs) override {
    return {tensor::matmul_to_f32(shape_.transpose_a ? inputs[0].transpose(0, 1) : inputs[0],
                                  shape_.transpose_b ? inputs[1].transpose(0, 1) : inputs[1])};
  }

  Tensor prepare_input(const Tensor& uploaded) override {
    return is_low() ? uploaded.cast(ir::DType::bf16).detach() : uploaded;
  }

  Result<double> judge(int set, std::span<const HostArray> outputs, bool ours) override {
    const size_t index = static_cast<size_t>(set);
    if (ours && setting().numerics == ir::Numerics::strict) {
      if (setting().dtype == ir::DType::f64)
        SPORKLE_RETURN_IF_ERROR(compare_bits<double>(outputs[0], in_double_[index]));
      else
        SPORKLE_RETURN_IF_ERROR(compare_bits<float>(outputs[0], chain_[index]));
    }
    // Roundings of either sign add up like a random walk of K steps; any order of summation stays well within this.
    const double limit = 8 * rounding_unit(array_type()) * std::sqrt(static_cast<double>(shape_.k) + 16);
    return compare_values(outputs[0], in_double_[index], limit);
  }

 private:
  bool is_low() const { return setting().dtype == ir::DType::bf16; }
  // On the host, bf16 numbers are f32 ones.
  ir::DType array_type() const { return is_low() ? ir::DType::f32 : setting().dtype; }

  ProductShape shape_;
  bool rate_is_bytes_;
  std::vector<std::vector<double>> in_double_;  // of each set; for f64 it is the chain itself
  std::vector<std::vector<float>> chain_;
};

Result<ProductShape> parse_product(const std::string& text) {
  ProductShape shape;
  const size_t colon = text.find(':');
  if (colon != std::string::npos) {
    const std::string suffix = text.substr(colon + 1);
    const bool known = suffix.size() == 2 && suffix.find_first_not_of("nt") == std::string::npos;
    if (!known)
      return invalid_argument("shape \"" + text + "\" ends in \":" + suffix +
                              "\", which is none of :nn, :nt, :tn, :tt");
    shape.transpose_a = suffix[0] == 't';
    shape.transpose_b = suffix[1] == 't';
  }
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<int64_t> extents, parse_extents(text.substr(0, colon), 3, kForm));
  shape.m = extents[0];
  shape.n = extents[1];
  shape.k = extents[2];
  return shape;
}

Result<std::unique_ptr<Case>> make_product(const Setting& setting, bool rate_is_bytes) {
  SPORKLE_ASSIGN_OR_RETURN(const ProductShape shape, parse_product(setting.shape));
  if (setting.dtype == ir::DType::bf16 && setting.numerics != ir::Numerics::fast)
    return invalid_argument(
        "products of bf16 are measured with --numerics fast alone; in strict they are those of f32");
  const Work work = GemmCase::work_of(shape, setting.dtype);
  // Device, host and rival hold the inputs; references are wider.
  return within_memory(setting.shape, 5 * work.bytes * GemmCase::sets_of(work),
                       std::make_unique<GemmCase>(setting, shape, rate_is_bytes));
}

}  // namespace

CaseKind gemm_case() {
  CaseKind kind;
  kind.name = "gemm";
  kind.summary = "Matrix product, C = A B";
  kind.shape_form = kForm;
  kind.default_shapes = {
      "256x256x256",   "512x512x512",   "1024x1024x1024",    "2048x2048x2048",    "4096x768x768",      "1024x3072x768",
      "1024x768x3072", "256x50257x768", "1024x1024x1024:tn", "1024x1024x1024:nt", "1024x1024x1024:tt", "96x96x96",
      "100x100x100",   "127x255x511",   "1000x1000x1",       "4x3072x768",        "16x3072x768",       "64x3072x768"};
  kind.dtypes = {ir::DType::f32, ir::DType::f64, ir::DType::bf16};
  kind.numerics = {ir::Numerics::strict, ir::Numerics::fast};
  kind.rivals = {"OpenBLAS", "BLIS", "PyTorch"};
  kind.default_rivals = {"OpenBLAS", "BLIS"};
  kind.make = [](const Setting& setting) { return make_product(setting, false); };
  return kind;
}

CaseKind gemv_case() {
  CaseKind kind = gemm_case();
  kind.name = "gemv";
  kind.summary = "Vector times matrix: how fast a matrix is read";
  kind.default_shapes = {"1x3072x768", "1x768x3072", "1x1000x1000", "1x4096x4096:nt"};
  kind.make = [](const Setting& setting) { return make_product(setting, true); };
  return kind;
}

}  // namespace sporkle::bench
