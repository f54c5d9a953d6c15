#include "tune/gpu_plan.h"

#include <algorithm>
#include <bit>
#include <charconv>

namespace sporkle::tune {
namespace {

using codegen::VulkanTarget;
using codegen::VulkanVendor;

// Rows and columns of C, k at once, and the rows and columns that one invocation owns.
//
// NVIDIA, measured on an H100: 128 sums for an invocation leave room for two workgroups of 256 on a multiprocessor's
// 65536 registers.
constexpr GpuTile kNvidiaTiles[] = {
    {128, 256, 8, 16, 8}, {128, 128, 8, 8, 8}, {64, 128, 8, 8, 8}, {64, 64, 8, 4, 4}, {32, 32, 16, 2, 2},
};
// AMD (from the RDNA and GCN manuals): a SIMD unit has 256 registers a lane for one wave of 64, so 64 sums with what is
// on its way leave two waves to hide each other's waits, where 128 leave one; workgroups of 256 are a wave for each of
// a GCN unit's four SIMDs. 17 KiB of the 64 KiB of local memory let three workgroups share a unit.
constexpr GpuTile kAmdTiles[] = {
    {128, 128, 8, 8, 8},
    {128, 64, 8, 8, 8},
    {64, 64, 8, 4, 4},
    {32, 32, 16, 2, 2},
};
// Intel (from the Xe manuals): a thread has 4 KiB of registers, which is 64 numbers a lane where 16 lanes run at once;
// 32 sums, their factors and what is on its way fit. A Xe core shares 64 KiB among its workgroups and is small, so that
// few tiles already keep one busy.
constexpr GpuTile kIntelTiles[] = {
    {64, 128, 8, 4, 8},
    {64, 64, 8, 4, 4},
    {32, 32, 16, 2, 2},
};
// Processors: Mesa runs invocations as lanes of vectors, a workgroup after another on each thread. Sums beyond 16
// spill.
constexpr GpuTile kProcessorTiles[] = {
    {64, 64, 8, 4, 4},
    {32, 32, 16, 2, 2},
};
// Makers without a preset: what the least registers of phones' GPUs bear.
constexpr GpuTile kOtherTiles[] = {
    {64, 64, 8, 4, 4},
    {32, 32, 16, 2, 2},
};
// For devices with workgroups or memory too small for the others; the last runs on every device.
constexpr GpuTile kSmallTiles[] = {{32, 32, 16, 4, 2}, {16, 16, 8, 2, 2}};
// Without a fused multiply-add each is a long sequence of code.
constexpr GpuTile kSoftwareTile = {16, 16, 8, 2, 2};

// Rows are shared by no fewer invocations than run at once anyway: 32 on NVIDIA, 64 on AMD, up to 32 on Intel; on a
// processor every further one is a round of its vectors before each barrier.
constexpr GpuPreset kPresets[] = {
    {VulkanVendor::nvidia, "NVIDIA", "H100", kNvidiaTiles, 96, 16, 32, 256, 128},
    {VulkanVendor::amd, "AMD", "", kAmdTiles, 96, 16, 64, 256, 256},
    {VulkanVendor::intel, "Intel", "", kIntelTiles, 32, 16, 32, 256, 128},
    {VulkanVendor::processor, "processors", "Mesa's llvmpipe", kProcessorTiles, 16, 16, 16, 64, 128},
    {VulkanVendor::other, "other makers", "", kOtherTiles, 32, 16, 32, 128, 128},
};

constexpr int64_t kFew = 4;  // rows or columns that are not worth a tile
constexpr int64_t kMostInvocations = 1024;
constexpr int64_t kLeastInvocations = 32;
constexpr int64_t kMostSums = 128;       // of f32, that an invocation's registers hold
constexpr int64_t kMostOnTheWay = 32;    // elements of A, and of B, for one invocation
constexpr int64_t kMostUnrolled = 1024;  // multiply-adds one after the other in the code
constexpr int64_t kMostSoftware = 64;    // the same where each is a long sequence
constexpr int kUsualWorkgroup = 128;     // of kernels whose schedule does not say (codegen/spirv/emitter.h)

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
bool is_power(int64_t value) { return value > 0 && (value & (value - 1)) == 0; }

bool take(std::string_view& text, std::string_view word) {
  if (!text.starts_with(word)) return false;
  text.remove_prefix(word.size());
  return true;
}

bool take(std::string_view& text, int64_t* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

std::string tile_text(const GpuTile& t) {
  return "tile" + std::to_string(t.rows) + "x" + std::to_string(t.columns) + " depth" + std::to_string(t.depth) +
         " own" + std::to_string(t.own_rows) + "x" + std::to_string(t.own_columns);
}

}  // namespace

std::string GpuPlan::text() const { return by_element ? "elements" : tile_text(tile); }

Result<GpuPlan> GpuPlan::parse(std::string_view text) {
  const auto fail = [&](const std::string& why) {
    return invalid_argument("plan of a product on a GPU \"" + std::string(text.substr(0, 80)) + "\": " + why +
                            "; it reads like \"tile128x256 depth8 own16x8\" or \"elements\"");
  };
  GpuPlan plan;
  if (text == "elements") {
    plan.by_element = true;
    return plan;
  }
  GpuTile& t = plan.tile;
  std::string_view rest = text;
  const bool whole = take(rest, "tile") && take(rest, &t.rows) && take(rest, "x") && take(rest, &t.columns) &&
                     take(rest, " depth") && take(rest, &t.depth) && take(rest, " own") && take(rest, &t.own_rows) &&
                     take(rest, "x") && take(rest, &t.own_columns) && rest.empty();
  if (!whole) return fail("\"" + std::string(rest.substr(0, 80)) + "\" is not what follows");
  for (const int64_t number : {t.rows, t.columns, t.depth, t.own_rows, t.own_columns})
    if (!is_power(number) || number > 1024)
      return fail("the number " + std::to_string(number) + " is no power of two from 1 to 1024");
  if (t.own_rows > t.rows || t.own_columns > t.columns) return fail("an invocation owns more than the tile has");
  return plan;
}

bool has_fused(const VulkanTarget& target, int element_bytes) {
  return element_bytes == 8 ? target.fma64 : target.fma32 || target.contract32;
}

bool gpu_plan_applies(const GpuPlan& plan, const ProductShape& shape, const VulkanTarget& target) {
  if (plan.by_element) return true;
  const GpuTile& t = plan.tile;
  for (const int64_t number : {t.rows, t.columns, t.depth, t.own_rows, t.own_columns})
    if (!is_power(number)) return false;
  if (t.own_rows > t.rows || t.own_columns > t.columns) return false;
  const int64_t lanes = t.invocations(), sums = t.own_rows * t.own_columns;
  if (lanes < kLeastInvocations || lanes > std::min<int64_t>(kMostInvocations, target.workgroup)) return false;
  if (lanes < t.depth || t.rows * t.depth < lanes || t.columns * t.depth < lanes) return false;
  if (std::max(t.rows, t.columns) * t.depth > kMostOnTheWay * lanes) return false;
  if (t.shared_bytes(shape.element_bytes) > int64_t{1024} * target.shared_kib) return false;
  if (sums * shape.element_bytes > kMostSums * 4) return false;
  return sums * t.depth <= (has_fused(target, shape.element_bytes) ? kMostUnrolled : kMostSoftware);
}

std::string GpuPreset::text() const {
  std::string line = "products in ";
  for (const GpuTile& tile : tiles) line += (&tile == tiles.data() ? "" : ", ") + tile_text(tile);
  line += "; rows shared by " + std::to_string(least_group) + " to " + std::to_string(most_group) + " invocations";
  return line + "; elementwise kernels in workgroups of " + std::to_string(workgroup);
}

std::span<const GpuPreset> gpu_presets() { return kPresets; }

const GpuPreset& gpu_preset(const VulkanTarget& target) {
  const auto found = std::ranges::find(kPresets, target.vendor, &GpuPreset::vendor);
  return found == std::end(kPresets) ? kPresets[std::size(kPresets) - 1] : *found;
}

GpuPlan preset_gpu_plan(const ProductShape& shape, const VulkanTarget& target) {
  if (shape.rows <= kFew || shape.columns <= kFew) return {.by_element = true, .tile = {}};
  if (!has_fused(target, shape.element_bytes)) return {.by_element = false, .tile = kSoftwareTile};
  const GpuPreset& preset = gpu_preset(target);
  GpuPlan last{.by_element = false, .tile = kSoftwareTile};
  const auto consider = [&](const GpuTile& tile) {
    const GpuPlan plan{.by_element = false, .tile = tile};
    if (!gpu_plan_applies(plan, shape, target)) return false;
    if (shape.element_bytes == 8 && tile.own_rows * tile.own_columns > preset.most_double_sums) return false;
    last = plan;
    return shape.batches * divide_up(shape.rows, tile.rows) * divide_up(shape.columns, tile.columns) >=
           preset.enough_tiles;
  };
  if (std::ranges::any_of(preset.tiles, consider)) return last;
  // None is small enough to keep the device busy: the preset's smallest, or if none of them applies one that does.
  const bool none = last.tile == kSoftwareTile;
  if (none) (void)std::ranges::any_of(kSmallTiles, consider);
  return last;
}

lower::Schedule fit_schedule(lower::Schedule usual, const VulkanTarget& target) {
  using Kind = lower::ScheduleItem::Kind;
  const GpuPreset& preset = gpu_preset(target);
  const int most = std::min(preset.most_group, static_cast<int>(std::bit_floor(target.workgroup)));
  bool shared = false;
  for (lower::ScheduleItem& item : usual.items) {
    if (item.kind != Kind::group) continue;
    item.size = std::clamp(item.size, std::min(preset.least_group, most), most);
    shared = true;
  }
  const int workgroup = std::min(preset.workgroup, static_cast<int>(std::bit_floor(target.workgroup)));
  const auto thread = std::ranges::find(usual.items, Kind::thread, &lower::ScheduleItem::kind);
  if (!shared && workgroup != kUsualWorkgroup && thread != usual.items.end())
    usual.items.push_back({thread->range, Kind::workgroup, workgroup});
  return usual;
}

std::string gpu_key(std::string_view device_name, const VulkanTarget& target) {
  std::string name(device_name.substr(0, 100));
  std::ranges::replace_if(
      name, [](char c) { return c == '|' || static_cast<unsigned char>(c) < 0x20; }, ' ');
  return "vulkan " + name + " workgroup" + std::to_string(target.workgroup) + " shared" +
         std::to_string(target.shared_kib);
}

}  // namespace sporkle::tune
