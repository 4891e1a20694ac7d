// The backward pass, from the last step to the first, some steps at once.
//
// For each unmasked step, from the last to the first:
//
//   dh  = dy + dz_next @ recurrent_kernel.T + whatever reaches h without a product
//   dz  = the gradients of the pre-activations, by the equations of the cell
//
// Then, for all these steps: dx = dz @ kernel.T, and the gradients of the weights are sums of outer
// products of inputs or states with dz. Each number is summed by one thread, in the order of the
// steps, so the result does not depend on which thread was faster.
#pragma once

#include "cells.h"
#include "history.h"
#include "work.h"

namespace recurrax {
namespace {

template <class Target, class Cell>
class Backward {
  static constexpr int V = Target::lanes;
  static constexpr int W = Target::vectors;
  static constexpr int M = Target::rows;
  static constexpr int gates = Cell::recurrents;  // G
  static constexpr int64_t rows_at_once = 256;

 public:
  Backward(const Arguments& call, const Cotangents& given, const Gradients& gradients, Team& team)
      : call_(call),
        given_(given),
        out_(gradients),
        team_(team),
        steps_(call.sizes.steps),
        rows_(call.sizes.rows),
        inputs_(call.sizes.inputs),
        units_(call.sizes.units),
        row_size_(Cell::blocks * call.sizes.units),
        dz_stride_(row_stride(row_size_)),
        positions_(positions_at_once(rows_at_once, rows_, steps_)),
        capacity_(positions_ * rows_),
        history_(call, scratch_),
        state_panels_(units_, gates * units_, scratch_),
        input_panels_(gradients.xs ? inputs_ : 0, Cell::inputs * units_, scratch_),
        division_(team.size(), rows_, state_panels_.cut.panels()),
        shares_(rows_, division_.row_shares, scratch_),
        chunk_(positions_, rows_, division_.row_shares, scratch_) {
    dz_ = scratch_.floats(capacity_ * dz_stride_);
    dz_kept_ = scratch_.floats(rows_ * row_size_);
    zeros_ = scratch_.floats(most(row_size_, units_));
    dh_ = scratch_.floats(rows_ * units_);
    next_ = static_cast<const float**>(scratch_.bytes(rows_ * sizeof(float*)));
    packed_xs_ = scratch_.floats(padded(inputs_) * capacity_);
    packed_hs_ = scratch_.floats(padded(units_) * capacity_);
  }

  void run() {
    pack();
    begin();
    // The last chunk begins where a multiple of `positions_` lies.
    const int64_t chunks = (steps_ + positions_ - 1) / positions_;
    for (int64_t k = chunks - 1; k >= 0; --k) {
      chunk_.fill(call_, history_, shares_, 0, shares_.count, k * positions_,
                  least((k + 1) * positions_, steps_));
      steps();
      weights();
    }
  }

 private:
  // Rows that lie a multiple of 4 KB apart would push each other out of the cache.
  static int64_t row_stride(int64_t size) { return (size + 15) / 16 * 16 + 16; }

  static int64_t padded(int64_t features) { return (features + M - 1) / M * M; }

  void pack() {
    const int64_t a = state_panels_.cut.panels(), b = input_panels_.cut.panels();
    each(team_, a + b, [&](int i) {
      if (i < a) {
        state_panels_.pack(call_.recurrent_kernel, Cell::recurrent_gates, Cell::recurrents, gates,
                           units_, i);
      } else {
        input_panels_.pack(call_.kernel, Cell::input_gates, Cell::inputs, gates, units_, i - a);
      }
    });
  }

  static void clear(float* p, int64_t n) {
    if (p) __builtin_memset(p, 0, n * sizeof(float));
  }

  // Sets all sums to zero, and gives the gradient of the final state to the state that became it.
  void begin() {
    clear(zeros_, most(row_size_, units_));
    clear(out_.kernel, inputs_ * gates * units_);
    clear(out_.recurrent_kernel, units_ * gates * units_);
    clear(out_.bias, row_size_);
    clear(out_.h_initial, rows_ * units_);
    clear(out_.c_initial, rows_ * units_);
    clear(out_.h0, rows_ * units_);
    clear(out_.c0, rows_ * units_);
    if (call_.mask && out_.xs) clear(out_.xs, steps_ * rows_ * inputs_);
    for (int64_t b = 0; b < rows_; ++b) {
      next_[b] = zeros_;
      // The gradient of h that comes without a product, and the gradient of c, step by step.
      float* dh = dh_ + b * units_;
      float* dc = dc_row(b);
      clear(dh, units_);
      if (history_.last[b] == from_initial) {
        dh = out_.h_initial + b * units_;
        dc = out_.c_initial + b * units_;
      } else if (history_.last[b] == from_start) {
        dh = out_.h0 + b * units_;
      }
      add(dh, given_.d_h + b * units_, units_);
      if constexpr (Cell::has_c) add(dc, given_.d_c + b * units_, units_);
    }
  }

  // The gradient of c between two steps lies where the gradient of c0 will be.
  float* dc_row(int64_t b) const { return Cell::has_c ? out_.c0 + b * units_ : nullptr; }

  static void add(float* to, const float* from, int64_t n) {
    for (int64_t k = 0; k < n; ++k) to[k] += from[k];
  }

  // The steps of a chunk, and whatever each share can do alone.
  void steps() {
    const int n = division_.panel_shares;
    if (n == 1) {
      each(team_, shares_.count, [&](int q) {
        for (int s = chunk_.positions - 1; s >= 0; --s) {
          step(q, s, 0, state_panels_.cut.panels());
          remember(q, s);
        }
        after_steps(q, 0, 1);
        keep_last(q);
      });
      return;
    }
    for (int s = chunk_.positions - 1; s >= 0; --s) {
      each(team_, n, [&](int i) {
        const Part mine(state_panels_.cut.panels(), i, n);
        step(0, s, mine.begin, mine.end);
      });
      remember(0, s);
    }
    each(team_, n, [&](int i) { after_steps(0, i, n); });
    keep_last(0);
  }

  float* dz_row(int64_t entry) const { return dz_ + entry * dz_stride_; }

  // One position of the loop, for some panels of units.
  void step(int share, int position, int64_t begin, int64_t end) {
    const int64_t first_entry = chunk_.begin(position, share);
    const int64_t end_entry = chunk_.end(position, share);
    for (int64_t panel = begin; panel < end; ++panel) {
      with_number<W>(state_panels_.cut.vectors(panel), [&](auto width) {
        tiles<M>(first_entry, end_entry, [&](int64_t first, auto size) {
          step_tile<decltype(size)::value, decltype(width)::value>(first, panel);
        });
      });
    }
  }

  template <int R, int N>
  void step_tile(int64_t first, int64_t panel) {
    const auto& cut = state_panels_.cut;
    Vector<V> sum[R][N];
    Rows<R> next;
    for (int m = 0; m < R; ++m) {
      const Entry& entry = chunk_.entries[first + m];
      const int64_t unit = cut.first(panel);
      const float* dy = given_.d_ys + place(call_, entry.step, entry.row) * units_ + unit;
      const float* dh = dh_ + entry.row * units_ + unit;
      for (int w = 0; w < N; ++w) {
        const int64_t n = cut.count(panel) - w * V;
        sum[m][w] = load<V>(dy + w * V, n) + load<V>(dh + w * V, n);
      }
      next.row[m] = next_[entry.row] + Cell::first_recurrent * units_;
    }
    accumulate<V>(sum, next, state_panels_.panel(panel), state_panels_.depth);
    for (int m = 0; m < R; ++m) finish<N>(first + m, cut.first(panel), sum[m]);
  }

  // The nonlinear part of a step, for N * V units of a row from `unit` on; `dh_after` is the
  // gradient of h'.
  template <int N>
  __attribute__((noinline)) void finish(int64_t index, int64_t unit, const Vector<V>* dh_after) {
    const Entry& entry = chunk_.entries[index];
    const int64_t at = entry.step * rows_ + entry.row;
    const int64_t in_state = entry.row * units_ + unit;
    const float* h_row = given_.ys + place(call_, entry.step, entry.row) * units_ + unit;
    const float* h_old_row = h_before(entry) + unit;
    const float *gates_row = nullptr, *c_row = nullptr, *c_old_row = nullptr;
    if constexpr (Cell::keeps_gates) {
      gates_row = given_.gates + at * row_size_ + unit;
    }
    if constexpr (Cell::has_c) {
      c_row = given_.cs + at * units_ + unit;
      c_old_row = c_before(entry) + unit;
    }
    float* dz = dz_row(index) + unit;
#pragma GCC unroll 4
    for (int w = 0; w < N; ++w) {
      const int64_t n = units_ - unit - w * V, k = w * V;
      Vector<V> dh = dh_after[w];
      Vector<V> a[Cell::blocks], d[Cell::blocks], h_old = {}, c_old = {}, c = {}, dc = {};
      const Vector<V> h = load<V>(h_row + k, n);
      if constexpr (Cell::keeps_gates) {
        h_old = load<V>(h_old_row + k, n);
        for (int block = 0; block < Cell::blocks; ++block) {
          a[block] = load<V>(gates_row + block * units_ + k, n);
        }
      }
      if constexpr (Cell::has_c) {
        c_old = load<V>(c_old_row + k, n);
        c = load<V>(c_row + k, n);
        dc = load<V>(out_.c0 + in_state + k, n);
      }
      Cell::template backward<V>(a, h_old, c_old, h, c, dh, dc, d);
      for (int block = 0; block < Cell::blocks; ++block) {
        store<V>(dz + block * units_ + k, d[block], n);
      }
      // What remains goes to the state before the step.
      const Vector<V> zero = {};
      if (entry.source < 0) {
        float* start = entry.source == from_start ? out_.h0 : out_.h_initial;
        start += in_state + k;
        store<V>(start, load<V>(start, n) + dh, n);
        dh = zero;
      }
      store<V>(dh_ + in_state + k, dh, n);
      if constexpr (Cell::has_c) {
        if (entry.source == from_initial) {
          float* start = out_.c_initial + in_state + k;
          store<V>(start, load<V>(start, n) + dc, n);
          dc = zero;
        }
        store<V>(out_.c0 + in_state + k, dc, n);
      }
    }
  }

  const float* h_before(const Entry& entry) const {
    if (entry.source == from_start) return call_.h0 + entry.row * units_;
    if (entry.source == from_initial) return call_.h_initial + entry.row * units_;
    return given_.ys + place(call_, entry.source, entry.row) * units_;
  }

  const float* c_before(const Entry& entry) const {
    if (entry.source == from_start) return call_.c0 + entry.row * units_;
    if (entry.source == from_initial) return call_.c_initial + entry.row * units_;
    return given_.cs + (entry.source * rows_ + entry.row) * units_;
  }

  // Tells earlier steps where the gradients of the next step lie. Across a restart there are none.
  void remember(int share, int position) {
    for (int64_t k = chunk_.begin(position, share); k < chunk_.end(position, share); ++k) {
      const Entry& entry = chunk_.entries[k];
      next_[entry.row] = entry.source < 0 ? zeros_ : dz_row(k);
    }
  }

  // The next chunk overwrites the gradients, so the last ones of each row move.
  void keep_last(int share) {
    for (int32_t k = shares_.begin[share]; k < shares_.begin[share + 1]; ++k) {
      const int32_t b = shares_.rows[k];
      float* kept = dz_kept_ + b * row_size_;
      if (next_[b] == zeros_ || next_[b] == kept) continue;
      __builtin_memcpy(kept, next_[b], row_size_ * sizeof(float));
      next_[b] = kept;
    }
  }

  // The gradients of the inputs, and the packed left factors of the outer products: the part i of n
  // parts of the features.
  void after_steps(int share, int i, int n) {
    if (out_.xs) {
      const Part mine(input_panels_.cut.panels(), i, n);
      for (int64_t panel = mine.begin; panel < mine.end; ++panel) {
        with_number<W>(input_panels_.cut.vectors(panel), [&](auto width) {
          for (int s = 0; s < chunk_.positions; ++s) {
            tiles<M>(chunk_.begin(s, share), chunk_.end(s, share), [&](int64_t first, auto size) {
              input_tile<decltype(size)::value, decltype(width)::value>(first, panel);
            });
          }
        });
      }
    }
    if (!out_.kernel) return;
    const Part x_tiles(padded(inputs_) / M, i, n), h_tiles(padded(units_) / M, i, n);
    for (int s = 0; s < chunk_.positions; ++s) {
      for (int64_t k = chunk_.begin(s, share); k < chunk_.end(s, share); ++k) {
        const Entry& entry = chunk_.entries[k];
        const float* x = call_.xs + place(call_, entry.step, entry.row) * inputs_;
        pack_columns(x, inputs_, k, packed_xs_, x_tiles);
        pack_columns(h_before(entry), units_, k, packed_hs_, h_tiles);
      }
    }
  }

  template <int R, int N>
  void input_tile(int64_t first, int64_t panel) {
    const auto& cut = input_panels_.cut;
    Vector<V> sum[R][N] = {};
    Rows<R> dz;
    for (int m = 0; m < R; ++m) dz.row[m] = dz_row(first + m) + Cell::first_input * units_;
    accumulate<V>(sum, dz, input_panels_.panel(panel), input_panels_.depth);
    for (int m = 0; m < R; ++m) {
      const Entry& entry = chunk_.entries[first + m];
      float* dx = out_.xs + place(call_, entry.step, entry.row) * inputs_ + cut.first(panel);
      for (int w = 0; w < N; ++w) store<V>(dx + w * V, sum[m][w], cut.count(panel) - w * V);
    }
  }

  // Writes some features of one row into [features / M, capacity, M], at entry k.
  void pack_columns(const float* row, int64_t features, int64_t k, float* to, Part mine) const {
    for (int64_t tile = mine.begin; tile < mine.end; ++tile) {
      float* packed = to + (tile * capacity_ + k) * M;
      const int64_t n = least(M, features - tile * M);
      for (int64_t m = 0; m < n; ++m) packed[m] = row[tile * M + m];
      for (int64_t m = n; m < M; ++m) packed[m] = 0.0f;
    }
  }

  // Adds a chunk's share to the gradients of the weights, and of the states before the first steps.
  void weights() {
    const int64_t panels = state_panels_.cut.panels();
    const int64_t tasks = out_.kernel ? Cell::blocks * panels : 0;
    // Entries with a state from outside: their gradients need a product of their own.
    bool has_starts = false;
    for (int32_t k = 0; k < chunk_.size(); ++k) has_starts |= chunk_.entries[k].source < 0;
    each(team_, tasks + (has_starts ? panels : 0), [&](int i) {
      if (i >= tasks) return starts(i - tasks);
      with_number<W>(state_panels_.cut.vectors(i % panels), [&](auto width) {
        weight_panel<decltype(width)::value>(static_cast<int>(i / panels), i % panels);
      });
    });
  }

  // The gradients of the weights of one block and one panel of units.
  template <int N>
  void weight_panel(int block, int64_t panel) {
    for (int64_t begin = 0; begin < chunk_.size(); begin += rows_at_once) {
      weight_part<N>(block, panel, begin, least(chunk_.size() - begin, rows_at_once));
    }
  }

  // The same, for the entries [begin, begin + count).
  template <int N>
  void weight_part(int block, int64_t panel, int64_t begin, int64_t count) {
    const auto& cut = state_panels_.cut;
    const int64_t unit = cut.first(panel);
    // First dz, packed into [count, N * V]; the gradient of the bias is its sum.
    alignas(64) float right[rows_at_once * N * V];
    Vector<V> sum[N] = {};
    for (int64_t k = 0; k < count; ++k) {
      const float* dz = dz_row(begin + k) + block * units_ + unit;
      for (int w = 0; w < N; ++w) {
        const Vector<V> d = load<V>(dz + w * V, cut.count(panel) - w * V);
        sum[w] += d;
        store<V>(right + (k * N + w) * V, d);
      }
    }
    float* bias = out_.bias + block * units_ + unit;
    for (int w = 0; w < N; ++w) {
      const int64_t n = cut.count(panel) - w * V;
      store<V>(bias + w * V, load<V>(bias + w * V, n) + sum[w], n);
    }
    const int input = block - Cell::first_input, recurrent = block - Cell::first_recurrent;
    const Factors factors{begin, count, right, cut.count(panel)};
    if (input >= 0 && input < Cell::inputs) {
      float* to = out_.kernel + Cell::input_gates[input] * units_ + unit;
      outer<N>(packed_xs_, inputs_, factors, to);
    }
    if (recurrent >= 0 && recurrent < Cell::recurrents) {
      float* to = out_.recurrent_kernel + Cell::recurrent_gates[recurrent] * units_ + unit;
      outer<N>(packed_hs_, units_, factors, to);
    }
  }

  // Some entries, and the right factors that belong to them, [count, N * V].
  struct Factors {
    int64_t begin, count;
    const float* right;
    int64_t columns;
  };

  // to[f][column] += the sum over entries k of left[k][f] * right[k][column]
  template <int N>
  void outer(const float* left, int64_t features, const Factors& factors, float* to) {
    for (int64_t tile = 0; tile < padded(features) / M; ++tile) {
      Vector<V> sum[M][N] = {};
      const Columns<M> columns{left + (tile * capacity_ + factors.begin) * M};
      accumulate<V>(sum, columns, factors.right, factors.count);
      const int64_t count = least(M, features - tile * M);
      for (int m = 0; m < M; ++m) {
        if (m >= count) break;
        float* row = to + (tile * M + m) * gates * units_;
        for (int w = 0; w < N; ++w) {
          const int64_t n = factors.columns - w * V;
          store<V>(row + w * V, load<V>(row + w * V, n) + sum[m][w], n);
        }
      }
    }
  }

  // The share of one panel of units in the gradients of h0 and h_initial, by the recurrent product.
  void starts(int64_t panel) {
    const auto& cut = state_panels_.cut;
    with_number<W>(cut.vectors(panel), [&](auto width) {
      constexpr int N = decltype(width)::value;
      for (int64_t k = 0; k < chunk_.size(); ++k) {
        const Entry& entry = chunk_.entries[k];
        if (entry.source >= 0) continue;
        Vector<V> sum[1][N] = {};
        const Rows<1> dz{{dz_row(k) + Cell::first_recurrent * units_}};
        accumulate<V>(sum, dz, state_panels_.panel(panel), state_panels_.depth);
        float* start = entry.source == from_start ? out_.h0 : out_.h_initial;
        float* to = start + entry.row * units_ + cut.first(panel);
        for (int w = 0; w < N; ++w) {
          const int64_t n = cut.count(panel) - w * V;
          store<V>(to + w * V, load<V>(to + w * V, n) + sum[0][w], n);
        }
      }
    });
  }

  const Arguments& call_;
  const Cotangents& given_;
  const Gradients& out_;
  Team& team_;
  const int64_t steps_, rows_, inputs_, units_;
  const int64_t row_size_;   // of a row of gradients of pre-activations: blocks * H
  const int64_t dz_stride_;  // between two such rows
  const int64_t positions_;  // of a chunk
  const int64_t capacity_;   // the most entries of a chunk
  Scratch scratch_;
  History history_;
  TransposedPanels<V, W> state_panels_;
  TransposedPanels<V, W> input_panels_;
  Division division_;
  Shares shares_;
  Chunk chunk_;
  float* dz_;           // [capacity, blocks*H], the gradients of the pre-activations
  float* dz_kept_;      // [B, blocks*H], the last ones of the chunk before
  float* zeros_;        // [blocks*H]
  float* dh_;           // [B, H], the gradient of h that comes without a product
  const float** next_;  // [B], a row of gradients of the next step of each row
  float* packed_xs_;    // [I / M, capacity, M]
  float* packed_hs_;    // [H / M, capacity, M], the states before the steps
};

}  // namespace
}  // namespace recurrax
