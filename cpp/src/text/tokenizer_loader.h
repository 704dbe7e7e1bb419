// From the files of a model directory to a tokenizer.
#pragma once

#include <memory>
#include <string>

#include "text/tokenizer_impl.h"

namespace moa_rt {

// Reads tokenizer.json, and tokenizer_config.json and chat_template.jinja where they exist.
// Truncation and padding written in tokenizer.json are ignored: the engine decides about lengths.
std::shared_ptr<const Tokenizer::Impl> load_tokenizer(const std::string& model_dir);

}  // namespace moa_rt
