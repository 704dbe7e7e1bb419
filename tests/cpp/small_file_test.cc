// Words and numbers of the system's small files.
#include "core/small_file.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "support/temp_dir.h"

namespace moa_rt {
namespace {

TEST(SmallFile, reads_all_of_it_or_nothing) {
  const testing::TempDir dir;
  const std::string path = dir.path() + "/file";
  const std::string text(10000, 'x');
  std::ofstream(path) << text << "\nend\n";
  EXPECT_EQ(read_small_file(path), text + "\nend\n");
  EXPECT_EQ(read_small_file(dir.path() + "/missing"), "");
  EXPECT_EQ(read_small_file(dir.path()), "");
  EXPECT_NE(read_small_file("/proc/self/statm"), "");
}

TEST(SmallFile, words) {
  std::string_view text = "  MemAvailable:\t 123 kB\n";
  EXPECT_EQ(next_word(text), "MemAvailable:");
  EXPECT_EQ(next_word(text), "123");
  EXPECT_EQ(next_word(text), "kB");
  EXPECT_EQ(next_word(text), "");
  EXPECT_EQ(next_word(text), "");
}

TEST(SmallFile, integers) {
  EXPECT_EQ(parse_integer("9223372036854775807"), INT64_MAX);
  EXPECT_EQ(parse_integer("-1"), -1);
  for (const char* bad : {"", "max", "1x", " 1", "1 ", "9223372036854775808", "1.5"}) {
    EXPECT_EQ(parse_integer(bad), std::nullopt) << bad;
  }
}

}  // namespace
}  // namespace moa_rt
