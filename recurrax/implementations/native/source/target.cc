#include "target.h"

namespace recurrax {

extern const Target portable;

#if defined(__x86_64__)
extern const Target avx512, avx2;
const Target* const targets[] = {&avx512, &avx2, &portable};
#else
const Target* const targets[] = {&portable};
#endif

const int target_count = sizeof(targets) / sizeof(targets[0]);

}  // namespace recurrax
