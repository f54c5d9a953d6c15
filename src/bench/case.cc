#include "bench/case.h"

#include <cstring>

#include "ir/node.h"

namespace sporkle::bench {

HostArray make_array(std::string name, ir::DType dtype, std::vector<int64_t> shape) {
  size_t size_bytes = static_cast<size_t>(ir::dtype_size(dtype));
  for (const int64_t extent : shape) size_bytes *= static_cast<size_t>(extent);
  return {std::move(name), dtype, std::move(shape), std::vector<std::byte>(size_bytes)};
}

void poison(HostArray* array) {
  const uint32_t pattern = kPoison;
  for (size_t at = 0; at < array->bytes.size(); at += sizeof pattern)
    std::memcpy(array->bytes.data() + at, &pattern, std::min(sizeof pattern, array->bytes.size() - at));
}

}  // namespace sporkle::bench
