#include "cpu/from_torch.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/util/Exception.h>
#include <unistd.h>

namespace rnndrop::cpu {

std::string cpu_capability() { return at::get_cpu_capability(); }

int64_t most_threads() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

void check_not_forked() {
  static const pid_t owner = getpid();
  TORCH_CHECK(getpid() == owner,
              "rnndrop_cuda has run on several threads before this process was forked, and threads do not survive a "
              "fork: call torch.set_num_threads(1) in the child, or start processes with the method 'spawn'");
}

}  // namespace rnndrop::cpu
