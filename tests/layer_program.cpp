// The CPU's engine alone, without torch's libraries: a program for processors that this one is not
// (system/test_aarch64.py, system/test_avx512.py). It solves the layers that come on stdin, forward and backward, and
// writes what it finds to stdout; both in the byte order that is theirs.
//   in:  dtype, T, B, I, H, P, reverse; then each array of kArrays: its number of dimensions, or -1 where there is
//   none,
//        the dimensions, the elements
//   out: the elements of y, y_packed, h_n, c_n, dx, dh_tilde, dh_carry, dc_0, dW_ih, dW_hh, db, dW_hr, each behind
//   their number of bytes. y_packed is y with packed weights; none where no layer can have them
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "cpu/amx_gemm.h"
#include "cpu/buffer.h"
#include "cpu/from_torch.h"
#include "cpu/layer_engine.h"
#include "cpu/packed_weights.h"
#include "cpu/vector_isa.h"

extern "C" {
int omp_get_max_threads();
int omp_in_parallel();
}

namespace rnndrop::cpu {
#ifndef CAPABILITY
#define CAPABILITY "DEFAULT"
#endif
std::string cpu_capability() { return CAPABILITY; }
int64_t most_threads() { return omp_in_parallel() ? 1 : omp_get_max_threads(); }
void check_not_forked() {}
}  // namespace rnndrop::cpu

namespace {

using namespace rnndrop;

enum Array {
  x,
  h_0,
  c_0,
  W_ih,
  W_hh,
  b_ih,
  b_hh,
  W_hr,
  mask_x,
  mask_h,
  mask_g,
  mask_c,
  zone_c,
  zone_h,
  lengths,
  dy,
  dh_n,
  dc_n,
  kArrays
};

void read(void* to, size_t bytes) {
  if (std::fread(to, 1, bytes, stdin) != bytes) std::exit(2);
}
int64_t read_number() {
  int64_t number;
  read(&number, sizeof number);
  return number;
}
void write(const std::vector<char>& array) {
  const int64_t bytes = array.size();
  std::fwrite(&bytes, sizeof bytes, 1, stdout);
  std::fwrite(array.data(), 1, bytes, stdout);
}

struct Given {
  bool there = false;
  std::vector<int64_t> shape;
  std::vector<char> elements;
  const void* data() const { return there ? elements.data() : nullptr; }
};

Given read_array(size_t element_size) {
  Given array;
  const int64_t dimensions = read_number();
  if (dimensions < 0) return array;
  array.there = true;
  int64_t n = 1;
  for (int64_t d = 0; d < dimensions; ++d) n *= array.shape.emplace_back(read_number());
  array.elements.resize(n * element_size);
  read(array.elements.data(), array.elements.size());
  return array;
}

InputMask input_mask(const Given& mask) {
  const auto& shape = mask.shape;
  return {mask.data(), shape.size() == 2 || (shape.size() == 3 && shape[1] != 1), shape.size() == 3};
}

SequenceNoise sequence_noise(const Given& noise, size_t element_size) {
  const auto& shape = noise.shape;
  return {noise.data(), shape.size() == 3 ? int64_t(shape[1] * shape[2] * element_size) : 0,
          shape.size() > 1 ? shape.back() : 0};
}

// y of a layer that has nothing but its weights, with these packed.
std::vector<char> y_packed(LayerForward forward, size_t bytes_of_y, size_t bytes_of_c) {
  const auto pack = [&](const void* W, int64_t K) {
    const int64_t bytes = cpu::packed_bytes(forward.dtype, forward.H, K);
    cpu::Buffer<char> panels(bytes);
    cpu::pack_weight(panels.data(), forward.dtype, W, forward.H, K);
    return panels;
  };
  const auto W_ih = pack(forward.W_ih, forward.I), W_hh = pack(forward.W_hh, forward.P);
  std::vector<char> y(bytes_of_y), c(2 * bytes_of_c);
  const int64_t c_0 = forward.order.slot_before(forward.order.first());
  const char* saved = static_cast<const char*>(forward.c) + c_0 * bytes_of_c;
  std::copy_n(saved, bytes_of_c, c.begin() + c_0 % 2 * bytes_of_c);
  forward.gates = nullptr;
  forward.y = y.data();
  forward.c = c.data();
  cpu::layer_forward(forward, {W_ih.data(), W_hh.data()});
  return y;
}

// Reads and solves one; false where no more came.
bool solve_next() {
  int64_t dtype;
  if (std::fread(&dtype, sizeof dtype, 1, stdin) != 1) return false;
  LayerProblem problem;
  problem.dtype = static_cast<Dtype>(dtype);
  for (int64_t* size : {&problem.T, &problem.B, &problem.I, &problem.H, &problem.P}) *size = read_number();
  problem.order = {problem.T, read_number() != 0};
  const size_t acc = problem.dtype == Dtype::float64 ? 8 : 4, scalar = acc == 8                          ? 8
                                                                       : problem.dtype == Dtype::float32 ? 4
                                                                                                         : 2;
  Given given[kArrays];
  for (int k = 0; k < kArrays; ++k) {
    given[k] = read_array(k == lengths ? sizeof(int64_t) : k == c_0 || k == dh_n || k == dc_n ? acc : scalar);
  }
  problem.x = given[x].data();
  problem.h_0 = given[h_0].data();
  problem.W_ih = given[W_ih].data();
  problem.W_hh = given[W_hh].data();
  problem.W_hr = given[W_hr].data();
  problem.mask_x = input_mask(given[mask_x]);
  problem.mask_h = input_mask(given[mask_h]);
  problem.noise = {sequence_noise(given[mask_g], scalar), sequence_noise(given[mask_c], scalar),
                   sequence_noise(given[zone_c], scalar), sequence_noise(given[zone_h], scalar)};
  problem.lengths = static_cast<const int64_t*>(given[lengths].data());

  const size_t state = problem.B * problem.H, h_state = problem.B * problem.P, rows = 4 * problem.H;
  std::vector<char> y(problem.T * h_state * scalar), h_full(problem.T * state * scalar),
      gates(problem.T * state * 4 * scalar);
  std::vector<char> h_n = given[h_0].elements, c((problem.T + 1) * state * acc);
  const TimeOrder& order = problem.order;
  const auto c_at = [&](int64_t slot) { return c.begin() + slot * state * acc; };
  std::copy(given[c_0].elements.begin(), given[c_0].elements.end(), c_at(order.slot_before(order.first())));
  const bool carries_h = given[lengths].there || given[zone_h].there;

  LayerForward forward;
  static_cast<LayerProblem&>(forward) = problem;
  forward.b_ih = given[b_ih].data();
  forward.b_hh = given[b_hh].data();
  forward.y = y.data();
  forward.h_full = h_full.data();
  forward.h_n = carries_h ? h_n.data() : nullptr;
  forward.gates = gates.data();
  forward.c = c.data();
  cpu::layer_forward(forward);
  if (!carries_h)
    h_n.assign(y.begin() + order.last() * h_state * scalar, y.begin() + (order.last() + 1) * h_state * scalar);
  write(y);
  const bool has_noise = given[mask_x].there || given[mask_h].there || given[mask_g].there || given[mask_c].there ||
                         given[zone_c].there || given[zone_h].there;
  const bool can_be_packed = !has_noise && !given[lengths].there && !given[W_hr].there;
  write(can_be_packed ? y_packed(forward, y.size(), state * acc) : std::vector<char>());
  write(h_n);
  write({c_at(order.slot(order.last())), c_at(order.slot(order.last()) + 1)});

  std::vector<char> dx(problem.T * problem.B * problem.I * scalar), dW_ih(rows * problem.I * scalar);
  std::vector<char> dW_hh(rows * problem.P * scalar), db(rows * acc);
  std::vector<char> dW_hr(problem.W_hr ? problem.P * problem.H * scalar : 0);
  std::vector<char> dh_tilde(problem.mask_h.inputs_of_sample() * h_state * scalar);
  LayerBackward backward;
  static_cast<LayerProblem&>(backward) = problem;
  backward.y = y.data();
  backward.h_full = h_full.data();
  backward.gates = gates.data();
  backward.c = c.data();
  backward.dy = given[dy].data();
  backward.dh_carry = given[dh_n].elements.data();
  backward.dc = given[dc_n].elements.data();
  backward.dh_tilde = dh_tilde.data();
  backward.need_dx = backward.need_dW = true;
  backward.dx = dx.data();
  backward.dW_ih = dW_ih.data();
  backward.dW_hh = dW_hh.data();
  backward.dW_hr = dW_hr.data();
  backward.db = db.data();
  cpu::layer_backward(backward);
  for (const auto* result :
       {&dx, &dh_tilde, &given[dh_n].elements, &given[dc_n].elements, &dW_ih, &dW_hh, &db, &dW_hr}) {
    write(*result);
  }
  return true;
}

}  // namespace

int main() {
  std::fprintf(stderr, "%s%s, baseline of %d bytes and %d registers, %d threads\n", cpu::vector_isa(),
               cpu::amx::is_there() ? " and AMX" : "", cpu::kVectorBytes_baseline, cpu::kBaselineRegisters,
               omp_get_max_threads());
  while (solve_next()) {
  }
}
