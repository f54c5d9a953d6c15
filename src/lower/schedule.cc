#include "lower/schedule.h"

#include <algorithm>
#include <charconv>

namespace sporkle::lower {
namespace {

Status bad_item(std::string_view word, std::string_view why) {
  return invalid_argument("schedule item \"" + std::string(word) + "\": " + std::string(why) +
                          "; known items are range:thread[BLOCK], range:vecWIDTH[xCOUNT], range:tileSIZE, "
                          "range:unrollFACTOR, range:matrixSIZE, range:groupINVOCATIONS, range:pack4, range:stream "
                          "and range:workgroupINVOCATIONS");
}

// Reads a number off the front of `text`; 0 when there is none or it is out of range.
int take_number(std::string_view& text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || number < 0) return 0;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return number;
}

bool take_word(std::string_view& text, std::string_view word) {
  if (!text.starts_with(word)) return false;
  text.remove_prefix(word.size());
  return true;
}

Result<ScheduleItem> parse_item(std::string_view word) {
  const size_t colon = word.find(':');
  if (colon == std::string_view::npos || colon == 0) return bad_item(word, "it has no range name and colon");
  ScheduleItem item;
  item.range = word.substr(0, colon);
  std::string_view rest = word.substr(colon + 1);
  if (take_word(rest, "thread")) {
    item.kind = ScheduleItem::Kind::thread;
    if (!rest.empty() && (item.size = take_number(rest)) == 0)
      return bad_item(word, "the block is not a number above 0");
  } else if (take_word(rest, "vec")) {
    item.kind = ScheduleItem::Kind::vector;
    item.size = take_number(rest);
    if (item.size < 2 || item.size > 64 || (item.size & (item.size - 1)))
      return bad_item(word, "the width is not a power of two from 2 to 64");
    if (take_word(rest, "x")) {
      item.count = take_number(rest);
      if (item.count < 1 || item.count > 32) return bad_item(word, "the count is not from 1 to 32");
    }
  } else if (take_word(rest, "tile") || take_word(rest, "unroll")) {
    item.kind = word.find(":tile") != std::string_view::npos ? ScheduleItem::Kind::tile : ScheduleItem::Kind::unroll;
    item.size = take_number(rest);
    if (item.size < 1 || item.size > 64) return bad_item(word, "the size is not from 1 to 64");
  } else if (take_word(rest, "matrix")) {
    item.kind = ScheduleItem::Kind::matrix;
    item.size = take_number(rest);
    if (item.size < 16 || item.size > 512 || (item.size & (item.size - 1)))
      return bad_item(word, "the size is not a power of two from 16 to 512");
  } else if (take_word(rest, "group")) {
    item.kind = ScheduleItem::Kind::group;
    item.size = take_number(rest);
    if (item.size < 16 || item.size > 1024 || (item.size & (item.size - 1)))
      return bad_item(word, "the number of invocations is not a power of two from 16 to 1024");
  } else if (take_word(rest, "pack")) {
    item.kind = ScheduleItem::Kind::pack;
    item.size = take_number(rest);
    if (item.size != 4) return bad_item(word, "packs have 4 elements");
  } else if (take_word(rest, "stream")) {
    item.kind = ScheduleItem::Kind::stream;
  } else if (take_word(rest, "workgroup")) {
    item.kind = ScheduleItem::Kind::workgroup;
    item.size = take_number(rest);
    if (item.size < 32 || item.size > 1024 || (item.size & (item.size - 1)))
      return bad_item(word, "the number of invocations is not a power of two from 32 to 1024");
  } else {
    return bad_item(word, "unknown kind");
  }
  if (!rest.empty()) return bad_item(word, "\"" + std::string(rest) + "\" is left over");
  return item;
}

}  // namespace

bool Schedule::has(ScheduleItem::Kind kind) const {
  return std::ranges::any_of(items, [&](const ScheduleItem& item) { return item.kind == kind; });
}

Result<Schedule> Schedule::parse(std::string_view text) {
  Schedule schedule;
  while (!text.empty()) {
    const size_t space = std::min(text.find(' '), text.size());
    if (space > 0) {
      SPORKLE_ASSIGN_OR_RETURN(ScheduleItem item, parse_item(text.substr(0, space)));
      schedule.items.push_back(std::move(item));
    }
    text.remove_prefix(std::min(space + 1, text.size()));
  }
  return schedule;
}

std::string Schedule::text() const {
  std::string text;
  for (const ScheduleItem& item : items) {
    if (!text.empty()) text += ' ';
    text += item.range;
    switch (item.kind) {
      case ScheduleItem::Kind::thread:
        text += ":thread" + (item.size ? std::to_string(item.size) : "");
        break;
      case ScheduleItem::Kind::vector:
        text += ":vec" + std::to_string(item.size) + (item.count > 1 ? "x" + std::to_string(item.count) : "");
        break;
      case ScheduleItem::Kind::tile:
        text += ":tile" + std::to_string(item.size);
        break;
      case ScheduleItem::Kind::unroll:
        text += ":unroll" + std::to_string(item.size);
        break;
      case ScheduleItem::Kind::matrix:
        text += ":matrix" + std::to_string(item.size);
        break;
      case ScheduleItem::Kind::group:
        text += ":group" + std::to_string(item.size);
        break;
      case ScheduleItem::Kind::pack:
        text += ":pack" + std::to_string(item.size);
        break;
      case ScheduleItem::Kind::stream:
        text += ":stream";
        break;
      case ScheduleItem::Kind::workgroup:
        text += ":workgroup" + std::to_string(item.size);
        break;
    }
  }
  return text;
}

}  // namespace sporkle::lower
