#include "hal/vulkan/pipeline_cache.h"

#include <cstring>
#include <span>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"

namespace sporkle::hal {
namespace {

constexpr std::string_view kMark = "sporkle pipelines 1\n";
constexpr size_t kDigestBytes = 32;

std::string digest(std::string_view text) {
  const Digest value = sha256(text);
  return {reinterpret_cast<const char*>(value.data()), value.size()};
}

std::filesystem::path file_for(const VkPhysicalDeviceProperties& properties, const std::filesystem::path& folder) {
  std::string key = std::string(properties.deviceName) + " " + std::to_string(properties.driverVersion) + " ";
  key.append(reinterpret_cast<const char*>(properties.pipelineCacheUUID), VK_UUID_SIZE);
  const Digest name = sha256(key);
  return folder / ("vulkan-pipelines-" + to_hex(std::span(name).first(8)));
}

}  // namespace

std::string wrap_pipelines(std::string_view pipelines) {
  return std::string(kMark) + digest(pipelines) + std::string(pipelines);
}

Result<std::string> unwrap_pipelines(std::string_view file, const VkPhysicalDeviceProperties& properties) {
  if (!file.starts_with(kMark) || file.size() < kMark.size() + kDigestBytes)
    return corrupt_data("it does not begin as a file of pipelines does");
  const std::string_view pipelines = file.substr(kMark.size() + kDigestBytes);
  if (file.substr(kMark.size(), kDigestBytes) != digest(pipelines))
    return corrupt_data("its content does not match its hash");
  VkPipelineCacheHeaderVersionOne header;
  if (pipelines.size() < sizeof header) return corrupt_data("it is too short");
  std::memcpy(&header, pipelines.data(), sizeof header);
  if (header.headerVersion != VK_PIPELINE_CACHE_HEADER_VERSION_ONE || header.vendorID != properties.vendorID ||
      header.deviceID != properties.deviceID ||
      std::memcmp(header.pipelineCacheUUID, properties.pipelineCacheUUID, VK_UUID_SIZE) != 0)
    return corrupt_data("it was made by another device or driver");
  return std::string(pipelines);
}

PipelineCache::PipelineCache(const VulkanFunctions& functions, VkDevice device,
                             const VkPhysicalDeviceProperties& properties, const std::filesystem::path& folder)
    : functions_(functions), device_(device), path_(file_for(properties, folder)) {
  std::string initial;
  if (const Result<std::string> file = read_file(path_); file.ok()) {
    Result<std::string> pipelines = unwrap_pipelines(*file, properties);
    if (pipelines.ok()) {
      initial = std::move(*pipelines);
    } else {
      log(LogLevel::info, "vulkan", path_.string() + " is ignored: " + pipelines.status().message());
    }
  }
  VkPipelineCacheCreateInfo create = {};
  create.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO;
  create.initialDataSize = initial.size();
  create.pInitialData = initial.data();
  loaded_bytes_ = initial.size();
  if (functions_.vkCreatePipelineCache(device_, &create, nullptr, &cache_) == VK_SUCCESS) return;
  cache_ = VK_NULL_HANDLE;  // every pipeline is compiled, which is only slower
}

PipelineCache::~PipelineCache() {
  if (cache_) functions_.vkDestroyPipelineCache(device_, cache_, nullptr);
}

void PipelineCache::save() {
  if (!cache_) return;
  size_t size = 0;
  if (functions_.vkGetPipelineCacheData(device_, cache_, &size, nullptr) != VK_SUCCESS || size == loaded_bytes_) return;
  std::string pipelines(size, '\0');
  if (functions_.vkGetPipelineCacheData(device_, cache_, &size, pipelines.data()) != VK_SUCCESS) return;
  pipelines.resize(size);
  std::error_code error;
  std::filesystem::create_directories(path_.parent_path(), error);
  const Status written = write_file_atomically(path_, wrap_pipelines(pipelines));
  if (!written.ok()) log(LogLevel::info, "vulkan", "compiled pipelines are not kept: " + written.message());
  loaded_bytes_ = size;
}

}  // namespace sporkle::hal
