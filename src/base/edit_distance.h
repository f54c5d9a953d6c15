// Suggestions for misspelt names: "unknown key learning_rat; did you mean learning_rate?". Thread-safe.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace sporkle {

// The number of inserted, deleted, replaced or swapped neighbouring bytes between two words (optimal string alignment).
int edit_distance(std::string_view a, std::string_view b);

// The candidate nearest to `word` (the first of equals). Empty when none is near enough to be worth suggesting: more
// than a third of the word's letters, and more than two, differ.
std::string nearest_name(std::string_view word, std::span<const std::string> candidates);

}  // namespace sporkle
