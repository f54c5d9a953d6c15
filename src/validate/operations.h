// All operations that are validated: the table of tensor operations (tensor/op_table.h), and those of higher layers
// that are kernels of their own. Thread-safe.
#pragma once

#include <span>
#include <string_view>

#include "base/status.h"
#include "tensor/op_table.h"

namespace sporkle::validate {

std::span<const tensor::OpRow> operations();

// not_found names the nearest one.
Result<const tensor::OpRow*> find_operation(std::string_view name);

}  // namespace sporkle::validate
