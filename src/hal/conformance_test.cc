#include "hal/conformance.h"

#include <algorithm>

#include "hal/vulkan/testing.h"

namespace sporkle::hal {
namespace {

const bool validated = validate_vulkan_in_tests();

std::string subject_name(const testing::TestParamInfo<ConformanceSubject>& info) {
  std::string name = info.param.id + "_" + std::to_string(info.param.options.threads) + "_threads";
  std::ranges::replace(name, ':', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Devices, Conformance,
                         testing::Values(ConformanceSubject{.id = "reference"},
                                         ConformanceSubject{.id = "null", .executes = false},
                                         ConformanceSubject{.id = "cpu", .options = {.threads = 1}},
                                         ConformanceSubject{.id = "cpu", .options = {.threads = 3}},
                                         ConformanceSubject{.id = "vulkan:0"}),
                         subject_name);

}  // namespace
}  // namespace sporkle::hal
