#include "lower/schedule_space.h"

#include <algorithm>

namespace sporkle::lower {
namespace {

constexpr int kBlocks[] = {1, 16, 256, 4096};
constexpr int kCounts[] = {1, 2, 4};
constexpr int kTiles[] = {1, 2, 3, 4, 6, 8, 10, 12};
constexpr int kUnrolls[] = {1, 2, 4, 8};
constexpr int kMatrices[] = {32, 64, 128, 256};
constexpr int kGroups[] = {32, 64, 128, 256};
constexpr int kWorkgroups[] = {64, 128, 256};
constexpr int kWidest = 64, kNarrowest = 2;

using Choices = std::vector<std::optional<ScheduleItem>>;

void add(Choices& choices, ScheduleItem item, int size, int count = 1) {
  item.size = size;
  item.count = count;
  const bool known = std::ranges::any_of(
      choices, [&](const auto& choice) { return choice && choice->size == item.size && choice->count == item.count; });
  if (!known) choices.push_back(item);
}

Choices choices_for(const ScheduleItem& item, bool items_follow) {
  Choices choices{item};
  switch (item.kind) {
    case ScheduleItem::Kind::thread:
      // Single iterations leave nothing for later items of the range.
      if (!items_follow) add(choices, item, 0);
      for (const int block : kBlocks) add(choices, item, block);
      break;
    case ScheduleItem::Kind::vector:
      for (const int width : {item.size, item.size / 2, item.size * 2})
        for (const int count : kCounts)
          if (width >= kNarrowest && width <= kWidest) add(choices, item, width, count);
      choices.emplace_back();
      break;
    case ScheduleItem::Kind::tile:
      for (const int size : kTiles) add(choices, item, size);
      choices.emplace_back();
      break;
    case ScheduleItem::Kind::unroll:
      for (const int size : kUnrolls) add(choices, item, size);
      break;
    case ScheduleItem::Kind::matrix:
      for (const int size : kMatrices) add(choices, item, size);
      break;
    case ScheduleItem::Kind::group:
      for (const int size : kGroups) add(choices, item, size);
      choices.emplace_back();
      break;
    case ScheduleItem::Kind::workgroup:
      for (const int size : kWorkgroups) add(choices, item, size);
      break;
    case ScheduleItem::Kind::pack:
    case ScheduleItem::Kind::stream:
      break;  // whether addresses allow it is not for a search to try
  }
  return choices;
}

}  // namespace

ScheduleSpace::ScheduleSpace(const Schedule& schedule) {
  for (size_t i = 0; i < schedule.items.size(); ++i) {
    const ScheduleItem& item = schedule.items[i];
    const bool items_follow =
        std::any_of(schedule.items.begin() + static_cast<std::ptrdiff_t>(i) + 1, schedule.items.end(),
                    [&](const ScheduleItem& later) { return later.range == item.range; });
    choices_.push_back(choices_for(item, items_follow));
  }
}

uint64_t ScheduleSpace::size() const {
  uint64_t size = 1;
  for (const auto& choices : choices_) size *= choices.size();
  return size;
}

Schedule ScheduleSpace::at(uint64_t index) const {
  Schedule schedule;
  for (const auto& choices : choices_) {
    if (const auto& choice = choices[index % choices.size()]) schedule.items.push_back(*choice);
    index /= choices.size();
  }
  return schedule;
}

std::vector<uint64_t> ScheduleSpace::changes() const {
  std::vector<uint64_t> numbers;
  uint64_t step = 1;
  for (const auto& choices : choices_) {
    for (uint64_t i = 1; i < choices.size(); ++i) numbers.push_back(i * step);
    step *= choices.size();
  }
  return numbers;
}

}  // namespace sporkle::lower
