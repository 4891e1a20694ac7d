#include "kernels.h"

namespace recurrax {
namespace {

struct Avx2 {
  static constexpr int lanes = 8;
  static constexpr int vectors = 2;
  static constexpr int rows = 6;
};

bool runs_here() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace

extern const Target avx2 = {"avx2", runs_here, forward<Avx2>, backward<Avx2>};

}  // namespace recurrax
