// The right factors of products, packed into panels.
//
// A panel has W vectors of columns, the last panel of a matrix as few as hold its columns. It lies
// as [depth, width], so a tile reads it from front to back. Missing columns are zero.
#pragma once

#include <cstdint>

#include "scratch.h"
#include "vector.h"

namespace recurrax {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// How `columns` columns are cut into panels, for V floats a vector and W vectors a panel.
template <int V, int W>
struct Cut {
  int64_t columns;

  int64_t panels() const { return (columns + V * W - 1) / (V * W); }
  int64_t first(int64_t panel) const { return panel * (V * W); }
  // The columns in a panel, and the vectors and floats that hold them.
  int64_t count(int64_t panel) const { return least(columns - first(panel), V * W); }
  int vectors(int64_t panel) const { return static_cast<int>((count(panel) + V - 1) / V); }
  int64_t width(int64_t panel) const { return vectors(panel) * V; }
  // The floats in all panels of one row.
  int64_t row() const { return (columns + V - 1) / V * V; }
};

// Gates of a kernel [depth, G*H], for products of rows with it. For each panel of units there is
// one [depth, width] for each gate.
template <int V, int W>
struct GatePanels {
  Cut<V, W> cut;
  int64_t depth;
  int gates;
  float* data;

  GatePanels(int64_t units, int64_t depth, int gates, Scratch& scratch)
      : cut{units}, depth(depth), gates(gates) {
    data = scratch.floats(cut.row() * depth * gates);
  }

  float* panel(int64_t p, int gate) const {
    return data + (cut.first(p) * gates + gate * cut.width(p)) * depth;
  }

  // Packs the rows [begin, end) of a kernel with `all_gates` gates.
  void pack(const float* kernel, const int* gate_of, int all_gates, int64_t begin, int64_t end) {
    const int64_t units = cut.columns;
    for (int64_t k = begin; k < end; ++k) {
      for (int64_t p = 0; p < cut.panels(); ++p) {
        for (int gate = 0; gate < gates; ++gate) {
          const float* from = kernel + (k * all_gates + gate_of[gate]) * units + cut.first(p);
          float* to = panel(p, gate) + k * cut.width(p);
          for (int v = 0; v < cut.vectors(p); ++v) {
            store<V>(to + v * V, load<V>(from + v * V, cut.count(p) - v * V));
          }
        }
      }
    }
  }
};

// The transpose of such a kernel, for products with gradients: [gates * H, rows of the kernel].
template <int V, int W>
struct TransposedPanels {
  Cut<V, W> cut;
  int64_t depth;  // gates * H
  float* data;

  TransposedPanels(int64_t rows, int64_t depth, Scratch& scratch) : cut{rows}, depth(depth) {
    data = scratch.floats(cut.row() * depth);
  }

  float* panel(int64_t p) const { return data + cut.first(p) * depth; }

  // Packs one panel: V rows of the kernel at a time, each read from front to back.
  void pack(const float* kernel, const int* gate_of, int gates, int all_gates, int64_t units,
            int64_t p) {
    const int64_t width = cut.width(p);
    for (int gate = 0; gate < gates; ++gate) {
      float* to = panel(p) + gate * units * width;
      for (int64_t column = 0; column < width; ++column) {
        if (column >= cut.count(p)) {
          for (int64_t k = 0; k < units; ++k) to[k * width + column] = 0.0f;
          continue;
        }
        const int64_t row = cut.first(p) + column;
        const float* from = kernel + (row * all_gates + gate_of[gate]) * units;
        for (int64_t k = 0; k < units; ++k) to[k * width + column] = from[k];
      }
    }
  }
};

}  // namespace
}  // namespace recurrax
