// Standard input and output, unbuffered, with moa_rt's errors.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "moa_rt/error.h"

namespace moa_rt::cli {

// The reader of standard output has gone: not an error of ours, the command ends quietly.
struct BrokenPipe {};

// Writes all of `text` to standard output. Throws BrokenPipe, ResourceError (disk full) or IoError.
void write_out(std::string_view text);
// One JSON document and a newline. Numbers that are not finite become null.
void write_json(const nlohmann::ordered_json& json);
// Writes to standard error; failures are ignored, there is nobody to tell.
void write_note(std::string_view text) noexcept;
// "moa_rt: error[E_FORMAT]: <message>".
void write_error(ErrorCode code, std::string_view message) noexcept;

bool input_is_terminal();
bool output_is_terminal();

// A whole file, "-" for standard input. Throws IoError, or ArgumentError beyond `max_bytes`.
std::string read_text(const std::string& path, std::size_t max_bytes);

// Reads standard input line by line.
class LineReader {
 public:
  enum class Result { kLine, kEnd, kInterrupted };
  // Throws ArgumentError for a line beyond `max_bytes`.
  Result next(std::string& line, std::size_t max_bytes);

 private:
  std::string buffer_;
};

}  // namespace moa_rt::cli
