// Rows A1 to A22 and B11, B12 of the catalogue of bad inputs. A22 (files that are not regular) is
// tested on File in file_test.cc and once more here through the reader.
#include "io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <filesystem>

#include "io/safetensors_header.h"
#include "support/errors.h"
#include "support/safetensors_writer.h"
#include "support/temp_dir.h"

namespace moa_rt {
namespace {

using testing::expect_error;
using testing::little_endian;
using testing::safetensors_bytes;

class Safetensors : public ::testing::Test {
 protected:
  std::string write(const std::string& bytes) const {
    testing::write_bytes(path_, bytes);
    return path_;
  }
  SafetensorsFile open(const std::string& header, const std::string& data = "") const {
    return SafetensorsFile(write(safetensors_bytes(header, data)));
  }
  // Every error names the file.
  template <typename Expected>
  void refuse_bytes(const std::string& bytes, std::vector<std::string> words) const {
    words.push_back(path_);
    write(bytes);
    expect_error<Expected>([&] { SafetensorsFile file(path_); }, words);
  }
  template <typename Expected = FormatError>
  void refuse(const std::string& header, const std::string& data,
              std::vector<std::string> words) const {
    refuse_bytes<Expected>(safetensors_bytes(header, data), std::move(words));
  }

  testing::TempDir dir_;
  std::string path_ = dir_.path() + "/model.safetensors";
};

constexpr const char* kOne = R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";

TEST_F(Safetensors, ReadsTensorsInOrderOfOffset) {
  const SafetensorsFile file = open(R"({"__metadata__":{"format":"pt"},)"
                                    R"("b":{"dtype":"BF16","shape":[2,1],"data_offsets":[4,8]},)"
                                    R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} )",
                                    "ABCDefgh");
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.tensors()[0].name, "a");
  EXPECT_EQ(file.tensors()[0].known_dtype, DType::kF32);
  EXPECT_EQ(file.tensors()[1].name, "b");
  EXPECT_EQ(file.tensors()[1].known_dtype, DType::kBF16);
  EXPECT_THAT(file.tensors()[1].shape, ::testing::ElementsAre(2, 1));
  EXPECT_EQ(file.tensors()[1].bytes, 4);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.find("c"), nullptr);
  EXPECT_EQ(file.data_offset(), file.file().size() - 8);
  std::string text(2, ' ');
  file.read(*file.find("b"), 1, std::as_writable_bytes(std::span(text)));
  EXPECT_EQ(text, "fg");
}

TEST_F(Safetensors, ReadOutsideATensorIsRefused) {
  const SafetensorsFile file = open(kOne, "ABCD");
  std::string text(3, ' ');
  const auto out = std::as_writable_bytes(std::span(text));
  expect_error<ArgumentError>([&] { file.read(file.tensors()[0], 2, out); }, {"x", "within 4"});
  expect_error<ArgumentError>([&] { file.read(file.tensors()[0], -1, out); }, {"x"});
  expect_error<ArgumentError>([&] { file.read(file.tensors()[0], INT64_MAX, out); }, {"x"});
}

TEST_F(Safetensors, A1_shorter_than_the_length_field) {
  for (std::size_t size = 0; size < 8; ++size) {
    refuse_bytes<FormatError>(std::string(size, '\0'), {"file has " + std::to_string(size) +
                                                        " bytes, header length needs 8"});
  }
}

TEST_F(Safetensors, A2_header_longer_than_the_file) {
  refuse_bytes<FormatError>(little_endian(100) + "{}", {"header length 100", "10 bytes"});
  refuse_bytes<FormatError>(little_endian(3) + "{}", {"header length 3", "10 bytes"});
}

TEST_F(Safetensors, A3_header_length_beyond_the_limit) {
  for (const std::uint64_t length : {~std::uint64_t{0}, std::uint64_t{1} << 63,
                                     ~std::uint64_t{0} - 7, std::uint64_t{100'000'001}}) {
    refuse_bytes<FormatError>(little_endian(length) + "{}",
                              {"header " + std::to_string(length) + " bytes, limit 100000000"});
  }
}

TEST_F(Safetensors, A4_no_tensors) {
  refuse_bytes<MismatchError>(little_endian(0), {"no tensors"});
  refuse<MismatchError>("{}", "", {"no tensors"});
  refuse<MismatchError>(R"({"__metadata__":{"a":"b"}})", "", {"no tensors"});
  refuse("{}", "data", {"4 bytes are left"});
}

TEST_F(Safetensors, A5_invalid_utf8) {
  refuse("{\"\xff\":1}", "", {"at byte 11"});               // bare byte
  refuse("{\"\xc0\xaf\":1}", "", {"at byte 11"});           // overlong
  refuse("{\"\xed\xa0\x80\":1}", "", {"at byte"});          // surrogate in UTF-8
  refuse(R"({"\ud800":1})", "", {"at byte", "surrogate"});  // lone surrogate escape
  refuse("\xef\xbb\xbf{}", "", {"byte order mark at byte 8"});
}

TEST_F(Safetensors, A6_broken_json) {
  const std::string good = kOne;
  refuse(good.substr(0, good.size() - 1), "ABCD", {"at byte"});
  refuse(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],}})", "ABCD", {"at byte"});
  refuse(R"({"x":{"dtype":"F32","shape":[1,],"data_offsets":[0,4]}})", "ABCD", {"at byte"});
  refuse("{/* note */}", "", {"at byte"});
  refuse("{}//", "", {"at byte"});
  refuse(good + "x", "ABCD", {"at byte"});
  refuse(good + "{}", "ABCD", {"at byte"});
  refuse(good + std::string(1, '\0'), "ABCD", {"at byte"});
  refuse("[]", "", {"header", "an array", "want an object"});
  refuse("7", "", {"header", "got 7", "want an object"});
  refuse("nul", "", {"at byte"});
}

TEST_F(Safetensors, A6_every_truncation_of_a_header_is_refused) {
  const std::string good = kOne;
  for (std::size_t size = 1; size < good.size(); ++size) {
    refuse(good.substr(0, size), "ABCD", {});
  }
}

TEST_F(Safetensors, A7_white_space_around_the_header_is_accepted) {
  EXPECT_EQ(open(std::string("  \n\t") + kOne, "ABCD").tensors().size(), 1u);
  EXPECT_EQ(open(std::string(kOne) + "      ", "ABCD").tensors().size(), 1u);
}

TEST_F(Safetensors, A8_duplicate_keys) {
  refuse(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
         R"("x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
         "ABCDEFGH", {"tensor \"x\"", "duplicate key"});
  refuse(R"({"x":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "ABCD",
         {"tensor \"x\"", "dtype", "duplicate key"});
  refuse(R"({"x":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})", "ABCD",
         {"shape", "duplicate key"});
  refuse(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]}})", "ABCD",
         {"data_offsets", "duplicate key"});
  refuse(R"({"__metadata__":{},"__metadata__":{}})", "", {"__metadata__", "duplicate key"});
  refuse(R"({"__metadata__":{"a":"1","a":"2"}})", "", {"__metadata__", "a", "duplicate key"});
  refuse(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
         R"("\u0078":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
         "ABCDEFGH", {"duplicate key"});
}

TEST_F(Safetensors, A9_nesting_of_100000) {
  refuse(std::string(100'000, '['), "", {"depth > 8"});
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += R"({"a":)";
  refuse(objects, "", {"depth > 8"});
  refuse(R"({"x":{"shape":[[1]]}})", "", {"tensor \"x\"", "shape", "an array"});
  // Brackets in a name are no nesting.
  EXPECT_EQ(open(R"({"[[[[[[[[[[\"{":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "ABCD")
                .tensors()
                .size(),
            1u);
}

// What the process held at most, in KiB.
long peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

TEST_F(Safetensors, A10_ten_million_entries) {
  std::string header = "{";
  header.reserve(99'000'000);
  for (int i = 0; header.size() < 98'000'000; ++i) {
    header += '"';
    header += std::to_string(i);
    header += "\":{},";
  }
  header.back() = '}';
  refuse(header, "", {"tensor \"0\"", "is missing"});
  header = "{";
  for (int i = 0; header.size() < 98'000'000; ++i) {
    header += '"';
    header += std::to_string(i);
    header += R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)";
  }
  header.back() = '}';
  const long before = peak_memory();
  refuse(header, "", {"more than 200000 tensors"});
  // The file's bytes twice (here and in the reader) and the entries up to the limit.
  EXPECT_LT(peak_memory() - before, 400 * 1024);
}

TEST_F(Safetensors, A10_long_name) {
  const std::string name(10'000'000, 'n');
  refuse("{\"" + name + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "ABCD",
         {"got 10000000 bytes", "at most 1024"});
  refuse("{\"" + name + "\xff\":1}", "", {"at byte"});  // the parser's own message is cut, too
}

TEST_F(Safetensors, A10_names_are_printed_escaped_and_are_no_paths) {
  for (const char* name : {R"(\u0000)", "/", "../../etc/passwd", R"(\u001b[2J)", R"(a\nb)"}) {
    const SafetensorsFile file =
        open(std::string("{\"") + name + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
             "ABCD");
    EXPECT_EQ(file.tensors().size(), 1u);
  }
  write(safetensors_bytes(
      R"({"a\u001b[2J\n\u0000":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "ABCD"));
  const std::string text =
      expect_error<FormatError>([&] { SafetensorsFile file(path_); }, {R"(a\x1b[2J\x0a\x00)"});
  for (const char c : text) EXPECT_GE(c, ' ');
}

TEST_F(Safetensors, A11_data_offsets_of_a_wrong_form) {
  const auto with = [](const std::string& offsets) {
    return R"({"x":{"dtype":"F32","shape":[1],"data_offsets":)" + offsets + "}}";
  };
  refuse(R"({"x":{"dtype":"F32","shape":[1]}})", "ABCD",
         {"tensor \"x\"", "data_offsets", "missing"});
  for (const char* bad :
       {"[]", "[0]", "[0,4,8]", "[-1,4]", "[0,-4]", "[0,4.0]", "[0,1e3]", "[0,\"4\"]", "\"0,4\"",
        "[0,null]", "[0,true]", "4", "null", "{}", "[0,[4]]", "[0,18446744073709551616]",
        "[0,99999999999999999999999999]", "[-0,4]"}) {
    refuse(with(bad), "ABCD", {"tensor \"x\"", "data_offsets"});
  }
  // Integers beyond 2^53 are compared exactly, not as doubles.
  refuse(with("[9007199254740993,9007199254740997]"), "ABCD",
         {"data_offsets", "[9007199254740993,9007199254740997]"});
  refuse(with("[18446744073709551611,18446744073709551615]"), "ABCD",
         {"data_offsets", "[18446744073709551611,18446744073709551615]"});
  refuse(with("[0,1e400]"), "ABCD", {"at byte"});
}

TEST_F(Safetensors, A11_dtype_and_shape_of_a_wrong_form) {
  refuse(R"({"x":{"shape":[1],"data_offsets":[0,4]}})", "ABCD", {"dtype", "missing"});
  refuse(R"({"x":{"dtype":"F32","data_offsets":[0,4]}})", "ABCD", {"shape", "missing"});
  refuse(R"({"x":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", "ABCD",
         {"dtype", "got 7", "want a string"});
  refuse(R"({"x":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})", "ABCD", {"shape", "whole"});
  refuse(R"({"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "ABCD", {"shape", "got -1"});
  refuse(R"({"x":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", "ABCD", {"shape"});
  refuse(R"({"x":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", "ABCD", {"shape", "array"});
  refuse(R"({"x":[]})", "", {"tensor \"x\"", "an array", "want an object"});
  refuse(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}})", "ABCD",
         {"tensor \"x\"", "more", "unknown key"});
}

TEST_F(Safetensors, A12_begin_after_end) {
  refuse(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", "ABCD",
         {"tensor \"x\"", "data_offsets", "got [4,0]", "begin <= end"});
  // Where 0 - 4 wraps, the size would be right: 2^64 - 4 bytes.
  refuse(R"({"x":{"dtype":"U8","shape":[18446744073709551612],"data_offsets":[4,0]}})", "ABCD",
         {"begin <= end"});
}

TEST_F(Safetensors, A13_overlap) {
  refuse(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
         R"("y":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
         "ABCDEFGHIJKL", {"tensor \"y\"", "overlap with tensor \"x\"", "[4,12]"});
  refuse(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
         R"("y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
         "ABCD", {"tensor \"y\"", "overlap with tensor \"x\""});
}

TEST_F(Safetensors, A13_gap) {
  refuse(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
         R"("y":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
         "ABCDEFGHIJKL", {"tensor \"y\"", "gap after tensor \"x\"", "a begin of 4"});
}

TEST_F(Safetensors, A13_first_tensor_not_at_the_start) {
  refuse(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", "ABCDEFGH",
         {"tensor \"x\"", "the start of the data"});
}

TEST_F(Safetensors, A14_end_after_the_file) {
  refuse(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "ABCD",
         {"tensor \"x\"", "4 bytes are missing"});
}

TEST_F(Safetensors, A14_bytes_after_the_last_tensor) {
  refuse(kOne, "ABCDE", {"1 bytes are left after the last tensor"});
}

TEST_F(Safetensors, A15_shape_and_bytes_disagree) {
  refuse(R"({"x":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4]}})", "ABCD",
         {"tensor \"x\": data_offsets: got [0,4], want 4000000 bytes for F32[1000000]"});
  refuse(R"({"x":{"dtype":"F32","shape":[],"data_offsets":[0,8]}})", "ABCDEFGH",
         {"want 4 bytes for F32[]"});
}

TEST_F(Safetensors, A16_shape_product_overflows) {
  for (const char* shape :
       {"[2,18446744073709551614]", "[4194305,4194305,4194305]", "[4294967296,4294967296]",
        "[18446744073709551615]", "[9223372036854775808,2,0]"}) {
    refuse(std::string(R"({"x":{"dtype":"F32","shape":)") + shape + R"(,"data_offsets":[0,4]}})",
           "ABCD", {"tensor \"x\"", "shape", "overflows"});
  }
}

TEST_F(Safetensors, A17_unknown_dtype) {
  for (const char* dtype : {"F31", "f32", "bf16", "FLOAT32", "", "C64"}) {
    refuse<UnsupportedError>(
        std::string(R"({"x":{"dtype":")") + dtype + R"(","shape":[1],"data_offsets":[0,4]}})",
        "ABCD", {"tensor \"x\"", "dtype", std::string("\"") + dtype + "\"", "BF16", "F16", "F32"});
  }
}

TEST_F(Safetensors, A17_sub_byte_dtype) {
  refuse<UnsupportedError>(R"({"x":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}})", "ABCD",
                           {"\"F4\"", "BF16"});
  refuse<UnsupportedError>(R"({"x":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}})", "ABC",
                           {"\"F6_E2M3\""});
  refuse(R"({"x":{"dtype":"F4","shape":[7],"data_offsets":[0,4]}})", "ABCD",
         {"F4[7]", "whole number of bytes"});
  refuse(R"({"x":{"dtype":"F6_E3M2","shape":[3],"data_offsets":[0,3]}})", "ABC",
         {"F6_E3M2[3]", "whole number of bytes"});
}

TEST_F(Safetensors, A17_types_that_are_no_weights_are_located) {
  const SafetensorsFile file =
      open(R"({"x":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", "ABCDEFGH");
  EXPECT_EQ(file.tensors()[0].dtype, "I64");
  EXPECT_FALSE(file.tensors()[0].known_dtype.has_value());
}

TEST_F(Safetensors, A18_rank_0_and_empty_dimensions_are_legal) {
  const SafetensorsFile scalar =
      open(R"({"x":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", "ABCD");
  EXPECT_TRUE(scalar.tensors()[0].shape.empty());
  const SafetensorsFile empty =
      open(R"({"x":{"dtype":"F32","shape":[3,0,2],"data_offsets":[0,0]}})");
  EXPECT_EQ(empty.tensors()[0].bytes, 0);
}

TEST_F(Safetensors, A18_rank_beyond_8) {
  EXPECT_EQ(open(R"({"x":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", "ABCD")
                .tensors()[0]
                .shape.size(),
            8u);
  refuse(R"({"x":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", "ABCD",
         {"tensor \"x\"", "shape", "rank > 8"});
  std::string many = "1";
  for (int i = 0; i < 1'000'000; ++i) many += ",1";
  refuse(R"({"x":{"dtype":"F32","shape":[)" + many + R"(],"data_offsets":[0,4]}})", "ABCD",
         {"rank > 8"});
}

TEST_F(Safetensors, A19_empty_tensor_at_the_offset_of_another) {
  const SafetensorsFile file = open(R"({"full":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                    R"("start":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},)"
                                    R"("end":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})",
                                    "ABCD");
  EXPECT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.find("start")->bytes, 0);
  refuse(R"({"full":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
         R"("inside":{"dtype":"F32","shape":[0],"data_offsets":[2,2]}})",
         "ABCD", {"tensor \"inside\"", "overlap with tensor \"full\""});
}

TEST_F(Safetensors, A20_metadata_that_is_not_string_to_string) {
  for (const char* value : {"1", "1.5", "[]", "{}", "null", "true", "[\"a\"]"}) {
    refuse(std::string(R"({"__metadata__":{"k":)") + value + "}}", "",
           {"__metadata__", "k", "must be string to string"});
  }
  for (const char* value : {"1", "[]", "\"text\"", "null"}) {
    refuse(std::string(R"({"__metadata__":)") + value + "}", "",
           {"__metadata__", "want an object"});
  }
}

TEST_F(Safetensors, A21_unaligned_data_is_read) {
  // Header of 8 + 55 bytes, then one byte before the floats.
  const float value = 1.5f;
  const std::string bytes(reinterpret_cast<const char*>(&value), 4);
  const SafetensorsFile file = open(R"({"pad":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                    R"("x":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
                                    "!" + bytes);
  float read = 0.0f;
  file.read(*file.find("x"), 0, std::as_writable_bytes(std::span(&read, 1)));
  EXPECT_EQ(read, 1.5f);
}

TEST_F(Safetensors, A22_not_a_regular_file) {
  expect_error<IoError>([&] { SafetensorsFile file(dir_.path()); }, {"Is a directory"});
  expect_error<IoError>([&] { SafetensorsFile file(path_); }, {"No such file"});
}

TEST_F(Safetensors, B11_cut_download) {
  const std::string whole = safetensors_bytes(
      R"({"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", "ABCDEFGHIJKLMNOP");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    refuse_bytes<FormatError>(whole.substr(0, size), {});
  }
}

TEST_F(Safetensors, B12_git_lfs_pointer) {
  refuse_bytes<FormatError>(
      "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 269060552\n",
      {"this is a Git LFS pointer"});
}

TEST_F(Safetensors, B12_html_page) {
  refuse_bytes<FormatError>("<!DOCTYPE html><html><body>404</body></html>",
                            {"this looks like HTML"});
  refuse_bytes<FormatError>("\n  <HTML><head>", {"this looks like HTML"});
}

// Files kept in the tree, for readers in other languages to agree on: name -> error class.
TEST(SafetensorsCorpus, EveryKeptFileHasItsVerdict) {
  const std::string folder = std::string(MOA_RT_TEST_DATA) + "/malformed/safetensors/";
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    ++count;
    const std::string name = entry.path().filename();
    ErrorCode code = ErrorCode::kInternal;
    try {
      SafetensorsFile file(entry.path());
    } catch (const Error& error) {
      code = error.code();
    }
    EXPECT_TRUE(name.starts_with(error_name(code))) << name << ": " << error_name(code);
  }
  EXPECT_GE(count, 12u);
}

}  // namespace
}  // namespace moa_rt
