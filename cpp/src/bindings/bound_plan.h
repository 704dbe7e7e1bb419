// What Python calls an AttentionPlan.
#pragma once

#include <utility>

#include "moa_rt/plan.h"

namespace moa_rt::bindings {

// A plan that remembers the head size of the model it was last matched with, so that
// cache_bytes(n, dtype) needs no config. Not part of its content: equality and JSON ignore it.
struct BoundPlan {
  AttentionPlan plan;
  std::int64_t head_dim = 0;  // 0: not known

  explicit BoundPlan(AttentionPlan content, std::int64_t head_size = 0)
      : plan(std::move(content)), head_dim(head_size) {}
};

}  // namespace moa_rt::bindings
