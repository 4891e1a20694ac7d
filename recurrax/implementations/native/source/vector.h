// Vectors of V floats, by the vector extensions of GCC and Clang, and functions of them.
#pragma once

#include <cstdint>

namespace recurrax {
namespace {

template <int V>
struct Lanes {
  typedef float Float __attribute__((vector_size(V * sizeof(float))));
  typedef uint32_t Bits __attribute__((vector_size(V * sizeof(float))));
};

template <int V>
using Vector = typename Lanes<V>::Float;

template <int V>
inline Vector<V> load(const float* p) {
  Vector<V> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <int V>
inline void store(float* p, Vector<V> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

// The first n floats at p, then zeros.
template <int V>
inline Vector<V> load(const float* p, int64_t n) {
  if (n >= V) return load<V>(p);
  Vector<V> v = {};
  for (int64_t k = 0; k < n; ++k) v[k] = p[k];
  return v;
}

template <int V>
inline void store(float* p, Vector<V> v, int64_t n) {
  if (n >= V) return store<V>(p, v);
  for (int64_t k = 0; k < n; ++k) p[k] = v[k];
}

template <int V>
inline typename Lanes<V>::Bits bits(Vector<V> v) {
  return reinterpret_cast<typename Lanes<V>::Bits>(v);
}

template <int V>
inline Vector<V> from_bits(typename Lanes<V>::Bits b) {
  return reinterpret_cast<Vector<V>>(b);
}

// e^x within 2 ulp. x is limited to the range of float32; NaN stays NaN.
template <int V>
inline Vector<V> exp(Vector<V> x) {
  const Vector<V> zero = {};
  const Vector<V> low = zero - 87.33654f;
  const Vector<V> high = zero + 88.37626f;
  // A comparison with NaN is false, so NaN passes.
  x = x < low ? low : x;
  x = x > high ? high : x;
  // x = n * log(2) + r. Adding 1.5 * 2^23 leaves the integer n in the lowest bits.
  const Vector<V> shifted = x * 1.44269504f + 12582912.0f;
  const Vector<V> n = shifted - 12582912.0f;
  Vector<V> r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  // A polynomial of e^r (Cephes, 1984).
  Vector<V> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^n: n goes into the exponent.
  const Vector<V> power = from_bits<V>((bits<V>(shifted) << 23) + 0x3f800000u);
  return p * power;
}

template <int V>
inline Vector<V> sigmoid(Vector<V> x) {
  return 1.0f / (1.0f + exp<V>(-x));
}

// tanh within 3 ulp; NaN stays NaN.
template <int V>
inline Vector<V> tanh(Vector<V> x) {
  const typename Lanes<V>::Bits sign = bits<V>(x) & 0x80000000u;
  const Vector<V> size = from_bits<V>(bits<V>(x) & 0x7fffffffu);
  // Near 0, 1 - 2 / (e^2x + 1) would lose digits. There a polynomial serves (Cephes, 1984).
  const Vector<V> z = x * x;
  Vector<V> p = z * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * z + -5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z + -3.33332819422e-1f;
  const Vector<V> near = p * z * x + x;
  const Vector<V> positive = 1.0f - 2.0f / (exp<V>(size + size) + 1.0f);
  const Vector<V> far = from_bits<V>(bits<V>(positive) | sign);
  const Vector<V> zero = {};
  return size < zero + 0.625f ? near : far;
}

}  // namespace
}  // namespace recurrax
