// The three functions that XLA calls. They check sizes, so that no call reads or writes elsewhere.
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <string>

#include "call.h"
#include "pages.h"
#include "target.h"
#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace recurrax {
namespace {

using Floats = ffi::Buffer<ffi::F32>;
using Flags = ffi::Buffer<ffi::PRED>;
using Result = ffi::Result<Floats>;

// The best target for this processor, or the one that an environment variable names.
const Target* choose_target() {
  const char* wanted = std::getenv("RECURRAX_NATIVE_TARGET");
  for (int i = 0; i < target_count; ++i) {
    if (!targets[i]->runs_here()) continue;
    if (!wanted || std::strcmp(wanted, targets[i]->name) == 0) return targets[i];
  }
  return targets[target_count - 1];
}

const Target& target() {
  static const Target* const chosen = choose_target();
  return *chosen;
}

int64_t gates_of(Kind kind) {
  if (kind == Kind::lstm) return 4;
  return kind == Kind::gru ? 3 : 1;
}

int64_t blocks_of(Kind kind) { return kind == Kind::lstm || kind == Kind::gru ? 4 : 1; }

// Compares sizes of arrays; remembers the first that is wrong.
class Sizing {
 public:
  // The data of an array of this size; null if it is empty, as an optional array may be.
  template <class Array>
  auto require(const char* name, const Array& array, int64_t size, bool optional = false)
      -> decltype(array.typed_data()) {
    const int64_t count = static_cast<int64_t>(array.element_count());
    if (count != size && !(optional && count == 0) && message_.empty()) {
      message_ = std::string("`") + name + "` must have " + std::to_string(size) +
                 " elements; got " + std::to_string(count) + ".";
    }
    return count == 0 ? nullptr : array.typed_data();
  }

  float* require(const char* name, Result& result, int64_t size, bool optional = false) {
    return require(name, *result, size, optional);
  }

  const std::string& message() const { return message_; }

 private:
  std::string message_;
};

ffi::Error read_sizes(int64_t kind, const Floats& xs, const Floats& recurrent_kernel,
                      Sizes& sizes) {
  if (kind < 0 || kind > 3) return ffi::Error::InvalidArgument("`kind` is unknown.");
  if (xs.dimensions().size() != 3 || recurrent_kernel.dimensions().size() != 2) {
    return ffi::Error::InvalidArgument("`xs` must be [T, B, I], `recurrent_kernel` [H, G*H].");
  }
  const auto dims = xs.dimensions();
  sizes = Sizes{dims[0], dims[1], dims[2], recurrent_kernel.dimensions()[0]};
  return ffi::Error::Success();
}

// As many threads as XLA has, but one thread where waking another would take too long.
int team_size(const ffi::ThreadPool& pool, Kind kind, const Sizes& sizes) {
  const double products = 2.0 * sizes.steps * sizes.rows * (sizes.inputs + sizes.units) *
                          gates_of(kind) * sizes.units;
  if (products < 2e6) return 1;
  const int64_t threads = pool.num_threads();
  return static_cast<int>(threads < 1 ? 1 : threads);
}

Arguments read_arguments(Sizing& sizing, int64_t kind_number, bool reverse, bool batch_major,
                         const Sizes& sizes,
                         Floats xs, Floats kernel, Floats recurrent_kernel, Floats bias, Floats h0,
                         Floats c0, Floats h_initial, Floats c_initial, Flags mask,
                         Flags restart) {
  const auto [steps, rows, inputs, units] = sizes;
  const Kind kind = static_cast<Kind>(kind_number);
  const int64_t width = gates_of(kind) * units, state = rows * units;
  const int64_t cell = kind == Kind::lstm ? state : 0;
  Arguments call{};
  call.kind = kind;
  call.reverse = reverse;
  call.sizes = sizes;
  call.batch_major = batch_major;
  call.xs = sizing.require("xs", xs, steps * rows * inputs);
  call.kernel = sizing.require("kernel", kernel, inputs * width);
  call.recurrent_kernel = sizing.require("recurrent_kernel", recurrent_kernel, units * width);
  call.bias = sizing.require("bias", bias, blocks_of(kind) * units);
  call.h0 = sizing.require("h0", h0, state);
  call.c0 = sizing.require("c0", c0, cell);
  call.mask = sizing.require("mask", mask, steps * rows, true);
  call.restart = sizing.require("restart", restart, steps * rows, true);
  // Without steps, the flags of restarts are empty too.
  if (h_initial.element_count() > 0) {
    call.h_initial = sizing.require("h_initial", h_initial, state);
    call.c_initial = sizing.require("c_initial", c_initial, cell);
  }
  return call;
}

// Runs a function with a team; turns exceptions into XLA's errors.
template <class Function>
ffi::Error with_team(const ffi::ThreadPool& pool, const Arguments& call, const Function& function) {
  try {
    ffi::ThreadPool threads = pool;
    Team team(team_size(pool, call.kind, call.sizes),
              [&](std::function<void()> help) { threads.Schedule(std::move(help)); });
    function(team);
    return ffi::Error::Success();
  } catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
  }
}

// Keeps what a derivative needs, or what a trace shows.
template <bool traces>
ffi::Error forward(ffi::ThreadPool pool, Floats xs, Floats kernel, Floats recurrent_kernel,
                   Floats bias, Floats h0, Floats c0, Floats h_initial, Floats c_initial,
                   Flags mask, Flags restart, Result ys, Result h, Result c, Result cs,
                   Result gates, int64_t kind, bool reverse, bool batch_major) {
  Sizes sizes;
  if (ffi::Error error = read_sizes(kind, xs, recurrent_kernel, sizes); error.failure()) {
    return error;
  }
  Sizing sizing;
  const Arguments call =
      read_arguments(sizing, kind, reverse, batch_major, sizes, xs, kernel, recurrent_kernel, bias, h0, c0,
                     h_initial, c_initial, mask, restart);
  const int64_t state = sizes.rows * sizes.units, all = sizes.steps * state;
  const bool has_c = call.kind == Kind::lstm;
  Results results{};
  results.ys = sizing.require("ys", ys, all);
  results.h = sizing.require("h", h, state);
  results.c = sizing.require("c", c, has_c ? state : 0);
  results.cs = sizing.require("cs", cs, has_c ? all : 0, true);
  const int64_t kept_gates = all * (traces ? gates_of(call.kind) : blocks_of(call.kind));
  results.gates = sizing.require("gates", gates, kept_gates, true);
  results.traces = traces;
  if (!sizing.message().empty()) return ffi::Error::InvalidArgument(sizing.message());
  ask_for_large_pages(results.ys, 4 * all);
  if (results.cs) ask_for_large_pages(results.cs, 4 * all);
  if (results.gates) ask_for_large_pages(results.gates, 4 * kept_gates);
  return with_team(pool, call, [&](Team& team) { target().forward(call, results, team); });
}

ffi::Error backward(ffi::ThreadPool pool, Floats xs, Floats kernel, Floats recurrent_kernel,
                    Floats bias, Floats h0, Floats c0, Floats h_initial, Floats c_initial,
                    Flags mask, Flags restart, Floats ys, Floats cs, Floats gates, Floats d_ys,
                    Floats d_h, Floats d_c, Result d_xs, Result d_kernel,
                    Result d_recurrent_kernel, Result d_bias, Result d_h0, Result d_c0,
                    Result d_h_initial, Result d_c_initial, int64_t kind, bool reverse, bool batch_major) {
  Sizes sizes;
  if (ffi::Error error = read_sizes(kind, xs, recurrent_kernel, sizes); error.failure()) {
    return error;
  }
  Sizing sizing;
  const Arguments call =
      read_arguments(sizing, kind, reverse, batch_major, sizes, xs, kernel, recurrent_kernel, bias, h0, c0,
                     h_initial, c_initial, mask, restart);
  const auto [steps, rows, inputs, units] = sizes;
  const int64_t width = gates_of(call.kind) * units;
  const int64_t state = rows * units, all = steps * state;
  const bool has_c = call.kind == Kind::lstm, keeps = blocks_of(call.kind) > 1;
  Cotangents given{};
  given.ys = sizing.require("ys", ys, all);
  given.cs = sizing.require("cs", cs, has_c ? all : 0);
  given.gates = sizing.require("gates", gates, keeps ? all * blocks_of(call.kind) : 0);
  given.d_ys = sizing.require("d_ys", d_ys, all);
  given.d_h = sizing.require("d_h", d_h, state);
  given.d_c = sizing.require("d_c", d_c, has_c ? state : 0);
  const bool restarts = call.h_initial != nullptr;
  Gradients out{};
  out.xs = sizing.require("d_xs", d_xs, steps * rows * inputs, true);
  out.kernel = sizing.require("d_kernel", d_kernel, inputs * width);
  out.recurrent_kernel =
      sizing.require("d_recurrent_kernel", d_recurrent_kernel, units * width);
  out.bias = sizing.require("d_bias", d_bias, blocks_of(call.kind) * units);
  out.h0 = sizing.require("d_h0", d_h0, state);
  out.c0 = sizing.require("d_c0", d_c0, has_c ? state : 0);
  out.h_initial = sizing.require("d_h_initial", d_h_initial, restarts ? state : 0);
  out.c_initial = sizing.require("d_c_initial", d_c_initial, restarts && has_c ? state : 0);
  if (!sizing.message().empty()) return ffi::Error::InvalidArgument(sizing.message());
  if (out.xs) ask_for_large_pages(out.xs, 4 * steps * rows * inputs);
  return with_team(pool, call, [&](Team& team) { target().backward(call, given, out, team); });
}

// The arrays and facts of a forward call, in the order of the arguments of `forward`.
auto forward_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Floats>()  // xs [T, B, I]
      .Arg<Floats>()  // kernel [I, G*H]
      .Arg<Floats>()  // recurrent_kernel [H, G*H]
      .Arg<Floats>()  // bias [blocks*H]
      .Arg<Floats>()  // h0 [B, H]
      .Arg<Floats>()  // c0 [B, H], or empty
      .Arg<Floats>()  // h_initial [B, H], or empty
      .Arg<Floats>()  // c_initial [B, H], or empty
      .Arg<Flags>()   // mask [T, B], or empty
      .Arg<Flags>()   // restart [T, B], or empty
      .Ret<Floats>()  // ys [T, B, H]
      .Ret<Floats>()  // h [B, H]
      .Ret<Floats>()  // c [B, H], or empty
      .Ret<Floats>()  // cs [T, B, H], or empty
      .Ret<Floats>()  // gates [T, B, blocks*H], or empty
      .Attr<int64_t>("kind")
      .Attr<bool>("reverse")
      .Attr<bool>("batch_major");
}

}  // namespace
}  // namespace recurrax

extern "C" const char* recurrax_target() { return recurrax::target().name; }

XLA_FFI_DEFINE_HANDLER_SYMBOL(recurrax_forward, recurrax::forward<false>,
                              recurrax::forward_binding());

XLA_FFI_DEFINE_HANDLER_SYMBOL(recurrax_states, recurrax::forward<true>,
                              recurrax::forward_binding());

XLA_FFI_DEFINE_HANDLER_SYMBOL(recurrax_backward, recurrax::backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<recurrax::Floats>()  // as in recurrax_forward
                                  .Arg<recurrax::Floats>()
                                  .Arg<recurrax::Floats>()
                                  .Arg<recurrax::Floats>()
                                  .Arg<recurrax::Floats>()
                                  .Arg<recurrax::Floats>()
                                  .Arg<recurrax::Floats>()
                                  .Arg<recurrax::Floats>()
                                  .Arg<recurrax::Flags>()
                                  .Arg<recurrax::Flags>()
                                  .Arg<recurrax::Floats>()  // ys
                                  .Arg<recurrax::Floats>()  // cs
                                  .Arg<recurrax::Floats>()  // gates
                                  .Arg<recurrax::Floats>()  // d_ys [T, B, H]
                                  .Arg<recurrax::Floats>()  // d_h [B, H]
                                  .Arg<recurrax::Floats>()  // d_c [B, H], or empty
                                  .Ret<recurrax::Floats>()  // d_xs, or empty if not wanted
                                  .Ret<recurrax::Floats>()  // d_kernel
                                  .Ret<recurrax::Floats>()  // d_recurrent_kernel
                                  .Ret<recurrax::Floats>()  // d_bias
                                  .Ret<recurrax::Floats>()  // d_h0
                                  .Ret<recurrax::Floats>()  // d_c0
                                  .Ret<recurrax::Floats>()  // d_h_initial
                                  .Ret<recurrax::Floats>()  // d_c_initial
                                  .Attr<int64_t>("kind")
                                  .Attr<bool>("reverse")
                                  .Attr<bool>("batch_major"));
