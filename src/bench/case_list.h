// Each case's own function, defined in its file case_NAME.cc and listed in cases.cc. Internal.
#pragma once

#include "bench/case.h"

namespace sporkle::bench {

CaseKind peak_case();
CaseKind gemm_case();
CaseKind gemv_case();
CaseKind conv_case();
CaseKind attention_case();
CaseKind elementwise_case();
CaseKind reduce_case();
CaseKind copy_case();
CaseKind transfer_case();
CaseKind launch_case();
CaseKind train_case();
CaseKind resnet_case();
CaseKind generate_case();

}  // namespace sporkle::bench
