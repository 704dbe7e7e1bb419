// UTF-8 and character classes against their definitions.
#include "text/unicode.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <string>
#include <vector>

#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace moa_rt {
namespace {

bool is_scalar(std::uint32_t value) {
  return value < 0xD800 || (value > 0xDFFF && value < 0x110000);
}

TEST(Utf8, every_character_goes_there_and_back) {
  for (std::uint32_t value = 0; value < 0x110000; ++value) {
    if (!is_scalar(value)) continue;
    std::string text = "x";
    append_utf8(value, text);
    ASSERT_FALSE(find_invalid_utf8(text)) << value;
    const Utf8Char c = utf8_at(text, 1);
    ASSERT_EQ(c.value, value);
    ASSERT_EQ(c.length, text.size() - 1);
    ASSERT_EQ(utf8_previous(text, text.size()), 1u);
  }
}

// Decodes by arithmetic alone and accepts what is shortest, a scalar value and complete.
bool is_valid_by_definition(const std::vector<int>& bytes) {
  std::size_t i = 0;
  while (i < bytes.size()) {
    const int lead = bytes[i];
    const int length = lead < 0x80 ? 1 : lead < 0xC0 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (length == 0 || lead > 0xF7 || i + static_cast<std::size_t>(length) > bytes.size())
      return false;
    std::uint32_t value = length == 1 ? lead : lead & (0xFF >> (length + 1));
    for (int k = 1; k < length; ++k) {
      const int byte = bytes[i + static_cast<std::size_t>(k)];
      if ((byte & 0xC0) != 0x80) return false;
      value = value * 64 + static_cast<std::uint32_t>(byte & 0x3F);
    }
    const std::uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (value < least[length] || !is_scalar(value)) return false;
    i += static_cast<std::size_t>(length);
  }
  return true;
}

TEST(Utf8, D7_validity_of_byte_strings) {
  const std::vector<int> edges = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1,
                                  0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0xFF};
  for (const int a : edges) {
    for (const int b : edges) {
      for (const int c : edges) {
        for (const int d : edges) {
          const std::vector<int> bytes = {a, b, c, d};
          const std::string text(bytes.begin(), bytes.end());
          ASSERT_EQ(!find_invalid_utf8(text), is_valid_by_definition(bytes)) << a << b << c << d;
        }
      }
    }
  }
  EXPECT_EQ(find_invalid_utf8("ab\xC3"), 2u);
  EXPECT_EQ(find_invalid_utf8("\u00e9\xED\xA0\x80"), 2u);
}

std::string repair(const std::vector<std::string>& pieces) {
  Utf8Repair stream;
  std::string out;
  for (const std::string& piece : pieces) stream.push(piece, out);
  stream.finish(out);
  return out;
}

// The examples of the Unicode Standard, section 3.9, tables 3-8 to 3-11.
TEST(Utf8, repair_replaces_maximal_parts) {
  const std::string r = "\uFFFD";
  EXPECT_EQ(repair({"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"}), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(repair({"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"}), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(repair({"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"}),
            r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(repair({"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"}), r + r + r + r + "A");
  EXPECT_EQ(repair({"\xF0\x9F\x98"}), r);
}

TEST(Utf8, repair_does_not_depend_on_cuts) {
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    std::string whole;
    std::vector<std::string> cut;
    for (int i = 0; i < 12; ++i) {
      const auto byte =
          static_cast<char>(random() % 4 == 0 ? random() % 128 : 128 + random() % 128);
      whole += byte;
      cut.emplace_back(1, byte);
    }
    const std::string text = repair({whole});
    ASSERT_EQ(text, repair(cut));
    ASSERT_FALSE(find_invalid_utf8(text));
    if (!find_invalid_utf8(whole)) {
      ASSERT_EQ(text, whole);
    }
  }
}

TEST(ByteAlphabet, is_a_bijection) {
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(byte_of_character(kByteCharacters[static_cast<std::size_t>(byte)]), byte);
  }
  int known = 0;
  for (char32_t c = 0; c < 0x1000; ++c) known += byte_of_character(c) >= 0 ? 1 : 0;
  EXPECT_EQ(known, 256);
  EXPECT_EQ(kByteCharacters[' '], 0x120);
  EXPECT_EQ(kByteCharacters['\n'], 0x10A);
}

TEST(Unicode, classes) {
  for (const char32_t c : {U'a', U'Z', U'\u00e9', U'\u0645', U'\u6f22', U'\U00020000'}) {
    EXPECT_TRUE(is_letter(c)) << static_cast<std::uint32_t>(c);
  }
  for (const char32_t c : {U'0', U'\u0661', U'\u2163', U'\u00bd', U'\u3007', U'\U0001D7D8'}) {
    EXPECT_TRUE(is_number(c)) << static_cast<std::uint32_t>(c);
    EXPECT_FALSE(is_letter(c));
  }
  int spaces = 0;
  for (char32_t c = 0; c < 0x110000; ++c) spaces += is_white_space(c) ? 1 : 0;
  EXPECT_EQ(spaces, 25) << "PropList.txt: White_Space";
  for (const char32_t c : {U'_', U'\u0301', U'\u200d', U'\u24d0', U'\u203f'})
    EXPECT_TRUE(is_word(c));
  for (const char32_t c : {U'-', U' ', U'\u2014', U'\U0001F600', U'\u00bd'})
    EXPECT_FALSE(is_word(c));
}

TEST(Unicode, nfc) {
  EXPECT_EQ(normalize_nfc("plain"), "plain");
  EXPECT_EQ(normalize_nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(normalize_nfc("\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(normalize_nfc("\u212b \u2126"), "\u00c5 \u03a9");
  EXPECT_EQ(normalize_nfc("q\u0307\u0323"), "q\u0323\u0307") << "marks in canonical order";
  EXPECT_EQ(normalize_nfc("d\u0307\u0323"), "\u1e0d\u0307");
  EXPECT_EQ(normalize_nfc("\u0958"), "\u0915\u093c") << "excluded from composition";
  EXPECT_EQ(normalize_nfc("\ufb01"), "\ufb01") << "compatibility characters stay";
}

// 131,072 marks in the worst order for a sort by insertion.
TEST(Unicode, D2_nfc_of_a_long_run_of_marks) {
  std::string text = "a";
  for (int i = 0; i < 65536; ++i) text += "\u0315";  // class 232
  for (int i = 0; i < 65536; ++i) text += "\u0323";  // class 220
  const auto start = std::chrono::steady_clock::now();
  const std::string out = normalize_nfc(text);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(out.substr(0, 5), "\u1ea1\u0323");
  EXPECT_EQ(out.substr(out.size() - 2), "\u0315");
  EXPECT_LT(seconds.count(), 2.0);
}

}  // namespace
}  // namespace moa_rt
