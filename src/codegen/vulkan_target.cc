#include "codegen/vulkan_target.h"

#include <algorithm>
#include <charconv>
#include <set>

namespace sporkle::codegen {
namespace {

struct Flag {
  std::string_view word;
  bool VulkanTarget::*member;
};
constexpr Flag kFlags[] = {
    {"f64", &VulkanTarget::f64},
    {"storage8", &VulkanTarget::storage8},
    {"storage16", &VulkanTarget::storage16},
    {"rte32", &VulkanTarget::rte32},
    {"rte64", &VulkanTarget::rte64},
    {"nan32", &VulkanTarget::nan32},
    {"nan64", &VulkanTarget::nan64},
    {"denormal32", &VulkanTarget::denormal32},
    {"denormal64", &VulkanTarget::denormal64},
    {"controls2", &VulkanTarget::controls2},
    {"fma32", &VulkanTarget::fma32},
    {"fma64", &VulkanTarget::fma64},
    {"div32", &VulkanTarget::div32},
    {"div64", &VulkanTarget::div64},
    {"sqrt32", &VulkanTarget::sqrt32},
    {"sqrt64", &VulkanTarget::sqrt64},
    {"fma32normal", &VulkanTarget::fma32_normal},
    {"contract32", &VulkanTarget::contract32},
    {"compare32", &VulkanTarget::compare32},
    {"widen32", &VulkanTarget::widen32},
    {"matrixf16", &VulkanTarget::matrix_f16},
    {"matrixbf16", &VulkanTarget::matrix_bf16},
};

// `other` has no word.
constexpr std::string_view kVendors[] = {"", "nvidia", "amd", "intel", "processor"};

struct Number {
  std::string_view word;
  uint32_t VulkanTarget::*member;
  uint32_t least, most;
};
constexpr Number kNumbers[] = {
    {"subgroup", &VulkanTarget::subgroup, 0, 128},
    {"workgroup", &VulkanTarget::workgroup, 128, 65536},
    {"shared", &VulkanTarget::shared_kib, 16, 65536},
};

bool read_vendor(std::string_view word, VulkanTarget* target, std::string_view* name) {
  const auto found = std::ranges::find(kVendors, word);
  if (word.empty() || found == std::end(kVendors)) return false;
  target->vendor = static_cast<VulkanVendor>(found - std::begin(kVendors));
  *name = "vendor";
  return true;
}

// The word's number into the target, if it is one of kNumbers.
bool read_number(std::string_view word, VulkanTarget* target, std::string_view* name) {
  for (const Number& number : kNumbers) {
    if (!word.starts_with(number.word)) continue;
    const std::string_view digits = word.substr(number.word.size());
    uint32_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size()) return false;
    if (value < number.least || value > number.most) return false;
    target->*number.member = value;
    *name = number.word;
    return true;
  }
  return false;
}

bool read_flag(std::string_view word, VulkanTarget* target, std::string_view* name) {
  for (const Flag& flag : kFlags) {
    if (word != flag.word) continue;
    target->*flag.member = true;
    *name = flag.word;
    return true;
  }
  return false;
}

}  // namespace

std::string VulkanTarget::text() const {
  std::string result(kVulkanPrefix);
  if (vendor != VulkanVendor::other) result.append(kVendors[static_cast<size_t>(vendor)]).push_back(',');
  for (const Flag& flag : kFlags)
    if (this->*flag.member) result.append(flag.word).push_back(',');
  for (const Number& number : kNumbers) result.append(number.word).append(std::to_string(this->*number.member)) += ',';
  result.pop_back();
  return result;
}

Result<VulkanTarget> VulkanTarget::parse(std::string_view text) {
  const auto refuse = [&](const std::string& why) {
    return invalid_argument("target \"" + std::string(text) + "\": " + why);
  };
  if (!text.starts_with(kVulkanPrefix)) return refuse("it does not begin with \"vulkan:\"");
  VulkanTarget target;
  std::set<std::string_view> seen;
  std::string_view rest = text.substr(kVulkanPrefix.size());
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    const std::string_view word = rest.substr(0, comma);
    std::string_view name;
    if (!read_vendor(word, &target, &name) && !read_flag(word, &target, &name) && !read_number(word, &target, &name))
      return refuse("\"" + std::string(word) + "\" is no feature that the code generator knows");
    if (!seen.insert(name).second) return refuse("\"" + std::string(name) + "\" stands there twice");
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
    if (rest.empty()) return refuse("it ends in a comma");
  }
  return target;
}

}  // namespace sporkle::codegen
