// The forward pass: project the inputs of some steps, then take these steps one after another.
#pragma once

#include <new>

#include "cells.h"
#include "history.h"
#include "work.h"

namespace recurrax {
namespace {

template <class Target, class Cell>
class Forward {
  static constexpr int V = Target::lanes;
  static constexpr int W = Target::vectors;
  static constexpr int M = Target::rows;
  static constexpr int gates = Cell::recurrents;  // G

 public:
  Forward(const Arguments& call, const Results& results, Team& team)
      : call_(call),
        out_(results),
        team_(team),
        history_(call, scratch_),
        kernel_(call.sizes.units, call.sizes.inputs, Cell::inputs, scratch_),
        recurrent_(call.sizes.units, call.sizes.units, Cell::recurrents, scratch_),
        division_(team.size(), call.sizes.rows, kernel_.cut.panels()),
        shares_(call.sizes.rows, division_.row_shares, scratch_) {
    cells_ = out_.c;
  }

  void run() {
    clear_masked();
    pack();
    if (division_.panel_shares > 1) {
      run_by_units();
    } else {
      run_by_rows();
    }
    copy_final_state();
  }

 private:
  // The scratch of one share: its entries, and the projections of their inputs.
  struct Work {
    Chunk chunk;
    float* z;  // for each panel of units and each input block [capacity, width]
    int64_t capacity;
  };

  void pack() {
    const auto [steps, rows, inputs, units] = call_.sizes;
    const int parts = team_.size();
    each(team_, parts, [&, inputs = inputs, units = units](int i) {
      const Part a(inputs, i, parts), b(units, i, parts);
      kernel_.pack(call_.kernel, Cell::input_gates, gates, a.begin, a.end);
      recurrent_.pack(call_.recurrent_kernel, Cell::recurrent_gates, gates, b.begin, b.end);
    });
  }

  Work make_work(int64_t rows) {
    const int64_t positions = positions_at_once(96, rows, call_.sizes.steps);
    const int64_t capacity = positions * rows;
    float* z = scratch_.floats(kernel_.cut.row() * Cell::inputs * capacity);
    return Work{Chunk(positions, rows, 1, scratch_), z, capacity};
  }

  void run_by_rows() {
    // All memory is taken before the threads begin.
    Work* works = static_cast<Work*>(scratch_.bytes(shares_.count * sizeof(Work)));
    for (int q = 0; q < shares_.count; ++q) {
      new (works + q) Work(make_work(shares_.begin[q + 1] - shares_.begin[q]));
    }
    each(team_, shares_.count, [&](int q) {
      const int64_t rows = shares_.begin[q + 1] - shares_.begin[q];
      const int64_t positions = positions_at_once(96, rows, call_.sizes.steps);
      const int64_t panels = kernel_.cut.panels();
      for (int64_t p = 0; p < call_.sizes.steps; p += positions) {
        Chunk& chunk = works[q].chunk;
        chunk.fill(call_, history_, shares_, q, 1, p, least(p + positions, call_.sizes.steps));
        project(works[q], 0, panels);
        for (int s = 0; s < chunk.positions; ++s) step(works[q], s, 0, panels);
      }
    });
  }

  void run_by_units() {
    Work work = make_work(call_.sizes.rows);
    const int64_t positions = positions_at_once(96, call_.sizes.rows, call_.sizes.steps);
    const int n = division_.panel_shares;
    const int64_t panels = kernel_.cut.panels();
    for (int64_t p = 0; p < call_.sizes.steps; p += positions) {
      work.chunk.fill(call_, history_, shares_, 0, 1, p, least(p + positions, call_.sizes.steps));
      each(team_, n, [&](int i) {
        const Part mine(panels, i, n);
        project(work, mine.begin, mine.end);
      });
      // Each unit reads the state of every unit, so all threads meet after each step.
      for (int s = 0; s < work.chunk.positions; ++s) {
        each(team_, n, [&](int i) {
          const Part mine(panels, i, n);
          step(work, s, mine.begin, mine.end);
        });
      }
    }
  }

  float* z_of(const Work& work, int64_t panel, int block) const {
    const auto& cut = kernel_.cut;
    return work.z + (cut.first(panel) * Cell::inputs + block * cut.width(panel)) * work.capacity;
  }

  // z = x @ kernel + bias, for the entries of a chunk and some panels of units.
  void project(const Work& work, int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      with_number<W>(kernel_.cut.vectors(panel), [&](auto width) {
        for (int block = 0; block < Cell::inputs; ++block) {
          project_panel<decltype(width)::value>(work, panel, block);
        }
      });
    }
  }

  template <int N>
  void project_panel(const Work& work, int64_t panel, int block) {
    const auto [steps, rows, inputs, units] = call_.sizes;
    const Entry* entries = work.chunk.entries;
    const float* right = kernel_.panel(panel, block);
    float* z = z_of(work, panel, block);
    Vector<V> bias[N];
    load_bias<N>(Cell::first_input + block, panel, bias);
    tiles<M>(0, work.chunk.size(), [&, inputs = inputs](int64_t first, auto size) {
      constexpr int m_count = decltype(size)::value;
      Vector<V> sum[m_count][N];
      Rows<m_count> xs;
      for (int m = 0; m < m_count; ++m) {
        const Entry& entry = entries[first + m];
        xs.row[m] = call_.xs + place(call_, entry.step, entry.row) * inputs;
        for (int w = 0; w < N; ++w) sum[m][w] = bias[w];
      }
      accumulate<V>(sum, xs, right, inputs);
      for (int m = 0; m < m_count; ++m) {
        for (int w = 0; w < N; ++w) store<V>(z + ((first + m) * N + w) * V, sum[m][w]);
      }
    });
  }

  template <int N>
  void load_bias(int block, int64_t panel, Vector<V> (&bias)[N]) const {
    const auto& cut = kernel_.cut;
    const float* from = call_.bias + block * call_.sizes.units + cut.first(panel);
    for (int w = 0; w < N; ++w) bias[w] = load<V>(from + w * V, cut.count(panel) - w * V);
  }

  // One position of the loop, for some panels of units.
  void step(const Work& work, int position, int64_t begin, int64_t end) {
    const int64_t first_entry = work.chunk.begin(position, 0);
    const int64_t end_entry = work.chunk.end(position, 0);
    for (int64_t panel = begin; panel < end; ++panel) {
      with_number<W>(kernel_.cut.vectors(panel), [&](auto width) {
        tiles<M>(first_entry, end_entry, [&](int64_t first, auto size) {
          step_tile<decltype(size)::value, decltype(width)::value>(work, first, panel);
        });
      });
    }
  }

  template <int R, int N>
  void step_tile(const Work& work, int64_t first, int64_t panel) {
    const int64_t units = call_.sizes.units;
    const Entry* entries = work.chunk.entries + first;
    Rows<R> hs;
    for (int m = 0; m < R; ++m) hs.row[m] = h_before(entries[m]);

    // The pre-activations of each block.
    Vector<V> a[Cell::blocks][R][N];
    for (int block = 0; block < Cell::blocks; ++block) {
      auto& sum = a[block];
      if (block < Cell::first_input + Cell::inputs) {
        const float* z = z_of(work, panel, block - Cell::first_input) + first * N * V;
        for (int m = 0; m < R; ++m) {
          for (int w = 0; w < N; ++w) sum[m][w] = load<V>(z + (m * N + w) * V);
        }
      } else {
        Vector<V> bias[N];
        load_bias<N>(block, panel, bias);
        for (int m = 0; m < R; ++m) {
          for (int w = 0; w < N; ++w) sum[m][w] = bias[w];
        }
      }
      if (block >= Cell::first_recurrent) {
        const float* right = recurrent_.panel(panel, block - Cell::first_recurrent);
        accumulate<V>(sum, hs, right, units);
      }
    }
    for (int m = 0; m < R; ++m) {
      finish<N>(entries[m], hs.row[m], kernel_.cut.first(panel), a[0][m], R * N);
    }
  }

  // The nonlinear part of a step, for N * V units of a row from `unit` on. The pre-activations of
  // a block lie `stride` vectors behind those of the block before.
  template <int N>
  __attribute__((noinline)) void finish(const Entry& entry, const float* h_row, int64_t unit,
                                        const Vector<V>* blocks, int stride) {
    const int64_t units = call_.sizes.units;
    const int64_t at = kept_place(entry.step, entry.row);
    float* ys = out_.ys + place(call_, entry.step, entry.row) * units + unit;
    float *c_row = nullptr, *cs = nullptr, *gates_row = nullptr, *trace = nullptr;
    const float* c_old_row = nullptr;
    if constexpr (Cell::has_c) {
      c_row = cells_ + entry.row * units + unit;
      c_old_row = c_before(entry) + unit;
      if (out_.cs) cs = out_.cs + at * units + unit;
    }
    if constexpr (Cell::keeps_gates) {
      if (out_.gates && !out_.traces) gates_row = out_.gates + at * Cell::blocks * units + unit;
      if (out_.gates && out_.traces) trace = out_.gates + at * Cell::traced * units + unit;
    }
#pragma GCC unroll 4
    for (int w = 0; w < N; ++w) {
      const int64_t n = units - unit - w * V;
      Vector<V> a[Cell::blocks], h, c, c_old = {};
      for (int block = 0; block < Cell::blocks; ++block) a[block] = blocks[block * stride + w];
      if constexpr (Cell::has_c) c_old = load<V>(c_old_row + w * V, n);
      if constexpr (Cell::keeps_gates) {
        if (trace) {
          Vector<V> shown[Cell::traced];
          Cell::template trace<V>(a, shown);
          for (int gate = 0; gate < Cell::traced; ++gate) {
            store<V>(trace + gate * units + w * V, shown[gate], n);
          }
        }
      }
      Cell::template forward<V>(a, load<V>(h_row + unit + w * V, n), c_old, h, c);
      store<V>(ys + w * V, h, n);
      if constexpr (Cell::has_c) {
        store<V>(c_row + w * V, c, n);
        if (cs) store<V>(cs + w * V, c, n);
      }
      if constexpr (Cell::keeps_gates) {
        if (!gates_row) continue;
        for (int block = 0; block < Cell::blocks; ++block) {
          store<V>(gates_row + block * units + w * V, a[block], n);
        }
      }
    }
  }

  // Where the kept arrays of a step lie.
  int64_t kept_place(int64_t step, int64_t row) const {
    if (out_.traces) return place(call_, step, row);
    return step * call_.sizes.rows + row;
  }

  const float* h_before(const Entry& entry) const {
    const int64_t units = call_.sizes.units;
    if (entry.source == from_start) return call_.h0 + entry.row * units;
    if (entry.source == from_initial) return call_.h_initial + entry.row * units;
    return out_.ys + place(call_, entry.source, entry.row) * units;
  }

  // c of the last step lies in the result, where each step replaces it.
  const float* c_before(const Entry& entry) const {
    const int64_t units = call_.sizes.units;
    if (entry.source == from_start) return call_.c0 + entry.row * units;
    if (entry.source == from_initial) return call_.c_initial + entry.row * units;
    return cells_ + entry.row * units;
  }

  // Masked steps output zeros. Whatever is kept for the derivative is zero there too.
  void clear_masked() {
    const auto [steps, rows, inputs, units] = call_.sizes;
    if (!call_.mask) return;
    const int parts = team_.size();
    each(team_, parts, [&, rows = rows, units = units, steps = steps](int i) {
      const Part mine(steps * rows, i, parts);
      for (int64_t at = mine.begin; at < mine.end; ++at) {
        if (call_.mask[at]) continue;
        const int64_t step = at / rows, row = at % rows, kept = kept_place(step, row);
        clear(out_.ys + place(call_, step, row) * units, units);
        if (out_.cs) clear(out_.cs + kept * units, units);
        if constexpr (Cell::keeps_gates) {
          const int64_t width = (out_.traces ? Cell::traced : Cell::blocks) * units;
          if (out_.gates) clear(out_.gates + kept * width, width);
        }
      }
    });
  }

  static void clear(float* p, int64_t n) { __builtin_memset(p, 0, n * sizeof(float)); }

  // Copies the final state: an output, or a state that the caller gave.
  void copy_final_state() {
    const int64_t rows = call_.sizes.rows, units = call_.sizes.units;
    for (int32_t b = 0; b < rows; ++b) {
      const Entry after{0, b, history_.last[b]};
      __builtin_memcpy(out_.h + b * units, h_before(after), units * sizeof(float));
      if constexpr (Cell::has_c) {
        // Where the last source is a step, c lies there already.
        if (after.source >= 0) continue;
        __builtin_memcpy(cells_ + b * units, c_before(after), units * sizeof(float));
      }
    }
  }

  const Arguments& call_;
  const Results& out_;
  Team& team_;
  Scratch scratch_;
  History history_;
  GatePanels<V, W> kernel_;
  GatePanels<V, W> recurrent_;
  Division division_;
  Shares shares_;
  float* cells_;  // [B, H]
};

}  // namespace
}  // namespace recurrax
