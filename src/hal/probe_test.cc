#include "hal/probe.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "codegen/vulkan_target.h"
#include "hal/registry.h"
#include "hal/vulkan/exact_operations.h"

namespace sporkle::hal {
namespace {

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += name + "; ";
  return text;
}

class Probe : public testing::Test {
 protected:
  Probe() {
    std::string name = std::filesystem::temp_directory_path() / "sporkle-probe-XXXXXX";
    folder_ = ::mkdtemp(name.data());
  }
  ~Probe() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path only_file() const {
    const auto entry = std::filesystem::directory_iterator(folder_);
    return entry == std::filesystem::directory_iterator() ? "" : entry->path();
  }
  std::filesystem::path folder_;
};

// A device whose results are wrong in the first byte: always by the same bits, or by others every time.
class Crooked final : public Device {
 public:
  Crooked(std::shared_ptr<Device> device, bool changing) : device_(std::move(device)), changing_(changing) {}
  const DeviceInfo& info() const override { return device_->info(); }
  Result<BufferRef> allocate(size_t size) override { return device_->allocate(size); }
  Status write(const Binding& to, std::span<const std::byte> data) override { return device_->write(to, data); }
  Status read(const Binding& from, std::span<std::byte> data) override {
    const Status status = device_->read(from, data);
    data[0] ^= static_cast<std::byte>(changing_ ? 1 + reads_ : 1);
    reads_ = (reads_ + 1) % 100;
    return status;
  }
  Result<ExecutableRef> load(std::span<const std::byte> code) override { return device_->load(code); }
  Result<SemaphoreRef> create_semaphore(uint64_t value) override { return device_->create_semaphore(value); }
  Status submit(const CommandBuffer& commands, std::span<const SemaphorePoint> wait,
                std::span<const SemaphorePoint> signal) override {
    return device_->submit(commands, wait, signal);
  }
  Status wait_idle() override { return device_->wait_idle(); }

 private:
  std::shared_ptr<Device> device_;
  bool changing_;
  int reads_ = 0;
};

TEST_F(Probe, DevicesThatComputeAreStrict) {
  for (const char* id : {"cpu", "vulkan:0"}) {
    const auto device = open_device(id);
    if (device.status().code() == Code::unsupported) continue;
    ASSERT_TRUE(device.ok()) << device.status().to_string();
    const auto probe = probe_numerics(**device);
    if (probe.status().code() == Code::unsupported) continue;  // no code generator
    ASSERT_TRUE(probe.ok()) << probe.status().to_string();
    EXPECT_EQ(probe->verdict, Verdict::strict) << id << ": " << joined(probe->failures);
    EXPECT_LE(probe->untested.size(), 2u) << id << ": " << joined(probe->untested);
  }
}

TEST_F(Probe, WrongBitsAreNamed) {
  const auto cpu = open_device("cpu");
  ASSERT_TRUE(cpu.ok()) << cpu.status().to_string();
  for (const bool changing : {false, true}) {
    Crooked crooked(*cpu, changing);
    const auto probe = probe_numerics(crooked);
    if (probe.status().code() == Code::unsupported) GTEST_SKIP() << probe.status().to_string();
    ASSERT_TRUE(probe.ok()) << probe.status().to_string();
    EXPECT_EQ(probe->verdict, changing ? Verdict::fast : Verdict::stable);
    ASSERT_GT(probe->failures.size(), 10u);
    EXPECT_EQ(probe->failures[0], "addition f32");
  }
}

TEST_F(Probe, AVerdictIsRemembered) {
  const auto cpu = open_device("cpu");
  ASSERT_TRUE(cpu.ok()) << cpu.status().to_string();
  const auto first = cached_numerics(**cpu, folder_);
  if (first.status().code() == Code::unsupported) GTEST_SKIP() << first.status().to_string();
  ASSERT_TRUE(first.ok()) << first.status().to_string();
  Crooked crooked(*cpu, true);
  EXPECT_EQ(cached_numerics(crooked, folder_)->verdict, Verdict::strict) << "of the same name: read from the file";
  const std::string good = *read_file(only_file());
  for (const std::string& bad : {std::string(), std::string("rubbish"), good.substr(1), good + "x"}) {
    ASSERT_TRUE(write_file_atomically(only_file(), bad).ok());
    EXPECT_EQ(cached_numerics(crooked, folder_)->verdict, Verdict::fast) << "a file that does not check out";
    EXPECT_TRUE(std::filesystem::remove(only_file()));
    EXPECT_EQ(cached_numerics(**cpu, folder_)->verdict, Verdict::strict);
    EXPECT_EQ(*read_file(only_file()), good);
  }
}

TEST_F(Probe, OperationsThatAreNotExactAreFound) {
  const auto device = open_device("vulkan:0");
  if (!device.ok()) GTEST_SKIP() << device.status().to_string();
  codegen::VulkanTarget offered = *codegen::VulkanTarget::parse((*device)->info().target);
  const codegen::VulkanTarget known = offered;
  for (bool codegen::VulkanTarget::*flag :
       {&codegen::VulkanTarget::fma32, &codegen::VulkanTarget::fma64, &codegen::VulkanTarget::div32,
        &codegen::VulkanTarget::div64, &codegen::VulkanTarget::sqrt32, &codegen::VulkanTarget::sqrt64})
    offered.*flag = false;
  for (const bool corrupt : {false, true}) {
    if (corrupt) {
      ASSERT_TRUE(write_file_atomically(only_file(), offered.text() + "\nnot the hash\n").ok());
    }
    const auto found = find_exact_operations(**device, offered, folder_);
    ASSERT_TRUE(found.ok()) << found.status().to_string();
    EXPECT_EQ(found->text(), known.text());
  }
  if ((*device)->info().name.find("llvmpipe") != std::string::npos) {
    EXPECT_FALSE(known.fma32) << "it multiplies and adds";
  }
}

}  // namespace
}  // namespace sporkle::hal
