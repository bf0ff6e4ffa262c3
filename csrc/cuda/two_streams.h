// Work beside what the caller's stream does: on one more stream, which is this thread's for each device.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace rnndrop::cuda {

// first() on the caller's stream, second() on the side stream, both behind all that the caller's has by now, and
// whatever it gets later behind both. Only events order the two, so that a CUDA graph can capture them, and two
// launches that want all multiprocessors run one after the other and cannot block each other half started: a
// cooperative launch begins when there is room for all of its blocks, a cluster for all of its.
//
// What second() reads has to stay until this returns. It gives the tensors that it makes, whose memory is the side
// stream's: the allocator learns that the caller's uses it.
void on_two_streams(c10::Device device, const std::function<void()>& first,
                    const std::function<std::vector<at::Tensor>()>& second);

}  // namespace rnndrop::cuda
