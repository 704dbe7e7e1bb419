// What every operation of the CPU backend works with.
#pragma once

#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/workspace.h"

namespace moa_rt {

struct CpuContext {
  const CpuKernels& kernels;
  ThreadPool& pool;
  const Workspace& workspace;
};

}  // namespace moa_rt
