// The persistent kernels of recurrence_kernels.cuh in float32, on the plain units.
#include "recurrence_kernels.cuh"

namespace rnndrop::cuda {

struct Float32 : PlainTile<float> {};
template struct RecurrenceKernels<Float32>;

}  // namespace rnndrop::cuda
