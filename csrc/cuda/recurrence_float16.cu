// The persistent kernels of recurrence_kernels.cuh in float16, on tensor cores.
#include "recurrence_kernels.cuh"

namespace rnndrop::cuda {

struct Float16 : HalfTile<__half> {};
template struct RecurrenceKernels<Float16>;

}  // namespace rnndrop::cuda
