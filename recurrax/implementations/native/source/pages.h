// Large pages for large arrays.
//
// XLA maps a large array anew at each call, and the system clears each of its pages at the first
// write. With pages of 2 MB this happens 512 times less often than with pages of 4 KB.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace recurrax {

// Asks for large pages in [p, p + bytes). The system may refuse, so nothing depends on the answer.
inline void ask_for_large_pages(void* p, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = uintptr_t{1} << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(p) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(p) + bytes) / page * page;
  if (p && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace recurrax
