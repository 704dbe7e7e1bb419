// The tables of a step on the device: where its rows stand, which slots its heads own, and which
// block of an attention kernel does what. Uploaded only when they change: over decode steps, once
// in length_step() tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/attention/attention.h"
#include "cuda/runtime/uploader.h"
#include "cuda/runtime/workspace.h"
#include "ops/backend.h"

namespace moa_rt::cuda {

// Decode items that one launch takes: their partial results fit the workspace together.
struct DecodeLaunch {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

class StepTables {
 public:
  StepTables(const WorkspaceLayout& layout, std::byte* workspace, std::int64_t slots,
             Uploader& uploader)
      : layout_(layout), workspace_(workspace), slots_(slots), uploader_(uploader) {
    layers_.resize(static_cast<std::size_t>(layout.table_copies));
  }

  const WorkspaceLayout& layout() const { return layout_; }

  // Positions and slices of the rows, at layout.positions and layout.row_slices.
  void set_rows(std::span<const SequenceSlice> slices);

  struct Layer {
    const Segment* segments = nullptr;  // (slices, Hkv), on the device
    const DecodeItem* decode = nullptr;
    std::span<const DecodeLaunch> launches;
  };
  Layer layer(const AttentionShape& shape, std::int64_t layer,
              std::span<const SequenceSlice> slices);

  // Tiles of the slices with more than one row of the layer asked for last, at
  // layout.prefill_items; returns their number.
  std::int64_t set_prefill(const AttentionShape& shape);

 private:
  struct Row {
    std::int64_t row, count, position;
    bool operator==(const Row&) const = default;
  };
  struct LayerTable {
    std::vector<Segment> segments;
    std::vector<DecodeLaunch> launches;
  };
  void make_segments(const AttentionShape& shape, std::int64_t layer,
                     std::span<const SequenceSlice> slices);
  void schedule(const AttentionShape& shape, std::vector<DecodeLaunch>& launches);

  WorkspaceLayout layout_;
  std::byte* workspace_;
  std::int64_t slots_;
  Uploader& uploader_;
  // What lies on the device. Each is forgotten before its upload and kept after it: what a failed
  // step left half done is uploaded again.
  std::vector<Row> rows_;
  std::vector<LayerTable> layers_;
  // Reused, so that a step allocates nothing once they have grown.
  std::vector<Segment> segments_;
  std::vector<std::int32_t> row_values_;
  std::vector<DecodeItem> launch_items_;
  std::vector<DecodeItem> decode_items_;
  std::vector<PrefillItem> prefill_items_;
};

}  // namespace moa_rt::cuda
