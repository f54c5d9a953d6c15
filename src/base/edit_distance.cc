#include "base/edit_distance.h"

#include <algorithm>
#include <vector>

namespace sporkle {

int edit_distance(std::string_view a, std::string_view b) {
  const size_t width = b.size() + 1;
  // Rows of the dynamic programme: two above, the one above, and the current one.
  std::vector<int> oldest(width), above(width), current(width);
  for (size_t j = 0; j < width; ++j) current[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    oldest.swap(above);
    above.swap(current);
    current[0] = static_cast<int>(i);
    for (size_t j = 1; j < width; ++j) {
      const int replaced = above[j - 1] + (a[i - 1] != b[j - 1]);
      current[j] = std::min({above[j] + 1, current[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        current[j] = std::min(current[j], oldest[j - 2] + 1);
      }
    }
  }
  return current.back();
}

std::string nearest_name(std::string_view word, std::span<const std::string> candidates) {
  int best = std::max<int>(2, static_cast<int>(word.size() / 3)) + 1;
  std::string nearest;
  for (const std::string& candidate : candidates) {
    const int distance = edit_distance(word, candidate);
    // A suggestion that shares no letter with the word is noise, however short both are.
    if (distance < best && distance < static_cast<int>(std::max(word.size(), candidate.size()))) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

}  // namespace sporkle
