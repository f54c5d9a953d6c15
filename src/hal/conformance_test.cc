#include "hal/conformance.h"

namespace sporkle::hal {
namespace {

std::string subject_name(const testing::TestParamInfo<ConformanceSubject>& info) {
  return info.param.id + "_" + std::to_string(info.param.options.threads) + "_threads";
}

INSTANTIATE_TEST_SUITE_P(Devices, Conformance,
                         testing::Values(ConformanceSubject{.id = "reference"},
                                         ConformanceSubject{.id = "null", .executes = false},
                                         ConformanceSubject{.id = "cpu", .options = {.threads = 1}},
                                         ConformanceSubject{.id = "cpu", .options = {.threads = 3}}),
                         subject_name);

}  // namespace
}  // namespace sporkle::hal
