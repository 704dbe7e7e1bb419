// Stop rules against a search through the whole text.
#include "runtime/stop_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <string>
#include <vector>

#include "moa_rt/error.h"

namespace {

using moa_rt::StopRules;
using testing::HasSubstr;

struct Outcome {
  std::string text;
  bool matched = false;
};

// The first prefix of the text that ends with a stop string, less the longest such string.
Outcome oracle(const std::string& text, const std::vector<std::string>& stops) {
  for (std::size_t end = 0; end <= text.size(); ++end) {
    const std::string prefix = text.substr(0, end);
    std::size_t longest = 0;
    for (const std::string& stop : stops) {
      if (prefix.ends_with(stop)) longest = std::max(longest, stop.size());
    }
    if (longest > 0) return {prefix.substr(0, end - longest), true};
  }
  return {text, false};
}

// Whether some continuation of `seen` could still put a match's start at or before `place`.
bool could_begin_a_stop(const std::string& seen, std::size_t place,
                        const std::vector<std::string>& stops) {
  for (std::size_t start = 0; start <= place && start < seen.size(); ++start) {
    for (const std::string& stop : stops) {
      if (stop.starts_with(seen.substr(start))) return true;
    }
  }
  return false;
}

std::string random_text(std::mt19937_64& random, std::size_t most, int letters) {
  std::string text;
  for (std::size_t i = random() % (most + 1); i > 0; --i) {
    text += static_cast<char>('a' + random() % static_cast<std::uint64_t>(letters));
  }
  return text;
}

TEST(StopRules, random_texts_in_random_pieces) {
  std::mt19937_64 random(1);
  int matches = 0;
  for (int round = 0; round < 50'000; ++round) {
    const int letters = 1 + static_cast<int>(random() % 3);
    std::vector<std::string> stops;
    for (std::size_t i = random() % 4; i > 0; --i) {
      stops.push_back("a" + random_text(random, 5, letters));
      if (random() % 2 == 0) std::reverse(stops.back().begin(), stops.back().end());
    }
    const std::string text = random_text(random, 40, letters);
    const Outcome want = oracle(text, stops);
    StopRules rules({}, stops);
    std::string shown;
    std::string seen;
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t size = random() % 5;
      const std::string piece = text.substr(begin, size);
      begin += piece.size();
      seen += piece;
      shown += rules.push(piece);
      if (rules.matched()) continue;
      // Nothing of a stop string is shown, and nothing is held back without need.
      ASSERT_FALSE(could_begin_a_stop(seen, shown.size() - 1, stops) && !shown.empty());
      ASSERT_TRUE(shown.size() == seen.size() || could_begin_a_stop(seen, shown.size(), stops));
    }
    shown += rules.finish();
    ASSERT_EQ(shown, want.text) << text;
    ASSERT_EQ(rules.matched(), want.matched);
    matches += want.matched ? 1 : 0;
  }
  EXPECT_GT(matches, 10'000);
}

TEST(StopRules, spans_several_pieces) {
  StopRules rules({}, {"\n\nUser:", "</s>"});
  EXPECT_EQ(rules.push("Hello"), "Hello");
  EXPECT_EQ(rules.push(" <"), " ");
  EXPECT_EQ(rules.push("b>\n"), "<b>");
  EXPECT_EQ(rules.push("\n"), "");
  EXPECT_EQ(rules.push("\nUs"), "\n");
  EXPECT_EQ(rules.push("er"), "");
  EXPECT_FALSE(rules.matched());
  EXPECT_EQ(rules.push(": more"), "");
  EXPECT_TRUE(rules.matched());
  EXPECT_EQ(rules.push("anything"), "");
  EXPECT_EQ(rules.finish(), "");
}

TEST(StopRules, end_gives_back_what_was_held) {
  StopRules rules({}, {"</s>"});
  EXPECT_EQ(rules.push("a</"), "a");
  EXPECT_EQ(rules.finish(), "</");
  EXPECT_FALSE(rules.matched());
  EXPECT_EQ(StopRules().push("text"), "text");
}

TEST(StopRules, whole_characters_only) {
  StopRules rules({}, {"é!", "日本"});
  EXPECT_EQ(rules.push("né"), "n");
  EXPECT_EQ(rules.push("e日"), "ée");
  EXPECT_EQ(rules.push("曜"), "日曜");
}

TEST(StopRules, stop_tokens) {
  StopRules rules({7, 3, 7}, {});
  EXPECT_THAT(rules.token_ids(), testing::ElementsAre(3, 7));
  EXPECT_TRUE(rules.is_stop_token(3));
  EXPECT_TRUE(rules.is_stop_token(7));
  EXPECT_FALSE(rules.is_stop_token(5));
  EXPECT_FALSE(StopRules().is_stop_token(0));
}

TEST(StopRules, G7_limits) {
  const auto error = [](const char* words) {
    return testing::ThrowsMessage<moa_rt::ArgumentError>(HasSubstr(words));
  };
  const auto with = [](std::vector<std::string> stops) {
    return [stops] { StopRules({}, stops); };
  };
  EXPECT_THAT(with({"a", ""}), error("stop string 1: got 0 bytes, want 1..1024"));
  EXPECT_THAT(with({std::string(1025, 'a')}), error("stop string 0: got 1025 bytes"));
  EXPECT_NO_THROW(with({std::string(1024, 'a')})());
  EXPECT_THAT(with(std::vector<std::string>(10'000, "a")),
              error("stop: got 10000 entries, want at most 64"));
  EXPECT_NO_THROW(with(std::vector<std::string>(64, "a"))());
  EXPECT_THAT(with({"\x80"}), error("valid UTF-8"));
  EXPECT_THAT(with({"a\xc3"}), error("valid UTF-8"));
  std::vector<std::int64_t> ids(1025);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>(i);
  EXPECT_THAT([&] { StopRules(ids, {}); }, error("stop_token_ids: got 1025 entries"));
}

// The text that a careless search would compare over and over.
TEST(StopRules, linear_time) {
  const auto seconds = [](std::size_t length) {
    StopRules rules({}, {std::string(1023, 'a') + "b"});
    const std::string text(length, 'a');
    const auto start = std::chrono::steady_clock::now();
    std::string shown = rules.push(text);
    shown += rules.finish();
    EXPECT_EQ(shown, text);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  EXPECT_LT(seconds(4'000'000), 1.0);
}

}  // namespace
