// What `sporkle tune` does: the fastest plans for products of given shapes on this machine's processor, or on a GPU.
//
// Belongs to one thread.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "hal/device.h"
#include "train/config.h"
#include "tune/gpu_search.h"
#include "tune/search.h"

namespace sporkle::bench {

// "1024x3072x768" or "8*64x64x32:nt", optionally with "@f64": batches, M x N x K, which operands are transposed in
// memory. invalid_argument otherwise.
Result<tune::ProductShape> parse_tuned_shape(std::string_view text);

// The products of a training step of a configured model, forward and backward, each once; the vocabulary is a parameter
// because it depends on the tokenizer.
std::vector<tune::ProductShape> shapes_of_model(const train::ModelConfig& model, int64_t batch_rows,
                                                int64_t vocab_size);

// Measures one product of a shape under plans.
class ProductTimer {
 public:
  // Kernels are compiled into a folder of the timer's own. out_of_memory for shapes too large.
  static Result<std::unique_ptr<ProductTimer>> create(const tune::ProductShape& shape, int threads);
  virtual ~ProductTimer() = default;
  virtual const tune::Processor& processor() const = 0;
  // Seconds of one product: the smallest of a few samples.
  virtual Result<double> seconds(const tune::ProductPlan& plan) = 0;
};

// The same on a GPU, by the GPU's clock.
class GpuProductTimer {
 public:
  // unsupported for a device that is no GPU; `device` outlives the timer.
  static Result<std::unique_ptr<GpuProductTimer>> create(const tune::ProductShape& shape, hal::Device& device);
  virtual ~GpuProductTimer() = default;
  virtual Result<double> seconds(const tune::GpuPlan& plan) = 0;
};

struct TuneOptions {
  std::string device = "cpu";  // or a Vulkan device, whose plans are another kind

  std::vector<tune::ProductShape> shapes;
  int threads = 1;
  double budget_seconds = 60;      // for all shapes together
  bool again = false;              // also what the database has already
  std::filesystem::path database;  // read where it exists, written after every shape
  // A shape is done; `known`: the database had it.
  std::function<void(const tune::ProductShape&, const tune::TunedProduct&, int measured, bool known)> on_result;
  std::function<void(const tune::ProductShape&, const tune::TunedGpuProduct&, int measured, bool known)> on_gpu_result;
  std::function<void(double spent_seconds, const std::string& what)> on_progress;
  std::function<void(const std::string& text)> on_notice;
};

// A database that cannot be read is reported through on_notice and begun anew. What is found so far is kept when
// something fails.
Status tune_products(const TuneOptions& options);

}  // namespace sporkle::bench
