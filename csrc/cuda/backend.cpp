#include "cuda/backend.h"

#include <ATen/cuda/Exceptions.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <limits>
#include <type_traits>

#include "cuda/gate_gemms.h"
#include "cuda/stepwise.h"

namespace rnndrop::cuda {
namespace {

using at::Tensor;

// Dense, and with the mask of a gate that the batch shares.
Tensor dense_W_hh(const CheckedInputs& in, const Primitives& gpu) {
  return masked_columns(gpu, in.W_hh, per_gate(in.mask_h) ? in.mask_h : std::nullopt, in.dtype);
}

// From row to row of a sequence [T,B,H], as is_matrix has it; the stride of one sample alone may be anything.
int64_t stride_of_rows(const Tensor& sequence) { return sequence.stride(sequence.size(1) == 1 ? 0 : 1); }

// Whether all rows of a sequence [T,B,H] are as far apart, such as those of one direction of two.
bool is_matrix(const Tensor& sequence) {
  const bool evenly = sequence.size(1) == 1 || sequence.stride(0) == sequence.size(1) * sequence.stride(1);
  return evenly && sequence.stride(2) == 1;
}

// Whether a kernel reaches every row of a tile from its first one: it counts these elements in 32 bits. Of a single
// sample it takes no step to the next.
bool is_within_32_bits(const Tensor& sequence) {
  const int64_t samples = std::min(kMostSamples, sequence.size(1));
  return samples <= 1 ||
         stride_of_rows(sequence) <= (std::numeric_limits<int>::max() - sequence.size(2)) / (samples - 1);
}

// All steps of a call, as the kernels of either way are told.
template <class R>
R recurrence_of(const CheckedInputs& in, const Tensor& W_hh) {
  R r;
  r.dtype = in.dtype;
  r.B = in.sizes.B;
  r.H = in.sizes.H;
  r.order = in.order;
  r.W_hh = W_hh.const_data_ptr();
  // One that the batch shares, too, costs nothing on h, which is multiplied anyway: W_hh would be one more launch.
  if (in.mask_h && !per_gate(in.mask_h)) {
    r.mask_h = {in.mask_h->const_data_ptr(), per_sample(in.mask_h) ? in.sizes.H : 0};
  }
  r.noise = in.noise();
  r.lengths = lengths_pointer(in);
  return r;
}

}  // namespace

CudaBackend::CudaBackend(c10::Device device) : guard_(device) {}

void CudaBackend::forward(ForwardCall& call) const {
  const Plan plan = plan_for(call.in, /*backward=*/false);
  if (plan.engine != Engine::stepwise) return run_recurrence(call, plan);
  call.put_initial_state();
  stepwise_forward(call, gpu_);
}

void CudaBackend::backward(BackwardCall& call) const {
  const Plan plan = plan_for(call.in, /*backward=*/true);
  if (plan.engine != Engine::stepwise) return run_recurrence(call, plan);
  call.make_accumulators();
  stepwise_backward(call, gpu_);
}

PlanRequest CudaBackend::plan_request(const CheckedInputs& in, bool backward) const {
  const auto [T, B, I, H, P] = in.sizes;
  return {gpu_.stream(), {in.dtype, gpu_.tf32(), T, B, H, backward}, is_general(in.noise(), lengths_pointer(in))};
}

Plan CudaBackend::plan_for(const CheckedInputs& in, bool backward) const {
  if (in.W_hr || in.h_tilde_per_gate()) return {};
  return remembered_plan(plan_request(in, backward));
}

void CudaBackend::run_recurrence(ForwardCall& call, const Plan& of_model) const {
  const CheckedInputs& in = call.in;
  const auto [T, B, I, H, P] = in.sizes;
  const Tensor W_hh = dense_W_hh(in, gpu_);
  const OptionalTensor c_0 = contiguous(in.c_0);
  const Tensor from_x = call.save ? call.gates : at::empty({T, B, 4 * H}, in.options());
  auto r = recurrence_of<RecurrenceForward>(in, W_hh);
  r.b_ih = pointer(in.b_ih);
  r.b_hh = pointer(in.b_hh);
  r.h_0 = pointer(in.h_0);
  r.c_0 = pointer(c_0);
  r.from_x = from_x.const_data_ptr();
  if (call.save) r.gates = call.gates.data_ptr();
  r.c = call.c.data_ptr();
  r.y = call.y.data_ptr();
  // The kernel may as well write these, too: a copy is a launch.
  call.h_n = at::empty({B, H}, in.options());
  call.c_n = at::empty({B, H}, in.options());
  r.h_n = call.h_n.data_ptr();
  r.c_n = call.c_n.data_ptr();

  const Plan plan = fastest_plan_for(r, of_model, in);  // ahead of the product, which its runs may overwrite
  project_input(gpu_, in, from_x);
  launch(r, plan, in);
}

void CudaBackend::run_recurrence(BackwardCall& call, const Plan& of_model) const {
  const CheckedInputs& in = call.in;
  const auto [T, B, I, H, P] = in.sizes;
  const Tensor W_hh = dense_W_hh(in, gpu_);
  const Tensor da = at::empty({T, B, 4 * H}, in.options());
  auto r = recurrence_of<RecurrenceBackward>(in, W_hh);
  r.gates = call.gates.const_data_ptr();
  r.c = call.c.const_data_ptr();
  if (call.dy && !(is_matrix(*call.dy) && is_within_32_bits(*call.dy))) {
    call.dy = call.dy->contiguous();
  }
  r.dy = pointer(call.dy);
  if (call.dy) r.dy_stride = stride_of_rows(*call.dy);
  r.dh_n = pointer(call.dh_n);
  r.dc_n = pointer(call.dc_n);
  // [0] where there is no such input: nobody has use for its gradient.
  const auto gradient_of = [&](const OptionalTensor& input, void*& pointer) {
    const Tensor gradient = input ? at::empty({B, H}, in.options()) : at::empty({0}, in.options());
    if (input) pointer = gradient.data_ptr();
    return gradient;
  };
  call.dh_0 = gradient_of(in.h_0, r.dh_0);
  call.dc_0 = gradient_of(in.c_0, r.dc_0);
  r.da = da.data_ptr();
  launch(r, fastest_plan_for(r, of_model, in), in);

  // One sum over all steps, which is rounded only at its end.
  if (call.need_db()) call.db = at::empty({4 * H}, in.options());
  if (call.need_dW && in.b_ih && in.b_hh) call.db_hh = at::empty({4 * H}, in.options());

  sequence_gradients(gpu_, call, da);
}

template <class R>
Plan CudaBackend::fastest_plan_for(R r, const Plan& of_model, const CheckedInputs& in) const {
  constexpr bool kBackward = std::is_same_v<R, RecurrenceBackward>;
  return fastest_plan(of_model, plan_request(in, kBackward), [&](const Plan& plan, int64_t steps) {
    r.order.T = steps;
    launch(r, plan, in);
  });
}

template <class R>
void CudaBackend::launch(const R& r, const Plan& plan, const CheckedInputs& in) const {
  const int64_t bytes = scratch_bytes(plan, in.dtype);
  Tensor scratch;  // given back with the launch on its way: whoever gets it next on this stream comes behind
  if (bytes > 0) scratch = at::empty({bytes}, in.options().dtype(at::kByte));
  const RecurrenceLaunch launch{plan, bytes > 0 ? scratch.data_ptr() : nullptr, gpu_.stream()};
  C10_CUDA_CHECK(with_recurrence_kernels(r.dtype, gpu_.tf32(), [&](auto kernels) { return kernels.run(r, launch); }));
}

}  // namespace rnndrop::cuda
