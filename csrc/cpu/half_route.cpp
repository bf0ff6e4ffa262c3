// Model of either way's time: a sum of what is done, each at its measured cost.
//
// Fitted by least squares on relative errors to 110 shapes drawn at random, up to 4 GFLOP, on 1 and 2 threads of a Zen
// 5 (AVX512_BF16, no AMX), torch 2.13. The way chosen took 2 % longer than the better one in the mean, twice as long at
// worst (T=16 B=2 I=512 H=1024 on one thread). What it weighs: the library multiplies bfloat16 twice as fast, but is
// called anew for every step, and leaves no column out; the engine packs the weights first, which few rows do not pay
// for.
#include "cpu/half_route.h"

namespace rnndrop::cpu {
namespace {

// Microseconds.
struct Costs {
  double step;            // a step's calls, waking the threads among them
  double weight;          // of W_ih and W_hh, in a call: packing
  double recurrent;       // of W_hh, in a step: reading
  double multiplication;  // of a row with an entry of W_ih or W_hh
  double gate;            // an entry of gates [T,B,4H]
};

struct Entries {
  double T, x, h, rows, gates;  // x, h: entries of W_ih and W_hh that are multiplied
};

double time(const Costs& costs, const Entries& n) {
  return n.T * costs.step + (n.x + n.h) * costs.weight + n.T * n.h * costs.recurrent +
         n.rows * (n.x + n.h) * costs.multiplication + n.rows * n.gates * costs.gate;
}

bool widened_is_faster(const HalfLayer& layer, const Costs& widened, const Costs& stepwise) {
  const double T = layer.T, rows = T * layer.B, gates = kGates * layer.H, x = gates * layer.I, h = gates * layer.H;
  return time(widened, {T, x * layer.kept_of_x, h * layer.kept_of_h, rows, gates}) <=
         time(stepwise, {T, x, h, rows, gates});
}

}  // namespace

bool widened_forward_is_faster(const HalfLayer& layer) {
  constexpr Costs kWidened{0.52, 0.42e-3, 0.007e-3, 5.1e-6, 0.63e-3};
  constexpr Costs kStepwise{6.5, 0.14e-3, 0.040e-3, 2.2e-6, 1.23e-3};
  return widened_is_faster(layer, kWidened, kStepwise);
}

bool widened_backward_is_faster(const HalfLayer& layer) {
  constexpr Costs kWidened{0.17, 0.62e-3, 0.009e-3, 10.2e-6, 0.91e-3};
  constexpr Costs kStepwise{4.1, 0.17e-3, 0.041e-3, 4.2e-6, 1.45e-3};
  return widened_is_faster(layer, kWidened, kStepwise);
}

}  // namespace rnndrop::cpu
