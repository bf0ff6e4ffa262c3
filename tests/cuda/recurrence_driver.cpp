// The persistent kernels alone, without torch: a program for the sanitizers and for line coverage.
//
// Random recurrences on every engine, split over any number of blocks, with any arguments absent, in buffers of exactly
// the contract's sizes. What is expected is computed in double from the definition; gradients are finite differences of
// it, at places drawn at random. Where W_hh is in registers, the bits are those of the same tiling with it in shared
// memory.
//   recurrence_driver <recurrences of each dtype> [<samples at most> [<anything: stop at a failure>]]
//   recurrence_driver drawn <seed>
// The second is for one of each, of any sizes, and prints the bits of what comes out, which neither the order of the
// threads nor a weak memory may change. Of a build for an A100 (EMULATED_SM=80), on the engines that it has.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/recurrence.h"
#include "dice.h"

namespace {

using namespace rnndrop;
using cuda::Engine;

int64_t max_B = 11;
bool stops_at_first = false, is_drawn = false;
// With W_hh in registers, and of those the ones in which a warp has several tiles of rows, by engine.
long launches_in_registers = 0, with_more_tiles[6] = {}, multicasts = 0;

bool has_clusters() { return emu::device.major >= 9; }

// n random elements, or none at all.
template <class T>
struct Array {
  Array(int64_t n, double low, double high, bool present = true) {
    for (int64_t k = 0; present && k < n; ++k) elements.push_back(T(static_cast<float>(uniform(low, high))));
  }
  T* data() { return elements.empty() ? nullptr : elements.data(); }
  explicit operator bool() const { return !elements.empty(); }
  double operator[](int64_t k) const { return to_double(elements[k]); }
  std::vector<T> elements;
};

int64_t size_among(const std::vector<int64_t>& awkward, int64_t most) {
  return is_drawn ? 1 + dice() % most : one_of(awkward);
}

struct Shape {
  int64_t T = size_among({1, 2, 5}, 6), B = size_among({1, 3, max_B}, 5), H = size_among({1, 5, 8, 19, 40, 64}, 48);
  bool reverse = coin(), per_step = coin(), per_row = coin();
  TimeOrder order() const { return {T, reverse}; }
};

// Noise on [B,H], of its own at each step or not, a sample's own or not.
template <class scalar_t>
struct Noise {
  Noise(const Shape& shape, bool present, double low, double high, double absent)
      : B(shape.per_row ? shape.B : 1),
        H(shape.H),
        per_step(shape.per_step),
        values((per_step ? shape.T : 1) * B * H, low, high, present),
        absent(absent) {}
  SequenceNoise rows() { return {values.data(), per_step ? int64_t(B * H * sizeof(scalar_t)) : 0, B > 1 ? H : 0}; }
  double at(int64_t t, int64_t b, int64_t j) const {
    return values ? values[((per_step ? t : 0) * B + (B > 1 ? b : 0)) * H + j] : absent;
  }
  int64_t B, H;
  bool per_step;
  Array<scalar_t> values;
  double absent;
};

template <class scalar_t>
struct Problem {
  using acc_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
  Shape shape;
  int64_t T = shape.T, B = shape.B, H = shape.H;
  bool on_state = coin(), has_lengths = coin();
  Array<scalar_t> W_hh{4 * H * H, -0.5, 0.5}, b_ih{4 * H, -1, 1, coin()}, b_hh{4 * H, -1, 1, coin()};
  Array<scalar_t> from_x{T * B * 4 * H, -2, 2}, h_0{B * H, -1, 1, coin()}, c_0{B * H, -1, 1, coin()};
  bool mask_h_per_row = coin();
  Array<scalar_t> mask_h{(mask_h_per_row ? B : 1) * H, 0, 2, coin()};
  Noise<scalar_t> mask_g{shape, coin(), 0, 2, 1}, mask_c{shape, on_state && coin(), 0, 2, 1};
  Noise<scalar_t> zone_c{shape, on_state && coin(), 0, 1, 0}, zone_h{shape, on_state && coin(), 0, 1, 0};
  std::vector<int64_t> lengths;

  Problem() {
    for (int64_t b = 0; has_lengths && b < B; ++b) lengths.push_back(one_of({-1, 0, 1, T / 2, T, T + 3}));
  }
  bool is_general() const { return has_lengths || mask_c.values || zone_c.values || zone_h.values; }
  double m_h(int64_t b, int64_t j) const { return mask_h ? mask_h[(mask_h_per_row ? b * H : 0) + j] : 1; }
  bool running(int64_t t, int64_t b) const { return !has_lengths || t < lengths[b]; }

  void fill(Recurrence& r, Dtype dtype) {
    r.dtype = dtype;
    r.B = B;
    r.H = H;
    r.order = shape.order();
    r.W_hh = W_hh.data();
    r.mask_h = {mask_h.data(), mask_h_per_row ? H : 0};
    r.noise = {mask_g.rows(), mask_c.rows(), zone_c.rows(), zone_h.rows()};
    r.lengths = has_lengths ? lengths.data() : nullptr;
  }
};

struct Result {
  std::vector<double> gates, c, y, h_n, c_n;
};

// One thing moved by a little: element `at` of from_x (0), h_0 (1) or c_0 (2).
struct Nudge {
  int what = -1;
  int64_t at = 0;
  double by = 0;
};

template <class scalar_t>
Result definition(const Problem<scalar_t>& p, const Nudge& nudge = {}) {
  const auto [T, B, H] = std::tuple(p.T, p.B, p.H);
  const auto nudged = [&](int what, const auto& array, int64_t at) {
    return (array ? array[at] : 0) + (nudge.what == what && nudge.at == at ? nudge.by : 0);
  };
  Result result;
  result.gates.resize(T * B * 4 * H);
  result.y.resize(T * B * H);
  result.c.resize((T + 1) * B * H);
  std::vector<double> h(B * H), c(B * H);
  for (int64_t at = 0; at < B * H; ++at) h[at] = nudged(1, p.h_0, at), c[at] = nudged(2, p.c_0, at);
  const auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
  const TimeOrder order = p.shape.order();
  for (int64_t at = 0; at < B * H; ++at) result.c[order.slot_before(order.first()) * B * H + at] = c[at];
  for (int64_t done = 0, t = order.first(); done < T; ++done, t = order.next(t)) {
    std::vector<double> h_next = h;
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t j = 0; j < H; ++j) {
        const int64_t at = b * H + j;
        double gates[4] = {};
        if (p.running(t, b)) {
          for (int64_t gate = 0; gate < 4; ++gate) {
            const int64_t row = gate * H + j;
            gates[gate] = nudged(0, p.from_x, (t * B + b) * 4 * H + row) + (p.b_ih ? p.b_ih[row] : 0) +
                          (p.b_hh ? p.b_hh[row] : 0);
            for (int64_t k = 0; k < H; ++k) {
              gates[gate] += p.W_hh[row * H + k] * h[b * H + k] * p.m_h(b, k);
            }
            gates[gate] = gate == kCandidate ? std::tanh(gates[gate]) : sigmoid(gates[gate]);
          }
          const double c_new = p.mask_c.at(t, b, j) *
                               (gates[kForget] * c[at] + gates[kInput] * p.mask_g.at(t, b, j) * gates[kCandidate]);
          const double h_new = gates[kOutput] * std::tanh(c_new), z_c = p.zone_c.at(t, b, j),
                       z_h = p.zone_h.at(t, b, j);
          c[at] = z_c * c[at] + (1 - z_c) * c_new;
          h_next[at] = z_h * h[at] + (1 - z_h) * h_new;
          result.y[t * B * H + at] = h_next[at];
        }
        for (int64_t gate = 0; gate < 4; ++gate) result.gates[(t * B + b) * 4 * H + gate * H + j] = gates[gate];
        result.c[order.slot(t) * B * H + at] = c[at];
      }
    }
    h = h_next;
  }
  result.h_n = h;
  result.c_n = c;
  return result;
}

struct Context {
  Engine engine;
  cuda::Tiling tiling;
  const Shape& shape;
};

void print(const Context& in) {
  std::printf(
      " (%s, %ld blocks, share %ld, %ld samples each, %ld pieces, in registers %d; T %ld, B %ld, H %ld, reverse %d)\n",
      name_of(in.engine), in.tiling.blocks, in.tiling.share, in.tiling.batch, in.tiling.pieces(),
      in.tiling.in_registers, in.shape.T, in.shape.B, in.shape.H, in.shape.reverse);
}

void expect(const char* what, const Context& in, int64_t at, double actual, double expected, double tolerance) {
  if (std::fabs(actual - expected) <= tolerance * std::fmax(1, std::fabs(expected))) return;
  if (++failures > 20) return;
  std::printf("FAIL %s[%ld]: %.9g, expected %.9g", what, at, actual, expected);
  print(in);
}

template <class Values>
void expect_all(const char* what, const Context& in, const Values& actual, const std::vector<double>& expected,
                double tolerance) {
  for (int64_t at = 0; at < int64_t(expected.size()); ++at) expect(what, in, at, actual[at], expected[at], tolerance);
}

template <class T>
void expect_same_bits(const char* what, const Context& in, const Array<T>& in_registers, const Array<T>& in_shared) {
  const auto& [a, b] = std::tie(in_registers.elements, in_shared.elements);
  for (size_t at = 0; at < a.size(); ++at) {
    if (std::memcmp(&a[at], &b[at], sizeof(T)) == 0) continue;
    expect(what, in, at, in_registers[at], in_shared[at], -1);
  }
}

// Of a drawn recurrence: a hash of the arrays' bytes (FNV-1a).
template <class... T>
void print_bits(const char* what, const Context& in, const Array<T>&... arrays) {
  if (!is_drawn) return;
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&](const auto& elements) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(elements.data());
    for (size_t k = 0; k < elements.size() * sizeof elements[0]; ++k) hash = (hash ^ bytes[k]) * 0x100000001b3;
  };
  (add(arrays.elements), ...);
  std::printf("bits of the %s: %016lx", what, hash);
  print(in);
}

struct Kind {
  Dtype dtype;
  bool tf32;
  double tolerance;
};

template <class Call>
auto with_kernels(const Kind& kind, const Call& call) {
#ifdef ONE_DTYPE_A_TILE
  if (kind.dtype == Dtype::bfloat16) return call(cuda::RecurrenceKernels<cuda::Bfloat16>{});
  return kind.tf32 ? call(cuda::RecurrenceKernels<cuda::Tf32>{}) : call(cuda::RecurrenceKernels<cuda::Float32>{});
#else
  return cuda::with_recurrence_kernels(kind.dtype, kind.tf32, call);
#endif
}

// Any engine, any number of blocks, any tile of the batch, in scratch memory of just the size.
class Launch {
 public:
  Launch(const Kind& kind, const Shape& shape, bool backward, bool general) {
    const cuda::RecurrenceShape sizes{kind.dtype, kind.tf32, shape.T, shape.B, shape.H, backward};
    const int64_t tile = cuda::warp_tile(cuda::math_of(sizes), kind.dtype).batch;
    cuda::Plan& plan = launch_.plan;
    plan.engine = Engine(one_of({int64_t(Engine::block), int64_t(Engine::grid), int64_t(Engine::cluster)}));
    if (plan.engine == Engine::cluster && !has_clusters()) plan.engine = Engine::grid;
    // Not for all, and so the more often for these.
    const bool may_be_multicast = has_clusters() && !general && one_of({0, 1, 2}) > 0;
    const int64_t share = may_be_multicast ? one_of({1, 2, 4}) : 1;
    if (may_be_multicast && plan.engine == Engine::block) plan.engine = Engine::grid;
    const int64_t blocks = plan.engine == Engine::block ? 1 : cuda::round_up(one_of({2, 3, 5}), share);
    int64_t batch = tile * one_of({1, 2, 4});
    const int64_t cells = cuda::max_threads(cuda::size_of(kind.dtype), true) * cuda::kCellsOfThread;
    while (batch * cuda::make_tiling(sizes, blocks, batch).units > cells) batch /= 2;
    plan.tiling = cuda::make_tiling(sizes, blocks, batch, 1, /*in_registers=*/true);
    const bool fits = cuda::fits_in_registers(plan.tiling, sizes);
    if (may_be_multicast && fits) {
      plan.engine = Engine::multicast;
      plan.tiling.share = share;
      ++multicasts;
    } else if (!coin() || !fits) {
      plan.tiling = cuda::make_tiling(sizes, blocks, batch, plan.engine == Engine::grid ? one_of({1, 2, 3, 4, 20}) : 1);
    }
    plan.tiling.prefetch = one_of({0, 1, 2});
    plan.groups_at_once = one_of({0, 1, 2});
    plan.shared_memory = cuda::shared_memory_of(plan.engine, plan.tiling, kind.dtype);
    scratch_.resize(cuda::scratch_bytes(plan, kind.dtype));
    std::fill(scratch_.begin(), scratch_.end(), char(0xff));
    launch_.scratch = scratch_.data();
    if (plan.engine != Engine::block &&
        with_kernels(kind, [&](auto kernels) { return kernels.groups_at_once(plan, backward, false); }) == 0) {
      std::printf("FAIL the emulation has room for every launch\n");
      ++failures;
    }
  }
  const cuda::RecurrenceLaunch& get() const { return launch_; }
  void count_in_registers(const Kind& kind) const {
    const auto& [engine, tiling] = std::tie(launch_.plan.engine, launch_.plan.tiling);
    ++launches_in_registers;
    const int64_t tiles = cuda::ceil_div(tiling.rows, cuda::warp_tile(cuda::Math::half, kind.dtype).rows);
    if (tiles * tiling.splits > tiling.threads / 32) ++with_more_tiles[static_cast<int>(engine)];
  }
  // The same, W_hh in shared memory, which multicast does not have.
  cuda::RecurrenceLaunch in_shared_memory(const Kind& kind) const {
    cuda::RecurrenceLaunch other = launch_;
    if (other.plan.engine == Engine::multicast) other.plan.engine = Engine::grid;
    other.plan.tiling.share = 1;
    other.plan.tiling.in_registers = false;
    other.plan.shared_memory = cuda::shared_memory_of(other.plan.engine, other.plan.tiling, kind.dtype);
    return other;
  }

 private:
  cuda::RecurrenceLaunch launch_{};
  std::vector<char> scratch_;
};

template <class scalar_t>
struct ForwardOutputs {
  using acc_t = typename Problem<scalar_t>::acc_t;
  ForwardOutputs(int64_t T, int64_t cells, bool save)
      : gates(T * cells * 4, 5, 6),
        y(T * cells, 5, 6),
        h_n(cells, 5, 6),
        c_n(cells, 5, 6),
        c((save ? T + 1 : 2) * cells, 5, 6) {}
  Array<scalar_t> gates, y, h_n, c_n;
  Array<acc_t> c;
};

template <class scalar_t>
void run_forward(ForwardOutputs<scalar_t>& out, Problem<scalar_t>& p, const Kind& kind,
                 const cuda::RecurrenceLaunch& launch, bool save) {
  RecurrenceForward r;
  p.fill(r, kind.dtype);
  r.b_ih = p.b_ih.data();
  r.b_hh = p.b_hh.data();
  r.h_0 = p.h_0.data();
  if (save) out.gates.elements = p.from_x.elements;  // in place
  r.from_x = save ? out.gates.data() : p.from_x.data();
  r.gates = save ? out.gates.data() : nullptr;
  r.c = out.c.data();
  r.y = out.y.data();
  r.c_0 = p.c_0.data();
  r.h_n = out.h_n.data();
  r.c_n = out.c_n.data();
  expect_launched(with_kernels(kind, [&](auto kernels) { return kernels.run(r, launch); }));
}

template <class scalar_t>
void check_forward(Problem<scalar_t>& p, const Kind& kind, const Result& expected, bool save) {
  const auto [T, B, H] = std::tuple(p.T, p.B, p.H);
  const Launch launch(kind, p.shape, false, p.is_general());
  const Context in{launch.get().plan.engine, launch.get().plan.tiling, p.shape};
  ForwardOutputs<scalar_t> out(T, B * H, save);
  run_forward(out, p, kind, launch.get(), save);
  print_bits("forward", in, out.y, out.h_n, out.c_n, out.c, out.gates);

  expect_all("y", in, out.y, expected.y, kind.tolerance);
  expect_all("h_n", in, out.h_n, expected.h_n, kind.tolerance);
  expect_all("c_n", in, out.c_n, expected.c_n, kind.tolerance);
  if (save) {
    expect_all("gates", in, out.gates, expected.gates, kind.tolerance);
    expect_all("c", in, out.c, expected.c, kind.tolerance);
  }
  if (!in.tiling.in_registers) return;
  launch.count_in_registers(kind);
  ForwardOutputs<scalar_t> other(T, B * H, save);
  run_forward(other, p, kind, launch.in_shared_memory(kind), save);
  expect_same_bits("bits of y", in, out.y, other.y);
  expect_same_bits("bits of h_n", in, out.h_n, other.h_n);
  expect_same_bits("bits of c_n", in, out.c_n, other.c_n);
  if (!save) return;
  expect_same_bits("bits of gates", in, out.gates, other.gates);
  expect_same_bits("bits of c", in, out.c, other.c);
}

template <class scalar_t>
struct BackwardOutputs {
  explicit BackwardOutputs(const Problem<scalar_t>& p)
      : da(p.T * p.B * p.H * 4, 5, 6), dh_0(p.B * p.H, 5, 6, bool(p.h_0)), dc_0(p.B * p.H, 5, 6, bool(p.c_0)) {}
  Array<scalar_t> da, dh_0, dc_0;
};

template <class scalar_t>
void check_backward(Problem<scalar_t>& p, const Kind& kind, const Result& forward) {
  using acc_t = typename Problem<scalar_t>::acc_t;
  const auto [T, B, H] = std::tuple(p.T, p.B, p.H);
  const Launch launch(kind, p.shape, true, p.is_general());
  const Context in{launch.get().plan.engine, launch.get().plan.tiling, p.shape};
  const int64_t dy_stride = H + one_of({0, H, 3});
  Array<scalar_t> dy(T * B * dy_stride, -1, 1, coin());
  Array<scalar_t> gates(T * B * 4 * H, 0, 0);
  Array<acc_t> c((T + 1) * B * H, 0, 0);
  Array<scalar_t> dh_n(B * H, -1, 1, coin()), dc_n(B * H, -1, 1, coin());
  for (size_t at = 0; at < forward.gates.size(); ++at) gates.elements[at] = scalar_t(float(forward.gates[at]));
  for (size_t at = 0; at < forward.c.size(); ++at) c.elements[at] = acc_t(forward.c[at]);
  if constexpr (std::is_same_v<scalar_t, double>) gates.elements = forward.gates;

  const auto run = [&](const cuda::RecurrenceLaunch& with) {
    BackwardOutputs<scalar_t> out(p);
    RecurrenceBackward r;
    p.fill(r, kind.dtype);
    r.gates = gates.data();
    r.c = c.data();
    r.dy = dy.data();
    r.dy_stride = dy_stride;
    r.dh_n = dh_n.data();
    r.dc_n = dc_n.data();
    r.dh_0 = out.dh_0.data();
    r.dc_0 = out.dc_0.data();
    r.da = out.da.data();
    expect_launched(with_kernels(kind, [&](auto kernels) { return kernels.run(r, with); }));
    return out;
  };
  const BackwardOutputs<scalar_t> out = run(launch.get());
  print_bits("backward", in, out.da, out.dh_0, out.dc_0);
  if (in.tiling.in_registers) {
    launch.count_in_registers(kind);
    const BackwardOutputs<scalar_t> other = run(launch.in_shared_memory(kind));
    expect_same_bits("bits of da", in, out.da, other.da);
    expect_same_bits("bits of dh_0", in, out.dh_0, other.dh_0);
    expect_same_bits("bits of dc_0", in, out.dc_0, other.dc_0);
  }

  const auto slope = [&](int what, int64_t at) {
    constexpr double kStep = 1e-5;
    const auto loss = [&](double by) {
      const Result moved = definition(p, {what, at, by});
      double sum = 0;
      for (int64_t k = 0; dy && k < T * B * H; ++k) sum += dy[k / H * dy_stride + k % H] * moved.y[k];
      for (int64_t k = 0; dh_n && k < B * H; ++k) sum += dh_n[k] * moved.h_n[k];
      for (int64_t k = 0; dc_n && k < B * H; ++k) sum += dc_n[k] * moved.c_n[k];
      return sum;
    };
    return (loss(kStep) - loss(-kStep)) / (2 * kStep);
  };
  const double tolerance =
      std::fmax(kind.tolerance * 8, 1e-8);  // the finite differences' own, or what adds up over time
  for (int draw = 0; draw < 6; ++draw) {
    const int64_t in_x = dice() % (T * B * 4 * H), at = dice() % (B * H);
    const int64_t t = in_x / (B * 4 * H), b = in_x / (4 * H) % B;
    expect("da", in, in_x, out.da[in_x], p.running(t, b) ? slope(0, in_x) : 0, tolerance);
    if (p.h_0) expect("dh_0", in, at, out.dh_0[at], slope(1, at), tolerance);
    if (p.c_0) expect("dc_0", in, at, out.dc_0[at], slope(2, at), tolerance);
  }
}

template <class scalar_t>
void check(const Kind& kind, int count) {
  for (int k = 0; k < count && !(stops_at_first && failures); ++k) {
    Problem<scalar_t> p;
    const Result expected = definition(p);
    check_forward(p, kind, expected, coin());
    check_backward(p, kind, expected);
  }
}

// These are no engines of the recurrence, or plain units, which keep no W_hh in registers, and must not be taken for
// what does.
void check_what_has_no_kernel() {
  struct {
    Engine engine;
    bool in_registers;
  } const none[] = {{Engine::automatic, false}, {Engine::stepwise, false}, {Engine::block, true}, {Engine::grid, true}};
  for (const auto& [engine, in_registers] : none) {
    cuda::Plan plan;
    plan.engine = engine;
    plan.tiling.in_registers = in_registers;
    bool is_refused = cuda::RecurrenceKernels<cuda::Float32>::groups_at_once(plan, false, false) == 0;
    try {
      cuda::RecurrenceKernels<cuda::Float32>::run(RecurrenceForward(), {plan});
      is_refused = false;
    } catch (const std::logic_error&) {  // as it should
    }
    if (is_refused) continue;
    std::printf("FAIL there are kernels for the engine %s, in registers %d\n", name_of(engine), in_registers);
    ++failures;
  }
  cuda::Plan multicast;
  multicast.engine = Engine::multicast;
  multicast.tiling = cuda::make_tiling({Dtype::bfloat16, false, 1, 8, 64, false}, 2, 8, 1, /*in_registers=*/true);
  if (cuda::RecurrenceKernels<cuda::Float32>::groups_at_once(multicast, false, false) != 0 ||
      cuda::RecurrenceKernels<cuda::Bfloat16>::groups_at_once(multicast, false, true) != 0) {
    std::printf("FAIL there are kernels for multicasts on the plain units, or with lengths\n");
    ++failures;
  }
}

// On a GPU without clusters no plan has any, and a launch of one is refused before it is made.
void check_clusters_are_known() {
  cuda::Plan plan;
  plan.engine = Engine::cluster;
  plan.tiling = cuda::make_tiling({Dtype::float32, false, 1, 4, 64, false}, 2, 4);
  plan.shared_memory = cuda::shared_memory_of(plan.engine, plan.tiling, Dtype::float32);
  const int64_t at_once = cuda::RecurrenceKernels<cuda::Float32>::groups_at_once(plan, false, false);
  if ((at_once > 0) == has_clusters()) return;
  std::printf("FAIL %ld clusters run at once on a GPU of sm_%d0\n", at_once, emu::device.major);
  ++failures;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr,
                 "usage: recurrence_driver <recurrences of each dtype> [<samples at most> [<anything: stop at a "
                 "failure>]]\n       recurrence_driver drawn <seed>\n");
    return 2;
  }
  is_drawn = argc == 3 && std::strcmp(argv[1], "drawn") == 0;
  const int count = is_drawn ? 1 : std::atoi(argv[1]);
  if (is_drawn) {
    dice.seed(std::atoi(argv[2]));
  } else if (argc > 2) {
    max_B = std::atoi(argv[2]);
  }
  stops_at_first = argc > 3;
  check<float>({Dtype::float32, false, 1e-5}, count);
  check<float>({Dtype::float32, true, 8e-3}, count);
  check<__nv_bfloat16>({Dtype::bfloat16, false, 3e-2}, count);
#ifndef ONE_DTYPE_A_TILE  // what differs from the three above is a type
  check<double>({Dtype::float64, false, 1e-12}, count);
  check<__half>({Dtype::float16, false, 4e-3}, count);
#endif
  if (is_drawn) return failures != 0;
  check_what_has_no_kernel();
  check_clusters_are_known();
  constexpr int kEnough = 20;  // for chance to draw each way
  if (count >= kEnough && has_clusters() && multicasts == 0) {
    std::printf("FAIL no launch had multicasts\n");
    ++failures;
  }
  if (launches_in_registers == 0 || (count >= kEnough && with_more_tiles[static_cast<int>(Engine::block)] == 0)) {
    std::printf("FAIL no launch had W_hh in registers, or no block several tiles of it a warp\n");
    ++failures;
  }
  std::printf(
      "%u launches, %ld with W_hh in registers (several tiles a warp: block %ld, cluster %ld, grid %ld), %ld of "
      "multicast, %ld failures\n",
      emu::stats.launches, launches_in_registers, with_more_tiles[static_cast<int>(Engine::block)],
      with_more_tiles[static_cast<int>(Engine::cluster)], with_more_tiles[static_cast<int>(Engine::grid)], multicasts,
      failures);
  return failures != 0;
}
