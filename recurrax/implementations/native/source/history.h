// Which steps are unmasked, and where the state before each of them lies.
//
// The state is never copied from step to step. The state before a step is the output of an earlier
// step, or the state that the caller gave, or the state at a restart. A masked step is in no list,
// so it costs nothing.
#pragma once

#include <cstdint>

#include "call.h"
#include "scratch.h"

namespace recurrax {

// A source is an index of a step, or one of these.
constexpr int32_t from_start = -1;    // the state before the first step
constexpr int32_t from_initial = -2;  // the state at a restart
constexpr int32_t masked = -3;

struct History {
  int32_t* source;  // [T, B], where the state before a step lies, or `masked`
  int32_t* last;    // [B], where the final state lies

  History(const Arguments& call, Scratch& scratch);
};

// One unmasked step of one row.
struct Entry {
  int32_t step;
  int32_t row;
  int32_t source;
};

// The rows, divided into shares of the work. Neighbors go to different shares, because ragged
// batches are often sorted by length.
struct Shares {
  int count;
  int32_t* rows;   // [B], the rows of the first share, then of the second, ...
  int32_t* begin;  // [count + 1], where each share begins in `rows`

  Shares(int64_t rows, int count, Scratch& scratch);
};

// The unmasked steps at some positions of the loop, ordered by position, then by share.
// Position p is step p, or step T - 1 - p in reverse.
struct Chunk {
  int positions = 0;
  Entry* entries;  // at most `capacity`
  int32_t* first;  // [positions * shares + 1], where each position and share begins in `entries`

  Chunk(int64_t most_positions, int64_t most_rows, int shares, Scratch& scratch);

  // Takes the positions [begin, end) of the shares [share, share + count).
  void fill(const Arguments& call, const History& history, const Shares& shares, int share,
            int count, int64_t begin, int64_t end);

  int32_t size() const { return first[positions * shares_]; }
  int32_t begin(int position, int share) const { return first[position * shares_ + share]; }
  int32_t end(int position, int share) const { return first[position * shares_ + share + 1]; }

 private:
  int shares_ = 1;
};

}  // namespace recurrax
