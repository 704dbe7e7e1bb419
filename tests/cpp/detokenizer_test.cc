// D10: pieces joined equal the text decoded at once, and no piece ever holds part of a character.
#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "moa_rt/error.h"
#include "moa_rt/tokenizer.h"
#include "support/errors.h"
#include "support/tokenizer_files.h"
#include "text/utf8.h"

namespace moa_rt {
namespace {

using testing::load_golden;
using Ids = std::vector<std::int32_t>;

struct Streamed {
  std::vector<std::string> pieces;
  std::string joined;
};

Streamed stream(const Tokenizer& tokenizer, const Ids& ids, bool skip_special = true) {
  IncrementalDetokenizer detokenizer(tokenizer, skip_special);
  Streamed result;
  for (const std::int32_t id : ids) result.pieces.push_back(detokenizer.push(id));
  result.pieces.push_back(detokenizer.finish());
  for (const std::string& piece : result.pieces) result.joined += piece;
  return result;
}

class DetokenizerFamily : public ::testing::TestWithParam<std::string> {};

TEST_P(DetokenizerFamily, D10_random_ids) {
  const Tokenizer tokenizer = load_golden(GetParam());
  std::mt19937 random(11);
  for (int round = 0; round < 2000; ++round) {
    Ids ids(random() % 12);
    const bool bytes_only = round % 2 == 0;  // the first 300 ids hold every single byte
    for (auto& id : ids) {
      const auto limit =
          bytes_only ? std::uint32_t{300} : static_cast<std::uint32_t>(tokenizer.vocab_size());
      id = static_cast<std::int32_t>(random() % limit);
    }
    for (const bool skip : {false, true}) {
      const Streamed streamed = stream(tokenizer, ids, skip);
      ASSERT_EQ(streamed.joined, tokenizer.decode(ids, skip));
      for (const std::string& piece : streamed.pieces) ASSERT_FALSE(find_invalid_utf8(piece));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, DetokenizerFamily,
                         ::testing::ValuesIn(testing::golden_families()), testing::family_name);

Ids byte_tokens(const Tokenizer& tokenizer, const std::vector<std::string>& names) {
  Ids ids;
  for (const std::string& name : names) ids.push_back(tokenizer.token_to_id(name).value());
  return ids;
}

TEST(Detokenizer, D10_holds_back_a_cut_character) {
  const Tokenizer tokenizer = load_golden("smollm2");
  // The four bytes of U+1F600 in the byte alphabet.
  const Ids ids = byte_tokens(tokenizer, {"\u00f0", "\u0141", "\u013a", "\u0122"});
  const Streamed streamed = stream(tokenizer, ids);
  EXPECT_EQ(streamed.pieces, (std::vector<std::string>{"", "", "", "\U0001F600", ""}));
  const Streamed cut = stream(tokenizer, {ids[0], ids[1], ids[2]});
  EXPECT_EQ(cut.pieces, (std::vector<std::string>{"", "", "", "\uFFFD"}));
  const Streamed broken = stream(tokenizer, {ids[0], ids[1], tokenizer.token_to_id("a").value()});
  EXPECT_EQ(broken.pieces, (std::vector<std::string>{"", "", "\uFFFDa", ""}));
}

TEST(Detokenizer, D10_byte_fallback) {
  const Tokenizer tokenizer = load_golden("llama2");
  Ids ids = byte_tokens(tokenizer, {"<0xF0>", "<0x9F>", "<0x98>", "<0x80>"});
  EXPECT_EQ(stream(tokenizer, ids).joined, "\U0001F600");
  ids.push_back(tokenizer.token_to_id("e").value());
  EXPECT_EQ(stream(tokenizer, ids).pieces.at(4), "\U0001F600e") << "certain once the run has ended";
  ids.insert(ids.begin() + 2, ids[4]);
  EXPECT_EQ(stream(tokenizer, ids).joined, "\uFFFD\uFFFDe\uFFFD\uFFFDe");
}

TEST(Detokenizer, leading_space_is_stripped_once) {
  const Tokenizer tokenizer = load_golden("llama2");
  const auto space = tokenizer.token_to_id("\u2581").value();
  const auto spaces = tokenizer.token_to_id("\u2581\u2581").value();
  const auto e = tokenizer.token_to_id("e").value();
  EXPECT_EQ(stream(tokenizer, {space, e, space, e}).pieces,
            (std::vector<std::string>{"", "e", " ", "e", ""}));
  EXPECT_EQ(stream(tokenizer, {spaces, e}).joined, " e");
  EXPECT_EQ(stream(tokenizer, {1, space, space, e}).joined, " e") << "after a skipped <s>";
  EXPECT_EQ(stream(tokenizer, {e, spaces, e}).joined, "e  e");
}

TEST(Detokenizer, special_tokens_are_skipped_or_shown) {
  const Tokenizer tokenizer = load_golden("qwen2");
  const Ids ids = tokenizer.encode("a<|im_end|>\n", false, true);
  EXPECT_EQ(stream(tokenizer, ids, true).joined, "a\n");
  EXPECT_EQ(stream(tokenizer, ids, false).joined, "a<|im_end|>\n");
}

TEST(Detokenizer, a_bad_id_changes_nothing) {
  const Tokenizer tokenizer = load_golden("smollm2");
  IncrementalDetokenizer detokenizer(tokenizer);
  const Ids ids = byte_tokens(tokenizer, {"\u00c3", "\u00a9"});
  EXPECT_EQ(detokenizer.push(ids[0]), "");
  testing::expect_error<ArgumentError>([&] { (void)detokenizer.push(-7); }, {"token id", "-7"});
  EXPECT_EQ(detokenizer.push(ids[1]), "\u00e9");
}

TEST(Detokenizer, outlives_its_tokenizer) {
  auto tokenizer = std::make_unique<Tokenizer>(load_golden("smollm2"));
  const Ids ids = tokenizer->encode("still here");
  IncrementalDetokenizer detokenizer(*tokenizer);
  tokenizer.reset();
  std::string text;
  for (const std::int32_t id : ids) text += detokenizer.push(id);
  EXPECT_EQ(text + detokenizer.finish(), "still here");
}

}  // namespace
}  // namespace moa_rt
