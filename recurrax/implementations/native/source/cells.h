// The equations of each cell, for V units at once.
//
// A block is one pre-activation of every unit: a number of gates, in an order that suits products.
// The inputs reach the blocks [first_input, first_input + inputs), the state the blocks
// [first_recurrent, first_recurrent + recurrents). `input_gates` and `recurrent_gates` say which
// gate of `kernel` and `recurrent_kernel` belongs to each of them. `trace` gives the
// pre-activations of the `traced` gates, as a trace shows them: in the order of their names.
#pragma once

#include "vector.h"

namespace recurrax {
namespace {

// i = σ(a0), f = σ(a1), g = tanh(a2), o = σ(a3);  c' = f c + i g;  h' = o tanh(c')
struct Lstm {
  static constexpr int blocks = 4;
  static constexpr int first_input = 0, inputs = 4;
  static constexpr int first_recurrent = 0, recurrents = 4;
  static constexpr int input_gates[] = {0, 1, 2, 3};
  static constexpr int recurrent_gates[] = {0, 1, 2, 3};
  static constexpr int traced = 4;
  static constexpr bool has_c = true;
  static constexpr bool keeps_gates = true;

  template <int V>
  static void trace(const Vector<V>* a, Vector<V>* shown) {
    shown[0] = a[2];  // cell
    shown[1] = a[1];  // forget
    shown[2] = a[0];  // input
    shown[3] = a[3];  // output
  }

  // `a` comes as pre-activations and leaves as gates.
  template <int V>
  static void activate(Vector<V>* a) {
    a[0] = sigmoid<V>(a[0]);
    a[1] = sigmoid<V>(a[1]);
    a[2] = tanh<V>(a[2]);
    a[3] = sigmoid<V>(a[3]);
  }

  template <int V>
  static void forward(Vector<V>* a, Vector<V>, Vector<V> c_before, Vector<V>& h, Vector<V>& c) {
    activate<V>(a);
    c = a[1] * c_before + a[0] * a[2];
    h = a[3] * tanh<V>(c);
  }

  // `dc` comes as the gradient of c' and leaves as the gradient of c. `dh` is the gradient of h'.
  // It leaves as the gradient of h that does not pass through a product: none here.
  template <int V>
  static void backward(const Vector<V>* a, Vector<V>, Vector<V> c_before, Vector<V>, Vector<V> c,
                       Vector<V>& dh, Vector<V>& dc, Vector<V>* d) {
    const Vector<V> i = a[0], f = a[1], g = a[2], o = a[3];
    const Vector<V> squashed = tanh<V>(c);
    dc += dh * o * (1.0f - squashed * squashed);
    d[0] = dc * g * i * (1.0f - i);
    d[1] = dc * c_before * f * (1.0f - f);
    d[2] = dc * i * (1.0f - g * g);
    d[3] = dh * squashed * o * (1.0f - o);
    dc *= f;
    dh = Vector<V>{};
  }
};

// n = tanh(a0 + r a3), r = σ(a1), z = σ(a2);  h' = (1 - z) n + z h.  The candidate's share of the
// inputs, a0, and of the state, a3, are two blocks, because r stands between them.
struct Gru {
  static constexpr int blocks = 4;
  static constexpr int first_input = 0, inputs = 3;        // n, r, z
  static constexpr int first_recurrent = 1, recurrents = 3;  // r, z, u_n
  static constexpr int input_gates[] = {2, 0, 1};
  static constexpr int recurrent_gates[] = {0, 1, 2};
  static constexpr int traced = 3;
  static constexpr bool has_c = false;
  static constexpr bool keeps_gates = true;

  template <int V>
  static void trace(const Vector<V>* a, Vector<V>* shown) {
    shown[0] = a[0] + sigmoid<V>(a[1]) * a[3];  // new
    shown[1] = a[1];  // reset
    shown[2] = a[2];  // update
  }

  template <int V>
  static void activate(Vector<V>* a) {
    a[1] = sigmoid<V>(a[1]);
    a[2] = sigmoid<V>(a[2]);
    a[0] = tanh<V>(a[0] + a[1] * a[3]);
  }

  template <int V>
  static void forward(Vector<V>* a, Vector<V> h_before, Vector<V>, Vector<V>& h, Vector<V>&) {
    activate<V>(a);
    h = (1.0f - a[2]) * a[0] + a[2] * h_before;
  }

  template <int V>
  static void backward(const Vector<V>* a, Vector<V> h_before, Vector<V>, Vector<V>, Vector<V>,
                       Vector<V>& dh, Vector<V>&, Vector<V>* d) {
    const Vector<V> n = a[0], r = a[1], z = a[2], u = a[3];
    const Vector<V> dn = dh * (1.0f - z) * (1.0f - n * n);
    d[0] = dn;
    d[1] = dn * u * r * (1.0f - r);
    d[2] = dh * (h_before - n) * z * (1.0f - z);
    d[3] = dn * r;
    dh *= z;
  }
};

// h' = tanh(a) or relu(a). The slope follows from h', so no gate is kept.
template <bool Relu>
struct Elman {
  static constexpr int blocks = 1;
  static constexpr int first_input = 0, inputs = 1;
  static constexpr int first_recurrent = 0, recurrents = 1;
  static constexpr int input_gates[] = {0};
  static constexpr int recurrent_gates[] = {0};
  static constexpr bool has_c = false;
  static constexpr bool keeps_gates = false;

  template <int V>
  static void activate(Vector<V>*) {}

  template <int V>
  static void forward(Vector<V>* a, Vector<V>, Vector<V>, Vector<V>& h, Vector<V>&) {
    const Vector<V> zero = {};
    // NaN is not below zero, so it passes.
    if constexpr (Relu) {
      h = a[0] < zero ? zero : a[0];
    } else {
      h = tanh<V>(a[0]);
    }
  }

  template <int V>
  static void backward(const Vector<V>*, Vector<V>, Vector<V>, Vector<V> h, Vector<V>,
                       Vector<V>& dh, Vector<V>&, Vector<V>* d) {
    const Vector<V> zero = {};
    if constexpr (Relu) {
      d[0] = h > zero ? dh : zero;
    } else {
      d[0] = dh * (1.0f - h * h);
    }
    dh = zero;
  }
};

}  // namespace
}  // namespace recurrax
