// attention: causal attention as nn::Gpt runs it, on queries, keys and values of [rows, heads, length, size]; with :bwd
// also the gradients of the three. In `strict` the bits must be those of this machine's plainest instruction set.
#include <cmath>

#include "base/thread_pool.h"
#include "bench/case_list.h"
#include "bench/cases.h"
#include "bench/judge.h"
#include "bench/tensor_case.h"
#include "ir/node.h"
#include "tensor/attention.h"
#include "tensor/autograd.h"

namespace sporkle::bench {
namespace {

using tensor::Tensor;

constexpr const char* kForm = "ROWSxHEADSxLENGTHxSIZE[:bwd]";

struct AttentionShape {
  int64_t rows = 1, heads = 1, length = 1, size = 1;
  bool backward = false;

  int64_t count() const { return rows * heads * length * size; }
};

// One head in float64: y, and from dy the gradients. Plain loops over what is visible.
class Head {
 public:
  Head(const AttentionShape& s, const float* q, const float* k, const float* v)
      : n_(static_cast<size_t>(s.length)),
        d_(static_cast<size_t>(s.size)),
        scale_(1 / std::sqrt(static_cast<double>(s.size))),
        q_(q),
        k_(k),
        v_(v),
        weights_(n_) {}

  void forward(double* y) {
    for (size_t t = 0; t < n_; ++t) {
      fill_weights(t);
      for (size_t u = 0; u <= t; ++u)
        for (size_t i = 0; i < d_; ++i) y[t * d_ + i] += weights_[u] * v_[u * d_ + i];
    }
  }

  void backward(const float* dy, double* dq, double* dk, double* dv) {
    std::vector<double> change(n_);
    for (size_t t = 0; t < n_; ++t) {
      fill_weights(t);
      double mean = 0;
      for (size_t u = 0; u <= t; ++u) {
        change[u] = 0;
        for (size_t i = 0; i < d_; ++i) {
          const double g = dy[t * d_ + i];
          change[u] += g * v_[u * d_ + i];
          dv[u * d_ + i] += weights_[u] * g;
        }
        mean += change[u] * weights_[u];
      }
      for (size_t u = 0; u <= t; ++u) {
        const double g = weights_[u] * (change[u] - mean) * scale_;
        for (size_t i = 0; i < d_; ++i) {
          dq[t * d_ + i] += g * k_[u * d_ + i];
          dk[u * d_ + i] += g * q_[t * d_ + i];
        }
      }
    }
  }

 private:
  // The softmax of row t.
  void fill_weights(size_t t) {
    double top = -INFINITY, total = 0;
    for (size_t u = 0; u <= t; ++u) {
      double dot = 0;
      for (size_t i = 0; i < d_; ++i) dot += static_cast<double>(q_[t * d_ + i]) * k_[u * d_ + i];
      weights_[u] = dot * scale_;
      top = std::max(top, weights_[u]);
    }
    for (size_t u = 0; u <= t; ++u) total += weights_[u] = std::exp(weights_[u] - top);
    for (size_t u = 0; u <= t; ++u) weights_[u] /= total;
  }

  size_t n_, d_;
  double scale_;
  const float *q_, *k_, *v_;
  std::vector<double> weights_;
};

class AttentionCase final : public TensorCase {
 public:
  AttentionCase(const Setting& setting, const AttentionShape& shape) : TensorCase(setting), s_(shape) {}

  Work work() const override { return work_of(s_); }
  std::string unit() const override { return "GFLOP/s"; }
  double value(double seconds) const override { return work().flops / seconds * 1e-9; }

  // Useful work: the two products (six with their gradients) over the keys that each query sees.
  static Work work_of(const AttentionShape& s) {
    const double visible = 0.5 * static_cast<double>(s.length) * static_cast<double>(s.length + 1);
    const double product = 2 * visible * static_cast<double>(s.size * s.rows * s.heads);
    return {(s.backward ? 6 : 2) * product, 4.0 * static_cast<double>(s.count()) * (s.backward ? 8 : 4)};
  }
  static int sets_of(const Work& work) { return set_count(work.bytes, work.flops / work.bytes >= 10); }

  Status prepare() override {
    SPORKLE_RETURN_IF_ERROR(TensorCase::prepare());
    if (setting().numerics != ir::Numerics::strict) return {};
    for (size_t set = 0; set < expected_.size(); ++set) {
      SPORKLE_ASSIGN_OR_RETURN(std::vector<HostArray> outputs, baseline_outputs(set));
      baseline_.push_back(std::move(outputs));
    }
    return {};
  }

 protected:
  Status make_sets(std::vector<std::vector<HostArray>>* sets, Problem* problem) override {
    const std::vector<int64_t> shape{s_.rows, s_.heads, s_.length, s_.size};
    problem->operation = "attention";
    problem->parameters = {{"backward", s_.backward}};
    std::vector<const char*> outputs = {"y"}, inputs = {"q", "k", "v"};
    if (s_.backward) {
      outputs.insert(outputs.end(), {"dq", "dk", "dv"});
      inputs.push_back("dy");
    }
    for (const char* name : outputs) problem->outputs.push_back({name, ir::DType::f32, shape, {}});
    sets->resize(static_cast<size_t>(sets_of(work())));
    uint64_t seed = 1;
    ThreadPool pool(std::max(setting().threads, 1));
    for (std::vector<HostArray>& set : *sets) {
      for (const char* name : inputs) {
        set.push_back(make_array(name, ir::DType::f32, shape));
        fill_random<float>(set.back().values<float>(), seed++, -1.7, 1.7);  // of variance 1, as norms leave it
      }
      std::vector<std::vector<double>>& expected =
          expected_.emplace_back(outputs.size(), std::vector<double>(static_cast<size_t>(s_.count())));
      pool.parallel_for(s_.rows * s_.heads, [&](int64_t begin, int64_t end, int) {
        for (int64_t h = begin; h < end; ++h) {
          const int64_t at = h * s_.length * s_.size;
          const auto input = [&](size_t i) { return set[i].values<float>().data() + at; };
          Head head(s_, input(0), input(1), input(2));
          head.forward(expected[0].data() + at);
          if (s_.backward)
            head.backward(input(3), expected[1].data() + at, expected[2].data() + at, expected[3].data() + at);
        }
      });
    }
    return {};
  }

  std::vector<Tensor> build(std::span<const Tensor> inputs) override {
    const double scale = 1.0 / std::sqrt(static_cast<double>(s_.size));
    const Tensor y = tensor::attention(inputs[0], inputs[1], inputs[2], {.scale = scale});
    if (!s_.backward) return {y};
    const auto gradients = tensor::grad(sum(y * inputs[3]), inputs.first(3));
    if (!gradients.ok()) return std::vector<Tensor>(4, tensor::error_tensor(&context(), gradients.status()));
    return {y, (*gradients)[0], (*gradients)[1], (*gradients)[2]};
  }

  Result<double> judge(int set, std::span<const HostArray> outputs, bool ours) override {
    // Scores are chains over the size, results over the length; each rounding weighs at most as in a product of both.
    const double limit = 16 * rounding_unit(ir::DType::f32) * std::sqrt(static_cast<double>(s_.size + s_.length) + 16);
    double worst = 0;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (ours && !baseline_.empty())
        SPORKLE_RETURN_IF_ERROR(
            compare_bits<float>(outputs[i], baseline_[static_cast<size_t>(set)][i].values<float>()));
      SPORKLE_ASSIGN_OR_RETURN(const double error,
                               compare_values(outputs[i], expected_[static_cast<size_t>(set)][i], limit));
      worst = std::max(worst, error);
    }
    return worst;
  }

 private:
  AttentionShape s_;
  std::vector<std::vector<std::vector<double>>> expected_;  // of each set and output
  std::vector<std::vector<HostArray>> baseline_;            // likewise, in `strict`: the bits
};

}  // namespace

CaseKind attention_case() {
  CaseKind kind;
  kind.name = "attention";
  kind.summary = "Causal attention; with :bwd also its gradients";
  kind.shape_form = kForm;
  kind.default_shapes = {"8x6x256x64", "8x6x256x64:bwd", "1x12x1024x64", "1x12x1024x64:bwd"};
  kind.dtypes = {ir::DType::f32};
  kind.numerics = {ir::Numerics::strict};
  kind.rivals = {"PyTorch"};
  kind.default_rivals = {"PyTorch"};
  kind.make = [](const Setting& setting) -> Result<std::unique_ptr<Case>> {
    constexpr std::string_view kBackward = ":bwd";
    std::string_view text = setting.shape;
    AttentionShape s;
    s.backward = text.ends_with(kBackward);
    if (s.backward) text.remove_suffix(kBackward.size());
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<int64_t> extents, parse_extents(text, 4, kForm));
    s.rows = extents[0];
    s.heads = extents[1];
    s.length = extents[2];
    s.size = extents[3];
    const Work work = AttentionCase::work_of(s);
    // Device, host and rival hold inputs and outputs, references are wider; a rival may store the weights.
    const double weights =
        16.0 * static_cast<double>(s.rows * s.heads) * static_cast<double>(s.length) * static_cast<double>(s.length);
    return within_memory(setting.shape, (6 * work.bytes + weights) * AttentionCase::sets_of(work),
                         std::make_unique<AttentionCase>(setting, s));
  };
  return kind;
}

}  // namespace sporkle::bench
