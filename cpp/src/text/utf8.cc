#include "text/utf8.h"

namespace moa_rt {
namespace {

// What may follow a lead byte; `missing` is -1 for a byte that cannot begin a character.
struct LeadByte {
  int missing;
  unsigned char low;
  unsigned char high;
};

LeadByte classify_lead(unsigned char byte) {
  if (byte < 0x80) return {0, 0x80, 0xBF};
  if (byte < 0xC2) return {-1, 0, 0};
  if (byte < 0xE0) return {1, 0x80, 0xBF};
  if (byte == 0xE0) return {2, 0xA0, 0xBF};
  if (byte == 0xED) return {2, 0x80, 0x9F};
  if (byte < 0xF0) return {2, 0x80, 0xBF};
  if (byte == 0xF0) return {3, 0x90, 0xBF};
  if (byte < 0xF4) return {3, 0x80, 0xBF};
  if (byte == 0xF4) return {3, 0x80, 0x8F};
  return {-1, 0, 0};
}

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

}  // namespace

void append_utf8(char32_t value, std::string& out) {
  const auto put = [&](char32_t bits) { out.push_back(static_cast<char>(bits)); };
  if (value < 0x80) {
    put(value);
  } else if (value < 0x800) {
    put(0xC0 | (value >> 6));
    put(0x80 | (value & 0x3F));
  } else if (value < 0x10000) {
    put(0xE0 | (value >> 12));
    put(0x80 | ((value >> 6) & 0x3F));
    put(0x80 | (value & 0x3F));
  } else {
    put(0xF0 | (value >> 18));
    put(0x80 | ((value >> 12) & 0x3F));
    put(0x80 | ((value >> 6) & 0x3F));
    put(0x80 | (value & 0x3F));
  }
}

std::optional<std::size_t> find_invalid_utf8(std::string_view text) {
  std::size_t position = 0;
  while (position < text.size()) {
    const LeadByte lead = classify_lead(static_cast<unsigned char>(text[position]));
    if (lead.missing < 0) return position;
    if (static_cast<std::size_t>(lead.missing) >= text.size() - position) return position;
    unsigned char low = lead.low;
    unsigned char high = lead.high;
    for (int i = 1; i <= lead.missing; ++i) {
      const auto byte = static_cast<unsigned char>(text[position + static_cast<std::size_t>(i)]);
      if (byte < low || byte > high) return position;
      low = 0x80;
      high = 0xBF;
    }
    position += static_cast<std::size_t>(lead.missing) + 1;
  }
  return std::nullopt;
}

void Utf8Repair::start(unsigned char byte, std::string& out) {
  const LeadByte lead = classify_lead(byte);
  if (lead.missing < 0) {
    out += kReplacement;
  } else if (lead.missing == 0) {
    out.push_back(static_cast<char>(byte));
  } else {
    held_.assign(1, static_cast<char>(byte));
    missing_ = lead.missing;
    low_ = lead.low;
    high_ = lead.high;
  }
}

void Utf8Repair::push(std::string_view bytes, std::string& out) {
  for (const char character : bytes) {
    const auto byte = static_cast<unsigned char>(character);
    if (missing_ == 0) {
      start(byte, out);
    } else if (byte >= low_ && byte <= high_) {
      held_.push_back(character);
      low_ = 0x80;
      high_ = 0xBF;
      if (--missing_ == 0) out += held_;
    } else {
      finish(out);
      start(byte, out);
    }
  }
}

void Utf8Repair::finish(std::string& out) {
  if (missing_ > 0) out += kReplacement;
  missing_ = 0;
}

}  // namespace moa_rt
