#include "tensor/passes/memory_plan.h"

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace sporkle::tensor {
namespace {

size_t aligned(size_t size) {
  return (std::max<size_t>(size, 1) + kPlacementAlignment - 1) / kPlacementAlignment * kPlacementAlignment;
}

}  // namespace

Placement place(std::span<const Lifetime> values, size_t segment_bytes) {
  const size_t segment = std::max(segment_bytes / kPlacementAlignment, size_t{1}) * kPlacementAlignment;
  // The first place from `at` on that lies in one segment.
  const auto within_segment = [&](size_t at, size_t size) {
    const size_t room = segment - at % segment;
    return size <= room || size > segment ? at : at + room;
  };
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return values[a].size_bytes > values[b].size_bytes; });

  Placement placement;
  placement.offsets.resize(values.size());
  std::vector<size_t> placed;  // by offset
  for (const size_t value : order) {
    const Lifetime& life = values[value];
    const size_t size = aligned(life.size_bytes);
    size_t best = 0, best_gap = SIZE_MAX, end = 0;
    bool found = false;
    for (const size_t other : placed) {
      if (values[other].last < life.first || values[other].first > life.last) continue;
      const size_t begin = placement.offsets[other], from = within_segment(end, size);
      if (begin > from && begin - from >= size && begin - end < best_gap) {
        best = from;
        best_gap = begin - end;
        found = true;
      }
      end = std::max(end, begin + aligned(values[other].size_bytes));
    }
    placement.offsets[value] = found ? best : within_segment(end, size);
    placement.size_bytes = std::max(placement.size_bytes, placement.offsets[value] + size);
    placed.insert(std::ranges::upper_bound(placed, placement.offsets[value], {},
                                           [&](size_t other) { return placement.offsets[other]; }),
                  value);
  }
  return placement;
}

size_t peak_bytes(std::span<const Lifetime> values) {
  int end = 0;
  for (const Lifetime& value : values) end = std::max(end, value.last + 1);
  std::vector<size_t> begins(static_cast<size_t>(end) + 1), ends(static_cast<size_t>(end) + 1);
  for (const Lifetime& value : values) {
    begins[static_cast<size_t>(value.first)] += aligned(value.size_bytes);
    ends[static_cast<size_t>(value.last) + 1] += aligned(value.size_bytes);
  }
  size_t live = 0, peak = 0;
  for (size_t i = 0; i < static_cast<size_t>(end); ++i) {
    live += begins[i] - ends[i];
    peak = std::max(peak, live);
  }
  return peak;
}

}  // namespace sporkle::tensor
