// The tokenizer against ids recorded from the reference library, and against bad files.
#include "moa_rt/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <sstream>

#include "moa_rt/error.h"
#include "support/errors.h"
#include "support/tokenizer_files.h"
#include "text/bpe.h"

namespace moa_rt {
namespace {

using ::testing::ElementsAre;
using testing::expect_error;
using testing::load_golden;
using testing::load_texts;
using testing::replaced;
using Ids = std::vector<std::int32_t>;

std::vector<nlohmann::json> golden_cases(const std::string& family) {
  std::istringstream lines(
      testing::read_file(testing::test_data("golden/tokenizers/" + family + "/cases.jsonl")));
  std::vector<nlohmann::json> cases;
  for (std::string line; std::getline(lines, line);) cases.push_back(nlohmann::json::parse(line));
  return cases;
}

class GoldenFamily : public ::testing::TestWithParam<std::string> {};

TEST_P(GoldenFamily, encodes_and_decodes_as_the_reference) {
  const Tokenizer tokenizer = load_golden(GetParam());
  const auto cases = golden_cases(GetParam());
  ASSERT_GT(cases.size(), 60u);
  for (const auto& item : cases) {
    const auto text = item["text"].get<std::string>();
    const auto ids = item["special"].get<Ids>();
    EXPECT_EQ(tokenizer.encode(text, true, true), ids) << text;
    EXPECT_EQ(tokenizer.encode(text, false, false), item["plain"].get<Ids>()) << text;
    EXPECT_EQ(tokenizer.decode(ids, false), item["decoded"].get<std::string>()) << text;
    EXPECT_EQ(tokenizer.decode(ids, true), item["decoded_skip"].get<std::string>()) << text;
  }
}

// 131,072 equal characters, the same of a second kind, and blank lines: linear in time, flat in
// stack.
TEST_P(GoldenFamily, D2_long_runs) {
  const Tokenizer tokenizer = load_golden(GetParam());
  const std::size_t count = 131072;
  std::vector<std::string> texts = {std::string(count, 'A'), std::string(count, '\n'),
                                    "x" + std::string(count, ' '), std::string(count, '7'),
                                    std::string(count, '\'')};
  std::string han;
  for (std::size_t i = 0; i < count; ++i) han += "\u6f22";
  texts.push_back(han);
  for (const std::string& text : texts) {
    const auto start = std::chrono::steady_clock::now();
    const Ids ids = tokenizer.encode(text, false);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    EXPECT_LT(seconds.count(), 5.0) << "measured below 0.2 s; quadratic time takes minutes";
    EXPECT_TRUE(tokenizer.decode(ids) == text) << text.substr(0, 3);
  }
}

TEST_P(GoldenFamily, names_and_ids) {
  const Tokenizer tokenizer = load_golden(GetParam());
  ASSERT_GT(tokenizer.vocab_size(), 800);
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    ASSERT_EQ(tokenizer.token_to_id(tokenizer.id_to_token(id)), id);
  }
  EXPECT_EQ(tokenizer.token_to_id("no such token"), std::nullopt);
  for (const std::int64_t id :
       {std::int64_t{-1}, tokenizer.vocab_size(), std::int64_t{INT32_MAX}}) {
    const auto bad = static_cast<std::int32_t>(id);
    expect_error<ArgumentError>([&] { (void)tokenizer.id_to_token(bad); }, {std::to_string(id)});
    expect_error<ArgumentError>([&] { (void)tokenizer.is_special(bad); }, {std::to_string(id)});
    expect_error<ArgumentError>([&] { (void)tokenizer.decode({bad}); }, {std::to_string(id)});
  }
}

INSTANTIATE_TEST_SUITE_P(Families, GoldenFamily, ::testing::ValuesIn(testing::golden_families()),
                         testing::family_name);

TEST(Tokenizer, D7_invalid_utf8_names_the_byte) {
  const Tokenizer tokenizer = load_golden("smollm2");
  expect_error<ArgumentError>([&] { (void)tokenizer.encode("good \xFF"); },
                              {"invalid UTF-8 at byte 5"});
  expect_error<ArgumentError>([&] { (void)tokenizer.encode("\xED\xA0\x80"); }, {"at byte 0"});
  expect_error<ArgumentError>([&] { (void)tokenizer.encode("cut \xF0\x9F\x98"); }, {"at byte 4"});
}

TEST(Tokenizer, D7_nul_is_a_character_and_not_an_end) {
  const Tokenizer tokenizer = load_golden("smollm2");
  const std::string text("a\0b", 3);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  EXPECT_EQ(tokenizer.encode(text).size(), 3u);
}

TEST(Tokenizer, D8_special_spelling_is_text_unless_allowed) {
  const Tokenizer tokenizer = load_golden("qwen2");
  const auto end = *tokenizer.token_to_id("<|im_end|>");
  const auto tool = *tokenizer.token_to_id("<tool_call>");
  const std::string text = "a<|im_end|><tool_call>";
  const Ids plain = tokenizer.encode(text);
  EXPECT_THAT(plain, ::testing::Not(::testing::Contains(end)));
  EXPECT_THAT(plain, ::testing::Contains(tool)) << "an added token that is not special";
  EXPECT_EQ(tokenizer.decode(plain, true), text);
  EXPECT_THAT(tokenizer.encode(text, true, true), ElementsAre(::testing::_, end, tool));
  EXPECT_TRUE(tokenizer.is_special(end));
  EXPECT_FALSE(tokenizer.is_special(tool));
}

TEST(Tokenizer, D9_no_length_is_an_int32) {
  static_assert(sizeof(BpeScratch::Symbol::next) == 8);
  static_assert(sizeof(BpeScratch::Candidate::position) == 8);
  const Tokenizer tokenizer = load_golden("llama2");
  const std::string text(std::size_t{4} << 20, 'e');
  EXPECT_TRUE(tokenizer.decode(tokenizer.encode(text)) == text);
}

TEST(Tokenizer, D6_longest_of_overlapping_added_tokens) {
  const Tokenizer tokenizer = load_golden("flagged");
  const auto id = [&](const char* token) { return *tokenizer.token_to_id(token); };
  EXPECT_THAT(tokenizer.encode("<a><b>", false, true), ElementsAre(id("<a><b>")));
  EXPECT_THAT(tokenizer.encode("<a><l>", false, true), ElementsAre(id("<a>"), id("<l>")));
}

TEST(Tokenizer, D6_spelling_is_no_regular_expression) {
  const Tokenizer tokenizer = load_golden("flagged");
  const auto id = *tokenizer.token_to_id("a+(b|c)*?");
  EXPECT_THAT(tokenizer.encode("a+(b|c)*?", false), ElementsAre(id));
  EXPECT_THAT(tokenizer.encode("aabc", false), ::testing::Not(::testing::Contains(id)));
}

TEST(Tokenizer, template_puts_tokens_around_only_when_asked) {
  const Tokenizer tokenizer = load_golden("llama2");
  EXPECT_EQ(tokenizer.encode("").size(), 1u);
  EXPECT_EQ(tokenizer.encode("").front(), *tokenizer.token_to_id("<s>"));
  EXPECT_TRUE(tokenizer.encode("", false).empty());
}

struct BadFile {
  std::string name;
  std::vector<std::string> words;
};

void PrintTo(const BadFile& file, std::ostream* out) { *out << file.name; }

std::string malformed(const std::string& name) {
  return testing::read_file(testing::test_data("malformed/tokenizer/" + name + ".json"));
}

class UnsupportedFile : public ::testing::TestWithParam<BadFile> {};
class MalformedFile : public ::testing::TestWithParam<BadFile> {};

TEST_P(UnsupportedFile, is_refused) {
  auto words = GetParam().words;
  words.emplace_back("tokenizer.json");
  expect_error<UnsupportedError>([&] { (void)load_texts(malformed(GetParam().name)); }, words);
}

TEST_P(MalformedFile, is_refused) {
  auto words = GetParam().words;
  words.emplace_back("tokenizer.json");
  expect_error<FormatError>([&] { (void)load_texts(malformed(GetParam().name)); }, words);
}

INSTANTIATE_TEST_SUITE_P(
    Rows, UnsupportedFile,
    ::testing::Values(BadFile{"D1_unknown_model", {"model: type", "Unigram", "BPE"}},
                      BadFile{"D1_newer_version", {"version", "2.0"}},
                      BadFile{"D1_unknown_normalizer", {"normalizer", "Precompiled"}},
                      BadFile{"D1_regex_replace", {"normalizer", "Regex"}},
                      BadFile{"D1_unknown_pre_tokenizer", {"pre_tokenizer", "Whitespace"}},
                      BadFile{"D1_unknown_pattern", {"pre_tokenizer", "pattern", "w+|(a*)*b"}},
                      BadFile{"D1_unknown_behavior", {"behavior", "Removed", "Isolated"}},
                      BadFile{"D1_unknown_post_processor", {"post_processor", "BertProcessing"}},
                      BadFile{"D1_unknown_decoder", {"decoder", "WordPiece"}},
                      BadFile{"D1_decoder_out_of_order", {"decoder", "ByteFallback", "order"}},
                      BadFile{"D1_byte_level_with_fallback", {"model: byte_fallback", "true"}},
                      BadFile{"D1_dropout", {"dropout", "0.1"}},
                      BadFile{"D1_suffix", {"end_of_word_suffix", "</w>"}}),
    ::testing::PrintToStringParamName());

INSTANTIATE_TEST_SUITE_P(
    Rows, MalformedFile,
    ::testing::Values(
        BadFile{"D3_unknown_token_in_string", {"merge 1", "\"z\"", "vocabulary"}},
        BadFile{"D3_unknown_token_in_pair", {"merge 1", "\"z\"", "vocabulary"}},
        BadFile{"D3_joined_is_no_token", {"merge 0", "\"ba\"", "vocabulary"}},
        BadFile{"D3_with_spaces", {"merge 0", "a b c", "two tokens"}},
        BadFile{"D3_without_space", {"merge 0", "\"ab\"", "two tokens"}},
        BadFile{"D3_empty_side", {"merge 1", "empty"}},
        BadFile{"D3_three_sides", {"merge 0", "3 strings", "two tokens"}},
        BadFile{"D3_number", {"merge 0", "number", "two tokens"}},
        BadFile{"D3_no_merges", {"model: merges", "none"}},
        BadFile{"D4_hole", {"token \"c\": id", "got 7", "0..4", "holes"}},
        BadFile{"D4_two_tokens_one_id", {"token \"c\": id", "2 twice", "token \"ab\""}},
        BadFile{"D4_negative", {"token \"c\": id", "-1", "0..2147483647"}},
        BadFile{"D4_beyond_int32", {"token \"c\": id", "0..2147483647"}},
        BadFile{"D4_beyond_uint64", {"token \"c\": id", "0..2147483647"}},
        BadFile{"D4_fraction", {"token \"c\": id", "number", "an integer"}},
        BadFile{"D4_text", {"token \"c\": id", "string", "an integer"}},
        BadFile{"D4_empty", {"model: vocab", "none"}},
        BadFile{"D4_added_takes_an_id", {"token \"<s>\": id", "3 twice", "token \"c\""}},
        BadFile{"D4_added_with_other_id", {"added token \"ab\": id", "got 4", "want 2"}},
        BadFile{"D4_added_negative", {"added token 0: id", "-1"}},
        BadFile{"D4_same_spelling_twice", {"token \"a\"", "ids 0 and 3", "one id"}},
        BadFile{"D4_template_names_unknown_id", {"post_processor: ids", "99", "vocabulary"}},
        BadFile{"D5_negative", {"<0x-1>", "two hexadecimal digits"}},
        BadFile{"D5_letters", {"<0xZZ>", "two hexadecimal digits"}},
        BadFile{"D5_three_digits", {"<0x100>", "two hexadecimal digits"}},
        BadFile{"D5_one_digit", {"<0xA>", "two hexadecimal digits"}},
        BadFile{"D6_empty", {"added token 0: content", "0 bytes"}},
        BadFile{"D6_no_flags", {"added token 0: lstrip", "nothing"}},
        BadFile{"json_truncated", {"invalid JSON at byte 2"}},
        BadFile{"json_duplicate_key", {"truncation", "duplicate key"}},
        BadFile{"json_two_values", {"invalid JSON at byte"}}, BadFile{"json_array", {"an object"}},
        BadFile{"json_deep", {"depth > 16"}},
        BadFile{"json_lone_surrogate", {"invalid JSON at byte", "surrogate"}}),
    ::testing::PrintToStringParamName());

TEST(BadTokenizer, the_valid_one_loads) {
  const Tokenizer tokenizer = load_texts(malformed("valid"));
  EXPECT_THAT(tokenizer.encode("abcab<s>", true, true), ElementsAre(2, 3, 2, 4));
  EXPECT_EQ(tokenizer.decode({2, 3, 4}, false), "ab c <s>") << "no decoder: joined by spaces";
}

TEST(BadTokenizer, D3_too_many_merges) {
  std::string merges = "\"merges\":[\"a b\"";
  for (int i = 0; i < (1 << 22); ++i) merges += ",\"a b\"";
  merges += "],\"x\":[";
  const std::string text = replaced(malformed("valid"), "\"merges\": [", merges);
  expect_error<FormatError>([&] { (void)load_texts(text); },
                            {"merge 4194304", "4194305 merges", "at most 4194304"});
}

TEST(BadTokenizer, D6_added_token_of_a_megabyte) {
  const std::string text = replaced(malformed("valid"), "<s>", std::string(1 << 20, 's'));
  expect_error<FormatError>([&] { (void)load_texts(text); },
                            {"added token 0: content", "1048576 bytes", "1..1024"});
}

TEST(BadTokenizer, byte_order_mark) {
  expect_error<FormatError>([] { (void)load_texts("\xEF\xBB\xBF" + malformed("valid")); },
                            {"byte order mark"});
}

TEST(BadTokenizer, larger_than_the_limit) {
  const std::string text = malformed("valid") + std::string(std::size_t{64} << 20, ' ');
  expect_error<FormatError>([&] { (void)load_texts(text); }, {"tokenizer.json", "67108864"});
}

TEST(BadTokenizer, missing_file) {
  const testing::TempDir directory;
  expect_error<IoError>([&] { (void)Tokenizer::load(directory.path()); }, {"tokenizer.json"});
}

}  // namespace
}  // namespace moa_rt
