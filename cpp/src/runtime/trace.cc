// One pass over a given text that keeps what the layers computed.
#include "moa_rt/trace.h"

#include <algorithm>
#include <utility>

#include "core/message.h"
#include "io/convert_dtype.h"
#include "moa_rt/error.h"
#include "runtime/engine_impl.h"

namespace moa_rt {
namespace {

void check_trace_options(const TraceOptions& options, std::int64_t size, std::int64_t layers) {
  const auto check = [](const char* field, std::int64_t got, std::int64_t min, std::int64_t max) {
    if (got >= min && got <= max) return;
    throw ArgumentError(describe({.field = field,
                                  .got = std::to_string(got),
                                  .want = std::to_string(min) + ".." + std::to_string(max)}));
  };
  check("decode_from", options.decode_from, -1, size);
  check("layer_begin", options.layer_begin, 0, layers);
  check("layer_end", options.layer_end, options.layer_begin, layers);
  std::int64_t least = 0;
  for (const std::int64_t position : options.logit_positions) {
    check("logit_positions", position, least, size - 1);
    least = position + 1;
  }
}

// Copies a tensor of the device into floats of the host.
void copy_floats(Backend& backend, const Tensor& source, float* destination) {
  const auto count = static_cast<std::size_t>(source.elements());
  const std::span<float> floats(destination, count);
  if (source.dtype() == DType::kF32) {
    backend.copy_to_host(destination, source);
    return;
  }
  std::vector<std::byte> raw(static_cast<std::size_t>(source.bytes()));
  backend.copy_to_host(raw.data(), source);
  convert_elements(raw, source.dtype(), std::as_writable_bytes(floats), DType::kF32);
}

}  // namespace

Trace Engine::Impl::trace(const std::vector<std::int32_t>& token_ids, const TraceOptions& options) {
  const auto lock = enter();
  KVCache cache = make_text_cache(token_ids, options.budget);
  const auto size = static_cast<std::int64_t>(token_ids.size());
  check_trace_options(options, size, config_.num_hidden_layers);
  const std::int64_t decode_from = options.decode_from < 0 ? size : options.decode_from;
  const auto kept = static_cast<std::size_t>((options.layer_end - options.layer_begin) * size);
  const auto vocab = static_cast<std::size_t>(config_.vocab_size);

  Trace trace;
  trace.qkv.resize(kept * static_cast<std::size_t>(config_.qkv_size()));
  trace.attention.resize(kept * static_cast<std::size_t>(config_.query_size()));
  trace.logits.resize(options.logit_positions.size() * vocab);
  float* logits = trace.logits.data();
  const auto logit_rows = static_cast<std::size_t>(activations_.logits.dim(0));
  std::vector<std::int64_t> rows;  // of the chunk, whose logits are wanted
  auto wanted = options.logit_positions.begin();

  SequenceSlice slice{&cache, 0, 0, 0};
  const LayerObserver keep = [&](std::int64_t layer, const Tensor& qkv, const Tensor& attention) {
    if (layer < options.layer_begin || layer >= options.layer_end) return;
    const std::int64_t row = (layer - options.layer_begin) * size + slice.position;
    copy_floats(*backend_, qkv, trace.qkv.data() + row * config_.qkv_size());
    copy_floats(*backend_, attention, trace.attention.data() + row * config_.query_size());
  };
  const std::span<const std::int32_t> tokens(token_ids);
  while (slice.position < size) {
    const std::int64_t end = slice.position < decode_from ? decode_from : slice.position + 1;
    slice.count = std::min(options_.prefill_chunk, end - slice.position);
    const auto chunk = tokens.subspan(static_cast<std::size_t>(slice.position),
                                      static_cast<std::size_t>(slice.count));
    if (!decoder_->forward({chunk, {&slice, 1}, &keep}, activations_, interrupted_)) {
      throw StateError("interrupted");
    }
    cache.advance(slice.count);
    const std::int64_t next = slice.position + slice.count;
    while (wanted != options.logit_positions.end() && *wanted < next) {
      rows.clear();
      for (; wanted != options.logit_positions.end() && *wanted < next; ++wanted) {
        if (rows.size() == logit_rows) break;
        rows.push_back(*wanted - slice.position);
      }
      const float* found = backend_->host_floats(decoder_->logits(rows, activations_));
      logits = std::copy(found, found + rows.size() * vocab, logits);
    }
    slice.position = next;
  }
  return trace;
}

}  // namespace moa_rt
