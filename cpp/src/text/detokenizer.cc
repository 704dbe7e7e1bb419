#include "moa_rt/tokenizer.h"
#include "text/tokenizer_impl.h"

namespace moa_rt {

class IncrementalDetokenizer::State {
 public:
  State(std::shared_ptr<const Tokenizer::Impl> tokenizer_in, bool skip_special_in)
      : tokenizer(std::move(tokenizer_in)),
        skip_special(skip_special_in),
        stream(tokenizer->decoder) {}

  std::shared_ptr<const Tokenizer::Impl> tokenizer;
  bool skip_special;
  DecodeStream stream;
};

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special)
    : state_(std::make_unique<State>(tokenizer.impl_, skip_special)) {}
IncrementalDetokenizer::~IncrementalDetokenizer() = default;
IncrementalDetokenizer::IncrementalDetokenizer(IncrementalDetokenizer&&) noexcept = default;
IncrementalDetokenizer& IncrementalDetokenizer::operator=(IncrementalDetokenizer&&) noexcept =
    default;

std::string IncrementalDetokenizer::push(std::int32_t id) {
  const Tokenizer::Impl& tokenizer = *state_->tokenizer;
  std::string out;
  if (tokenizer.is_special(tokenizer.checked_id(id)) && state_->skip_special) return out;
  state_->stream.push(tokenizer.decoded_text(id), out);
  return out;
}

std::string IncrementalDetokenizer::finish() {
  std::string out;
  state_->stream.finish(out);
  return out;
}

}  // namespace moa_rt
