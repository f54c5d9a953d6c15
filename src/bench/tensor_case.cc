#include "bench/tensor_case.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "base/seconds.h"
#include "codegen/compile.h"
#include "tensor/random.h"

namespace sporkle::bench {
namespace {

using tensor::Tensor;

// An idle GPU lowers its clocks while the host checks what it made, and takes a while to raise them again.
constexpr double kClocksUp_s = 0.25;
constexpr int64_t kHeaterSize = 2048;

Result<Tensor> upload(tensor::Context& context, const HostArray& array) {
  const tensor::Shape shape(std::span<const int64_t>(array.shape));
  Tensor tensor;
  switch (array.dtype) {
    case ir::DType::f32:
      tensor = tensor::from_host<float>(context, array.values<float>(), shape);
      break;
    case ir::DType::f64:
      tensor = tensor::from_host<double>(context, array.values<double>(), shape);
      break;
    case ir::DType::i32:
      tensor = tensor::from_host<int32_t>(context, array.values<int32_t>(), shape);
      break;
    default:
      return internal_error("input " + array.name + " has a type that benchmarks do not upload");
  }
  SPORKLE_RETURN_IF_ERROR(tensor.status());
  SPORKLE_RETURN_IF_ERROR(tensor::realize({tensor}));
  return tensor;
}

template <typename T>
Status download_as(const Tensor& tensor, HostArray* array) {
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<T> values, tensor.to_host<T>());
  const auto bytes = std::as_bytes(std::span(values));
  array->bytes.assign(bytes.begin(), bytes.end());
  return {};
}

Result<HostArray> download(const Tensor& tensor, const HostArray& like) {
  HostArray array{like.name, like.dtype, like.shape, {}};
  if (tensor.dtype() != like.dtype || tensor.shape() != tensor::Shape(std::span<const int64_t>(like.shape)))
    return internal_error("output " + like.name + " has another type or shape than its case says");
  switch (like.dtype) {
    case ir::DType::f32:
      SPORKLE_RETURN_IF_ERROR(download_as<float>(tensor, &array));
      break;
    case ir::DType::f64:
      SPORKLE_RETURN_IF_ERROR(download_as<double>(tensor, &array));
      break;
    case ir::DType::i32:
      SPORKLE_RETURN_IF_ERROR(download_as<int32_t>(tensor, &array));
      break;
    default:
      return internal_error("output " + like.name + " has a type that benchmarks do not download");
  }
  return array;
}

}  // namespace

Status TensorCase::prepare() {
  if (setting_.open_context) {
    SPORKLE_ASSIGN_OR_RETURN(context_, setting_.open_context());
  } else {
    hal::DeviceOptions device;
    device.threads = setting_.threads;
    tensor::ContextOptions options;
    options.numerics = setting_.numerics;
    SPORKLE_ASSIGN_OR_RETURN(context_, tensor::Context::open(setting_.device, device, options));
  }
  SPORKLE_RETURN_IF_ERROR(make_sets(&sets_, &problem_));
  for (const std::vector<HostArray>& set : sets_) {
    std::vector<Tensor>& tensors = inputs_.emplace_back();
    std::vector<const HostArray*>& arrays = problem_.inputs.emplace_back();
    for (const HostArray& array : set) {
      SPORKLE_ASSIGN_OR_RETURN(const Tensor uploaded, upload(*context_, array));
      Tensor tensor = prepare_input(uploaded);
      SPORKLE_RETURN_IF_ERROR(tensor::realize({tensor}));
      tensors.push_back(std::move(tensor));
      arrays.push_back(&array);
    }
  }
  return run(sets()).status();
}

Result<std::unique_ptr<tensor::Context>> open_baseline(int threads) {
  hal::DeviceOptions options;
  options.threads = threads;
  options.cpu_target = codegen::host_cpu_levels().front();
  return tensor::Context::open("cpu", options);
}

Result<std::vector<HostArray>> TensorCase::baseline_outputs(size_t set) {
  if (!baseline_) {
    SPORKLE_ASSIGN_OR_RETURN(baseline_, open_baseline(std::max(setting_.threads, 1)));
  }
  std::vector<Tensor> inputs;
  for (const HostArray& array : sets_[set]) {
    SPORKLE_ASSIGN_OR_RETURN(Tensor tensor, upload(*baseline_, array));
    inputs.push_back(std::move(tensor));
  }
  const std::vector<Tensor> outputs = build(inputs);
  SPORKLE_RETURN_IF_ERROR(tensor::realize(outputs));
  std::vector<HostArray> arrays;
  for (size_t i = 0; i < outputs.size(); ++i) {
    SPORKLE_ASSIGN_OR_RETURN(HostArray array, download(outputs[i], problem_.outputs[i]));
    arrays.push_back(std::move(array));
  }
  return arrays;
}

Status TensorCase::raise_clocks() {
  if (context_->device().info().kind == hal::DeviceKind::processor) return {};  // Mesa's too
  if (!heater_.defined()) {
    heater_ = tensor::uniform(*context_, {kHeaterSize, kHeaterSize}, {1, 0});
    SPORKLE_RETURN_IF_ERROR(tensor::realize({heater_}));
  }
  for (const double start_s = now_s(); now_s() - start_s < kClocksUp_s;) {
    SPORKLE_RETURN_IF_ERROR(tensor::realize({tensor::matmul(heater_, heater_)}));
    SPORKLE_RETURN_IF_ERROR(context_->wait());
  }
  return {};
}

Result<Sample> TensorCase::run(int repetitions) {
  SPORKLE_RETURN_IF_ERROR(raise_clocks());
  const size_t count = inputs_.size();
  const double planned_s = context_->counters().host_seconds;
  const Result<double> busy_s = context_->device().busy_seconds();
  double building_s = 0;
  const double start_s = now_s();
  for (int done = 0; done < repetitions;) {
    // What the last run made goes back to the context first, so that this one writes there again.
    outputs_.assign(count, {});
    const double build_s = now_s();
    std::vector<Tensor> wanted;
    for (size_t set = 0; set < count && done < repetitions; ++set, ++done) {
      outputs_[set] = build(inputs_[set]);
      wanted.insert(wanted.end(), outputs_[set].begin(), outputs_[set].end());
    }
    building_s += now_s() - build_s;
    SPORKLE_RETURN_IF_ERROR(tensor::realize(wanted));
  }
  SPORKLE_RETURN_IF_ERROR(context_->wait());
  Sample sample;
  sample.wall_seconds = now_s() - start_s;
  sample.host_seconds = building_s + context_->counters().host_seconds - planned_s;
  if (const Result<double> busy_after_s = context_->device().busy_seconds(); busy_s.ok() && busy_after_s.ok())
    sample.device_seconds = *busy_after_s - *busy_s;
  return sample;
}

Status TensorCase::poison_outputs() {
  outputs_.clear();
  return context_->fill_unused(kPoison);
}

Result<double> TensorCase::check() {
  double worst = 0;
  if (outputs_.size() != sets_.size()) return internal_error("outputs are checked before a run made them");
  for (size_t set = 0; set < outputs_.size(); ++set) {
    if (outputs_[set].size() != problem_.outputs.size())
      return internal_error("the last sample did not run input set " + std::to_string(set));
    std::vector<HostArray> arrays;
    for (size_t i = 0; i < problem_.outputs.size(); ++i) {
      SPORKLE_ASSIGN_OR_RETURN(HostArray array, download(outputs_[set][i], problem_.outputs[i]));
      arrays.push_back(std::move(array));
    }
    SPORKLE_ASSIGN_OR_RETURN(const double error, judge(static_cast<int>(set), arrays, /*ours=*/true));
    worst = std::max(worst, error);
  }
  return worst;
}

double last_level_cache_bytes() {
  for (const int level : {_SC_LEVEL4_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE, _SC_LEVEL2_CACHE_SIZE})
    if (const long bytes = ::sysconf(level); bytes > 0) return static_cast<double>(bytes);
  return 32 << 20;
}

int set_count(double bytes_per_set, bool in_cache) {
  if (in_cache) return static_cast<int>(std::clamp(std::ceil(0x1p20 / bytes_per_set), 2.0, 16.0));
  const double together = std::min(1.25 * last_level_cache_bytes(), 640.0 * 0x1p20);
  return static_cast<int>(std::clamp(std::ceil(together / bytes_per_set), 1.0, 64.0));
}

}  // namespace sporkle::bench
