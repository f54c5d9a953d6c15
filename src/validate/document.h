// The page docs/operations.md, from reports. Thread-safe.
#pragma once

#include <span>
#include <string>

#include "validate/validate.h"

namespace sporkle::validate {

// "0", "1.52", "-": an error or limit with three digits.
std::string ulp_text(double ulp);

std::string operations_page(std::span<const Report> reports);

}  // namespace sporkle::validate
