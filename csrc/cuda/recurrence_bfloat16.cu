// The persistent kernels of recurrence_kernels.cuh in bfloat16, on tensor cores.
#include "recurrence_kernels.cuh"

namespace rnndrop::cuda {

struct Bfloat16 : HalfTile<__nv_bfloat16> {};
template struct RecurrenceKernels<Bfloat16>;

}  // namespace rnndrop::cuda
