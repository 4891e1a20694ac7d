// The inner loop of every product: a tile of M rows and W vectors of columns, held in registers.
//
//   sum[m][w] += a(m, k) * b[k][w]      for each k below `depth`
#pragma once

#include "vector.h"

namespace recurrax {
namespace {

// A number known to the compiler, as an argument.
template <int N>
struct Number {
  static constexpr int value = N;
};

// Calls function(Number<n>) for an n of 1 to Most.
template <int Most, class Function>
inline void with_number(int n, const Function& function) {
  if constexpr (Most > 1) {
    if (n < Most) return with_number<Most - 1>(n, function);
  }
  function(Number<Most>{});
}

// Rows of the left factor, anywhere in memory.
template <int M>
struct Rows {
  const float* row[M];  // each [depth]
  float operator()(int m, int64_t k) const { return row[m][k]; }
};

// Columns of the left factor, packed: [depth, M].
template <int M>
struct Columns {
  const float* packed;
  float operator()(int m, int64_t k) const { return packed[k * M + m]; }
};

// A small tile has few sums, each of which waits for its last addition. So it gets several sets of
// sums, over every second or every fourth k.
constexpr int sets(int sums) {
  if (sums <= 2) return 4;
  if (sums <= 4) return 2;
  return 1;
}

// One function for each size of a tile: put into every caller, it would take minutes to compile.
template <int V, int M, int W, class Left>
__attribute__((noinline)) void accumulate(Vector<V> (&sum)[M][W], const Left& a, const float* b,
                                          int64_t depth) {
  constexpr int S = sets(M * W);
  // The compiler keeps an array in registers only if every loop over it is unrolled.
  Vector<V> part[S][M][W] = {};
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int w = 0; w < W; ++w) part[0][m][w] = sum[m][w];
  }
  int64_t k = 0;
  for (; k + S <= depth; k += S) {
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
      Vector<V> right[W];
#pragma GCC unroll 4
      for (int w = 0; w < W; ++w) right[w] = load<V>(b + ((k + s) * W + w) * V);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const float left = a(m, k + s);
#pragma GCC unroll 4
        for (int w = 0; w < W; ++w) part[s][m][w] += left * right[w];
      }
    }
  }
  for (; S > 1 && k < depth; ++k) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const float left = a(m, k);
#pragma GCC unroll 4
      for (int w = 0; w < W; ++w) part[0][m][w] += left * load<V>(b + (k * W + w) * V);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int w = 0; w < W; ++w) {
      Vector<V> total = part[0][m][w];
#pragma GCC unroll 4
      for (int s = 1; s < S; ++s) total += part[s][m][w];
      sum[m][w] = total;
    }
  }
}

}  // namespace
}  // namespace recurrax
