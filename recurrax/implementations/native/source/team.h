// A team of threads: the caller, and helpers that join when they wake up.
//
// The caller never waits for a helper that has not begun a task. So a helper that wakes up late, or
// a machine whose cores are busy, costs little.
#pragma once

#include <functional>
#include <memory>

namespace recurrax {

class Team {
 public:
  // Runs a function on some other thread, now or later.
  using Schedule = std::function<void(std::function<void()>)>;

  // `size` threads with the caller; `schedule` is called for each helper.
  Team(int size, const Schedule& schedule);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // Runs task(context, i) for each i below `count`, and returns when all are done.
  void each(int count, void (*task)(void*, int), void* context);

 private:
  struct Shared;
  int size_;
  std::shared_ptr<Shared> shared_;
};

}  // namespace recurrax
