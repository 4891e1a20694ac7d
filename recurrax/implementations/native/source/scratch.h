// Memory for one call, kept for the next call: a page that is touched for the first time is slow.
#pragma once

#include <cstddef>
#include <cstdint>

namespace recurrax {

class Scratch {
 public:
  Scratch() = default;
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Memory without a value, at an address that is a multiple of 64.
  float* floats(int64_t count) { return static_cast<float*>(bytes(count * sizeof(float))); }
  int32_t* ints(int64_t count) { return static_cast<int32_t*>(bytes(count * sizeof(int32_t))); }
  void* bytes(int64_t size);

 private:
  struct Block;
  Block* first_ = nullptr;
};

}  // namespace recurrax
