// What a call gets and returns: plain pointers and sizes, without a template.
//
// T steps, B rows, I input features, H units. Arrays lie in memory without gaps.
#pragma once

#include <cstdint>

namespace recurrax {

enum class Kind : int64_t { lstm = 0, gru = 1, elman_tanh = 2, elman_relu = 3 };

struct Sizes {
  int64_t steps;   // T
  int64_t rows;    // B
  int64_t inputs;  // I
  int64_t units;   // H
};

// The arguments that both directions read. A cell without c has null for each c.
struct Arguments {
  Kind kind;
  bool reverse;
  Sizes sizes;
  // Whether `xs`, `ys` and their gradients lie in memory as [B, T, ...]. No other array does.
  bool batch_major;
  const float* xs;                // [T, B, I]
  const float* kernel;            // [I, G*H]
  const float* recurrent_kernel;  // [H, G*H]
  const float* bias;              // [blocks*H], see cells.h
  const float* h0;                // [B, H], the state before the first step
  const float* c0;                // [B, H]
  const float* h_initial;         // [B, H], the state at a restart; null without restarts
  const float* c_initial;         // [B, H]
  const bool* mask;               // [T, B]; null if every step is unmasked
  const bool* restart;            // [T, B]; null without restarts
};

struct Results {
  float* ys;     // [T, B, H]
  float* h;      // [B, H], the state after the last step
  float* c;      // [B, H]
  float* cs;     // [T, B, H], c after each step; null if no derivative will follow
  float* gates;  // [T, B, blocks*H], the activated gates; null as cs
  // Whether `gates` gets the pre-activations of G gates instead, [T, B, G*H]. It and `cs` then lie
  // in memory as `ys` does.
  bool traces;
};

// What the backward pass reads besides the arguments.
struct Cotangents {
  const float* ys;     // [T, B, H], from the forward pass
  const float* cs;     // [T, B, H]
  const float* gates;  // [T, B, blocks*H]
  const float* d_ys;   // [T, B, H]
  const float* d_h;    // [B, H]
  const float* d_c;    // [B, H]
};

// A null pointer means that this gradient is not wanted.
struct Gradients {
  float* xs;                // [T, B, I]
  float* kernel;            // [I, G*H]
  float* recurrent_kernel;  // [H, G*H]
  float* bias;              // [blocks*H]
  float* h0;                // [B, H]
  float* c0;                // [B, H]
  float* h_initial;         // [B, H]
  float* c_initial;         // [B, H]
};

}  // namespace recurrax
