#include "team.h"

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace recurrax {
namespace {

// Lets another hardware thread of this core run.
inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits a little longer each time it is called. A thread that only spins would take a core from the
// thread for which it waits, so it soon yields.
class Wait {
 public:
  void once() {
    if (++count_ < 64) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }

 private:
  int count_ = 0;
};

// More tasks than this are run in groups.
constexpr int most_groups = 256;
constexpr uint64_t closed = ~uint64_t{0};

}  // namespace

// Helpers share this with the caller. A helper may outlive the call: then it sees `closed`.
struct Team::Shared {
  // The number of the job in the upper 48 bits, its count of groups in the lower 16. Both change at
  // once, so a helper never takes a group of one job for a group of another.
  alignas(64) std::atomic<uint64_t> job{0};
  alignas(64) std::atomic<int> done{0};
  // For each group of tasks, the last job in which it was claimed.
  std::vector<std::atomic<uint64_t>> claimed;
  // Written before `job`, read after a claim.
  int tasks = 0;
  void (*task)(void*, int) = nullptr;
  void* context = nullptr;

  Shared() : claimed(most_groups) {}

  // Claims groups of tasks and runs them. Thread k begins at its own part: it meets the same data each time.
  void work(uint64_t job_now, int thread, int threads) {
    const uint64_t number = job_now >> 16;
    const int groups = static_cast<int>(job_now & 0xffff);
    const int begin = static_cast<int>(int64_t{groups} * thread / threads);
    for (int k = 0; k < groups; ++k) {
      int group = begin + k;
      if (group >= groups) group -= groups;
      uint64_t last = claimed[group].load(std::memory_order_relaxed);
      // A job ends when all its groups are claimed and done. So `last` is below `number` only if
      // this job is the present one.
      if (last >= number) continue;
      if (!claimed[group].compare_exchange_strong(last, number)) continue;
      const int end = static_cast<int>(int64_t{tasks} * (group + 1) / groups);
      for (int i = static_cast<int>(int64_t{tasks} * group / groups); i < end; ++i) {
        task(context, i);
      }
      done.fetch_add(1, std::memory_order_release);
    }
  }

  void help(int thread, int threads) {
    uint64_t seen = 0;
    Wait wait;
    while (true) {
      const uint64_t now = job.load(std::memory_order_acquire);
      if (now == closed) return;
      if (now == seen) {
        wait.once();
        continue;
      }
      seen = now;
      wait = Wait();
      work(now, thread, threads);
    }
  }
};

Team::Team(int size, const Schedule& schedule)
    : size_(size), shared_(std::make_shared<Shared>()) {
  // A pool whose queue is full runs the function at once, on this thread. As a helper this thread
  // would wait for itself for ever.
  const std::thread::id caller = std::this_thread::get_id();
  for (int k = 1; k < size; ++k) {
    schedule([shared = shared_, k, size, caller] {
      if (std::this_thread::get_id() != caller) shared->help(k, size);
    });
  }
}

Team::~Team() { shared_->job.store(closed, std::memory_order_release); }

void Team::each(int count, void (*task)(void*, int), void* context) {
  if (size_ == 1 || count <= 1) {
    for (int i = 0; i < count; ++i) task(context, i);
    return;
  }
  Shared& shared = *shared_;
  const int groups = count < most_groups ? count : most_groups;
  shared.tasks = count;
  shared.task = task;
  shared.context = context;
  shared.done.store(0, std::memory_order_relaxed);
  const uint64_t number = (shared.job.load(std::memory_order_relaxed) >> 16) + 1;
  const uint64_t now = number << 16 | static_cast<uint64_t>(groups);
  shared.job.store(now, std::memory_order_release);
  shared.work(now, 0, size_);
  // Only groups that a helper has begun are missing.
  Wait wait;
  while (shared.done.load(std::memory_order_acquire) != groups) wait.once();
}

}  // namespace recurrax
