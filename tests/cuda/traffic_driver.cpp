// What a step of the persistent kernels moves, counted by the emulation, beside what the plan's model reckons with.
//
// For plans that choose_plan makes for an H100: two launches, one of some steps more than the other, whose difference
// is that of these steps. A line for each: what, counted, reckoned; in bytes of all blocks together.
//   traffic_driver
#include <cstdio>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "cuda/recurrence.h"
#include "cuda_emulation.h"

namespace {

using namespace rnndrop;
using cuda::Engine;
using cuda::StepTraffic;

constexpr cuda::Gpu kH100{9, 132, 232448};
constexpr int64_t kSteps = 2, kMoreSteps = 3;

struct Case {
  Engine engine;
  Dtype dtype;
  int64_t B, H;
  bool registers = false;
  int64_t pieces = 1, share = 1;
};

// All of a launch so far.
StepTraffic counted() {
  constexpr int64_t kWavefront = 128;
  return {int64_t(emu::stats.ldmatrix_wavefronts) * kWavefront, int64_t(emu::stats.bytes_to_other_blocks),
          int64_t(emu::stats.bytes_copied_async)};
}

// A recurrence of T steps in memory of its own; all zeros will do.
void run(const Case& of, const cuda::Plan& plan, int64_t T, bool backward) {
  const int64_t cells = of.B * of.H, size = cuda::size_of(of.dtype);
  std::vector<char> W(4 * of.H * of.H * size), states(cells * size), more_states(states), wide(T * 4 * cells * size);
  std::vector<char> y(T * cells * size), c((T + 1) * cells * sizeof(float)), da(wide);
  std::vector<char> scratch(cuda::scratch_bytes(plan, of.dtype));
  const cuda::RecurrenceLaunch launch{plan, scratch.data(), nullptr};
  const auto fill = [&](Recurrence& r) {
    r.dtype = of.dtype;
    r.B = of.B;
    r.H = of.H;
    r.order = {T, false};
    r.W_hh = W.data();
  };
  const auto with_kernels = [&](const auto& call) {
    return of.dtype == Dtype::bfloat16 ? call(cuda::RecurrenceKernels<cuda::Bfloat16>{})
                                       : call(cuda::RecurrenceKernels<cuda::Tf32>{});
  };
  cudaError_t error = cudaSuccess;
  if (backward) {
    RecurrenceBackward r;
    fill(r);
    r.gates = wide.data();
    r.c = c.data();
    r.dh_0 = states.data();
    r.dc_0 = more_states.data();
    r.da = da.data();
    error = with_kernels([&](auto kernels) { return kernels.run(r, launch); });
  } else {
    RecurrenceForward r;
    fill(r);
    r.h_0 = states.data();
    r.c_0 = states.data();
    r.h_n = more_states.data();
    r.c_n = more_states.data();
    r.from_x = wide.data();
    r.c = c.data();
    r.y = y.data();
    error = with_kernels([&](auto kernels) { return kernels.run(r, launch); });
  }
  if (error != cudaSuccess) throw std::runtime_error("a launch failed");
}

cuda::Plan plan_of(const Case& of, const cuda::RecurrenceShape& shape) {
  const cuda::Trials trials{of.registers, /*prefetch=*/0, of.pieces};
  for (const cuda::Plan& plan : plans_that_fit(shape, kH100, of.engine, trials)) {
    const auto& [engine, tiling] = std::tie(plan.engine, plan.tiling);
    const bool is_it = engine == of.engine && tiling.in_registers == of.registers && tiling.pieces() == of.pieces;
    if (is_it && tiling.share == of.share) return plan;
  }
  throw std::runtime_error("no plan is what the case is for");
}

void count(const Case& of, bool backward) {
  const cuda::RecurrenceShape shape{of.dtype, /*tf32=*/true, kSteps, of.B, of.H, backward};
  const cuda::Plan plan = plan_of(of, shape);
  const StepTraffic begin = counted();
  run(of, plan, kSteps, backward);
  const StepTraffic middle = counted();
  run(of, plan, kSteps + kMoreSteps, backward);
  const StepTraffic end = counted(), reckoned = cuda::step_traffic(of.engine, shape, plan.tiling);
  const int64_t blocks = plan.tiling.groups * plan.tiling.blocks;
  const auto print = [&](const char* what, int64_t StepTraffic::* kind, int64_t times) {
    const int64_t of_steps = end.*kind - middle.*kind - (middle.*kind - begin.*kind);
    std::printf("%s,%s,%s,%ld,%ld,%d,%ld,%ld,%s,%.17g,%ld\n", name_of(of.engine),
                of.dtype == Dtype::bfloat16 ? "bfloat16" : "tf32", backward ? "backward" : "forward", of.B, of.H,
                of.registers, of.pieces, of.share, what, double(of_steps) / kMoreSteps, reckoned.*kind * times);
  };
  print("shared memory", &StepTraffic::shared, blocks);
  print("other blocks", &StepTraffic::to_other_blocks, blocks);
  print("second cache", &StepTraffic::second_cache, 1);
}

}  // namespace

int main() {
  const Case cases[] = {
      {Engine::block, Dtype::bfloat16, 8, 64},  // B, H; registers, pieces, share
      {Engine::block, Dtype::bfloat16, 8, 64, true},
      {Engine::cluster, Dtype::bfloat16, 16, 128},
      {Engine::cluster, Dtype::bfloat16, 16, 128, true},
      {Engine::cluster, Dtype::float32, 16, 64},
      {Engine::grid, Dtype::bfloat16, 16, 128},
      {Engine::grid, Dtype::bfloat16, 16, 128, true},
      {Engine::grid, Dtype::bfloat16, 16, 128, false, 2},
      {Engine::grid, Dtype::float32, 32, 64},
      {Engine::multicast, Dtype::bfloat16, 16, 128, true},
      {Engine::multicast, Dtype::bfloat16, 16, 128, true, 1, 2},
      {Engine::multicast, Dtype::float32, 16, 128, true, 1, 4},
  };
  std::printf("engine,dtype,way,B,H,registers,pieces,share,what,counted,reckoned\n");
  for (const Case& of : cases) {
    for (const bool backward : {false, true}) count(of, backward);
  }
  return 0;
}
