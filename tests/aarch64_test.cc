// Code for AArch64: every tensor operation, compiled for it and run by an emulator, has the interpreter's bits.
#include <gtest/gtest.h>

#include <cstring>

#include "base/child_process.h"
#include "base/file.h"
#include "base/temporary_folder.h"
#include "codegen/compile.h"
#include "dsl/kernel.h"
#include "hal/host/host_device.h"
#include "tensor/op_table.h"
#include "validate/check.h"

namespace sporkle {
namespace {

#if defined(SPORKLE_AARCH64_RUNNER)

size_t rounded(size_t size) { return (size + 63) / 64 * 64; }

class EmulatedExecutable final : public hal::HostExecutable {
 public:
  EmulatedExecutable(const hal::HostDevice* device, std::span<const std::byte> code, std::filesystem::path folder)
      : HostExecutable(device), code_(code.begin(), code.end()), folder_(std::move(folder)) {}

  Status check(std::span<const hal::Binding>, std::span<const uint64_t>) const override { return {}; }

  Status run(std::span<const hal::HostSpan> buffers, std::span<const uint64_t> scalars,
             std::vector<hal::LaunchShare>*) override {
    std::vector<uint64_t> numbers{code_.size(), buffers.size(), scalars.size()};
    for (const hal::HostSpan& buffer : buffers) numbers.push_back(buffer.size_bytes);
    numbers.insert(numbers.end(), scalars.begin(), scalars.end());
    std::string job;
    const auto append = [&](const void* data, size_t size) {
      job.append(static_cast<const char*>(data), size);
      job.resize(rounded(job.size()));
    };
    append(numbers.data(), 8 * numbers.size());
    append(code_.data(), code_.size());
    const size_t first = job.size();
    for (const hal::HostSpan& buffer : buffers) append(buffer.data, buffer.size_bytes);
    const std::filesystem::path path = folder_ / "job";
    SPORKLE_RETURN_IF_ERROR(write_file_atomically(path, std::string_view(job)));
    ChildOptions options{SPORKLE_QEMU_AARCH64, {SPORKLE_AARCH64_RUNNER, path}};
    options.error_log = folder_ / "errors";
    SPORKLE_ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::start(options));
    SPORKLE_ASSIGN_OR_RETURN(const int status, child.wait(60'000));
    if (status != 0) {
      const auto errors = read_file(options.error_log);
      return internal_error("the emulated program ended with " + std::to_string(status) + ": " +
                            (errors.ok() ? *errors : std::string()));
    }
    SPORKLE_ASSIGN_OR_RETURN(const std::string done, read_file(path));
    if (done.size() != job.size()) return internal_error("the emulated program changed its job's size");
    size_t at = first;
    // Buffers may be the same memory: only what changed is taken over.
    for (const hal::HostSpan& buffer : buffers) {
      if (std::memcmp(job.data() + at, done.data() + at, buffer.size_bytes) != 0)
        std::memcpy(buffer.data, done.data() + at, buffer.size_bytes);
      at += rounded(buffer.size_bytes);
    }
    return {};
  }

 private:
  std::vector<std::byte> code_;
  std::filesystem::path folder_;
};

class EmulatedDevice final : public hal::HostDevice {
 public:
  EmulatedDevice()
      : HostDevice({.id = "cpu", .name = "AArch64, emulated", .driver = "QEMU", .target = "cpu:aarch64"}, 1 << 30) {}
  ~EmulatedDevice() override { shut_down(); }
  Result<hal::ExecutableRef> load(std::span<const std::byte> code) override {
    return hal::ExecutableRef(std::make_shared<EmulatedExecutable>(this, code, folder_.path()));
  }

 private:
  static TemporaryFolder new_folder() {
    Result<TemporaryFolder> folder = TemporaryFolder::create("sporkle-aarch64");
    if (!folder.ok()) std::abort();
    return std::move(*folder);
  }
  TemporaryFolder folder_ = new_folder();
};

TEST(AArch64, EveryOperationHasTheInterpretersBits) {
  const validate::Subject subject{
      "aarch64", "cpu", [] { return Result<std::shared_ptr<hal::Device>>(std::make_shared<EmulatedDevice>()); }};
  const auto bench = validate::Bench::open({&subject, 1});
  ASSERT_TRUE(bench.ok()) << bench.status().to_string();
  int64_t elements = 0;
  for (const tensor::OpRow& row : tensor::op_table()) {
    const tensor::DType type = row.types[0];
    tensor::Draw draw(17, type, false);
    // Small calls: an emulator takes its time.
    validate::DrawnCall drawn = validate::DrawnCall::draw(row, draw);
    for (int i = 0; i < 20 && (drawn.elements() > 3000 || drawn.elements() < 20); ++i)
      drawn = validate::DrawnCall::draw(row, draw);
    const validate::Outcome outcome = validate::check_values(**bench, drawn, type);
    EXPECT_FALSE(outcome.failure) << row.name << ": " << drawn.describe() << ": " << outcome.failure->what;
    elements += outcome.elements;
  }
  EXPECT_GT(elements, 1000);
}

#endif

TEST(AArch64, CodeIsGenerated) {
  const ir::Kernel kernel = dsl::trace("saxpy", [](dsl::KernelBuilder& k) {
    const dsl::Expr n = k.size("n"), a = k.scalar(ir::DType::f32, "a");
    const dsl::Buffer x = k.input(ir::DType::f32, "x"), y = k.in_out(ir::DType::f32, "y");
    k.range("i", n, [&](dsl::Expr i) { y.store(i, fma(a, x[i], y[i])); });
  });
  std::string assembly;
  const auto code = codegen::compile(kernel, *lower::Schedule::parse("i:vec4x4"), "cpu:aarch64",
                                     [&](std::string_view stage, std::string_view text) {
                                       if (stage == "assembly") assembly = text;
                                     });
  if (code.status().code() == Code::unsupported) GTEST_SKIP() << code.status().to_string();
  ASSERT_TRUE(code.ok()) << code.status().to_string();
  EXPECT_NE(assembly.find("fmla"), std::string::npos) << assembly;
}

}  // namespace
}  // namespace sporkle
