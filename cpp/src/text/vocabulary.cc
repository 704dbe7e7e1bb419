#include "text/vocabulary.h"

#include <bit>
#include <functional>

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace {

[[noreturn]] void fail(const std::string& path, const VocabularyEntry& entry,
                       const std::string& got, const std::string& want) {
  throw FormatError(describe({.file = path,
                              .item = quoted_item("token", entry.text),
                              .field = "id",
                              .got = got,
                              .want = want}));
}

// Entry of each id. The count is known first, so an id outside [0, count) means a hole elsewhere.
std::vector<const VocabularyEntry*> order_by_id(const std::vector<VocabularyEntry>& model,
                                                const std::vector<VocabularyEntry>& added,
                                                const std::string& path) {
  const std::size_t count = model.size() + added.size();
  if (count > Vocabulary::kMaxTokens) {
    throw FormatError(describe({.file = path,
                                .item = "vocabulary",
                                .got = std::to_string(count) + " tokens",
                                .want = "at most " + std::to_string(Vocabulary::kMaxTokens)}));
  }
  std::vector<const VocabularyEntry*> by_id(count, nullptr);
  for (const auto* list : {&model, &added}) {
    for (const VocabularyEntry& entry : *list) {
      if (entry.id < 0 || entry.id >= static_cast<std::int64_t>(count)) {
        fail(path, entry, std::to_string(entry.id),
             "each of 0.." + std::to_string(static_cast<std::int64_t>(count) - 1) +
                 " once, without holes");
      }
      const auto*& slot = by_id[static_cast<std::size_t>(entry.id)];
      if (slot != nullptr) {
        fail(path, entry, std::to_string(entry.id) + " twice",
             "an id other than that of " + quoted_item("token", slot->text));
      }
      slot = &entry;
    }
  }
  return by_id;
}

}  // namespace

Vocabulary::Vocabulary(const std::vector<VocabularyEntry>& model,
                       const std::vector<VocabularyEntry>& added, const std::string& path) {
  const auto by_id = order_by_id(model, added, path);
  std::size_t bytes = 0;
  for (const VocabularyEntry* entry : by_id) bytes += entry->text.size();
  arena_.reserve(bytes);
  begins_.reserve(by_id.size() + 1);
  for (const VocabularyEntry* entry : by_id) {
    begins_.push_back(static_cast<std::uint32_t>(arena_.size()));
    arena_ += entry->text;
  }
  begins_.push_back(static_cast<std::uint32_t>(arena_.size()));
  in_model_.assign(by_id.size(), 0);
  for (const VocabularyEntry& entry : model) in_model_[static_cast<std::size_t>(entry.id)] = 1;
  index_strings(path);
}

void Vocabulary::index_strings(const std::string& path) {
  const auto count = static_cast<std::size_t>(size());
  slots_.assign(std::bit_ceil(count * 2 + 1), kNotFound);
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t id = 0; id < count; ++id) {
    const std::string_view token = text(static_cast<std::int32_t>(id));
    std::size_t slot = std::hash<std::string_view>{}(token)&mask;
    for (; slots_[slot] != kNotFound; slot = (slot + 1) & mask) {
      if (text(slots_[slot]) == token) {
        throw FormatError(
            describe({.file = path,
                      .item = quoted_item("token", token),
                      .got = "ids " + std::to_string(slots_[slot]) + " and " + std::to_string(id),
                      .want = "one id"}));
      }
    }
    slots_[slot] = static_cast<std::int32_t>(id);
  }
}

std::int32_t Vocabulary::find(std::string_view token) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = std::hash<std::string_view>{}(token)&mask;
  for (; slots_[slot] != kNotFound; slot = (slot + 1) & mask) {
    if (text(slots_[slot]) == token) return slots_[slot];
  }
  return kNotFound;
}

std::int64_t Vocabulary::memory_bytes() const {
  return static_cast<std::int64_t>(arena_.capacity() + 1 + begins_.capacity() * sizeof(begins_[0]) +
                                   in_model_.capacity() + slots_.capacity() * sizeof(slots_[0]));
}

}  // namespace moa_rt
