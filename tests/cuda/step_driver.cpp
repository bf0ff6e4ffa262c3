// The step kernels alone, without torch: a program for the sanitizers and for line coverage.
//
// Random steps with any arguments absent, in buffers of exactly the contract's sizes, so that AddressSanitizer sees an
// access one element too far. What is expected is computed in double from the definition; the gradients are finite
// differences of it, so that no derivative is written down twice.
//   step_driver <steps of each dtype>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/step_kernels.h"
#include "dice.h"

namespace {

using rnndrop::Dtype;
using rnndrop::StepBackward;
using rnndrop::StepForward;

// n random elements at an address that is a multiple of 16 bytes, or of one element only.
template <class T>
class Array {
 public:
  Array(int64_t n, bool aligned, double low, double high) : first_(aligned ? 0 : 1), elements_(first_ + n) {
    for (T& element : elements_) element = T(static_cast<float>(uniform(low, high)));
  }
  T* data() { return elements_.data() + first_; }
  T* data_or_null(bool present) { return present ? data() : nullptr; }
  double operator[](int64_t k) const { return to_double(elements_[first_ + k]); }

 private:
  size_t first_;
  std::vector<T> elements_;
};

// What the forward and the backward step are given alike.
struct Shape {
  int64_t B = one_of({1, 2, 5}), H = one_of({1, 3, 8, 16, 31, 64, 129, 528});
  int64_t t = 3;
  bool aligned = dice() % 4 != 0, has_mask_h = coin(), has_lengths = coin();
  int64_t n_h_tilde = coin() ? 1 : 4;
  std::vector<int64_t> lengths = random_lengths();

  bool past_end(int64_t b) const { return has_lengths && t >= lengths[b]; }

 private:
  std::vector<int64_t> random_lengths() const {
    std::vector<int64_t> drawn(B);
    for (int64_t& length : drawn) length = one_of({-1, 0, 3, 4, 9});
    return drawn;
  }
};

// Noise on [B,H] that may be absent, and may be shared by the batch. Half of the steps have none on the state.
template <class scalar_t>
struct Noise {
  Noise(const Shape& shape, bool may_be_there, double low, double high, double absent)
      : stride(coin() ? shape.H : 0),
        present(may_be_there && coin()),
        values((stride ? shape.B : 1) * shape.H, shape.aligned, low, high),
        absent(absent) {}
  rnndrop::RowNoise rows() { return {values.data_or_null(present), stride}; }
  double at(int64_t b, int64_t j) const { return present ? values[b * stride + j] : absent; }

  int64_t stride;
  bool present;
  Array<scalar_t> values;
  double absent;
};

template <class scalar_t>
struct AllNoise {
  explicit AllNoise(const Shape& shape) : shape(shape) {}
  rnndrop::StepNoise step() { return {mask_g.rows(), mask_c.rows(), zone_c.rows(), zone_h.rows()}; }

  const Shape& shape;
  bool on_state = coin();
  Noise<scalar_t> mask_g{shape, true, -2, 2, 1}, mask_c{shape, on_state, -2, 2, 1};
  Noise<scalar_t> zone_c{shape, on_state, 0, 1, 0}, zone_h{shape, on_state, 0, 1, 0};
};

void expect(const char* what, const Shape& shape, int64_t at, double actual, double expected, double tolerance) {
  if (std::fabs(actual - expected) <= tolerance * std::fmax(1, std::fabs(expected))) return;
  if (++failures > 20) return;
  std::printf("FAIL %s[%ld]: %.9g, expected %.9g (B %ld, H %ld, aligned %d, mask_h %d, lengths %d)\n", what, at, actual,
              expected, shape.B, shape.H, shape.aligned, shape.has_mask_h, shape.has_lengths);
}

struct Cell {
  double i, f, g, o, c, h;
};

template <class scalar_t>
Cell cell(const std::array<double, 4>& pre, const AllNoise<scalar_t>& noise, int64_t b, int64_t j, double c_prev,
          double h_prev) {
  const auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
  const double i = sigmoid(pre[0]), f = sigmoid(pre[1]), g = std::tanh(pre[2]), o = sigmoid(pre[3]);
  const double c_new = noise.mask_c.at(b, j) * (f * c_prev + i * noise.mask_g.at(b, j) * g);
  const double z_c = noise.zone_c.at(b, j), z_h = noise.zone_h.at(b, j);
  return {i, f, g, o, z_c * c_prev + (1 - z_c) * c_new, z_h * h_prev + (1 - z_h) * o * std::tanh(c_new)};
}

template <class scalar_t, class acc_t>
void check_forward(Dtype dtype, double tolerance) {
  const Shape shape;
  const auto [B, H] = std::pair(shape.B, shape.H);
  AllNoise<scalar_t> noise(shape);
  const bool has_b_ih = coin(), has_b_hh = coin(), has_h_tilde = coin();
  const bool has_h_state = shape.has_lengths || noise.zone_h.present || coin();
  Array<scalar_t> b_ih(4 * H, shape.aligned, -1, 1), b_hh(4 * H, shape.aligned, -1, 1);
  Array<scalar_t> mask_h(shape.n_h_tilde * B * H, shape.aligned, -2, 2);
  Array<scalar_t> gates(B * 4 * H, shape.aligned, -3, 3), y(B * H, shape.aligned, 5, 6);
  Array<scalar_t> h_state(B * H, shape.aligned, -1, 1), h_tilde(shape.n_h_tilde * B * H, shape.aligned, 5, 6);
  Array<acc_t> c_prev(B * H, shape.aligned, -2, 2), c(B * H, shape.aligned, 5, 6);
  const Array<scalar_t> pre = gates, h_before = h_state;

  StepForward step;
  step.dtype = dtype;
  step.B = B;
  step.H = H;
  step.t = shape.t;
  step.b_ih = b_ih.data_or_null(has_b_ih);
  step.b_hh = b_hh.data_or_null(has_b_hh);
  step.noise = noise.step();
  step.n_h_tilde = shape.n_h_tilde;
  step.mask_h = mask_h.data_or_null(shape.has_mask_h);
  step.lengths = shape.has_lengths ? shape.lengths.data() : nullptr;
  step.gates = gates.data();
  step.c_prev = c_prev.data();
  step.c = c.data();
  step.y = y.data();
  step.h_state = h_state.data_or_null(has_h_state);
  step.h_tilde_next = h_tilde.data_or_null(has_h_tilde);
  expect_launched(rnndrop::cuda::step_forward(step, nullptr));

  for (int64_t at = 0; at < B * H; ++at) {
    const int64_t b = at / H, j = at % H;
    std::array<double, 4> pre_activation;
    for (int gate = 0; gate < 4; ++gate) {
      const int64_t column = gate * H + j;
      pre_activation[gate] = pre[b * 4 * H + column] + (has_b_ih ? b_ih[column] : 0) + (has_b_hh ? b_hh[column] : 0);
    }
    const bool past_end = shape.past_end(b);
    const Cell running = cell(pre_activation, noise, b, j, c_prev[at], h_before[at]);
    const Cell expected = past_end ? Cell{0, 0, 0, 0, c_prev[at], h_before[at]} : running;
    const std::array<double, 4> expected_gates = {expected.i, expected.f, expected.g, expected.o};
    for (int gate = 0; gate < 4; ++gate) {
      const int64_t in_gates = b * 4 * H + gate * H + j;
      expect("gates", shape, in_gates, gates[in_gates], expected_gates[gate], tolerance);
    }
    expect("c", shape, at, c[at], expected.c, tolerance);
    expect("y", shape, at, y[at], past_end ? 0 : expected.h, tolerance);
    if (has_h_state) expect("h_state", shape, at, h_state[at], expected.h, tolerance);
    for (int64_t gate = 0; has_h_tilde && gate < shape.n_h_tilde; ++gate) {
      const double m_h = shape.has_mask_h ? mask_h[gate * B * H + at] : 1;
      expect("h_tilde_next", shape, at, h_tilde[gate * B * H + at], m_h * expected.h, tolerance);
    }
  }
}

// d(dh * h + dc * c) of each pre-activation, and of c_prev and h_prev behind them
template <class scalar_t>
std::array<double, 6> gradients(const std::array<double, 4>& pre, const AllNoise<scalar_t>& noise, int64_t b, int64_t j,
                                double c_prev, double dh, double dc) {
  constexpr double kStep = 1e-5;
  const auto loss = [&](int moved, double by) {
    std::array<double, 4> moved_pre = pre;
    if (moved < 4) moved_pre[moved] += by;
    const Cell result = cell(moved_pre, noise, b, j, moved == 4 ? c_prev + by : c_prev, moved == 5 ? by : 0);
    return dh * result.h + dc * result.c;
  };
  std::array<double, 6> slopes;
  for (int moved = 0; moved < 6; ++moved) slopes[moved] = (loss(moved, kStep) - loss(moved, -kStep)) / (2 * kStep);
  return slopes;
}

template <class scalar_t, class acc_t>
void check_backward(Dtype dtype, double tolerance) {
  const Shape shape;
  const auto [B, H] = std::pair(shape.B, shape.H);
  AllNoise<scalar_t> noise(shape);
  const bool has_dy = coin(), has_dh_tilde = coin();
  const bool has_dh_carry = shape.has_lengths || noise.zone_h.present || coin();
  Array<scalar_t> mask_h(shape.n_h_tilde * B * H, shape.aligned, -2, 2);
  Array<scalar_t> gates(B * 4 * H, shape.aligned, 0.1, 0.9), da(B * 4 * H, shape.aligned, 5, 6);
  Array<scalar_t> dy(B * H, shape.aligned, -1, 1), dh_tilde(shape.n_h_tilde * B * H, shape.aligned, -1, 1);
  Array<acc_t> c_prev(B * H, shape.aligned, -2, 2), c(B * H, shape.aligned, 0, 0);
  Array<acc_t> dh_carry(B * H, shape.aligned, -1, 1), dc(B * H, shape.aligned, -1, 1);
  const Array<acc_t> dh_carry_in = dh_carry, dc_in = dc;
  for (int64_t at = 0; at < B * H; ++at) {  // read only where no noise is on the state: what the forward leaves then
    const int64_t b = at / H, j = at % H, row = b * 4 * H + j;
    const double from_input = gates[row] * noise.mask_g.at(b, j) * gates[row + 2 * H];
    c.data()[at] = acc_t(gates[row + H] * c_prev[at] + from_input);
  }

  StepBackward step;
  step.dtype = dtype;
  step.B = B;
  step.H = H;
  step.t = shape.t;
  step.noise = noise.step();
  step.n_h_tilde = shape.n_h_tilde;
  step.mask_h = mask_h.data_or_null(shape.has_mask_h);
  step.lengths = shape.has_lengths ? shape.lengths.data() : nullptr;
  step.gates = gates.data();
  step.c_prev = c_prev.data();
  step.c = c.data();
  step.dy = dy.data_or_null(has_dy);
  step.dh_tilde_next = dh_tilde.data_or_null(has_dh_tilde);
  step.dh_carry = dh_carry.data_or_null(has_dh_carry);
  step.dc = dc.data();
  step.da = da.data();
  expect_launched(rnndrop::cuda::step_backward(step, nullptr));

  for (int64_t at = 0; at < B * H; ++at) {
    const int64_t b = at / H, j = at % H, row = b * 4 * H + j;
    double handed_on = has_dh_carry ? dh_carry_in[at] : 0;
    for (int64_t gate = 0; has_dh_tilde && gate < shape.n_h_tilde; ++gate) {
      handed_on += (shape.has_mask_h ? mask_h[gate * B * H + at] : 1) * dh_tilde[gate * B * H + at];
    }
    const bool past_end = shape.past_end(b);
    std::array<double, 6> expected = {0, 0, 0, 0, dc_in[at], handed_on};
    if (!past_end) {
      const auto logit = [](double p) { return std::log(p / (1 - p)); };
      const std::array<double, 4> pre = {logit(gates[row]), logit(gates[row + H]), std::atanh(gates[row + 2 * H]),
                                         logit(gates[row + 3 * H])};
      expected = gradients(pre, noise, b, j, c_prev[at], handed_on + (has_dy ? dy[at] : 0), dc_in[at]);
    }
    for (int gate = 0; gate < 4; ++gate) {
      expect("da", shape, row + gate * H, da[row + gate * H], expected[gate], tolerance);
    }
    expect("dc", shape, at, dc[at], expected[4], tolerance);
    if (has_dh_carry) expect("dh_carry", shape, at, dh_carry[at], expected[5], tolerance);
  }
}

// An empty step may come with null pointers and must not be launched: CUDA refuses a grid of 0 blocks.
void check_empty(Dtype dtype) {
  const unsigned launches = emu::stats.launches;
  StepForward forward;
  StepBackward backward;
  forward.dtype = backward.dtype = dtype;
  forward.H = backward.H = 8;
  expect_launched(rnndrop::cuda::step_forward(forward, nullptr));
  expect_launched(rnndrop::cuda::step_backward(backward, nullptr));
  if (emu::stats.launches != launches) {
    std::printf("FAIL an empty step was launched\n");
    ++failures;
  }
}

void check_unknown_dtype() {
  StepForward forward;
  StepBackward backward;
  forward.dtype = backward.dtype = Dtype(99);
  if (rnndrop::cuda::step_forward(forward, nullptr) == cudaSuccess ||
      rnndrop::cuda::step_backward(backward, nullptr) == cudaSuccess) {
    std::printf("FAIL an unknown dtype was taken for one of the others\n");
    ++failures;
  }
}

template <class scalar_t, class acc_t>
void check(Dtype dtype, int steps, double tolerance) {
  for (int k = 0; k < steps; ++k) {
    check_forward<scalar_t, acc_t>(dtype, tolerance);
    check_backward<scalar_t, acc_t>(dtype, tolerance);
  }
  check_empty(dtype);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: step_driver <steps of each dtype>\n");
    return 2;
  }
  const int steps = std::atoi(argv[1]);
  check<double, double>(Dtype::float64, steps, 1e-8);  // the finite differences' accuracy
  check<float, float>(Dtype::float32, steps, 2e-6);
  check<__nv_bfloat16, float>(Dtype::bfloat16, steps, 4e-3);  // one rounding, of the result
  check<__half, float>(Dtype::float16, steps, 5e-4);
  check_unknown_dtype();
  std::printf("%u launches, %ld failures\n", emu::stats.launches, failures);
  return failures != 0;
}
