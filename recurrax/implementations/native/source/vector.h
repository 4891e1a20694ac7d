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

// tanh as a quotient of two polynomials, within 4 ulp (Eigen and XLA use it too); NaN stays NaN.
template <int V>
inline Vector<V> tanh(Vector<V> x) {
  const Vector<V> zero = {};
  // Beyond this number the quotient is 1 in float32.
  const Vector<V> high = zero + 7.90531110763549805f;
  x = x > high ? high : x;
  x = x < -high ? -high : x;
  const Vector<V> z = x * x;
  Vector<V> p = z * -2.76076847742355e-16f + 2.00018790482477e-13f;
  p = p * z + -8.60467152213735e-11f;
  p = p * z + 5.12229709037114e-08f;
  p = p * z + 1.48572235717979e-05f;
  p = p * z + 6.37261928875436e-04f;
  p = p * z + 4.89352455891786e-03f;
  Vector<V> q = z * 1.19825839466702e-06f + 1.18534705686654e-04f;
  q = q * z + 2.26843463243900e-03f;
  q = q * z + 4.89352518554385e-03f;
  return x * p / q;
}

}  // namespace
}  // namespace recurrax
