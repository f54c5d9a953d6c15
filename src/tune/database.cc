#include "tune/database.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "base/file.h"

namespace sporkle::tune {
namespace {

constexpr std::string_view kHeader = "sporkle tuning database 1";
constexpr std::string_view kGpu = "vulkan ";  // what every gpu_key() begins with
constexpr size_t kMostBytes = 16 << 20;
constexpr size_t kMostKeyBytes = 200;

std::string seconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", seconds);
  return text;
}

bool take_seconds(std::string_view& text, double* seconds) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *seconds);
  if (error != std::errc() || !std::isfinite(*seconds) || *seconds < 0) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

bool take(std::string_view& text, std::string_view word) {
  if (!text.starts_with(word)) return false;
  text.remove_prefix(word.size());
  return true;
}

}  // namespace

Result<Database> Database::parse(std::string_view text) {
  if (text.size() > kMostBytes)
    return corrupt_data("a tuning database of " + std::to_string(text.size()) + " bytes; the largest has " +
                        std::to_string(kMostBytes));
  Database database;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    const auto fail = [&](const std::string& why) {
      return corrupt_data("tuning database, line " + std::to_string(number) + ": " + why);
    };
    if (number == 1) {
      if (line != kHeader) return fail("it must read \"" + std::string(kHeader) + "\"");
      continue;
    }
    if (line.empty() || line.front() == '#') continue;
    constexpr std::string_view kBar = " | ";
    std::array<std::string_view, 4> fields;
    for (size_t i = 0; i < fields.size(); ++i) {
      const size_t bar = i + 1 < fields.size() ? line.find(kBar) : line.size();
      if (bar == std::string_view::npos) return fail("it has fewer than four fields between \" | \"");
      fields[i] = line.substr(0, bar);
      line.remove_prefix(std::min(bar + kBar.size(), line.size()));
    }
    if (fields[0].empty() || fields[1].empty() || fields[0].size() > kMostKeyBytes || fields[1].size() > kMostKeyBytes)
      return fail("the processor or the shape is empty or too long");
    double seconds = 0, usual_seconds = 0;
    std::string_view times = fields[3];
    if (!take_seconds(times, &seconds) || !take(times, " s, usual ") || !take_seconds(times, &usual_seconds) ||
        times != " s")
      return fail("\"" + std::string(fields[3].substr(0, 60)) + "\" is not like \"0.0096 s, usual 0.0099 s\"");
    const Keys keys(fields[0], fields[1]);
    bool fresh = false;
    if (fields[0].starts_with(kGpu)) {
      const Result<GpuPlan> plan = GpuPlan::parse(fields[2]);
      if (!plan.ok()) return fail(plan.status().message());
      fresh = database.gpu_products_.try_emplace(keys, TunedGpuProduct{*plan, seconds, usual_seconds}).second;
    } else {
      const Result<ProductPlan> plan = ProductPlan::parse(fields[2]);
      if (!plan.ok()) return fail(plan.status().message());
      fresh = database.products_.try_emplace(keys, TunedProduct{*plan, seconds, usual_seconds}).second;
    }
    if (!fresh) return fail("its processor and shape stand on an earlier line");
  }
  return database;
}

Result<Database> Database::load(const std::filesystem::path& path) {
  SPORKLE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  Result<Database> database = parse(text);
  if (!database.ok()) return database.status().with_context(path.string());
  return database;
}

std::filesystem::path Database::default_path() { return home_directory() / "tuning.txt"; }

std::string Database::text() const {
  std::string text = std::string(kHeader) + "\n";
  const auto add_lines = [&](const auto& products) {
    for (const auto& [keys, result] : products)
      text += keys.first + " | " + keys.second + " | " + result.plan.text() + " | " + seconds_text(result.seconds) +
              " s, usual " + seconds_text(result.usual_seconds) + " s\n";
  };
  add_lines(products_);
  add_lines(gpu_products_);
  return text;
}

Status Database::save(const std::filesystem::path& path) const {
  std::error_code error;
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), error);
  return write_file_atomically(path, text());
}

void Database::add(const Processor& processor, const ProductShape& shape, const TunedProduct& result) {
  products_.insert_or_assign({processor.key(), shape.key()}, result);
}

void Database::add(const std::string& gpu, const ProductShape& shape, const TunedGpuProduct& result) {
  gpu_products_.insert_or_assign({gpu, shape.key()}, result);
}

const TunedGpuProduct* Database::find(const std::string& gpu, const ProductShape& shape) const {
  if (gpu_products_.empty()) return nullptr;
  const auto found = gpu_products_.find({gpu, shape.key()});
  return found == gpu_products_.end() ? nullptr : &found->second;
}

const TunedProduct* Database::find(const Processor& processor, const ProductShape& shape) const {
  if (products_.empty()) return nullptr;
  const auto found = products_.find({processor.key(), shape.key()});
  return found == products_.end() ? nullptr : &found->second;
}

}  // namespace sporkle::tune
