// launch: what a kernel costs that does next to nothing: it adds 1 to a counter. `latency` is one kernel from building
// its expression to the end of the wait for it; `chain` is 1000 kernels in one submission, each of which waits for the
// one before; `host` is the part of the latter in which the host builds, plans and records.
#include <array>

#include "bench/case_list.h"
#include "bench/cases.h"
#include "bench/judge.h"
#include "bench/tensor_case.h"
#include "tensor/kernel_call.h"

namespace sporkle::bench {
namespace {

using tensor::DType;
using tensor::Tensor;

enum class Kind { latency, chain, host };

class LaunchCase final : public TensorCase {
 public:
  LaunchCase(const Setting& setting, Kind kind) : TensorCase(setting), kind_(kind) {}

  Work work() const override { return {}; }
  std::string unit() const override { return "us"; }
  double value(double seconds) const override { return seconds * 1e6 / launches(); }
  bool has_roofline() const override { return false; }

  Result<Sample> run(int repetitions) override {
    Sample all;
    const int at_once = kind_ == Kind::latency ? 1 : repetitions;
    for (int done = 0; done < repetitions; done += at_once) {
      SPORKLE_ASSIGN_OR_RETURN(const Sample sample, TensorCase::run(at_once));
      all.wall_seconds += kind_ == Kind::host ? sample.host_seconds : sample.wall_seconds;
      all.host_seconds += sample.host_seconds;
    }
    // Without the device's seconds: waking up and taking expressions apart, in which neither the device computes nor
    // the host plans, are most of what such a kernel costs.
    return all;
  }

 protected:
  Status make_sets(std::vector<std::vector<HostArray>>* sets, Problem* problem) override {
    sets->push_back({make_array("counter", DType::f32, {1})});
    sets->front()[0].values<float>()[0] = 17;
    problem->outputs = {{"count", DType::f32, {1}, {}}};
    return {};
  }

  std::vector<Tensor> build(std::span<const Tensor> inputs) override {
    std::vector<Tensor> counter = {inputs[0]};
    for (int i = 0; i < launches(); ++i) {
      tensor::KernelCall call;
      call.key = "bench counter";
      call.define = [](dsl::KernelBuilder& k) {
        const dsl::Buffer from = k.input(DType::f32, "from"), to = k.output(DType::f32, "to");
        const dsl::Expr count = k.size("count");
        k.range("i", count, [&](dsl::Expr at) { to.store(at, from[at] + dsl::constant(DType::f32, 1)); });
      };
      call.schedule = "i:thread64";
      call.results = {{DType::f32, {1}}};
      call.scalars = {1};
      counter = call_kernel(std::move(call), counter);
    }
    return counter;
  }

  Result<double> judge(int, std::span<const HostArray> outputs, bool) override {
    const double count = 17 + launches();
    SPORKLE_RETURN_IF_ERROR(compare_bits<float>(outputs[0], std::array{static_cast<float>(count)}));
    return compare_values(outputs[0], std::array{count}, 0);
  }

 private:
  int launches() const { return kind_ == Kind::latency ? 1 : 1000; }

  Kind kind_;
};

Result<std::unique_ptr<Case>> make_launch(const Setting& setting) {
  constexpr std::pair<const char*, Kind> kKinds[] = {
      {"latency", Kind::latency}, {"chain", Kind::chain}, {"host", Kind::host}};
  for (const auto& [name, kind] : kKinds)
    if (setting.shape == name) return std::unique_ptr<Case>(std::make_unique<LaunchCase>(setting, kind));
  return invalid_argument("shape \"" + setting.shape + "\" of the case launch is none of latency, chain, host");
}

}  // namespace

CaseKind launch_case() {
  CaseKind kind;
  kind.name = "launch";
  kind.summary = "What a kernel costs that does next to nothing";
  kind.shape_form = "latency|chain|host";
  kind.default_shapes = {"latency", "chain", "host"};
  kind.dtypes = {DType::f32};
  kind.numerics = {ir::Numerics::strict};
  kind.make = make_launch;
  return kind;
}

}  // namespace sporkle::bench
