#include "cuda/two_streams.h"

#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <map>

namespace rnndrop::cuda {
namespace {

// One for each device and thread: every further stream would cost cuBLAS a workspace.
c10::cuda::CUDAStream side_stream(c10::DeviceIndex device) {
  thread_local std::map<c10::DeviceIndex, c10::cuda::CUDAStream> streams;
  const auto known = streams.find(device);
  if (known != streams.end()) return known->second;
  // Looked for first: torch has 32 streams to give, and then gives the same again.
  return streams.emplace(device, c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device)).first->second;
}

// Whatever `stream` gets from here on is behind all that `queued_on` has by now.
void wait_for(const c10::cuda::CUDAStream& queued_on, const c10::cuda::CUDAStream& stream) {
  at::cuda::CUDAEvent queued;
  queued.record(queued_on);
  queued.block(stream);
}

}  // namespace

void on_two_streams(c10::Device device, const std::function<void()>& first,
                    const std::function<std::vector<at::Tensor>()>& second) {
  const c10::cuda::CUDAGuard guard(device);
  const c10::cuda::CUDAStream here = c10::cuda::getCurrentCUDAStream(), side = side_stream(here.device_index());
  wait_for(here, side);  // before the first is launched, or the second would wait for that as well
  try {
    first();
    const c10::cuda::CUDAStreamGuard on_side(side);
    for (const at::Tensor& made : second()) {
      if (made.defined()) c10::cuda::CUDACachingAllocator::recordStream(made.storage().data_ptr(), here);
    }
  } catch (...) {
    // What is queued there uses memory that may be given back to the caller's stream.
    wait_for(side, here);
    throw;
  }
  wait_for(side, here);
}

}  // namespace rnndrop::cuda
