#include "scratch.h"

#include <cstdlib>
#include <mutex>
#include <new>

namespace recurrax {

// A header in front of the memory itself.
struct alignas(64) Scratch::Block {
  Block* next;
  int64_t size;  // bytes after the header
};

namespace {

constexpr int64_t least = int64_t{1} << 16;     // smaller pieces share a block of this size
constexpr int64_t most_kept = int64_t{1} << 27;  // bytes that are kept between calls

std::mutex mutex;
// Blocks that no call uses: a list, held as void* because `Block` is private.
void* unused = nullptr;
int64_t kept = 0;

}  // namespace

void* Scratch::bytes(int64_t size) {
  if (size < least) size = least;
  size = (size + 63) / 64 * 64;
  Block* block = nullptr;
  {
    std::lock_guard<std::mutex> lock(mutex);
    // The smallest block that is large enough.
    Block* head = static_cast<Block*>(unused);
    Block** best = nullptr;
    for (Block** at = &head; *at; at = &(*at)->next) {
      if ((*at)->size >= size && (!best || (*at)->size < (*best)->size)) best = at;
    }
    // A block more than twice as large serves a larger request later.
    if (best && (*best)->size <= 2 * size) {
      block = *best;
      *best = block->next;
      kept -= block->size;
      unused = head;
    }
  }
  if (!block) {
    void* memory = std::aligned_alloc(64, sizeof(Block) + size);
    if (!memory) throw std::bad_alloc();
    block = new (memory) Block{nullptr, size};
  }
  block->next = first_;
  first_ = block;
  return block + 1;
}

Scratch::~Scratch() {
  std::lock_guard<std::mutex> lock(mutex);
  while (first_) {
    Block* block = first_;
    first_ = block->next;
    if (kept + block->size > most_kept) {
      std::free(block);
      continue;
    }
    block->next = static_cast<Block*>(unused);
    unused = block;
    kept += block->size;
  }
}

}  // namespace recurrax
