#include "kernels.h"

namespace recurrax {
namespace {

struct Avx512 {
  static constexpr int lanes = 16;   // floats in a vector
  static constexpr int vectors = 2;  // vectors of columns in a tile
  static constexpr int rows = 6;     // rows in a tile
};

bool runs_here() { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl"); }

}  // namespace

extern const Target avx512 = {"avx512", runs_here, forward<Avx512>, backward<Avx512>};

}  // namespace recurrax
