// The safetensors file format: 8 bytes of header length, a JSON header of tensor names, types, shapes and byte ranges,
// then the bytes. Little-endian. A SafetensorsFile owns its map and is immutable: thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/status.h"

namespace sporkle::train {

enum class StoredType : uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, boolean };
std::string_view stored_type_name(StoredType type);  // "F32"
size_t stored_type_size(StoredType type);

struct StoredTensor {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

std::string shape_text(std::span<const int64_t> shape);  // "[768, 2304]"

class SafetensorsFile {
 public:
  // corrupt_data, naming the file and the tensor, unless header and byte ranges are sound: lengths bounded, no name
  // twice, sizes as type and shape say, and the ranges cover the data without gap or overlap.
  static Result<SafetensorsFile> open(const std::filesystem::path& path);
  // The same checks over bytes that the caller keeps alive.
  static Result<SafetensorsFile> parse(std::span<const std::byte> bytes, std::string_view name);

  const std::string& name() const { return name_; }
  const std::vector<StoredTensor>& tensors() const { return tensors_; }  // sorted by name
  const StoredTensor* find(std::string_view tensor) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  SafetensorsFile() = default;
  std::string name_;
  std::shared_ptr<const MappedFile> map_;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

// The values as f32: F32 as it is, F16 and BF16 exactly, F64 rounded. unsupported for the other types.
Result<std::vector<float>> to_f32(const StoredTensor& tensor);

// Writes the tensors sorted by name, the data aligned to 8 bytes; atomic and synced. invalid_argument for a name used
// twice or bytes that do not fit type and shape.
Status write_safetensors(const std::filesystem::path& path, std::vector<StoredTensor> tensors,
                         const std::map<std::string, std::string>& metadata);

}  // namespace sporkle::train
