// A team whose pool runs every helper at once, on the thread of the caller, as XLA's pool does when
// its queue is full. The caller must not wait for itself.
#include <atomic>
#include <cstdio>

#include "team.h"

int main() {
  std::atomic<int> done{0};
  recurrax::Team team(3, [](std::function<void()> help) { help(); });
  auto task = [](void* context, int) { ++*static_cast<std::atomic<int>*>(context); };
  for (int job = 0; job < 5; ++job) team.each(7, task, &done);
  std::printf("%d\n", done.load());
}
