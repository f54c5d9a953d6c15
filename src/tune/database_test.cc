#include "tune/database.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/temporary_folder.h"

namespace sporkle::tune {
namespace {

constexpr Processor kProcessor{Microarchitecture::zen4, 64, 2};
const ProductShape kShape{4, 1, 1024, 768, 512, true, true, 3072};
const TunedProduct kResult{{ProductPlan::Kind::packed, 6, 4, 4, 1024, 0, 0}, 0.0096, 0.0099};

TEST(Database, TextRoundTrips) {
  Database database;
  database.add(kProcessor, kShape, kResult);
  const std::string text = database.text();
  EXPECT_EQ(text,
            "sporkle tuning database 1\n"
            "zen4 vector64 threads2 | f32 nn 1x1024x768x512 | packed 6x4 unroll4 depth1024 block0x0 | 0.0096 s, usual "
            "0.0099 s\n");
  const auto parsed = Database::parse(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_EQ(parsed->text(), text);
  const TunedProduct* found = parsed->find(kProcessor, kShape);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->plan, kResult.plan);
  EXPECT_EQ(parsed->find({Microarchitecture::zen4, 64, 1}, kShape), nullptr);
}

TEST(Database, KeepsWhatGpusHaveBeside) {
  const auto target = *codegen::VulkanTarget::parse("vulkan:nvidia,workgroup1024,shared48");
  const std::string gpu = gpu_key("NVIDIA H100", target);
  Database database;
  database.add(kProcessor, kShape, kResult);
  database.add(gpu, kShape, {{false, {64, 64, 8, 4, 4}}, 0.0001, 0.0002});
  const std::string text = database.text();
  EXPECT_NE(text.find("\nvulkan NVIDIA H100 workgroup1024 shared48 | f32 nn 1x1024x768x512 | tile64x64 depth8 own4x4 | "
                      "0.0001 s, usual 0.0002 s\n"),
            std::string::npos)
      << text;
  const auto parsed = Database::parse(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_EQ(parsed->text(), text);
  EXPECT_EQ(parsed->size(), 2u);
  const TunedGpuProduct* found = parsed->find(gpu, kShape);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->plan.text(), "tile64x64 depth8 own4x4");
  EXPECT_EQ(parsed->find(gpu_key("another", target), kShape), nullptr);
  // A plan of the other kind names the line.
  const auto mixed = Database::parse(
      "sporkle tuning database 1\n"
      "vulkan X | f32 nn 1x8x8x8 | packed 6x4 unroll4 depth1024 block0x0 | 1 s, usual 1 s\n");
  EXPECT_EQ(mixed.status().code(), Code::corrupt_data);
  EXPECT_NE(mixed.status().message().find("line 2"), std::string::npos) << mixed.status().to_string();
}

TEST(Database, ALaterResultReplacesAnEarlierOne) {
  Database database;
  database.add(kProcessor, kShape, kResult);
  TunedProduct better = kResult;
  better.plan.rows = 5;
  database.add(kProcessor, kShape, better);
  EXPECT_EQ(database.size(), 1u);
  EXPECT_EQ(database.find(kProcessor, kShape)->plan.rows, 5);
}

TEST(Database, CorruptTextIsRefusedByLine) {
  const auto message = [](const std::string& line) {
    const auto parsed = Database::parse("sporkle tuning database 1\n# a comment\n" + line + "\n");
    EXPECT_EQ(parsed.status().code(), Code::corrupt_data) << line;
    return parsed.ok() ? std::string() : parsed.status().message();
  };
  EXPECT_NE(message("zen4").find("line 3: it has fewer than four fields"), std::string::npos);
  EXPECT_NE(message("zen4 | f32 | boxed | 1 s, usual 1 s").find("none of packed"), std::string::npos);
  const std::string whole = "zen4 | f32 | packed 6x4 unroll4 depth1024 block0x0 | ";
  EXPECT_NE(message(whole + "fast").find("is not like"), std::string::npos);
  EXPECT_NE(message(whole + "-1 s, usual 1 s").find("is not like"), std::string::npos);
  EXPECT_NE(message(whole + "nan s, usual 1 s").find("is not like"), std::string::npos);
  EXPECT_NE(message(whole + "1 s, usual 1 s\n" + whole + "2 s, usual 2 s").find("line 4"), std::string::npos);
  EXPECT_EQ(Database::parse("something else").status().code(), Code::corrupt_data);
  EXPECT_TRUE(Database::parse("").ok());
}

TEST(Database, SavesAndLoads) {
  const auto folder = TemporaryFolder::create("tune_database_test");
  ASSERT_TRUE(folder.ok());
  const std::filesystem::path path = folder->path() / "deep" / "tuning.txt";
  EXPECT_EQ(Database::load(path).status().code(), Code::not_found);
  Database database;
  database.add(kProcessor, kShape, kResult);
  ASSERT_TRUE(database.save(path).ok());
  const auto loaded = Database::load(path);
  ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
  EXPECT_EQ(loaded->text(), database.text());
  ASSERT_TRUE(write_file_atomically(path, std::string_view("nonsense")).ok());
  const auto corrupt = Database::load(path);
  EXPECT_EQ(corrupt.status().code(), Code::corrupt_data);
  EXPECT_NE(corrupt.status().message().find("tuning.txt"), std::string::npos);
}

}  // namespace
}  // namespace sporkle::tune
