// The CUDA backend without a GPU, as ops on CPU tensors: the real backend and time loop, the kernels of
// csrc/cuda/*.cu run by the emulation, and fake_torch_cuda/ in place of torch's CUDA headers and of cuBLAS.
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/ops/ones.h>
#include <torch/library.h>

#include <functional>
#include <sstream>

#include "cuda/backend.h"
#include "cuda/gpu_plans.h"
#include "cuda/mask_ops.h"
#include "cuda/two_streams.h"
#include "cuda_emulation.h"
#include "dropout_mask.h"
#include "lstm_layer.h"

namespace rnndrop {
namespace {

const c10::Device kDevice(c10::kCUDA, 0);

cuda::CudaBackend make_backend(const at::Tensor& /*x*/) { return cuda::CudaBackend(kDevice); }

void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) {
  cuda::Primitives().gemm(out, a, b, accumulate);
}

// Matrix after matrix, in one launch.
void mask_rows(at::TensorList in, at::TensorList out, const c10::List<OptionalTensor>& masks,
               at::IntArrayRef rows_of_mask) {
  std::vector<cuda::MaskedRows> matrices;
  for (size_t k = 0; k < in.size(); ++k) {
    const OptionalTensor mask = masks.get(k);
    matrices.push_back({in[k].const_data_ptr(), out[k].data_ptr(), in[k].size(0), in[k].size(1), pointer(mask),
                        rows_of_mask[k], mask ? mask->size(0) : 1});
  }
  cuda::Primitives().mask_rows(matrices, dtype_of(in[0]));
}

std::string engine_of(const at::Tensor& x, const at::Tensor& state, const at::Tensor& W_ih, const at::Tensor& W_hh,
                      bool backward) {
  const OptionalTensor none;
  const CheckedInputs in({x, state, state, W_ih, W_hh, none, none, none, none, none, none, none, none, none, none},
                         /*reverse=*/false);
  return cuda::name_of(make_backend(x).plan_for(in, backward).engine);
}

at::Tensor expand_dropout_mask(const at::Tensor& seed, at::IntArrayRef shape, int64_t drop, double dropped, double kept,
                               at::ScalarType dtype) {
  return cuda::expand_dropout_mask(kDevice, seed, shape, drop, dropped, kept, dtype);
}

std::vector<at::Tensor> draw_dropout_masks(at::IntArrayRef dims, at::IntArrayRef sizes, at::IntArrayRef drop,
                                           at::ArrayRef<double> dropped, at::ArrayRef<double> kept,
                                           at::ScalarType dtype, std::optional<c10::Device> /*device*/,
                                           std::optional<at::Generator> /*generator*/) {
  // No generator of a test's is a CUDA generator: the default one is.
  return cuda::draw_dropout_masks(kDevice, at::TensorOptions(dtype), dims, sizes, drop, dropped, kept, std::nullopt);
}

// Of kernels whose names begin so.
int64_t launches_of(const std::string& name) {
  int64_t launches = 0;
  for (const auto& [kernel, n] : emu::stats.launches_by_name) launches += kernel.rfind(name, 0) == 0 ? n : 0;
  return launches;
}

// Launches of recurrences since times were asked for: "kernel configuration milliseconds".
std::vector<std::string> recurrences;

// From now on each launch of a recurrence takes between one and two milliseconds, always the same for the same
// configuration; which are fast depends on the seed. What is measured does nothing, since the emulation is slow. Not so
// below 0. `refused`: no launch of that cluster size is accepted.
void set_times(int64_t seed, int64_t refused) {
  recurrences.clear();
  emu::on_launch = nullptr;
  emu::later = nullptr;
  if (seed < 0) return;
  emu::later = [](cudaStream_t, const std::function<void()>& work) {
    if (!at::cuda::measuring) work();
  };
  emu::on_launch = [seed, refused](const emu::Launch& launch) {
    const std::string kernel(launch.name);
    if (kernel.rfind("recurrence_", 0) != 0) return cudaSuccess;
    if (launch.cluster == refused) return cudaErrorInvalidConfiguration;
    std::ostringstream configuration;
    configuration << launch.grid.x << 'x' << launch.block.x << ',' << launch.shared_bytes << ',' << launch.cluster
                  << ',' << launch.cooperative;
    const size_t dice = std::hash<std::string>()(configuration.str() + kernel + std::to_string(seed));
    constexpr size_t kPossible = 1000;
    const float milliseconds = 1 + static_cast<float>(dice % kPossible) / kPossible;
    at::cuda::milliseconds += milliseconds;
    recurrences.push_back(kernel + ' ' + configuration.str() + ' ' + std::to_string(milliseconds));
    return cudaSuccess;
  };
}

// The ops that `torch.ops.rnndrop` has, too.
void register_on_cpu(torch::Library& m) {
  m.impl("lstm_layer", OpKernel<lstm_layer_forward, make_backend>::call);
  m.impl("lstm_layer_backward", OpKernel<lstm_layer_backward, make_backend>::call);
  m.impl("expand_dropout_mask", expand_dropout_mask);
}
void register_everywhere(torch::Library& m) { m.impl("draw_dropout_masks", draw_dropout_masks); }

// As long as they are here, the ops of `torch.ops.rnndrop` on CPU tensors are these.
std::vector<torch::Library> in_place_of_cpu;

void take_over(bool now) {
  in_place_of_cpu.clear();
  if (!now) return;
  const auto library = [](c10::DispatchKey key) -> torch::Library& {
    return in_place_of_cpu.emplace_back(torch::Library::IMPL, "rnndrop", key, __FILE__, __LINE__);
  };
  register_on_cpu(library(c10::DispatchKey::CPU));
  register_everywhere(library(c10::DispatchKey::CompositeExplicitAutograd));
}

void launch_to_late_streams() {
  emu::later = [](cudaStream_t stream, std::function<void()> work) {
    late::enqueue(late::number_of(stream), std::move(work));
  };
}

void begin_late_streams(const std::string& order, bool capture, int64_t forget) {
  late::begin(order, capture, forget);
  launch_to_late_streams();
}

void drop_launches(bool now) {
  late::dropping = now;
  if (now) {
    launch_to_late_streams();
  } else {
    emu::later = nullptr;
  }
}

void end_late_streams() {
  emu::later = nullptr;
  late::end();
}

// (y, y of the second) of a layer in both directions, each on a stream.
std::tuple<at::Tensor, at::Tensor> both_ways(const at::Tensor& x, const at::Tensor& W_ih, const at::Tensor& W_hh) {
  const OptionalTensor none;
  const auto y = [&](bool reverse) {
    const LayerInputs in{x, none, none, W_ih, W_hh, none, none, none, none, none, none, none, none, none, none};
    return std::get<0>(lstm_layer_forward(make_backend(x), in, reverse, /*save=*/false));
  };
  at::Tensor forwards, backwards;
  cuda::on_two_streams(
      kDevice, [&] { forwards = y(false); },
      [&] {
        backwards = y(true);
        return std::vector<at::Tensor>{backwards, at::Tensor()};
      });
  return {forwards, backwards};
}

// Memory of the caller's stream that the side stream has yet to read when it is freed: what it reads there. 1 was
// written; it stays while the caller's stream waits for the side stream first.
double read_on_side_stream_after_free(bool waits) {
  const c10::cuda::CUDAStream caller = c10::cuda::getCurrentCUDAStream(), side{1};
  at::cuda::CUDAEvent here, there;
  float seen = 0;
  {
    const at::Tensor ones = at::ones({4});
    here.record(caller);
    here.block(side);
    late::enqueue(side.number, [memory = ones.const_data_ptr<float>(), &seen] { seen = memory[0]; });
    there.record(side);
    if (waits) there.block(caller);
  }
  late::run_all_of(caller.number);
  late::run_all_of(side.number);
  return seen;
}

}  // namespace

TORCH_LIBRARY(rnndrop_emulated, m) {
  m.def(kLayerSchema);
  m.def(kLayerBackwardSchema);
  m.def(kDropoutMaskSchema);
  m.def(kDrawDropoutMasksSchema);
  m.def("gemm(Tensor(a!) out, Tensor a, Tensor b, bool accumulate) -> ()");
  m.def("mask_rows(Tensor[] matrices, Tensor(a!)[] out, Tensor?[] masks, int[] rows_of_mask) -> ()");
  m.def("engine_of(Tensor x, Tensor state, Tensor W_ih, Tensor W_hh, bool backward) -> str");
  m.def("set_schedule(str name) -> ()", [](const std::string& name) { emu::config.set_schedule(name); });
  m.def("set_engine(str name) -> ()", [](const std::string& name) { cuda::wanted_engine = cuda::engine_named(name); });
  m.def("set_gpu(int major, int n_sm, int shared_memory) -> ()", [](int64_t major, int64_t n_sm, int64_t bytes) {
    cudaDeviceProp& gpu = at::cuda::device_properties();
    gpu.major = static_cast<int>(major);
    gpu.multiProcessorCount = static_cast<int>(n_sm);
    gpu.sharedMemPerBlockOptin = bytes;
    emu::device.major = static_cast<int>(major);
    emu::device.shared_bytes = static_cast<int>(bytes);
  });
  m.def("set_ptx_version(int version) -> ()",
        [](int64_t version) { emu::device.ptx_version = static_cast<int>(version); });
  m.def("set_driver_error(int error) -> ()",
        [](int64_t error) { emu::device.answer = static_cast<cudaError_t>(error); });
  m.def("set_cooperative(bool can) -> ()", [](bool can) { emu::device.cooperative = can; });
  m.def("set_multicast(int most) -> ()", [](int64_t most) {
    cuda::Trials trials;
    trials.multicast = most;
    cuda::wanted_trials = trials;
  });
  m.def("prefetches() -> int", [] { return static_cast<int64_t>(emu::stats.prefetches); });
  m.def("set_generator(int seed, int offset, bool captured) -> ()", [](int64_t seed, int64_t offset, bool captured) {
    at::default_generator().state = {static_cast<uint64_t>(seed), static_cast<uint64_t>(offset), captured};
  });
  m.def("generator_offset() -> int", [] { return static_cast<int64_t>(at::default_generator().state.offset); });
  m.def("streams_from_pool() -> int", [] { return c10::cuda::streams_from_pool; });
  m.def("begin_late_streams(str order, bool capture, int forget) -> ()", begin_late_streams);
  m.def("end_late_streams() -> ()", end_late_streams);
  m.def("drop_launches(bool now) -> ()", drop_launches);
  m.def("take_over(bool now) -> ()", take_over);
  m.def("both_ways(Tensor x, Tensor W_ih, Tensor W_hh) -> (Tensor, Tensor)", both_ways);
  m.def("host_waits() -> ()", late::host_waits);
  m.def("read_on_side_stream_after_free(bool waits) -> float", read_on_side_stream_after_free);
  m.def("fail_gemm(int from_now) -> ()",
        [](int64_t from_now) { fake_cublas::failing = fake_cublas::gemms + from_now; });
  m.def("gemms() -> int", [] { return fake_cublas::gemms; });
  m.def("driver_questions() -> int", [] { return int64_t{emu::stats.driver_questions}; });
  m.def("launches_of(str name) -> int", launches_of);
  m.def("set_times(int seed, int refused=0) -> ()", set_times);
  m.def("recurrences() -> str[]", [] { return std::exchange(recurrences, {}); });
  m.def("timed_plans() -> str[]", cuda::timed_plans);
  m.def("launches() -> int", [] { return int64_t{emu::stats.launches}; });
}

TORCH_LIBRARY_IMPL(rnndrop_emulated, CPU, m) {
  register_on_cpu(m);
  m.impl("gemm", gemm);
  m.impl("mask_rows", mask_rows);
  m.impl("engine_of", engine_of);
}

TORCH_LIBRARY_IMPL(rnndrop_emulated, CompositeExplicitAutograd, m) { register_everywhere(m); }

}  // namespace rnndrop
