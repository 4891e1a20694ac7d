// For every processor. On ARM its vectors are those of NEON.
#include "kernels.h"

namespace recurrax {
namespace {

struct Portable {
  static constexpr int lanes = 4;
#if defined(__aarch64__)
  static constexpr int vectors = 4;  // there are 32 registers
#else
  static constexpr int vectors = 2;
#endif
  static constexpr int rows = 6;
};

bool runs_here() { return true; }

}  // namespace

extern const Target portable = {"portable", runs_here, forward<Portable>, backward<Portable>};

}  // namespace recurrax
