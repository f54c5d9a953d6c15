// How a matrix product C[m, n] = A[m, k] B[k, n] runs on a GPU, and the presets: what suits whose GPUs.
//
// Plans and presets differ in speed alone: every element of C is the same chain of fused multiply-adds over k under
// each of them (tensor/kernels/matmul_workgroup.cc), and no item of a schedule changes a bit. Plain values;
// thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "codegen/vulkan_target.h"
#include "lower/schedule.h"
#include "tune/product_plan.h"

namespace sporkle::tune {

// What a workgroup makes of C: a tile, of which each invocation keeps a part in registers while all of k passes by.
struct GpuTile {
  int64_t rows = 0, columns = 0, depth = 0;  // of C, and of k staged at once in workgroup memory
  int64_t own_rows = 0, own_columns = 0;     // of C, for one invocation
  int64_t invocations() const { return rows / own_rows * (columns / own_columns); }
  // Two blocks of k are staged at a time, their rows padded against conflicts of banks.
  static constexpr int64_t kPadding = 4;
  int64_t shared_bytes(int element_bytes) const { return 2 * depth * (rows + columns + 2 * kPadding) * element_bytes; }
  bool operator==(const GpuTile&) const = default;
};

struct GpuPlan {
  bool by_element = false;  // an invocation for each element of C, and no tile
  GpuTile tile;

  // "tile128x256 depth8 own16x8", or "elements".
  std::string text() const;
  // invalid_argument names what is wrong: all numbers of a tile are powers of two.
  static Result<GpuPlan> parse(std::string_view text);
  bool operator==(const GpuPlan&) const = default;
};

// Whether the device has a fused multiply-add for elements of this size; without one, the code of each is long.
bool has_fused(const codegen::VulkanTarget& target, int element_bytes);

// Whether the product can run so on this device: workgroups, their memory and registers suffice, and every invocation
// has something to stage.
bool gpu_plan_applies(const GpuPlan& plan, const ProductShape& shape, const codegen::VulkanTarget& target);

// How kernels run on one maker's GPUs.
struct GpuPreset {
  codegen::VulkanVendor vendor;
  std::string_view name;           // "NVIDIA"
  std::string_view tested_on;      // the hardware that it was measured on; empty: untested on hardware
  std::span<const GpuTile> tiles;  // of products, the largest first
  int64_t enough_tiles;            // of C, for most of a large GPU's cores to have something
  int most_double_sums;            // elements of C that an invocation owns of f64
  int least_group, most_group;     // invocations that share a row of a reduction, a norm or attention's weights
  int workgroup;                   // invocations of elementwise kernels

  // One line for people: "products in tiles of 128x256 ..., rows shared by 32 to 256 invocations, ...".
  std::string text() const;
};

std::span<const GpuPreset> gpu_presets();
// By the target's vendor; what suits unknown makers where it has none.
const GpuPreset& gpu_preset(const codegen::VulkanTarget& target);

// From the preset, the device's limits and the shape. It always applies.
GpuPlan preset_gpu_plan(const ProductShape& shape, const codegen::VulkanTarget& target);

// A kernel's schedule as it suits the device: groups of invocations within the preset's bounds and the device's limits,
// and the workgroups of kernels that have no groups.
lower::Schedule fit_schedule(lower::Schedule usual, const codegen::VulkanTarget& target);

// How databases name a device: "vulkan NVIDIA H100 80GB HBM3 workgroup1024 shared48".
std::string gpu_key(std::string_view device_name, const codegen::VulkanTarget& target);

}  // namespace sporkle::tune
