#include "base/source_line.h"

#include <string_view>

namespace sporkle {
namespace {

// How the compiler was given the root of the source tree: what stands in front of this file's own name.
std::string_view source_root() {
  static constexpr std::string_view kOwnName = "src/base/source_line.cc";
  const std::string_view own = std::source_location::current().file_name();
  return own.ends_with(kOwnName) ? own.substr(0, own.size() - kOwnName.size()) : std::string_view();
}

}  // namespace

std::string source_line(const std::source_location& location) {
  if (location.line() == 0) return {};
  std::string_view file = location.file_name();
  if (file.starts_with(source_root())) file.remove_prefix(source_root().size());
  return std::string(file) + ":" + std::to_string(location.line());
}

}  // namespace sporkle
