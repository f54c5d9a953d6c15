#include "hal/vulkan/vulkan_device.h"

#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <fstream>
#include <numeric>

#include "base/file.h"
#include "codegen/compile.h"
#include "dsl/kernel.h"
#include "hal/registry.h"
#include "hal/vulkan/instance.h"
#include "hal/vulkan/pipeline_cache.h"
#include "hal/vulkan/testing.h"

namespace sporkle::hal {
namespace {

// The driver's own functions, and when those in their place fail: at call number `at`, counted from 1, or never (0).
struct Fault {
  std::atomic<int> at{0}, calls{0};
  VkResult result = VK_SUCCESS;
  bool due() { return ++calls == at; }
};
struct Driver {
  VulkanFunctions real;
  Fault submit, wait, allocate;
} driver;

VKAPI_ATTR VkResult VKAPI_CALL faulty_submit(VkQueue queue, uint32_t count, const VkSubmitInfo* info, VkFence fence) {
  return driver.submit.due() ? driver.submit.result : driver.real.vkQueueSubmit(queue, count, info, fence);
}
VKAPI_ATTR VkResult VKAPI_CALL faulty_wait(VkDevice device, const VkSemaphoreWaitInfo* info, uint64_t timeout) {
  return driver.wait.due() ? driver.wait.result : driver.real.vkWaitSemaphores(device, info, timeout);
}
VKAPI_ATTR VkResult VKAPI_CALL faulty_allocate(VkDevice device, const VkMemoryAllocateInfo* info,
                                               const VkAllocationCallbacks* callbacks, VkDeviceMemory* memory) {
  return driver.allocate.due() ? driver.allocate.result : driver.real.vkAllocateMemory(device, info, callbacks, memory);
}
VKAPI_ATTR VkResult VKAPI_CALL no_driver(const VkInstanceCreateInfo*, const VkAllocationCallbacks*, VkInstance*) {
  return VK_ERROR_INCOMPATIBLE_DRIVER;
}
VKAPI_ATTR void VKAPI_CALL old_properties(VkPhysicalDevice device, VkPhysicalDeviceProperties* properties) {
  driver.real.vkGetPhysicalDeviceProperties(device, properties);
  properties->apiVersion = VK_API_VERSION_1_1;
}
VKAPI_ATTR void VKAPI_CALL fewer_features(VkPhysicalDevice device, VkPhysicalDeviceFeatures2* features) {
  driver.real.vkGetPhysicalDeviceFeatures2(device, features);
  for (auto* next = static_cast<VkBaseOutStructure*>(features->pNext); next; next = next->pNext)
    if (next->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES)
      reinterpret_cast<VkPhysicalDeviceVulkan12Features*>(next)->bufferDeviceAddress = VK_FALSE;
}
VKAPI_ATTR VkResult VKAPI_CALL no_devices(VkInstance, uint32_t* count, VkPhysicalDevice*) {
  *count = 0;
  return VK_SUCCESS;
}
VKAPI_ATTR void VKAPI_CALL crooked_fill(VkCommandBuffer commands, VkBuffer buffer, VkDeviceSize offset,
                                        VkDeviceSize size, uint32_t pattern) {
  driver.real.vkCmdFillBuffer(commands, buffer, offset + 2, size, pattern);
}

template <typename Function>
std::function<void(VulkanFunctions&)> replace(Function VulkanFunctions::*member, Function with) {
  return [member, with](VulkanFunctions& functions) {
    if (functions.*member != with) driver.real = functions;
    if (functions.*member) functions.*member = with;
  };
}

void inject_faults(VulkanFunctions& functions) {
  if (!functions.vkQueueSubmit || functions.vkQueueSubmit == faulty_submit) return;
  driver.real = functions;
  functions.vkQueueSubmit = faulty_submit;
  functions.vkWaitSemaphores = faulty_wait;
  functions.vkAllocateMemory = faulty_allocate;
  for (Fault* fault : {&driver.submit, &driver.wait, &driver.allocate}) fault->at = fault->calls = 0;
}
void arm(Fault& fault, int calls_from_now, VkResult result) {
  fault.result = result;
  fault.at = fault.calls + calls_from_now;
}

// A folder of the test's own.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = std::filesystem::temp_directory_path() / "sporkle-vulkan-XXXXXX";
    path_ = ::mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

class Vulkan : public testing::Test {
 protected:
  void SetUp() override {
    options_.cache = folder_.path();
    if (const auto count = count_vulkan_devices(); !count.ok()) GTEST_SKIP() << count.status().to_string();
  }
  std::shared_ptr<Device> open() {
    auto device = open_vulkan_device(0, options_);
    EXPECT_TRUE(device.ok()) << device.status().to_string();
    return device.ok() ? *device : nullptr;
  }
  // y[i] = x[i] + amount, for i < n.
  static ExecutableRef load_add(Device& device) {
    const ir::Kernel kernel = dsl::trace("add", [](dsl::KernelBuilder& k) {
      const dsl::Expr n = k.size("n"), amount = k.scalar(ir::DType::f32, "amount");
      const dsl::Buffer x = k.input(ir::DType::f32, "x"), y = k.output(ir::DType::f32, "y");
      k.range("i", n, [&](dsl::Expr i) { y.store(i, x[i] + amount); });
    });
    const auto code = codegen::compile(kernel, *lower::Schedule::parse("i:thread64"), device.info().target);
    EXPECT_TRUE(code.ok()) << code.status().to_string();
    const auto executable = device.load(*code);
    EXPECT_TRUE(executable.ok()) << executable.status().to_string();
    return *executable;
  }

  TemporaryFolder folder_;
  VulkanOptions options_;
};

std::atomic<uint64_t> commanded_bytes, dispatched_groups;
VKAPI_ATTR void VKAPI_CALL counted_copy(VkCommandBuffer commands, VkBuffer from, VkBuffer to, uint32_t count,
                                        const VkBufferCopy* copies) {
  for (uint32_t i = 0; i < count; ++i) commanded_bytes += copies[i].size;
  driver.real.vkCmdCopyBuffer(commands, from, to, count, copies);
}
VKAPI_ATTR void VKAPI_CALL counted_dispatch(VkCommandBuffer commands, uint32_t x, uint32_t y, uint32_t z) {
  dispatched_groups += x;
  driver.real.vkCmdDispatch(commands, x, y, z);
}

void expect_error(const Status& status, Code code, std::string_view part) {
  EXPECT_EQ(status.code(), code) << status.to_string();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message() << "\nlacks: " << part;
}

TEST(VulkanLoader, SaysWhatToInstallWhereItIsMissing) {
  VulkanOptions options;
  options.library = "/nowhere/libvulkan.so.1";
  expect_error(open_vulkan_device(0, options).status(), Code::unsupported, "install libvulkan1");
  expect_error(count_vulkan_devices(options).status(), Code::unsupported, "/nowhere/libvulkan.so.1");
  options.library = "libm.so.6";
  expect_error(open_vulkan_device(0, options).status(), Code::unsupported, "libm.so.6 is no Vulkan loader");
}

TEST(VulkanLoader, HintsAtRenderNodesWithoutPermission) {
  const TemporaryFolder folder;
  const auto nobody = [](const std::filesystem::path&) { return false; };
  EXPECT_EQ(render_node_hint(folder.path() / "none", nobody), "");
  std::ofstream(folder.path() / "card0") << "";
  EXPECT_EQ(render_node_hint(folder.path(), nobody), "");
  std::ofstream(folder.path() / "renderD128") << "";
  const std::string hint = render_node_hint(folder.path(), nobody);
  EXPECT_NE(hint.find("no permission on " + (folder.path() / "renderD128").string()), std::string::npos) << hint;
  EXPECT_NE(hint.find("usermod -aG render"), std::string::npos) << hint;
  EXPECT_EQ(render_node_hint(folder.path(), [](const std::filesystem::path&) { return true; }), "");
}

TEST_F(Vulkan, SaysWhenThereIsNoDriver) {
  options_.intercept = replace<PFN_vkCreateInstance>(&VulkanFunctions::vkCreateInstance, no_driver);
  expect_error(open_vulkan_device(0, options_).status(), Code::unsupported, "no Vulkan driver was found: install");
  options_.intercept =
      replace<PFN_vkEnumeratePhysicalDevices>(&VulkanFunctions::vkEnumeratePhysicalDevices, no_devices);
  expect_error(count_vulkan_devices(options_).status(), Code::unsupported, "no Vulkan driver was found: install");
}

TEST_F(Vulkan, SaysWhatADeviceLacks) {
  options_.intercept =
      replace<PFN_vkGetPhysicalDeviceProperties>(&VulkanFunctions::vkGetPhysicalDeviceProperties, old_properties);
  expect_error(open_vulkan_device(0, options_).status(), Code::unsupported, "a driver for Vulkan 1.1; Sporkle needs");
  options_.intercept =
      replace<PFN_vkGetPhysicalDeviceFeatures2>(&VulkanFunctions::vkGetPhysicalDeviceFeatures2, fewer_features);
  expect_error(open_vulkan_device(0, options_).status(), Code::unsupported, "lacks addresses of buffers");
}

// Large copies run as a kernel, but for what is no whole block or not aligned to its vectors. Every byte arrives, and
// no other changes.
TEST_F(Vulkan, CopiesLargePartsByAKernel) {
  options_.intercept = [](VulkanFunctions& functions) {
    if (!functions.vkCmdCopyBuffer || functions.vkCmdCopyBuffer == counted_copy) return;
    driver.real = functions;
    functions.vkCmdCopyBuffer = counted_copy;
    functions.vkCmdDispatch = counted_dispatch;
  };
  const std::shared_ptr<Device> device = open();
  constexpr size_t kBytes = 3 << 20, kBlock = 16384, kRest = 100;
  const std::vector<uint8_t> zeros(kBytes);
  std::vector<uint8_t> data(kBytes);
  for (size_t i = 0; i < kBytes; ++i) data[i] = static_cast<uint8_t>((i * 2654435761u) >> 13);
  const Binding from{*device->allocate(kBytes)}, to{*device->allocate(kBytes)};
  struct Case {
    uint64_t from, to, size, by_command;
  };
  for (const Case& c : {Case{0, 0, kBytes, 0}, Case{16, 48, 100 * kBlock + kRest, kRest},
                        Case{0, 0, 10 * kBlock, 10 * kBlock}, Case{4, 16, 100 * kBlock, 100 * kBlock}}) {
    SCOPED_TRACE(std::to_string(c.from) + " to " + std::to_string(c.to) + ": " + std::to_string(c.size));
    ASSERT_TRUE(device->write(from, std::as_bytes(std::span(data))).ok());
    ASSERT_TRUE(device->write(to, std::as_bytes(std::span(zeros))).ok());
    commanded_bytes = dispatched_groups = 0;
    CommandBuffer commands;
    commands.copy({from.buffer, c.from}, {to.buffer, c.to}, c.size);
    ASSERT_TRUE(device->submit(commands).ok());
    ASSERT_TRUE(device->wait_idle().ok());
    EXPECT_EQ(commanded_bytes, c.by_command);
    EXPECT_EQ(dispatched_groups * kBlock, c.size - c.by_command);
    std::vector<uint8_t> expected(kBytes), found(kBytes);
    std::copy_n(data.begin() + static_cast<ptrdiff_t>(c.from), c.size, expected.begin() + static_cast<ptrdiff_t>(c.to));
    ASSERT_TRUE(device->read(to, std::as_writable_bytes(std::span(found))).ok());
    EXPECT_TRUE(found == expected);
  }
}

TEST_F(Vulkan, RefusesADeviceThatIsNotThere) {
  expect_error(open_vulkan_device(99, options_).status(), Code::not_found, "there is no device vulkan:99");
  expect_error(open_device("vulkan:99").status(), Code::not_found, "there is no device vulkan:99");
  for (const char* id : {"vulkan:", "vulkan:x", "vulkan0", "vulkan:1x"})
    expect_error(open_device(id).status(), Code::not_found, "unknown device");
  EXPECT_EQ((*open_device("vulkan"))->info().id, "vulkan:0");
}

TEST_F(Vulkan, TheValidationLayerIsHeard) {
  options_.validation = true;
  options_.intercept = replace<PFN_vkCmdFillBuffer>(&VulkanFunctions::vkCmdFillBuffer, crooked_fill);
  const auto opened = open_vulkan_device(0, options_);
  if (opened.status().code() == Code::unsupported) GTEST_SKIP() << opened.status().to_string();
  const BufferRef buffer = *(*opened)->allocate(64);
  const uint64_t before = vulkan_validation_messages();
  CommandBuffer commands;
  commands.fill({buffer}, 16, 1);
  ASSERT_TRUE((*opened)->submit(commands).ok());
  ASSERT_TRUE((*opened)->wait_idle().ok());
  const uint64_t messages = vulkan_validation_messages() - before;
  EXPECT_GT(messages, 0u);
  expected_vulkan_messages += messages;
}

TEST_F(Vulkan, ALostDeviceIsReportedAndOpenedAgain) {
  options_.intercept = inject_faults;
  std::shared_ptr<Device> device = open();
  ASSERT_TRUE(device);
  for (Fault* fault : {&driver.submit, &driver.wait}) {
    const BufferRef buffer = *device->allocate(64);
    CommandBuffer commands;
    commands.fill({buffer}, 64, 1);
    ASSERT_TRUE(device->submit(commands).ok());
    ASSERT_TRUE(device->wait_idle().ok());

    arm(*fault, 1, VK_ERROR_DEVICE_LOST);
    const SemaphoreRef done = *device->create_semaphore(0), later = *device->create_semaphore(0);
    const SemaphorePoint signal[] = {{done, 1}}, after[] = {{later, 1}};
    const Status submitted = device->submit(commands, {}, signal);
    if (fault == &driver.submit) expect_error(submitted, Code::device_lost, "was reset or taken away");
    expect_error(done->wait(1, 10'000), Code::device_lost, "was reset or taken away; open the device again");
    expect_error(device->submit(commands, {}, after), Code::device_lost, "was lost: open it again");
    EXPECT_EQ(later->value(), 0u);
    EXPECT_EQ(device->allocate(64).status().code(), Code::device_lost);
    std::byte bytes[4] = {};
    EXPECT_EQ(device->read({buffer}, bytes).code(), Code::device_lost);
    EXPECT_EQ(device->write({buffer}, bytes).code(), Code::device_lost);
    device = open();
    ASSERT_TRUE(device);
  }
}

TEST_F(Vulkan, SaysWhenMemoryEnds) {
  options_.intercept = inject_faults;
  options_.memory_limit_bytes = uint64_t{100} << 20;
  const std::shared_ptr<Device> device = open();
  ASSERT_TRUE(device);
  EXPECT_EQ(device->info().memory_bytes, options_.memory_limit_bytes);
  expect_error(device->allocate(size_t{200} << 20).status(), Code::out_of_memory,
               "cannot allocate 200 MiB: 0 bytes are in use of at most 100 MiB");
  for (int repetition = 0; repetition < 3; ++repetition) {  // what is freed is there again
    const auto first = device->allocate(size_t{60} << 20);
    ASSERT_TRUE(first.ok()) << first.status().to_string();
    expect_error(device->allocate(size_t{60} << 20).status(), Code::out_of_memory, "60 MiB are in use");
    ASSERT_TRUE(device->allocate(1000).ok());
  }
  const auto other_size = device->allocate(size_t{90} << 20);
  EXPECT_TRUE(other_size.ok()) << other_size.status().to_string();
}

TEST_F(Vulkan, SaysWhenTheDriverHasNoMemory) {
  options_.intercept = inject_faults;
  const std::shared_ptr<Device> device = open();
  ASSERT_TRUE(device);
  arm(driver.allocate, 1, VK_ERROR_OUT_OF_DEVICE_MEMORY);
  EXPECT_TRUE(device->allocate(100).ok()) << "tried again after what was kept had been given back";
  driver.allocate.calls = 0;
  driver.real.vkAllocateMemory = [](VkDevice, const VkMemoryAllocateInfo*, const VkAllocationCallbacks*,
                                    VkDeviceMemory*) { return VK_ERROR_OUT_OF_DEVICE_MEMORY; };
  expect_error(device->allocate(size_t{32} << 20).status(), Code::out_of_memory, "the driver has no more to give");
}

TEST_F(Vulkan, CopiesThroughStagingWhereTheHostCannotReachMemory) {
  options_.host_visible = false;
  const std::shared_ptr<Device> device = open();
  ASSERT_TRUE(device);
  std::vector<uint32_t> content((20 << 20) / 4 + 3), back(content.size() - 1);
  std::iota(content.begin(), content.end(), 7u);
  const BufferRef buffer = *device->allocate(content.size() * 4);
  EXPECT_EQ(buffer->host_pointer(), nullptr);
  ASSERT_TRUE(device->write({buffer}, std::as_bytes(std::span(content))).ok());
  ASSERT_TRUE(device->read({buffer, 4}, std::as_writable_bytes(std::span(back))).ok());
  EXPECT_TRUE(std::equal(back.begin(), back.end(), content.begin() + 1));
}

TEST_F(Vulkan, CutsLongDispatches) {
  options_.intercept = inject_faults;
  options_.slice_seconds = 1e-10;  // less than a workgroup takes on any device
  const std::shared_ptr<Device> device = open();
  ASSERT_TRUE(device);
  const ExecutableRef add = load_add(*device);
  const size_t n = 10'003;
  const std::vector<float> zeros(n);
  std::vector<float> x(n), y(n);
  std::iota(x.begin(), x.end(), 0.0f);
  const BufferRef in = *device->allocate(n * 4), out = *device->allocate(n * 4);
  ASSERT_TRUE(device->write({in}, std::as_bytes(std::span(x))).ok());
  CommandBuffer commands;
  commands.dispatch(add, {{in}, {out}}, {n, std::bit_cast<uint32_t>(1.0f)});
  for (int run = 0; run < 2; ++run) {
    ASSERT_TRUE(device->write({out}, std::as_bytes(std::span(zeros))).ok());
    driver.submit.calls = 0;  // writing and reading may take submissions of their own
    ASSERT_TRUE(device->submit(commands).ok());
    ASSERT_TRUE(device->wait_idle().ok());
    const int submissions = driver.submit.calls;
    ASSERT_TRUE(device->read({out}, std::as_writable_bytes(std::span(y))).ok());
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(y[i], x[i] + 1) << i;
    // Once it is known how long it takes, its pieces are handed to the device one by one.
    if (run == 0) {
      EXPECT_EQ(submissions, 1);
    } else {
      EXPECT_GT(submissions, 10);
    }
  }
}

TEST_F(Vulkan, WaitsForOtherKindsOfDevices) {
  const std::shared_ptr<Device> gpu = open();
  ASSERT_TRUE(gpu);
  const std::shared_ptr<Device> cpu = *open_device("reference");
  const SemaphoreRef s = *cpu->create_semaphore(0);
  const BufferRef on_gpu = *gpu->allocate(4), on_cpu = *cpu->allocate(4);
  CommandBuffer gpu_work, cpu_work;
  gpu_work.fill({on_gpu}, 4, 5);
  cpu_work.fill({on_cpu}, 4, 6);
  const SemaphorePoint one[] = {{s, 1}}, two[] = {{s, 2}}, three[] = {{s, 3}};
  ASSERT_TRUE(gpu->submit(gpu_work, two, three).ok());
  ASSERT_TRUE(cpu->submit(cpu_work, one, two).ok());
  EXPECT_EQ(s->value(), 0u);
  ASSERT_TRUE(gpu->submit(CommandBuffer(), {}, one).ok());
  ASSERT_TRUE(s->wait(3, 10'000).ok());
  uint32_t value = 0;
  ASSERT_TRUE(gpu->read({on_gpu}, std::as_writable_bytes(std::span(&value, 1))).ok());
  EXPECT_EQ(value, 5u);
}

TEST_F(Vulkan, KeepsPipelinesOnDisk) {
  const auto files = [&] {
    std::vector<std::filesystem::path> result;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path()))
      if (entry.path().filename().string().starts_with("vulkan-pipelines-")) result.push_back(entry.path());
    return result;
  };
  const auto use = [&] {
    const std::shared_ptr<Device> device = open();
    ASSERT_TRUE(device);
    load_add(*device);
  };
  use();
  ASSERT_EQ(files().size(), 1u);
  const std::string good = *read_file(files()[0]);
  for (const std::string& bad : {std::string(), std::string("rubbish"), good.substr(0, good.size() - 1), good + "x"}) {
    ASSERT_TRUE(write_file_atomically(files()[0], bad).ok());
    use();
    // Written anew: how much a driver puts into it is its affair (one that has a disk cache of its own puts little).
    EXPECT_EQ(read_file(files()[0])->substr(0, 20), good.substr(0, 20)) << bad.size();
    EXPECT_TRUE(*read_file(files()[0]) != bad) << bad.size();
  }
}

TEST(VulkanPipelineCache, RefusesFilesOfOtherDevices) {
  VkPhysicalDeviceProperties properties = {};
  properties.vendorID = 7;
  VkPipelineCacheHeaderVersionOne header = {};
  header.headerSize = sizeof header;
  header.headerVersion = VK_PIPELINE_CACHE_HEADER_VERSION_ONE;
  header.vendorID = 7;
  const std::string pipelines(reinterpret_cast<const char*>(&header), sizeof header);
  const std::string file = wrap_pipelines(pipelines);
  EXPECT_EQ(*unwrap_pipelines(file, properties), pipelines);
  expect_error(unwrap_pipelines("short", properties).status(), Code::corrupt_data, "does not begin");
  expect_error(unwrap_pipelines(file.substr(0, file.size() - 1), properties).status(), Code::corrupt_data, "its hash");
  expect_error(unwrap_pipelines(wrap_pipelines("tiny"), properties).status(), Code::corrupt_data, "too short");
  properties.pipelineCacheUUID[3] = 1;
  expect_error(unwrap_pipelines(file, properties).status(), Code::corrupt_data, "another device or driver");
}

}  // namespace
}  // namespace sporkle::hal
