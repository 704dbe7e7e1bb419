// Model directories that hold a tokenizer and nothing else.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "moa_rt/tokenizer.h"
#include "support/temp_dir.h"

namespace moa_rt::testing {

inline std::string test_data(const std::string& name) {
  return std::string(MOA_RT_TEST_DATA) + "/" + name;
}

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_file(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

// One of tests/golden/tokenizers.
inline Tokenizer load_golden(const std::string& family) {
  return Tokenizer::load(test_data("golden/tokenizers/" + family));
}

inline const std::vector<std::string>& golden_families() {
  static const std::vector<std::string> names = {"smollm2", "llama3",  "qwen2",
                                                 "llama2",  "mistral", "flagged"};
  return names;
}

// Names of value-parameterised tests.
inline std::string family_name(const ::testing::TestParamInfo<std::string>& param) {
  return param.param;
}

// Loads a tokenizer from the texts of its files; an empty `config` means no tokenizer_config.json.
inline Tokenizer load_texts(const std::string& tokenizer, const std::string& config = "") {
  const TempDir directory;
  write_file(directory.path() + "/tokenizer.json", tokenizer);
  if (!config.empty()) write_file(directory.path() + "/tokenizer_config.json", config);
  return Tokenizer::load(directory.path());
}

inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

}  // namespace moa_rt::testing
