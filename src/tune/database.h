// What tuning has found: for kinds of processors and shapes of products, the plan that was measured to be the fastest.
//
// Reviewable text, one result a line, sorted:
//
//   sporkle tuning database 1
//   zen4 vector64 threads2 | f32 nn 1x1024x1024x1024 | packed 6x4 unroll4 depth1024 block0x0 | 0.0096 s, usual 0.0099 s
//
//   vulkan NVIDIA H100 workgroup1024 shared48 | f32 nn 1x512x512x512 | tile64x64 depth8 own4x4 | 0.0001 s, usual 0.0002
//   s
//
// Plans never change bits (tune/product_plan.h, tune/gpu_plan.h), so a wrong or foreign database costs time and nothing
// else. Plain values; a const Database may be read from any number of threads.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "tune/gpu_plan.h"
#include "tune/product_plan.h"

namespace sporkle::tune {

struct TunedProduct {
  ProductPlan plan;
  double seconds = 0;        // of one product, as measured
  double usual_seconds = 0;  // under the preset's plan, measured beside it
};

struct TunedGpuProduct {
  GpuPlan plan;
  double seconds = 0;        // of one product, by the device's clock
  double usual_seconds = 0;  // under the preset's plan, measured beside it
};

class Database {
 public:
  // corrupt_data names the line and what is wrong with it.
  static Result<Database> parse(std::string_view text);
  // not_found where there is no such file.
  static Result<Database> load(const std::filesystem::path& path);
  // $SPORKLE_HOME/tuning.txt.
  static std::filesystem::path default_path();

  std::string text() const;
  Status save(const std::filesystem::path& path) const;

  void add(const Processor& processor, const ProductShape& shape, const TunedProduct& result);
  const TunedProduct* find(const Processor& processor, const ProductShape& shape) const;
  // Of a GPU, by its gpu_key().
  void add(const std::string& gpu, const ProductShape& shape, const TunedGpuProduct& result);
  const TunedGpuProduct* find(const std::string& gpu, const ProductShape& shape) const;
  size_t size() const { return products_.size() + gpu_products_.size(); }

 private:
  using Keys = std::pair<std::string, std::string>;  // of processor or GPU, and shape
  std::map<Keys, TunedProduct> products_;
  std::map<Keys, TunedGpuProduct> gpu_products_;
};

}  // namespace sporkle::tune
