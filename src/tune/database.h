// What tuning has found: for kinds of processors and shapes of products, the plan that was measured to be the fastest.
//
// Reviewable text, one result a line, sorted:
//
//   sporkle tuning database 1
//   zen4 vector64 threads2 | f32 nn 1x1024x1024x1024 | packed 6x4 unroll4 depth1024 block0x0 | 0.0096 s, usual 0.0099 s
//
// Plans never change bits (tune/product_plan.h), so a wrong or foreign database costs time and nothing else. Plain
// values; a const Database may be read from any number of threads.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "tune/product_plan.h"

namespace sporkle::tune {

struct TunedProduct {
  ProductPlan plan;
  double seconds = 0;        // of one product, as measured
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
  size_t size() const { return products_.size(); }

 private:
  std::map<std::pair<std::string, std::string>, TunedProduct> products_;  // by the keys of processor and shape
};

}  // namespace sporkle::tune
