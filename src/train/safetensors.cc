#include "train/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/file_writer.h"

namespace sporkle::train {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

// The limit of the reference implementation.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxDimensions = 16;
constexpr size_t kAlignment = 8;

struct TypeRow {
  StoredType type;
  std::string_view name;
  size_t size;
};
constexpr std::array kTypes = {
    TypeRow{StoredType::f64, "F64", 8},      TypeRow{StoredType::f32, "F32", 4}, TypeRow{StoredType::f16, "F16", 2},
    TypeRow{StoredType::bf16, "BF16", 2},    TypeRow{StoredType::i64, "I64", 8}, TypeRow{StoredType::i32, "I32", 4},
    TypeRow{StoredType::i16, "I16", 2},      TypeRow{StoredType::i8, "I8", 1},   TypeRow{StoredType::u64, "U64", 8},
    TypeRow{StoredType::u32, "U32", 4},      TypeRow{StoredType::u16, "U16", 2}, TypeRow{StoredType::u8, "U8", 1},
    TypeRow{StoredType::boolean, "BOOL", 1},
};

// The bytes that a tensor takes; nothing when that does not fit 64 bits or a dimension is negative.
std::optional<uint64_t> size_in_bytes(StoredType type, std::span<const int64_t> shape) {
  uint64_t size = stored_type_size(type);
  for (const int64_t dimension : shape) {
    if (dimension < 0 || __builtin_mul_overflow(size, static_cast<uint64_t>(dimension), &size)) return std::nullopt;
  }
  return size;
}

struct HeaderEntry {
  StoredTensor tensor;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// Builds the entries as the JSON goes by: names that are there twice are seen, and nothing that does not belong is ever
// stored. Each handler returns false to stop, with the reason in `error`.
class HeaderHandler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<HeaderEntry> entries;
  std::map<std::string, std::string> metadata;
  std::string error;

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("true or false"); }
  bool number_float(double, const std::string&) override { return unexpected("a fraction"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }

  bool number_unsigned(uint64_t value) override {
    if (place_ == Place::shape) {
      auto& shape = entries.back().tensor.shape;
      if (shape.size() == kMaxDimensions)
        return fail("has more than " + std::to_string(kMaxDimensions) + " dimensions");
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        return fail("has an impossible dimension");
      shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::offsets) {
      if (offsets_ == 2) return fail("has more than two data_offsets");
      (offsets_++ == 0 ? entries.back().begin : entries.back().end) = value;
      return true;
    }
    return unexpected("a number");
  }

  bool string(std::string& value) override {
    if (place_ == Place::metadata) {
      metadata[key_] = std::move(value);
      return true;
    }
    if (place_ != Place::tensor || key_ != "dtype") return unexpected("a string");
    for (const TypeRow& row : kTypes) {
      if (row.name != value) continue;
      entries.back().tensor.type = row.type;
      return true;
    }
    return fail("has the unknown type \"" + value + "\"");
  }

  bool start_object(size_t) override {
    if (place_ == Place::start) {
      place_ = Place::top;
    } else if (place_ == Place::top) {
      place_ = key_ == "__metadata__" ? Place::metadata : Place::tensor;
    } else {
      return unexpected("an object");
    }
    return true;
  }

  bool key(std::string& name) override {
    if (place_ == Place::top) {
      if (!names_.insert(name).second) return fail_name(name, "is there twice");
      if (name != "__metadata__") {
        entries.emplace_back();
        entries.back().tensor.name = name;
        fields_ = 0;
        offsets_ = 0;
      }
    } else if (place_ == Place::tensor) {
      const unsigned bit = name == "dtype" ? 1 : name == "shape" ? 2 : name == "data_offsets" ? 4 : 0;
      if (bit == 0) return fail("has the unknown field \"" + name + "\"");
      if (fields_ & bit) return fail("has " + name + " twice");
      fields_ |= bit;
    }
    key_ = std::move(name);
    return true;
  }

  bool end_object() override {
    if (place_ == Place::tensor && fields_ != 7) return fail("lacks one of dtype, shape and data_offsets");
    place_ = place_ == Place::top ? Place::end : Place::top;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ == Place::tensor && key_ == "shape") {
      place_ = Place::shape;
    } else if (place_ == Place::tensor && key_ == "data_offsets") {
      place_ = Place::offsets;
    } else {
      return unexpected("a list");
    }
    return true;
  }

  bool end_array() override {
    if (place_ == Place::offsets && offsets_ != 2) return fail("has fewer than two data_offsets");
    place_ = Place::tensor;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    error = "the header is not JSON at byte " + std::to_string(position);
    return false;
  }

 private:
  enum class Place { start, top, metadata, tensor, shape, offsets, end };

  bool fail_name(const std::string& name, const std::string& what) {
    error = "tensor \"" + name + "\" " + what;
    return false;
  }
  bool fail(const std::string& what) { return fail_name(entries.back().tensor.name, what); }
  bool unexpected(const std::string& what) {
    error = "the header has " + what + " where none belongs" + (key_.empty() ? "" : ", after \"" + key_ + "\"");
    return false;
  }

  Place place_ = Place::start;
  std::string key_;
  std::unordered_set<std::string> names_;
  unsigned fields_ = 0;
  int offsets_ = 0;
};

float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  uint32_t exponent = half >> 10 & 0x1F;
  uint32_t fraction = half & 0x3FF;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000u | fraction << 13);
  if (exponent == 0) {
    if (fraction == 0) return std::bit_cast<float>(sign);
    // A subnormal half is a normal float: shift until the leading one is where it is not stored.
    exponent = 1;
    while (!(fraction & 0x400)) {
      fraction <<= 1;
      --exponent;
    }
    fraction &= 0x3FF;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

template <typename T, typename Convert>
std::vector<float> convert_all(std::span<const std::byte> bytes, Convert&& convert) {
  std::vector<float> values(bytes.size() / sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    values[i] = convert(value);
  }
  return values;
}

}  // namespace

std::string_view stored_type_name(StoredType type) {
  for (const TypeRow& row : kTypes)
    if (row.type == type) return row.name;
  return "?";
}

size_t stored_type_size(StoredType type) {
  for (const TypeRow& row : kTypes)
    if (row.type == type) return row.size;
  return 0;
}

std::string shape_text(std::span<const int64_t> shape) {
  std::string text = "[";
  for (const int64_t dimension : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(dimension);
  return text + "]";
}

Result<SafetensorsFile> SafetensorsFile::parse(std::span<const std::byte> bytes, std::string_view name) {
  SafetensorsFile file;
  file.name_ = std::string(name);
  const auto corrupt = [&](const std::string& what) { return corrupt_data(file.name_ + ": " + what); };
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes)
    return corrupt("not a safetensors file: it has only " + std::to_string(bytes.size()) + " bytes");
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  bytes = bytes.subspan(sizeof header_bytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes < 2)
    return corrupt("not a safetensors file: its header would have " + std::to_string(header_bytes) + " bytes");
  if (header_bytes > bytes.size())
    return corrupt("cut short: a header of " + std::to_string(header_bytes) + " bytes in a file with " +
                   std::to_string(bytes.size()) + " after the length");
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()), header_bytes);
  const std::span<const std::byte> data = bytes.subspan(header_bytes);
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(header, &handler)) return corrupt(handler.error);

  std::vector<HeaderEntry> entries = std::move(handler.entries);
  // Empty tensors first among those that begin alike, so that the ranges follow one another.
  std::sort(entries.begin(), entries.end(), [](const HeaderEntry& a, const HeaderEntry& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  uint64_t expected_begin = 0;
  for (HeaderEntry& entry : entries) {
    StoredTensor& tensor = entry.tensor;
    const std::string which = "tensor \"" + tensor.name + "\"";
    const std::optional<uint64_t> size = size_in_bytes(tensor.type, tensor.shape);
    const std::string range = "bytes " + std::to_string(entry.begin) + " to " + std::to_string(entry.end);
    if (entry.end < entry.begin) return corrupt(which + " has " + range);
    if (!size || *size != entry.end - entry.begin)
      return corrupt(which + " of type " + std::string(stored_type_name(tensor.type)) + " and shape " +
                     shape_text(tensor.shape) + " does not fit its " + range);
    if (entry.end > data.size())
      return corrupt("cut short: " + which + " has " + range + ", the file has " + std::to_string(data.size()) +
                     " bytes of data");
    if (entry.begin != expected_begin)
      return corrupt(which + " has " + range + ", the data before it ends at " + std::to_string(expected_begin));
    expected_begin = entry.end;
    tensor.bytes = data.subspan(entry.begin, *size);
    file.tensors_.push_back(std::move(tensor));
  }
  if (expected_begin != data.size())
    return corrupt(std::to_string(data.size() - expected_begin) + " bytes after the last tensor");
  std::sort(file.tensors_.begin(), file.tensors_.end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
  file.metadata_ = std::move(handler.metadata);
  return file;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  SPORKLE_ASSIGN_OR_RETURN(MappedFile map, MappedFile::open(path));
  auto shared = std::make_shared<const MappedFile>(std::move(map));
  SPORKLE_ASSIGN_OR_RETURN(SafetensorsFile file, parse(shared->bytes(), path.string()));
  file.map_ = std::move(shared);
  return file;
}

const StoredTensor* SafetensorsFile::find(std::string_view tensor) const {
  const auto found = std::lower_bound(tensors_.begin(), tensors_.end(), tensor,
                                      [](const StoredTensor& a, std::string_view b) { return a.name < b; });
  return found != tensors_.end() && found->name == tensor ? &*found : nullptr;
}

Result<std::vector<float>> to_f32(const StoredTensor& tensor) {
  switch (tensor.type) {
    case StoredType::f32:
      return convert_all<float>(tensor.bytes, [](float value) { return value; });
    case StoredType::f64:
      return convert_all<double>(tensor.bytes, [](double value) { return static_cast<float>(value); });
    case StoredType::f16:
      return convert_all<uint16_t>(tensor.bytes, half_to_float);
    case StoredType::bf16:
      return convert_all<uint16_t>(
          tensor.bytes, [](uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); });
    default:
      return unsupported("tensor \"" + tensor.name + "\" holds " + std::string(stored_type_name(tensor.type)) +
                         ", not floating-point numbers");
  }
}

Status write_safetensors(const std::filesystem::path& path, std::vector<StoredTensor> tensors,
                         const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
  nlohmann::json header = nlohmann::json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const StoredTensor& tensor : tensors) {
    if (tensor.name.empty() || header.contains(tensor.name))
      return invalid_argument(path.string() + ": tensor name \"" + tensor.name +
                              "\" is empty, reserved or there twice");
    if (size_in_bytes(tensor.type, tensor.shape) != tensor.bytes.size() || tensor.shape.size() > kMaxDimensions)
      return invalid_argument(path.string() + ": tensor \"" + tensor.name + "\" of shape " + shape_text(tensor.shape) +
                              " has " + std::to_string(tensor.bytes.size()) + " bytes");
    header[tensor.name] = {{"dtype", stored_type_name(tensor.type)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes.size()}}};
    offset += tensor.bytes.size();
  }
  std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  text.append((kAlignment - text.size() % kAlignment) % kAlignment, ' ');
  const uint64_t header_bytes = text.size();
  SPORKLE_ASSIGN_OR_RETURN(FileWriter writer, FileWriter::create(path));
  SPORKLE_RETURN_IF_ERROR(writer.write(std::as_bytes(std::span(&header_bytes, 1))));
  SPORKLE_RETURN_IF_ERROR(writer.write(text));
  for (const StoredTensor& tensor : tensors) SPORKLE_RETURN_IF_ERROR(writer.write(tensor.bytes));
  return writer.commit();
}

}  // namespace sporkle::train
