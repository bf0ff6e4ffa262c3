// What every kernel that is spread over ATen's threads asks first.
#pragma once

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <unistd.h>

namespace rnndrop::cpu {

// OpenMP's threads do not survive a fork: a child that inherits the pool would wait for them forever. So the child is
// told; one that asks for a single thread needs no pool.
inline void check_not_forked() {
  if (at::get_num_threads() == 1) return;
  static const pid_t owner = getpid();
  TORCH_CHECK(getpid() == owner,
              "rnndrop_cuda has run on several threads before this process was forked, and threads do not survive a "
              "fork: call torch.set_num_threads(1) in the child, or start processes with the method 'spawn'");
}

}  // namespace rnndrop::cpu
