#include "cpu/widened_stepwise.h"

#define AT_PER_OPERATOR_HEADERS
#include <ATen/TensorOperators.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

#include "stepwise.h"

namespace rnndrop::cpu {
namespace {

using at::Tensor;

Tensor widen(const Tensor& tensor) { return tensor.defined() ? tensor.to(at::kFloat) : tensor; }
OptionalTensor widen(const OptionalTensor& tensor) { return tensor ? OptionalTensor(widen(*tensor)) : std::nullopt; }

// What an op is given, in float32.
class Inputs {
 public:
  Inputs(const CheckedInputs& in, Tensor c_0)
      : x_(widen(in.x)),
        h_0_(widen(in.h_0)),
        c_0_(std::move(c_0)),
        W_ih_(widen(in.W_ih)),
        W_hh_(widen(in.W_hh)),
        b_ih_(widen(in.b_ih)),
        b_hh_(widen(in.b_hh)),
        W_hr_(widen(in.W_hr)),
        mask_x_(widen(in.mask_x)),
        mask_h_(widen(in.mask_h)),
        mask_g_(widen(in.mask_g)),
        mask_c_(widen(in.mask_c)),
        zone_c_(widen(in.zone_c)),
        zone_h_(widen(in.zone_h)),
        lengths_(in.lengths) {}

  LayerInputs get() const {
    return {x_,      h_0_,    c_0_,    W_ih_,   W_hh_,   b_ih_,   b_hh_,   W_hr_,
            mask_x_, mask_h_, mask_g_, mask_c_, zone_c_, zone_h_, lengths_};
  }

 private:
  Tensor x_, h_0_, c_0_, W_ih_, W_hh_;
  OptionalTensor b_ih_, b_hh_, W_hr_, mask_x_, mask_h_, mask_g_, mask_c_, zone_c_, zone_h_, lengths_;
};

void narrow(const Tensor& out, const Tensor& wide) {
  if (out.defined()) out.copy_(wide);
}

#if defined(__x86_64__) && defined(__GNUC__)
// __builtin_cpu_supports of Clang 16 and GCC 11 knows no such word.
bool has_avx512_fp16() {
  constexpr unsigned kFp16 = 1u << 23;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __builtin_cpu_supports("avx512f") && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & kFp16);
}
#endif

}  // namespace

bool multiplies(at::ScalarType dtype) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (dtype == at::kHalf) return has_avx512_fp16();
  if (dtype == at::kBFloat16) return __builtin_cpu_supports("avx512bw");
#endif
  return true;
}

void widened_stepwise_forward(const ForwardCall& call, const Primitives& backend, int64_t steps_per_chunk) {
  const TimeOrder& order = call.in.order;
  const Inputs inputs(call.in, call.c_at(order.slot_before(order.first())));
  ForwardCall wide(inputs.get(), order.reverse, call.save);
  wide.host_copy = call.host_copy;
  wide.put_initial_state();
  stepwise_forward(wide, backend, steps_per_chunk);
  narrow(call.y, wide.y);
  narrow(call.h_full, wide.h_full);
  narrow(call.gates, wide.gates);
  narrow(call.c, wide.c);
  narrow(call.h_n, wide.h_n);
}

void widened_stepwise_backward(const BackwardCall& call, const Primitives& backend, int64_t steps_per_chunk) {
  const TimeOrder& order = call.in.order;
  const Inputs inputs(call.in, call.c.select(0, order.slot_before(order.first())));
  const Tensor y = widen(call.y), gates = widen(call.gates), h_full = widen(call.h_full);
  const OptionalTensor dy = widen(call.dy), dh_n = call.dh_carry, dc_n = call.dc;
  BackwardCall wide(inputs.get(), order.reverse,
                    {y, gates, call.c, h_full, dy, dh_n, dc_n, call.need_dx, call.need_dW});
  wide.host_copy = call.host_copy;
  wide.make_accumulators();
  stepwise_backward(wide, backend, steps_per_chunk);
  narrow(call.dh_carry, wide.dh_carry);
  narrow(call.dc, wide.dc);
  narrow(call.dh_tilde, wide.dh_tilde);
  narrow(call.dx, wide.dx);
  narrow(call.dW_ih, wide.dW_ih);
  narrow(call.dW_hh, wide.dW_hh);
  narrow(call.dW_hr, wide.dW_hr);
  narrow(call.db, wide.db);
}

}  // namespace rnndrop::cpu
