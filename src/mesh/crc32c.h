// CRC-32C (Castagnoli polynomial, RFC 3720), in hardware where the processor has it. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace sporkle::mesh {

uint32_t crc32c(std::span<const std::byte> data);

}  // namespace sporkle::mesh
