#include "codegen/spirv/emitter.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "codegen/compile.h"
#include "codegen/spirv/module.h"
#include "dsl/kernel.h"
#include "ir/random_kernel.h"
#include "ir/text.h"

namespace sporkle::codegen::spirv {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;
using ir::DType;

VulkanTarget everything() {
  VulkanTarget target;
  for (bool VulkanTarget::*flag :
       {&VulkanTarget::f64, &VulkanTarget::storage8, &VulkanTarget::storage16, &VulkanTarget::rte32,
        &VulkanTarget::rte64, &VulkanTarget::nan32, &VulkanTarget::nan64, &VulkanTarget::denormal32,
        &VulkanTarget::denormal64, &VulkanTarget::fma32, &VulkanTarget::fma64, &VulkanTarget::div32,
        &VulkanTarget::div64, &VulkanTarget::sqrt32, &VulkanTarget::sqrt64})
    target.*flag = true;
  return target;
}

// Correct division and square root in f64 alone, and no fused multiply-add.
VulkanTarget without_exact_f32() {
  VulkanTarget target = everything();
  target.fma32 = target.div32 = target.sqrt32 = false;
  return target;
}

Result<GpuCode> compile_for(const ir::Kernel& kernel, const VulkanTarget& target, const char* schedule = "") {
  SPORKLE_ASSIGN_OR_RETURN(const auto code, compile(kernel, *lower::Schedule::parse(schedule), target.text()));
  return decode_gpu_code(code);
}

// What Khronos' validator says to the module; empty when it is valid.
std::string validate(const GpuCode& code) {
  const std::string path = testing::TempDir() + "sporkle-" + std::to_string(getpid()) + ".spv";
  {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(code.spirv.data()), static_cast<std::streamsize>(4 * code.spirv.size()));
  }
  const std::string command = "spirv-val --target-env vulkan1.2 '" + path + "' 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  std::string output;
  char piece[256];
  while (const size_t n = std::fread(piece, 1, sizeof piece, pipe)) output.append(piece, n);
  const int status = pclose(pipe);
  std::remove(path.c_str());
  return status == 0 ? output : "exit status " + std::to_string(status) + ": " + output;
}

void expect_valid(const ir::Kernel& kernel, const VulkanTarget& target, const char* schedule = "") {
  const auto code = compile_for(kernel, target, schedule);
  ASSERT_TRUE(code.ok()) << code.status().to_string();
  ASSERT_EQ(validate(*code), "") << ir::print(kernel);
}

TEST(SpirvEmitter, RandomKernelsAreValid) {
  const VulkanTarget targets[] = {everything(), without_exact_f32()};
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    expect_valid(ir::RandomKernel(seed).kernel(), targets[seed % 2]);
    if (HasFatalFailure()) return;
  }
}

TEST(SpirvEmitter, TheValidatorFindsABrokenModule) {
  auto code = compile_for(ir::RandomKernel(1).kernel(), everything());
  ASSERT_TRUE(code.ok());
  code->spirv.pop_back();
  EXPECT_NE(validate(*code), "");
}

ir::Kernel rows_with_scratch() {
  return dsl::trace("rows", [](KernelBuilder& k) {
    const Expr rows = k.size("rows"), columns = k.size("columns");
    const Buffer x = k.input(DType::f32, "x"), y = k.output(DType::f32, "y");
    const Buffer row = k.scratch(DType::f32, "row", columns), flags = k.scratch(DType::u8, "flags", columns);
    k.range("r", rows, [&](Expr r) {
      k.range("c", columns, [&](Expr c) {
        row.store(c, exp(x[r * columns + c]));
        flags.store(c, cast(DType::u8, c));
      });
      const Expr total = k.sum("s", columns, DType::f32, [&](Expr s) { return row[s] / cast(DType::f32, flags[s]); });
      y.store(r, sqrt(total));
    });
  });
}

TEST(SpirvEmitter, ScratchAndReductions) {
  for (const VulkanTarget& target : {everything(), without_exact_f32()})
    expect_valid(rows_with_scratch(), target, "r:thread c:vec8");
  const auto code = compile_for(rows_with_scratch(), everything());
  ASSERT_TRUE(code.ok());
  const uint64_t scalars[] = {5, 33};
  EXPECT_EQ(code->launch.evaluate(scalars).iterations, 5);
  EXPECT_EQ(code->launch.evaluate(scalars).scratch_bytes, 144 + 48);  // 132 and 33 bytes, filled up to 16 each
  EXPECT_EQ(code->iterations_per_workgroup, code->workgroup_size);
  ASSERT_EQ(code->buffers.size(), 2u);
  EXPECT_EQ(code->buffers[0].access, ir::Access::read);
  EXPECT_EQ(code->buffers[1].access, ir::Access::write);
  EXPECT_EQ(code->buffers[1].element_bytes, 4u);
}

// Neighbours that the index shows to begin at a multiple of four are one access, for which bindings must be aligned;
// others are four.
TEST(SpirvEmitter, PacksAreVectors) {
  const ir::Kernel kernel = dsl::trace("packs", [](KernelBuilder& k) {
    const Buffer x = k.input(DType::f32, "x"), odd = k.input(DType::f32, "odd"), y = k.output(DType::bf16, "y");
    const Expr n = k.size("n"), stride = k.size("stride");
    k.range("i", n, [&](Expr i) {
      k.range("lane", 4, [&](Expr lane) {
        const Expr at = i * 4 + lane;
        y.store(at, cast(DType::bf16, x[at] + odd[at * stride]));
      });
    });
  });
  expect_valid(kernel, everything(), "i:thread lane:pack4");
  const auto packed = compile_for(kernel, everything(), "i:thread lane:pack4"),
             plain = compile_for(kernel, everything());
  ASSERT_TRUE(packed.ok() && plain.ok());
  const uint64_t scalars[] = {8, 3};
  EXPECT_EQ(packed->launch.evaluate(scalars).iterations, 8);
  EXPECT_EQ(plain->launch.evaluate(scalars).iterations, 32);
  const auto alignments = [](const GpuCode& code) {
    std::vector<uint32_t> result;
    for (const GpuBuffer& buffer : code.buffers) result.push_back(buffer.alignment_bytes);
    return result;
  };
  EXPECT_EQ(alignments(*packed), (std::vector<uint32_t>{16, 1, 8}));
  EXPECT_EQ(alignments(*plain), (std::vector<uint32_t>{1, 1, 1}));
}

// Rows turned around by way of workgroup memory, with registers, a loop that not all take part in, and a store by one.
ir::Kernel reversed_rows(int64_t invocations) {
  return dsl::trace("reversed", [&](KernelBuilder& k) {
    const Expr rows = k.size("rows");
    const Buffer x = k.input(DType::f32, "x"), y = k.output(DType::f32, "y"), last = k.output(DType::f32, "last");
    k.range("r", rows, [&](Expr r) {
      const Buffer row = k.scratch(DType::f32, "row", invocations), own = k.scratch(DType::f32, "own", invocations * 2);
      k.invocations("load", invocations, [&](Expr i) {
        own.store(i, x[r * invocations + i]);
        own.store(i + invocations, own[i] * own[i]);
      });
      k.serial("twice", 2, [&](Expr) {
        k.invocations("put", invocations, [&](Expr i) { row.store(i, own[i + invocations]); });
        k.invocations("get", invocations, [&](Expr i) { own.store(i + invocations, row[(invocations - 1) - i]); });
      });
      k.invocations("half", invocations / 2, [&](Expr i) { y.store(r * invocations + i, row[i]); });
      last.store(r, row[0]);
    });
  });
}

TEST(SpirvEmitter, Workgroups) {
  expect_valid(reversed_rows(64), everything());
  expect_valid(reversed_rows(64), without_exact_f32());
  const auto code = compile_for(reversed_rows(64), everything());
  ASSERT_TRUE(code.ok());
  EXPECT_EQ(code->workgroup_size, 64u);
  EXPECT_EQ(code->iterations_per_workgroup, 1u);
  EXPECT_EQ(code->shared_bytes, 64u * 4);  // `own` lies in registers
  const uint64_t scalars[] = {7};
  EXPECT_EQ(code->launch.evaluate(scalars).iterations, 7);
  EXPECT_EQ(code->launch.evaluate(scalars).scratch_bytes, 0);
  // One between put and get, one at the end of the serial loop; behind it only reads follow.
  const uint32_t barrier = 4u << 16 | static_cast<uint32_t>(spv::Op::OpControlBarrier);
  EXPECT_EQ(std::ranges::count(code->spirv, barrier), 2);
}

TEST(SpirvEmitter, MoreThanWorkgroupMemoryGoesToTheDevice) {
  VulkanTarget target = everything();
  target.workgroup = 1024;
  const ir::Kernel kernel = dsl::trace("large", [](KernelBuilder& k) {
    const Buffer y = k.output(DType::f32, "y");
    k.range("r", k.size("rows"), [&](Expr r) {
      const Buffer large = k.scratch(DType::f32, "large", 1 << 16);
      k.invocations("put", 256, [&](Expr i) { large.store(i * 256, cast(DType::f32, i)); });
      k.invocations("get", 256, [&](Expr i) { y.store(r * 256 + i, large[(255 - i) * 256]); });
    });
  });
  expect_valid(kernel, target);
  const auto code = compile_for(kernel, target);
  ASSERT_TRUE(code.ok());
  EXPECT_EQ(code->shared_bytes, 0u);
  const uint64_t scalars[] = {1};
  EXPECT_EQ(code->launch.evaluate(scalars).scratch_bytes, 4 << 16);
}

TEST(SpirvEmitter, RefusesWorkgroupsLargerThanTheDevices) {
  const auto refused = compile_for(reversed_rows(512), everything());
  EXPECT_EQ(refused.status().code(), Code::unsupported);
  EXPECT_NE(refused.status().message().find("workgroups of 512 invocations; this device has at most 128"),
            std::string::npos);
}

TEST(SpirvEmitter, NestedLoopsBecomeOne) {
  const ir::Kernel kernel = dsl::trace("transpose", [](KernelBuilder& k) {
    const Expr rows = k.size("rows"), columns = k.size("columns");
    const Buffer x = k.input(DType::bf16, "x"), y = k.output(DType::f16, "y");
    k.range("r", rows, [&](Expr r) {
      k.range("c", columns, [&](Expr c) { y.store(r * columns + c, cast(DType::f16, x[c * rows + r])); });
    });
  });
  expect_valid(kernel, everything());
  const auto code = compile_for(kernel, everything());
  ASSERT_TRUE(code.ok());
  const uint64_t scalars[] = {5, 7}, negative[] = {uint64_t(-5), uint64_t(-7)};
  EXPECT_EQ(code->launch.evaluate(scalars).iterations, 35);
  EXPECT_EQ(code->launch.evaluate(negative).iterations, 0);
}

TEST(SpirvEmitter, ManyArgumentsGoThroughMemory) {
  const ir::Kernel kernel = dsl::trace("many", [](KernelBuilder& k) {
    const Expr n = k.size("n"), factor = k.scalar(DType::f32, "factor"), flag = k.scalar(DType::boolean, "flag");
    std::vector<Buffer> inputs;
    for (int i = 0; i < 20; ++i) inputs.push_back(k.input(DType::f32, "x" + std::to_string(i)));
    const Buffer y = k.output(DType::boolean, "y");
    k.range("i", n, [&](Expr i) {
      Expr sum = factor;
      for (const Buffer& x : inputs) sum = fma(sum, x[i], x[i + 1]);
      y.store(i, (sum < factor) & flag);
    });
  });
  expect_valid(kernel, everything());
  EXPECT_FALSE(compile_for(kernel, everything())->arguments_inline);
}

TEST(SpirvEmitter, CompilesTheSameKernelToTheSameBytes) {
  const auto first = compile(rows_with_scratch(), {}, everything().text());
  const auto second = compile(rows_with_scratch(), {}, everything().text());
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(*first, *second);
}

TEST(SpirvEmitter, SaysWhatTheDeviceLacks) {
  const auto refusal = [](bool VulkanTarget::*lacking, DType type, const std::function<Expr(Expr)>& compute) {
    VulkanTarget target = everything();
    target.*lacking = false;
    if (lacking == &VulkanTarget::fma32 || lacking == &VulkanTarget::div32 || lacking == &VulkanTarget::sqrt32)
      target.f64 = target.div64 = target.sqrt64 = false;
    const ir::Kernel kernel = dsl::trace("lacking", [&](KernelBuilder& k) {
      const Buffer x = k.in_out(type, "x");
      k.range("i", k.size("n"), [&](Expr i) { x.store(i, compute(x[i])); });
    });
    const auto code = compile_for(kernel, target);
    EXPECT_EQ(code.status().code(), Code::unsupported) << code.status().to_string();
    return code.status().message();
  };
  const auto same = [](Expr x) { return x; };
  EXPECT_NE(refusal(&VulkanTarget::f64, DType::f64, same).find("shaderFloat64"), std::string::npos);
  EXPECT_NE(refusal(&VulkanTarget::storage8, DType::boolean, same).find("storageBuffer8BitAccess"), std::string::npos);
  EXPECT_NE(refusal(&VulkanTarget::storage16, DType::bf16, same).find("storageBuffer16BitAccess"), std::string::npos);
  const auto fused = [](Expr x) { return fma(x, x, x); };
  EXPECT_NE(refusal(&VulkanTarget::fma32, DType::f32, fused).find("no f64 to make one of"), std::string::npos);
  EXPECT_NE(refusal(&VulkanTarget::fma64, DType::f64, fused).find("fused multiply-add of f64"), std::string::npos);
  const auto halved = [](Expr x) { return x / x; };
  EXPECT_NE(refusal(&VulkanTarget::div32, DType::f32, halved).find("division of f32"), std::string::npos);
  EXPECT_NE(refusal(&VulkanTarget::div64, DType::f64, halved).find("division of f64"), std::string::npos);
  const auto rooted = [](Expr x) { return sqrt(x); };
  EXPECT_NE(refusal(&VulkanTarget::sqrt32, DType::f32, rooted).find("square root of f32"), std::string::npos);
  EXPECT_NE(refusal(&VulkanTarget::sqrt64, DType::f64, rooted).find("square root of f64"), std::string::npos);
}

TEST(SpirvEmitter, RefusesUnknownTargetsAndSchedules) {
  EXPECT_EQ(compile(rows_with_scratch(), {}, "vulkan:warp9").status().code(), Code::invalid_argument);
  const auto unknown_range = compile_for(rows_with_scratch(), everything(), "q:thread");
  EXPECT_EQ(unknown_range.status().code(), Code::invalid_argument);
  EXPECT_NE(unknown_range.status().message().find("no range \"q\""), std::string::npos);
}

}  // namespace
}  // namespace sporkle::codegen::spirv
