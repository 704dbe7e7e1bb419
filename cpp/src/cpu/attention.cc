#include "cpu/attention.h"

#include <atomic>
#include <cmath>

namespace moa_rt {
namespace {

// All work of a step, most expensive first: the query tiles, those late in their slice first, then
// the chunks of decode. Returns the number of items.
std::int64_t list_work(const AttentionJob& job, AttentionItem* items) {
  const AttentionShape& shape = job.args.shape;
  const std::int64_t positions = prefill_tile_positions(shape);
  std::int64_t size = 0;
  const auto add = [&](std::size_t slice, std::int64_t head, std::int64_t index) {
    items[size++] = {static_cast<std::int32_t>(slice), static_cast<std::int32_t>(head),
                     static_cast<std::int32_t>(index)};
  };
  for (std::size_t s = 0; s < job.args.slices.size(); ++s) {
    const SequenceSlice& slice = job.args.slices[s];
    if (slice.count == 1) continue;
    for (std::int64_t tile = (slice.count - 1) / positions; tile >= 0; --tile) {
      for (std::int64_t head = 0; head < shape.num_kv_heads; ++head) add(s, head, tile);
    }
  }
  for (std::size_t s = 0; s < job.args.slices.size(); ++s) {
    const SequenceSlice& slice = job.args.slices[s];
    if (slice.count > 1) continue;
    for (std::int64_t head = 0; head < shape.num_kv_heads; ++head) {
      const std::int64_t chunks = decode_chunks(job, slice, head);
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) add(s, head, chunk);
    }
  }
  return size;
}

// Runs body(index, thread) for every index of [0, count), each taken by whichever thread is free.
template <typename Body>
void run_items(ThreadPool& pool, std::int64_t count, const Body& body) {
  std::atomic<std::int64_t> next{0};
  auto work = [&](int thread) {
    while (true) {
      const std::int64_t index = next.fetch_add(1, std::memory_order_relaxed);
      if (index >= count) return;
      body(index, thread);
    }
  };
  if (count <= 1) {
    work(0);
  } else {
    pool.run(ThreadTask(work));
  }
}

}  // namespace

void cpu_attention(const CpuContext& cpu, const Backend::AttentionArgs& args, const Tensor& qkv,
                   Tensor& out) {
  const auto num_slices = static_cast<std::int64_t>(args.slices.size());
  cpu.workspace.require_attention(args.shape, qkv.dim(0), num_slices);
  for (const SequenceSlice& slice : args.slices) {
    cpu.workspace.require_length(slice.position + slice.count);
  }
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(args.shape.head_dim)));
  const AttentionJob job{cpu, args, QkvRow(args.shape), scale, qkv, out};
  const AttentionItem* items = cpu.workspace.items();
  const std::int64_t size = list_work(job, cpu.workspace.items());
  run_items(cpu.pool, size, [&](std::int64_t index, int thread) {
    const AttentionItem& item = items[index];
    if (args.slices[static_cast<std::size_t>(item.slice)].count == 1) {
      decode_item(job, item);
    } else {
      prefill_item(job, item, thread);
    }
  });
  // Every chunk and every tile is done: merge the former, append behind the latter.
  const std::int64_t heads = args.shape.num_kv_heads;
  const auto finish = [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const SequenceSlice& slice = args.slices[static_cast<std::size_t>(i / heads)];
      if (slice.count == 1) {
        merge_chunks(job, i / heads, i % heads);
      } else {
        append_head(cpu.kernels, job.row, slice, args.layer, i % heads, qkv);
      }
    }
  };
  if (qkv.dim(0) <= 4) {
    finish(0, num_slices * heads, 0);
  } else {
    cpu.pool.parallel_for(num_slices * heads, 1, finish);
  }
}

}  // namespace moa_rt
