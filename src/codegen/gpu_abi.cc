#include "codegen/gpu_abi.h"

#include <array>
#include <bit>

namespace sporkle::codegen {
namespace {

constexpr uint32_t kMagic = 0x47534b53;  // "SKSG"
constexpr uint32_t kVersion = 2;
constexpr uint32_t kSpirvMagic = 0x07230203;
constexpr size_t kMaxBuffers = 1024;
constexpr uint32_t kMostAlignmentBytes = 256;
constexpr uint32_t kMaxWorkgroup = 65536;
constexpr uint32_t kMaxSharedBytes = 64 << 20;

// Little-endian words; everything in the container is made of them.
class Writer {
 public:
  void word(uint32_t value) {
    for (int shift = 0; shift < 32; shift += 8) bytes_.push_back(static_cast<std::byte>(value >> shift));
  }
  void words(std::span<const uint32_t> values) {
    for (const uint32_t value : values) word(value);
  }
  // Its length, then its bytes, filled up to a whole word.
  void text(std::string_view value) {
    word(static_cast<uint32_t>(value.size()));
    for (const char c : value) bytes_.push_back(static_cast<std::byte>(c));
    while (bytes_.size() % 4 != 0) bytes_.push_back(std::byte{0});
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

// Reading past the end gives zeros and is remembered.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  uint32_t word() {
    if (bytes_.size() < 4) {
      ended_early_ = true;
      bytes_ = {};
      return 0;
    }
    uint32_t value = 0;
    for (size_t i = 0; i < 4; ++i) value |= std::to_integer<uint32_t>(bytes_[i]) << (8 * i);
    bytes_ = bytes_.subspan(4);
    return value;
  }
  std::string_view text() {
    const size_t size = word(), filled = (size + 3) / 4 * 4;
    if (filled > bytes_.size()) {
      ended_early_ = true;
      bytes_ = {};
      return {};
    }
    const std::string_view value(reinterpret_cast<const char*>(bytes_.data()), size);
    bytes_ = bytes_.subspan(filled);
    return value;
  }
  size_t words_left() const { return bytes_.size() / 4; }
  bool ended_early() const { return ended_early_; }

 private:
  std::span<const std::byte> bytes_;
  bool ended_early_ = false;
};

Status corrupt(const std::string& what) { return corrupt_data("GPU code: " + what); }

Status check(const GpuCode& code) {
  const size_t arguments = code.buffers.size() + code.launch.scalar_count();
  if (code.arguments_inline != (arguments <= kMaxInlineArguments))
    return corrupt(std::to_string(arguments) + " arguments are said to be in the wrong place");
  for (const GpuBuffer& buffer : code.buffers) {
    const uint32_t size = buffer.element_bytes;
    if (size != 1 && size != 2 && size != 4 && size != 8)
      return corrupt("a buffer has elements of " + std::to_string(size) + " bytes");
    if (!std::has_single_bit(buffer.alignment_bytes) || buffer.alignment_bytes > kMostAlignmentBytes)
      return corrupt("a buffer is to be aligned to " + std::to_string(buffer.alignment_bytes) + " bytes");
    if (buffer.access > ir::Access::read_write) return corrupt("a buffer has an unknown kind of access");
  }
  if (code.workgroup_size < 1 || code.workgroup_size > kMaxWorkgroup)
    return corrupt("a workgroup has " + std::to_string(code.workgroup_size) + " invocations");
  if (code.iterations_per_workgroup != code.workgroup_size && code.iterations_per_workgroup != 1)
    return corrupt("a workgroup of " + std::to_string(code.workgroup_size) + " invocations takes " +
                   std::to_string(code.iterations_per_workgroup) + " iterations");
  if (code.shared_bytes > kMaxSharedBytes)
    return corrupt("a workgroup uses " + std::to_string(code.shared_bytes) + " bytes of shared memory");
  if (code.spirv.size() < 5 || code.spirv[0] != kSpirvMagic) return corrupt("it holds no SPIR-V module");
  return {};
}

}  // namespace

std::vector<std::byte> encode(const GpuCode& code) {
  Writer writer;
  writer.words(std::array{kMagic, kVersion, code.arguments_inline ? 1u : 0u, code.workgroup_size,
                          code.iterations_per_workgroup, code.shared_bytes});
  writer.word(static_cast<uint32_t>(code.buffers.size()));
  for (const GpuBuffer& buffer : code.buffers)
    writer.words(std::array{buffer.element_bytes, static_cast<uint32_t>(buffer.access), buffer.alignment_bytes});
  writer.text(code.launch.text());
  writer.word(static_cast<uint32_t>(code.spirv.size()));
  writer.words(code.spirv);
  return writer.take();
}

Result<GpuCode> decode_gpu_code(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  if (reader.word() != kMagic) return corrupt("it does not begin with its mark");
  if (const uint32_t version = reader.word(); version != kVersion)
    return corrupt("it has format " + std::to_string(version) + "; this version reads " + std::to_string(kVersion));
  GpuCode code;
  const uint32_t arguments_inline = reader.word();
  if (arguments_inline > 1) return corrupt("a flag is neither 0 nor 1");
  code.arguments_inline = arguments_inline == 1;
  code.workgroup_size = reader.word();
  code.iterations_per_workgroup = reader.word();
  code.shared_bytes = reader.word();
  const size_t buffer_count = reader.word();
  if (buffer_count > kMaxBuffers) return corrupt("it has " + std::to_string(buffer_count) + " buffers");
  for (size_t i = 0; i < buffer_count; ++i) {
    const uint32_t element_bytes = reader.word(), access = reader.word(), alignment_bytes = reader.word();
    if (access > static_cast<uint32_t>(ir::Access::read_write))
      return corrupt("a buffer has an unknown kind of access");
    code.buffers.push_back({element_bytes, static_cast<ir::Access>(access), alignment_bytes});
  }
  const std::string_view launch = reader.text();
  const size_t word_count = reader.word();
  if (reader.ended_early()) return corrupt("it ends after " + std::to_string(bytes.size()) + " bytes");
  if (word_count != reader.words_left() || bytes.size() % 4 != 0)
    return corrupt("its module should have " + std::to_string(word_count) + " words and has " +
                   std::to_string(reader.words_left()));
  code.spirv.reserve(word_count);
  for (size_t i = 0; i < word_count; ++i) code.spirv.push_back(reader.word());
  auto formula = LaunchFormula::parse(launch);
  if (!formula.ok()) return formula.status().with_context("GPU code");
  code.launch = std::move(*formula);
  SPORKLE_RETURN_IF_ERROR(check(code));
  return code;
}

}  // namespace sporkle::codegen
