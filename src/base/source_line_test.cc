#include "base/source_line.h"

#include <gtest/gtest.h>

namespace sporkle {
namespace {

TEST(SourceLineTest, NamesFilesFromTheRootOfTheSources) {
  const std::source_location here = std::source_location::current();
  EXPECT_EQ(source_line(here), "src/base/source_line_test.cc:" + std::to_string(here.line()));
}

TEST(SourceLineTest, IsEmptyForNoLocation) { EXPECT_EQ(source_line({}), ""); }

}  // namespace
}  // namespace sporkle
