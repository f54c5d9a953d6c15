#include "bench/tune_products.h"

#include <algorithm>
#include <cmath>

#include "base/seconds.h"
#include "base/temporary_folder.h"
#include "bench/cases.h"
#include "bench/judge.h"
#include "bench/tensor_case.h"
#include "cache/kernel_cache.h"
#include "hal/registry.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

namespace sporkle::bench {
namespace {

using tensor::Tensor;
using tune::ProductPlan;
using tune::ProductShape;

constexpr double kSample_s = 0.01;
constexpr int kSamples = 3;
constexpr double kMostSetBytes = 128e6;

// Products of one shape on a device, under plans of the processor's or the GPU's kind.
class Timer {
 public:
  explicit Timer(const ProductShape& shape) : shape_(shape) {}

  Status open(hal::Device& device) {
    device_ = &device;
    SPORKLE_ASSIGN_OR_RETURN(TemporaryFolder folder, TemporaryFolder::create("sporkle_tune"));
    folder_ = std::make_unique<TemporaryFolder>(std::move(folder));
    kernels_ = std::make_unique<cache::KernelCache>(*device_, folder_->path());
    const double numbers =
        static_cast<double>(shape_.batches) *
        static_cast<double>(shape_.rows * shape_.depth + shape_.depth * shape_.columns + shape_.rows * shape_.columns);
    const double bytes = numbers * shape_.element_bytes;
    const double flops = 2.0 * static_cast<double>(shape_.batches * shape_.rows) * static_cast<double>(shape_.columns) *
                         static_cast<double>(shape_.depth);
    // As `sporkle bench gemm` does: where memory decides, operands come from memory.
    const double most = std::max(std::floor(kMostSetBytes / bytes), 2.0);
    sets_ = std::min(set_count(bytes, flops / bytes >= 10), static_cast<int>(std::min(most, 64.0)));
    SPORKLE_RETURN_IF_ERROR(check_memory(shape_.key(), bytes * (sets_ + 2)));
    // Learns what the processor is called.
    SPORKLE_RETURN_IF_ERROR(open_context());
    return run(1);
  }

  const tune::Processor& processor() const { return processor_; }

  Result<double> seconds(const ProductPlan& plan) {
    plan_ = plan;
    return seconds();
  }
  Result<double> seconds(const tune::GpuPlan& plan) {
    gpu_plan_ = plan;
    return seconds();
  }

 private:
  Result<double> seconds() {
    SPORKLE_RETURN_IF_ERROR(open_context());
    SPORKLE_RETURN_IF_ERROR(run(sets_));  // compiles
    double start = clock_s();
    SPORKLE_RETURN_IF_ERROR(run(sets_));
    const double pass = std::max(clock_s() - start, 1e-7);
    const int repetitions = sets_ * static_cast<int>(std::clamp(std::ceil(kSample_s / pass), 1.0, 1e5));
    double best = 0;
    for (int i = 0; i < kSamples; ++i) {
      start = clock_s();
      SPORKLE_RETURN_IF_ERROR(run(repetitions));
      const double each = (clock_s() - start) / repetitions;
      best = i == 0 ? each : std::min(best, each);
    }
    return best;
  }

  // A GPU's own clock, which does not count what the host does between.
  double clock_s() const {
    const Result<double> busy_s = gpu_plan_ ? device_->busy_seconds() : unsupported("");
    return busy_s.ok() ? *busy_s : now_s();
  }

  // A new one for every plan, since a context plans each structure of graph once.
  Status open_context() {
    a_.clear();
    b_.clear();
    tensor::ContextOptions options;
    options.choose_product = [this](const ProductShape&, const tune::Processor& processor) {
      processor_ = processor;
      return plan_;
    };
    options.choose_gpu_product = [this](const ProductShape&) { return gpu_plan_; };
    context_ = std::make_unique<tensor::Context>(*device_, *kernels_, options);
    for (int i = 0; i < sets_; ++i) {
      SPORKLE_ASSIGN_OR_RETURN(Tensor a, operand(shape_.rows, shape_.depth, !shape_.a_in_rows, 2 * i + 1));
      SPORKLE_ASSIGN_OR_RETURN(Tensor b, operand(shape_.depth, shape_.columns, !shape_.b_in_rows, 2 * i + 2));
      a_.push_back(std::move(a));
      b_.push_back(std::move(b));
    }
    return {};
  }

  Result<Tensor> operand(int64_t rows, int64_t columns, bool transposed, int seed) {
    const tensor::Shape shape =
        transposed ? tensor::Shape{shape_.batches, columns, rows} : tensor::Shape{shape_.batches, rows, columns};
    const auto count = static_cast<size_t>(shape_.batches * rows * columns);
    Tensor x;
    if (shape_.element_bytes == 8) {
      std::vector<double> values(count);
      fill_random<double>(values, static_cast<uint64_t>(seed), -0.5, 0.5);
      x = tensor::from_host<double>(*context_, values, shape);
    } else {
      std::vector<float> values(count);
      fill_random<float>(values, static_cast<uint64_t>(seed), -0.5, 0.5);
      x = tensor::from_host<float>(*context_, values, shape);
    }
    SPORKLE_RETURN_IF_ERROR(x.status());
    SPORKLE_RETURN_IF_ERROR(tensor::realize({x}));
    if (shape_.batches == 1) x = x.reshape(transposed ? tensor::Shape{columns, rows} : tensor::Shape{rows, columns});
    return transposed ? x.transpose(x.rank() - 2, x.rank() - 1) : x;
  }

  Status run(int repetitions) {
    std::vector<Tensor> results;
    for (int i = 0; i < repetitions; ++i) {
      const auto set = static_cast<size_t>(i % sets_);
      results.push_back(tensor::matmul(a_[set], b_[set]));
      if (static_cast<int>(results.size()) < sets_ && i + 1 < repetitions) continue;
      SPORKLE_RETURN_IF_ERROR(tensor::realize(results));
      results.clear();
    }
    return context_->wait();
  }

  ProductShape shape_;
  hal::Device* device_ = nullptr;
  std::unique_ptr<TemporaryFolder> folder_;
  std::unique_ptr<cache::KernelCache> kernels_;
  std::optional<ProductPlan> plan_;
  std::optional<tune::GpuPlan> gpu_plan_;
  tune::Processor processor_;
  std::unique_ptr<tensor::Context> context_;
  int sets_ = 1;
  std::vector<Tensor> a_, b_;
};

class CpuTimer final : public ProductTimer {
 public:
  CpuTimer(const ProductShape& shape, std::shared_ptr<hal::Device> device)
      : device_(std::move(device)), timer_(shape) {}
  Status open() { return timer_.open(*device_); }
  const tune::Processor& processor() const override { return timer_.processor(); }
  Result<double> seconds(const ProductPlan& plan) override { return timer_.seconds(plan); }

 private:
  std::shared_ptr<hal::Device> device_;
  Timer timer_;
};

class GpuTimer final : public GpuProductTimer {
 public:
  explicit GpuTimer(const ProductShape& shape) : timer_(shape) {}
  Status open(hal::Device& device) { return timer_.open(device); }
  Result<double> seconds(const tune::GpuPlan& plan) override { return timer_.seconds(plan); }

 private:
  Timer timer_;
};

}  // namespace

Result<ProductShape> parse_tuned_shape(std::string_view text) {
  constexpr std::string_view kForm = "[BATCHES*]MxNxK[:nn|nt|tn|tt][@f32|@f64]";
  const auto fail = [&](const std::string& why) {
    return invalid_argument("shape \"" + std::string(text) + "\" " + why + "; it reads like " + std::string(kForm));
  };
  ProductShape shape;
  std::string_view rest = text;
  if (const size_t at = rest.find('@'); at != std::string_view::npos) {
    const std::string_view type = rest.substr(at + 1);
    if (type != "f32" && type != "f64") return fail("has an element type that is neither f32 nor f64");
    shape.element_bytes = type == "f64" ? 8 : 4;
    rest = rest.substr(0, at);
  }
  if (const size_t colon = rest.find(':'); colon != std::string_view::npos) {
    const std::string_view letters = rest.substr(colon + 1);
    if (letters.size() != 2 || letters.find_first_not_of("nt") != std::string_view::npos)
      return fail("ends in none of :nn, :nt, :tn and :tt");
    shape.a_in_rows = letters[0] == 'n';
    shape.b_in_rows = letters[1] == 'n';
    rest = rest.substr(0, colon);
  }
  if (const size_t star = rest.find('*'); star != std::string_view::npos) {
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<int64_t> batches, parse_extents(rest.substr(0, star), 1, kForm));
    shape.batches = batches[0];
    rest = rest.substr(star + 1);
  }
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<int64_t> extents, parse_extents(rest, 3, kForm));
  shape.rows = extents[0];
  shape.columns = extents[1];
  shape.depth = extents[2];
  if (std::max({shape.rows, shape.columns, shape.depth, shape.batches}) > int64_t{1} << 24)
    return fail("has an extent above 2^24");
  // The stride of an axis of one element is of no consequence, as in the product itself.
  if (shape.depth == 1) shape.a_in_rows = true;
  if (shape.columns == 1) shape.b_in_rows = true;
  shape.b_row_bytes = shape.b_in_rows ? shape.columns * shape.element_bytes : shape.element_bytes;
  return shape;
}

std::vector<ProductShape> shapes_of_model(const train::ModelConfig& model, int64_t batch_rows, int64_t vocab_size) {
  std::vector<ProductShape> shapes;
  const auto add = [&](int64_t m, int64_t n, int64_t k, bool a_in_rows, bool b_in_rows) {
    const ProductShape shape{4, 1, m, n, k, a_in_rows, b_in_rows, 4 * (b_in_rows ? n : 1)};
    if (std::ranges::find(shapes, shape) == shapes.end()) shapes.push_back(shape);
  };
  const int64_t tokens = batch_rows * model.context, width = model.width;
  const auto layer = [&](int64_t inputs, int64_t outputs, bool turned) {
    add(tokens, outputs, inputs, true, !turned);  // y = x W
    add(tokens, inputs, outputs, true, turned);   // dx = dy W^T
    if (turned)
      add(outputs, inputs, tokens, false, true);  // dW^T = dy^T x
    else
      add(inputs, outputs, tokens, false, true);  // dW = x^T dy
  };
  layer(width, 3 * width, false);
  layer(width, width, false);
  layer(width, 4 * width, false);
  layer(4 * width, width, false);
  layer(width, vocab_size, true);  // the head is the embedding, transposed
  return shapes;
}

Result<std::unique_ptr<ProductTimer>> ProductTimer::create(const ProductShape& shape, int threads) {
  SPORKLE_ASSIGN_OR_RETURN(std::shared_ptr<hal::Device> device,
                           hal::open_device("cpu", {.threads = threads, .cpu_target = {}}));
  auto timer = std::make_unique<CpuTimer>(shape, std::move(device));
  SPORKLE_RETURN_IF_ERROR(timer->open().with_context("tuning " + shape.key()));
  return std::unique_ptr<ProductTimer>(std::move(timer));
}

Result<std::unique_ptr<GpuProductTimer>> GpuProductTimer::create(const ProductShape& shape, hal::Device& device) {
  if (!device.info().target.starts_with(codegen::kVulkanPrefix))
    return unsupported("device " + device.info().id + " is no GPU");
  auto timer = std::make_unique<GpuTimer>(shape);
  SPORKLE_RETURN_IF_ERROR(timer->open(device).with_context("tuning " + shape.key() + " on " + device.info().id));
  return std::unique_ptr<GpuProductTimer>(std::move(timer));
}

namespace {

// Shape after shape, and how much of the budget each may take.
class Tuning {
 public:
  explicit Tuning(const TuneOptions& options) : options_(options), began_(now_s()) {
    Result<tune::Database> loaded = tune::Database::load(options.database);
    if (loaded.ok())
      database_ = std::move(*loaded);
    else if (loaded.status().code() != Code::not_found && options.on_notice)
      options.on_notice(loaded.status().message() + ": a new one is begun");
  }

  Status on_processor() {
    std::vector<ProductPlan> found;  // what was good for one shape may be good for the next
    for (size_t i = 0; i < options_.shapes.size(); ++i) {
      const ProductShape& shape = options_.shapes[i];
      SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<ProductTimer> timer,
                               ProductTimer::create(shape, options_.threads));
      if (const tune::TunedProduct* known = database_.find(timer->processor(), shape); known && !options_.again) {
        found.push_back(known->plan);
        if (options_.on_result) options_.on_result(shape, *known, 0, true);
        continue;
      }
      tune::SearchOptions search = share_of(i);
      const double spent = now_s() - began_;
      search.progress = [&](double seconds, const ProductPlan& best, double) { report(shape, spent + seconds, best); };
      const auto measure = [&](const ProductPlan& plan) { return timer->seconds(plan); };
      SPORKLE_ASSIGN_OR_RETURN(const tune::SearchResult result,
                               tune::search_plan(shape, timer->processor(), found, measure, search));
      found.push_back(result.best.plan);
      database_.add(timer->processor(), shape, result.best);
      SPORKLE_RETURN_IF_ERROR(database_.save(options_.database));
      if (options_.on_result) options_.on_result(shape, result.best, result.measured, false);
    }
    return {};
  }

  Status on_gpu(hal::Device& device, const codegen::VulkanTarget& target) {
    const std::string gpu = tune::gpu_key(device.info().name, target);
    std::vector<tune::GpuPlan> found;
    for (size_t i = 0; i < options_.shapes.size(); ++i) {
      const ProductShape& shape = options_.shapes[i];
      if (const tune::TunedGpuProduct* known = database_.find(gpu, shape); known && !options_.again) {
        found.push_back(known->plan);
        if (options_.on_gpu_result) options_.on_gpu_result(shape, *known, 0, true);
        continue;
      }
      SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<GpuProductTimer> timer, GpuProductTimer::create(shape, device));
      const double spent = now_s() - began_;
      const auto progress = [&](double seconds, const tune::GpuPlan& best, double) {
        report(shape, spent + seconds, best);
      };
      const auto measure = [&](const tune::GpuPlan& plan) { return timer->seconds(plan); };
      SPORKLE_ASSIGN_OR_RETURN(const tune::GpuSearchResult result,
                               tune::search_gpu_plan(shape, target, found, measure, share_of(i), progress));
      found.push_back(result.best.plan);
      database_.add(gpu, shape, result.best);
      SPORKLE_RETURN_IF_ERROR(database_.save(options_.database));
      if (options_.on_gpu_result) options_.on_gpu_result(shape, result.best, result.measured, false);
    }
    return {};
  }

 private:
  tune::SearchOptions share_of(size_t number) const {
    tune::SearchOptions search;
    const auto left = static_cast<double>(options_.shapes.size() - number);
    search.budget_seconds = std::max((options_.budget_seconds - (now_s() - began_)) / left, 0.0);
    return search;
  }
  void report(const ProductShape& shape, double spent_s, const auto& best) const {
    if (options_.on_progress) options_.on_progress(spent_s, shape.key() + ": " + best.text());
  }

  const TuneOptions& options_;
  const double began_;
  tune::Database database_;
};

}  // namespace

Status tune_products(const TuneOptions& options) {
  if (options.device == "cpu") return Tuning(options).on_processor();
  SPORKLE_ASSIGN_OR_RETURN(const std::shared_ptr<hal::Device> device, hal::open_device(options.device));
  if (!device->info().target.starts_with(codegen::kVulkanPrefix))
    return unsupported("device " + options.device +
                       " cannot be tuned: the processor (cpu) and Vulkan devices "
                       "(vulkan:0 ...) can");
  SPORKLE_ASSIGN_OR_RETURN(const auto target, codegen::VulkanTarget::parse(device->info().target));
  return Tuning(options).on_gpu(*device, target);
}

}  // namespace sporkle::bench
