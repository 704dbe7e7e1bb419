// The regular expressions of published tokenizers as hand-written scanners: linear time, no stack,
// and only the expressions named here.
#pragma once

#include <cstddef>
#include <string_view>

namespace moa_rt {

// End (> begin) of the piece of checked UTF-8 that starts at `begin` < text.size(). Every character
// belongs to exactly one piece.
using Scanner = std::size_t (*)(std::string_view text, std::size_t begin);

// One piece per number character (\p{N}); runs of anything else.
std::size_t scan_single_digits(std::string_view text, std::size_t begin);
// Runs of number characters; runs of anything else.
std::size_t scan_digit_runs(std::string_view text, std::size_t begin);
// GPT-2: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
std::size_t scan_gpt2(std::string_view text, std::size_t begin);
// Llama 3: contractions of any case, words with one leading character, 1 to 3 number characters,
// symbols with their line breaks, white space ending in line breaks.
std::size_t scan_llama3(std::string_view text, std::size_t begin);
// Qwen 2: as Llama 3, but every number character alone.
std::size_t scan_qwen2(std::string_view text, std::size_t begin);

// The scanner for exactly this pattern of a "Split" pre-tokenizer, or nullptr.
Scanner find_scanner(std::string_view pattern);

}  // namespace moa_rt
