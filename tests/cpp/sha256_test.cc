#include "io/sha256.h"

#include <gtest/gtest.h>

#include <fstream>

#include "io/sha256_blocks.h"
#include "support/temp_dir.h"

namespace moa_rt {
namespace {

// FIPS 180-4 examples and the NIST CAVP vectors.
TEST(Sha256, PublishedVectors) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(
      sha256_hex("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklm"
                 "nopqklmnopqrlmnopqrsmnopqrstnopqrstu"),
      "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  EXPECT_EQ(sha256_hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, EveryPaddingLengthAndEverySplit) {
  // SHA-256 of the concatenation of the digests of "x" * n, n = 0..129, from Python's hashlib.
  std::string all;
  for (std::size_t n = 0; n < 130; ++n) {
    const std::string text(n, 'x');
    const std::string whole = sha256_hex(text);
    for (const std::size_t split : {n / 3, n / 2, n - n / 5}) {
      Sha256 hash;
      hash.update(text.substr(0, split));
      hash.update(text.substr(split));
      EXPECT_EQ(hash.hex_digest(), whole) << n << " " << split;
    }
    all += whole;
  }
  EXPECT_EQ(sha256_hex(all), "199af942eba7fa5d1e16d475169eb24018b14e69339c93d26a9ea6d873b4ace6");
}

TEST(Sha256, ProcessorInstructionsAgreeWithPlainCode) {
  const sha256::CompressFn fast = sha256::accelerated_compress();
  if (fast == nullptr) return;  // nothing to compare on such a processor
  std::vector<std::byte> blocks(64 * 7);
  for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<std::byte>(i * i + 7 * i);
  sha256::State plain_state{1, 2, 3, 4, 0xfffffffb, 6, 0x80000007, 8};
  sha256::State fast_state = plain_state;
  sha256::compress_portable(plain_state, blocks.data(), 7);
  fast(fast_state, blocks.data(), 7);
  EXPECT_EQ(fast_state, plain_state);
}

TEST(Sha256, FilePart) {
  const testing::TempDir dir;
  const std::string path = dir.path() + "/data";
  const std::string text(9'000'000, 'q');  // more than two parts
  std::ofstream(path, std::ios::binary) << "abc" << text;
  const File file(path);
  EXPECT_EQ(sha256_hex(file, 0, 3), sha256_hex("abc"));
  EXPECT_EQ(sha256_hex(file, 3, file.size() - 3), sha256_hex(text));
  EXPECT_EQ(sha256_hex(file, 5, 0), sha256_hex(""));
}

TEST(Sha256, HexForm) {
  EXPECT_TRUE(is_sha256_hex(std::string(64, 'a')));
  EXPECT_FALSE(is_sha256_hex(std::string(63, 'a')));
  EXPECT_FALSE(is_sha256_hex(std::string(64, 'A')));
  EXPECT_FALSE(is_sha256_hex(std::string(63, 'a') + "g"));
}

}  // namespace
}  // namespace moa_rt
