#include "base/edit_distance.h"

#include <gtest/gtest.h>

#include <vector>

namespace sporkle {
namespace {

TEST(EditDistance, CountsEdits) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("train", "trian"), 1);  // swapped neighbours
  EXPECT_EQ(edit_distance("abcd", "abd"), 1);
}

TEST(NearestName, SuggestsWhatIsNear) {
  const std::vector<std::string> names{"learning_rate", "batch_size", "steps"};
  EXPECT_EQ(nearest_name("learning_rat", names), "learning_rate");
  EXPECT_EQ(nearest_name("learnig-rate", names), "learning_rate");
  EXPECT_EQ(nearest_name("step", names), "steps");
  EXPECT_EQ(nearest_name("steps", names), "steps");
}

TEST(NearestName, IsSilentWhenNothingIsNear) {
  const std::vector<std::string> names{"learning_rate", "up"};
  EXPECT_EQ(nearest_name("colour", names), "");
  EXPECT_EQ(nearest_name("x", names), "");
  EXPECT_EQ(nearest_name("", names), "");
  EXPECT_EQ(nearest_name("steps", {}), "");
}

}  // namespace
}  // namespace sporkle
