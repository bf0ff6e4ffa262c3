// The persistent kernels of recurrence_kernels.cuh in float64, on the plain units.
#include "recurrence_kernels.cuh"

namespace rnndrop::cuda {

struct Float64 : PlainTile<double> {};
template struct RecurrenceKernels<Float64>;

}  // namespace rnndrop::cuda
