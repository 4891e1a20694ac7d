#include "history.h"

namespace recurrax {

History::History(const Arguments& call, Scratch& scratch) {
  const auto [steps, rows, inputs, units] = call.sizes;
  source = scratch.ints(steps * rows);
  last = scratch.ints(rows);
  for (int64_t b = 0; b < rows; ++b) last[b] = from_start;
  for (int64_t p = 0; p < steps; ++p) {
    const int64_t t = call.reverse ? steps - 1 - p : p;
    for (int64_t b = 0; b < rows; ++b) {
      const int64_t at = t * rows + b;
      // A restart acts on a masked step too: the next unmasked step meets the initial state.
      if (call.restart && call.restart[at]) last[b] = from_initial;
      if (call.mask && !call.mask[at]) {
        source[at] = masked;
        continue;
      }
      source[at] = last[b];
      last[b] = static_cast<int32_t>(t);
    }
  }
}

Shares::Shares(int64_t all_rows, int count, Scratch& scratch) : count(count) {
  rows = scratch.ints(all_rows);
  begin = scratch.ints(count + 1);
  int32_t at = 0;
  for (int share = 0; share < count; ++share) {
    begin[share] = at;
    for (int64_t b = share; b < all_rows; b += count) rows[at++] = static_cast<int32_t>(b);
  }
  begin[count] = at;
}

Chunk::Chunk(int64_t most_positions, int64_t most_rows, int shares, Scratch& scratch) {
  entries = static_cast<Entry*>(scratch.bytes(most_positions * most_rows * sizeof(Entry)));
  first = scratch.ints(most_positions * shares + 1);
  first[0] = 0;
}

void Chunk::fill(const Arguments& call, const History& history, const Shares& shares, int share,
                 int count, int64_t begin, int64_t end) {
  positions = static_cast<int>(end - begin);
  shares_ = count;
  const int64_t all_rows = call.sizes.rows;
  int32_t at = 0;
  int32_t* boundary = first;
  for (int64_t p = begin; p < end; ++p) {
    const int64_t t = call.reverse ? call.sizes.steps - 1 - p : p;
    for (int q = share; q < share + count; ++q) {
      *boundary++ = at;
      for (int32_t k = shares.begin[q]; k < shares.begin[q + 1]; ++k) {
        const int32_t b = shares.rows[k];
        const int32_t source = history.source[t * all_rows + b];
        if (source == masked) continue;
        entries[at++] = Entry{static_cast<int32_t>(t), b, source};
      }
    }
  }
  *boundary = at;
}

}  // namespace recurrax
