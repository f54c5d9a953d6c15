// A case that is an expression over tensors: everything but the expression, its inputs and its definition.
//
// A run builds the expression for one input set and realises it as a user would: `sets()` runs to a submission, one
// wait at the end of the sample. Belongs to one thread.
#pragma once

#include "bench/case.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

namespace sporkle::bench {

class TensorCase : public Case {
 public:
  explicit TensorCase(const Setting& setting) : setting_(setting) {}

  Status prepare() override;
  int sets() const override { return static_cast<int>(sets_.size()); }
  Result<Sample> run(int repetitions) override;
  Status poison_outputs() override;
  Result<double> check() override;
  const Problem& problem() const override { return problem_; }
  Result<double> check_rival(int set, std::span<const HostArray> outputs) override {
    return judge(set, outputs, /*ours=*/false);
  }

 protected:
  // What this machine's plainest instruction set gives for an input set, other code than what is measured: in `strict`
  // the bits must be the same.
  Result<std::vector<HostArray>> baseline_outputs(size_t set);
  // The operation and its parameters; the inputs of every set (f32, f64 or i32), and the outputs without bytes. What
  // judge() needs.
  virtual Status make_sets(std::vector<std::vector<HostArray>>* sets, Problem* problem) = 0;
  // An input as build() is given it, from the uploaded array; called once for each.
  virtual tensor::Tensor prepare_input(const tensor::Tensor& uploaded) { return uploaded; }
  // The outputs, in the order of problem().outputs. Called for every run.
  virtual std::vector<tensor::Tensor> build(std::span<const tensor::Tensor> inputs) = 0;
  // Compares with float64; `ours` in `strict` also bit for bit. Returns the largest relative error.
  virtual Result<double> judge(int set, std::span<const HostArray> outputs, bool ours) = 0;

  const Setting& setting() const { return setting_; }
  tensor::Context& context() { return *context_; }

 private:
  // Keeps a GPU busy with something else until its clocks are up.
  Status raise_clocks();

  Setting setting_;
  std::unique_ptr<tensor::Context> context_, baseline_;
  std::vector<std::vector<HostArray>> sets_;
  Problem problem_;
  std::vector<std::vector<tensor::Tensor>> inputs_, outputs_;  // of each set
  tensor::Tensor heater_;
};

// Where that runs.
Result<std::unique_ptr<tensor::Context>> open_baseline(int threads);

// How many input sets of `bytes_per_set` it takes so that none of them is still in the processor's cache when its turn
// comes again: together 1.25 x the last level, but no more than 640 MiB or 64 sets. With `in_cache`, for work whose
// time is arithmetic: 2 to 16 sets, together at least 1 MiB.
// What work of so many bytes that memory decides counts as cached: it is measured that way, with `in_cache`.
inline constexpr double kInCacheBytes = 8 << 20;
int set_count(double bytes_per_set, bool in_cache);
// As the system reports it; 32 MiB where it does not.
double last_level_cache_bytes();

}  // namespace sporkle::bench
