// The kernels of one processor, behind plain functions: one object file for each processor.
//
// Whatever is compiled for one processor lies in namespaces without a name, so that the linker
// never takes it for another processor.
#pragma once

#include "call.h"
#include "team.h"

namespace recurrax {

struct Target {
  const char* name;
  bool (*runs_here)();
  void (*forward)(const Arguments&, const Results&, Team&);
  void (*backward)(const Arguments&, const Cotangents&, const Gradients&, Team&);
};

// Those that were compiled, the best first.
extern const Target* const targets[];
extern const int target_count;

}  // namespace recurrax
