// How a call is divided: over rows, or over units where there are few rows.
#pragma once

#include "call.h"
#include "panels.h"
#include "team.h"
#include "tile.h"

namespace recurrax {
namespace {

// Where the features of a step lie in `xs`, `ys` and their gradients, as a number of rows.
inline int64_t place(const Arguments& call, int64_t step, int64_t row) {
  if (call.batch_major) return row * call.sizes.steps + step;
  return step * call.sizes.rows + row;
}

// Runs function(i) for each i below `count` on the team.
template <class Function>
void each(Team& team, int64_t count, const Function& function) {
  auto task = [](void* context, int i) { (*static_cast<const Function*>(context))(i); };
  team.each(static_cast<int>(count), task, const_cast<Function*>(&function));
}

// Rows do not wait for each other, but units do, at every step. So rows are divided if there are
// enough of them.
struct Division {
  int row_shares;
  int panel_shares;

  Division(int threads, int64_t rows, int64_t panels) : row_shares(1), panel_shares(1) {
    if (threads == 1) return;
    if (rows < 12) {
      panel_shares = static_cast<int>(least(threads, panels));
      return;
    }
    // Small shares, where there are rows enough: a thread that lags leaves some to the others.
    const int64_t parts = least(4, most(1, rows / (int64_t{threads} * 32)));
    row_shares = static_cast<int>(least(threads * parts, (rows + 5) / 6));
  }
};

// The part i of n parts of [0, count).
struct Part {
  int64_t begin, end;
  Part(int64_t count, int64_t i, int64_t n) : begin(count * i / n), end(count * (i + 1) / n) {}
};

// Cuts [begin, end) into tiles of nearly equal size, at most M, and calls function(first, Number).
template <int M, class Function>
inline void tiles(int64_t begin, int64_t end, const Function& function) {
  const int64_t count = end - begin;
  const int64_t number = (count + M - 1) / M;
  for (int64_t i = 0; i < number; ++i) {
    const Part part(count, i, number);
    with_number<M>(static_cast<int>(part.end - part.begin),
                   [&](auto size) { function(begin + part.begin, size); });
  }
}

// The number of positions that are worked on at once, for about `rows_at_once` rows.
inline int64_t positions_at_once(int64_t rows_at_once, int64_t rows, int64_t steps) {
  return most(1, least(steps, rows_at_once / most(1, rows)));
}

}  // namespace
}  // namespace recurrax
