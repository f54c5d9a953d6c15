// The schedules that a kernel may run under beside the one it was given: other blocks, vectors, tiles and unrolling of
// the same loops. All of them give the same bits, since no item of a schedule changes an order, and differ in speed:
// this is what tuning searches, and what validation compares. Plain values; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "lower/schedule.h"

namespace sporkle::lower {

class ScheduleSpace {
 public:
  // Around `schedule`, which the kernel accepts: it then accepts every schedule of the space.
  explicit ScheduleSpace(const Schedule& schedule);

  // At least 1.
  uint64_t size() const;
  // Number 0 is the schedule that the space was made around. index < size().
  Schedule at(uint64_t index) const;
  // The numbers of those that differ from the first in one item: together they have every choice of every item.
  std::vector<uint64_t> changes() const;

 private:
  // For each item of the schedule, what may stand in its place, itself first; nothing: the item is left out.
  std::vector<std::vector<std::optional<ScheduleItem>>> choices_;
};

}  // namespace sporkle::lower
