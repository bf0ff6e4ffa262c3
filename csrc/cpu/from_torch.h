// What the engine asks of torch. The answers are compiled with the rest of what needs torch's headers, which take a
// compiler seconds for every file that includes them.
#pragma once

#include <cstdint>
#include <string>

namespace rnndrop::cpu {

// "AVX512", "AVX2" or "DEFAULT": the vectors that torch's own kernels run with, as ATEN_CPU_CAPABILITY governs.
std::string cpu_capability();

// torch.get_num_threads(), or 1 on one of several threads that are at work already.
int64_t most_threads();

// Before several threads are asked for. OpenMP's do not survive a fork: a child that inherits the pool would wait for
// them forever. So the child is told; one that asks for a single thread needs no pool.
void check_not_forked();

}  // namespace rnndrop::cpu
