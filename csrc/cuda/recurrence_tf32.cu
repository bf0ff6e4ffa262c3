// The persistent kernels of recurrence_kernels.cuh in float32 with products rounded to tf32, on tensor cores.
#include "recurrence_kernels.cuh"

namespace rnndrop::cuda {

struct Tf32 : Tf32Tile {};
template struct RecurrenceKernels<Tf32>;

}  // namespace rnndrop::cuda
