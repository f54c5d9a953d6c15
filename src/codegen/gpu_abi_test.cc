#include "codegen/gpu_abi.h"

#include <gtest/gtest.h>

#include "dsl/kernel.h"
#include "ir/builder.h"

namespace sporkle::codegen {
namespace {

GpuCode example() {
  const ir::Kernel kernel = dsl::trace("k", [](dsl::KernelBuilder& k) { k.size("n"); });
  ir::Builder b(*kernel.context);
  GpuCode code;
  code.buffers = {{4, ir::Access::read}, {1, ir::Access::read_write}};
  code.workgroup_size = code.iterations_per_workgroup = 128;
  code.shared_bytes = 1024;
  code.launch = *LaunchFormula::make(kernel, b.scalar(ir::DType::i64, 0, "n"), b.integer(48));
  code.spirv = {0x07230203, 0x00010500, 0, 2, 0, 0xdeadbeef};
  return code;
}

std::string refusal(std::span<const std::byte> bytes) {
  const auto code = decode_gpu_code(bytes);
  EXPECT_EQ(code.status().code(), Code::corrupt_data) << code.status().to_string();
  return code.status().message();
}

TEST(GpuAbi, EncodesAndDecodes) {
  const GpuCode code = example();
  const std::vector<std::byte> bytes = encode(code);
  const auto decoded = decode_gpu_code(bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status().to_string();
  ASSERT_EQ(decoded->buffers.size(), 2u);
  EXPECT_EQ(decoded->buffers[0].element_bytes, 4u);
  EXPECT_EQ(decoded->buffers[1].access, ir::Access::read_write);
  EXPECT_TRUE(decoded->arguments_inline);
  EXPECT_EQ(decoded->workgroup_size, 128u);
  EXPECT_EQ(decoded->iterations_per_workgroup, 128u);
  EXPECT_EQ(decoded->shared_bytes, 1024u);
  EXPECT_EQ(decoded->spirv, code.spirv);
  const uint64_t scalars[] = {77};
  EXPECT_EQ(decoded->launch.evaluate(scalars).iterations, 77);
  EXPECT_EQ(decoded->launch.evaluate(scalars).scratch_bytes, 48);
  EXPECT_EQ(decoded->push_constant_bytes(), 8u * (3 + 2 + 1));
  EXPECT_EQ(encode(*decoded), bytes);
}

TEST(GpuAbi, ManyArgumentsGoThroughMemory) {
  GpuCode code = example();
  code.buffers.resize(kMaxInlineArguments, {8, ir::Access::read});  // and one scalar: one too many
  code.arguments_inline = false;
  EXPECT_EQ(code.push_constant_bytes(), 8u * 4);
  EXPECT_TRUE(decode_gpu_code(encode(code)).ok());
  code.buffers.pop_back();
  EXPECT_NE(refusal(encode(code)).find("in the wrong place"), std::string::npos);
  code.arguments_inline = true;
  EXPECT_EQ(code.push_constant_bytes(), kPushConstantBytes);
}

TEST(GpuAbi, RefusesBrokenFields) {
  const auto refused = [](auto&& change) {
    GpuCode code = example();
    change(code);
    return refusal(encode(code));
  };
  EXPECT_NE(refused([](GpuCode& c) { c.buffers[0].element_bytes = 3; }).find("3 bytes"), std::string::npos);
  EXPECT_NE(refused([](GpuCode& c) { c.buffers[0].access = ir::Access(9); }).find("access"), std::string::npos);
  EXPECT_NE(refused([](GpuCode& c) { c.workgroup_size = 0; }).find("0 invocations"), std::string::npos);
  EXPECT_NE(refused([](GpuCode& c) { c.iterations_per_workgroup = 7; }).find("7 iterations"), std::string::npos);
  EXPECT_NE(refused([](GpuCode& c) { c.shared_bytes = ~0u; }).find("shared memory"), std::string::npos);
  EXPECT_NE(refused([](GpuCode& c) { c.spirv[0] = 1; }).find("no SPIR-V"), std::string::npos);
  EXPECT_NE(refused([](GpuCode& c) { c.spirv.clear(); }).find("no SPIR-V"), std::string::npos);
  EXPECT_NE(refused([](GpuCode& c) { c.launch = {}; }).find("launch sizes"), std::string::npos);
}

TEST(GpuAbi, RefusesWhatIsCutShortOrTooLong) {
  std::vector<std::byte> bytes = encode(example());
  for (size_t size = 0; size < bytes.size(); ++size) refusal(std::span(bytes).first(size));
  bytes.insert(bytes.end(), 4, std::byte{0});
  EXPECT_NE(refusal(bytes).find("should have 6 words and has 7"), std::string::npos);
  bytes = encode(example());
  bytes[0] = std::byte{0};
  EXPECT_NE(refusal(bytes).find("its mark"), std::string::npos);
  bytes = encode(example());
  bytes[4] = std::byte{99};
  EXPECT_NE(refusal(bytes).find("format 99"), std::string::npos);
  bytes = encode(example());
  bytes[8] = std::byte{2};
  EXPECT_NE(refusal(bytes).find("neither 0 nor 1"), std::string::npos);
  bytes = encode(example());
  bytes[27] = std::byte{0xff};
  EXPECT_NE(refusal(bytes).find("buffers"), std::string::npos);
}

}  // namespace
}  // namespace sporkle::codegen
