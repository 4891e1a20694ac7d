// Runs the native kernels on random problems, for the sanitizers of the compiler: see fuzz.py.
//
// Every target that runs on this machine, with one thread and with several, must give the results
// of the last target with one thread.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "call.h"
#include "target.h"
#include "team.h"

namespace {

using namespace recurrax;

std::mt19937 generator;

int64_t below(int64_t n) { return static_cast<int64_t>(generator() % n); }

// Exactly as long as it must be, so that AddressSanitizer sees every access beyond it.
using Array = std::unique_ptr<float[]>;

Array normal(int64_t n) {
  std::normal_distribution<float> draw;
  Array array(new float[n]);
  for (int64_t k = 0; k < n; ++k) array[k] = draw(generator);
  return array;
}

std::unique_ptr<bool[]> flags(int64_t n, int percent) {
  std::unique_ptr<bool[]> array(new bool[n]);
  for (int64_t k = 0; k < n; ++k) array[k] = below(100) < percent;
  return array;
}

struct Output {
  std::vector<Array> arrays;
  std::vector<int64_t> sizes;

  float* add(int64_t n) {
    arrays.emplace_back(new float[n]);
    sizes.push_back(n);
    // What the kernels do not write would be seen.
    for (int64_t k = 0; k < n; ++k) arrays.back()[k] = NAN;
    return arrays.back().get();
  }
};

// A pool whose threads begin whenever the system likes. Now and then its queue is full: then it runs
// the work at once, as XLA's pool does.
class Pool {
 public:
  void schedule(std::function<void()> work) {
    if (below(6) == 0) return work();
    threads_.emplace_back(std::move(work));
  }
  ~Pool() {
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  std::vector<std::thread> threads_;
};

struct Problem {
  Arguments call{};
  int64_t gates, blocks;
  bool has_c;
  std::vector<Array> arrays;
  std::unique_ptr<bool[]> mask, restart;
  const float *d_ys, *d_h, *d_c;

  const float* draw(int64_t n, float scale = 1) {
    arrays.push_back(normal(n));
    for (int64_t k = 0; k < n; ++k) arrays.back()[k] *= scale;
    return arrays.back().get();
  }

  Problem() {
    call.kind = static_cast<Kind>(below(4));
    has_c = call.kind == Kind::lstm;
    gates = has_c ? 4 : (call.kind == Kind::gru ? 3 : 1);
    blocks = gates == 1 ? 1 : 4;
    call.reverse = below(2);
    call.batch_major = below(2);
    // Most problems are small. Some have more rows than a chunk, some have no step, row or input.
    const int64_t steps = below(12), inputs = below(40), units = 1 + below(70);
    const int64_t rows = below(10) ? below(40) : 250 + below(80);
    call.sizes = Sizes{steps, rows, inputs, units};
    const int64_t state = rows * units;
    call.xs = draw(steps * rows * inputs);
    call.kernel = draw(inputs * gates * units);
    // Larger numbers would make errors of rounding grow from step to step.
    call.recurrent_kernel = draw(units * gates * units, 0.5f / std::sqrt(1.0f * units));
    call.bias = draw(blocks * units);
    call.h0 = draw(state);
    if (has_c) call.c0 = draw(state);
    if (below(2)) {
      mask = flags(steps * rows, 60);
      call.mask = mask.get();
    }
    if (below(2)) {
      restart = flags(steps * rows, 20);
      call.restart = restart.get();
      call.h_initial = draw(state);
      if (has_c) call.c_initial = draw(state);
    }
    d_ys = draw(steps * state);
    d_h = draw(state);
    d_c = has_c ? draw(state) : nullptr;
  }

  Output solve(const Target& target, int threads) {
    const auto [steps, rows, inputs, units] = call.sizes;
    const int64_t state = rows * units;
    Output output;
    Results results{};
    results.ys = output.add(steps * state);
    results.h = output.add(state);
    if (has_c) results.c = output.add(state);
    if (has_c) results.cs = output.add(steps * state);
    if (blocks > 1) results.gates = output.add(steps * state * blocks);
    const Cotangents given{results.ys, results.cs, results.gates, d_ys, d_h, d_c};
    Gradients gradients{};
    gradients.xs = output.add(steps * rows * inputs);
    gradients.kernel = output.add(inputs * gates * units);
    gradients.recurrent_kernel = output.add(units * gates * units);
    gradients.bias = output.add(blocks * units);
    gradients.h0 = output.add(state);
    if (has_c) gradients.c0 = output.add(state);
    if (restart) gradients.h_initial = output.add(state);
    if (restart && has_c) gradients.c_initial = output.add(state);
    Pool pool;
    const auto schedule = [&](std::function<void()> work) { pool.schedule(std::move(work)); };
    {
      Team team(threads, schedule);
      target.forward(call, results, team);
    }
    // The pre-activations, and every c, of a trace.
    results.traces = true;
    if (has_c) results.cs = output.add(steps * state);
    if (gates > 1) results.gates = output.add(steps * state * gates);
    {
      Team team(threads, schedule);
      target.forward(call, results, team);
    }
    Team team(threads, schedule);
    target.backward(call, given, gradients, team);
    return output;
  }
};

double difference(const Output& a, const Output& b) {
  double worst = 0;
  for (size_t i = 0; i < a.arrays.size(); ++i) {
    double size = 1, off = 0;
    for (int64_t k = 0; k < a.sizes[i]; ++k) {
      const float x = a.arrays[i][k], y = b.arrays[i][k];
      if (!(std::isfinite(x) && std::isfinite(y))) return INFINITY;
      size = std::fmax(size, std::fabs(y));
      off = std::fmax(off, std::fabs(x - y));
    }
    worst = std::fmax(worst, off / size);
  }
  return worst;
}

}  // namespace

int main(int argc, char** argv) {
  const int problems = argc > 1 ? std::atoi(argv[1]) : 100;
  double worst = 0;
  for (int seed = 0; seed < problems; ++seed) {
    generator.seed(seed);
    Problem problem;
    const Output expected = problem.solve(*targets[target_count - 1], 1);
    for (int i = 0; i < target_count; ++i) {
      if (!targets[i]->runs_here()) continue;
      for (const int threads : {1, 2, 5}) {
        const double off = difference(problem.solve(*targets[i], threads), expected);
        worst = std::fmax(worst, off);
        if (off < 1e-4) continue;
        const auto [steps, rows, inputs, units] = problem.call.sizes;
        std::printf("seed %d, %s, %d threads: off by %g; kind %d, T %d, B %d, I %d, H %d\n", seed,
                    targets[i]->name, threads, off, static_cast<int>(problem.call.kind),
                    static_cast<int>(steps), static_cast<int>(rows), static_cast<int>(inputs),
                    static_cast<int>(units));
        return 1;
      }
    }
  }
  std::printf("%d problems: results differ by at most %g\n", problems, worst);
  return 0;
}
