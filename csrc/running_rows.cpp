#include "running_rows.h"

#define AT_PER_OPERATOR_HEADERS
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>

#include <algorithm>

namespace rnndrop {

using at::Tensor;

namespace {

int64_t count_running(const CheckedInputs& in) {
  const int64_t* lengths = lengths_pointer(in);
  int64_t n = 0;
  for (int64_t b = 0; b < in.sizes.B; ++b) n += std::clamp<int64_t>(lengths[b], 0, in.sizes.T);
  return n;
}

bool worth_gathering(const CheckedInputs& in) {
  // What it costs to gather and scatter a row, in multiplications of each of its gates; and to call that, in
  // multiplications a step.
  constexpr int64_t kOfARow = 32, kOfAStep = 1 << 18;
  const auto [T, B, I, H, P] = in.sizes;
  const int64_t running = count_running(in), saved = (T * B - running) * (I + P);
  return saved > kOfARow * running && saved * kGates * H > kOfAStep * T;
}

}  // namespace

std::optional<RunningRows> RunningRows::of(const CheckedInputs& in, const Primitives& backend) {
  if (!in.lengths || !backend.host_reads() || !worth_gathering(in)) return std::nullopt;
  return RunningRows(in);
}

RunningRows::RunningRows(const CheckedInputs& in) : B_(in.sizes.B) {
  const auto [T, B, I, H, P] = in.sizes;
  const int64_t *lengths = lengths_pointer(in), rows = count_running(in);
  samples_ = at::empty({rows}, in.lengths->options());
  places_ = at::empty({rows}, in.lengths->options());
  auto *samples = samples_.mutable_data_ptr<int64_t>(), *places = places_.mutable_data_ptr<int64_t>();
  int64_t n = 0;
  end_of_.push_back(0);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t b = 0; b < B; ++b) {
      if (t >= lengths[b]) continue;
      samples[n] = b;
      places[n++] = t * B + b;
    }
    end_of_.push_back(n);
  }
}

Tensor RunningRows::gather(const Tensor& rows, const Steps& steps) const {
  return rows.index_select(-2, places(steps));
}

void RunningRows::gather(const Tensor& out, const Tensor& rows, const Steps& steps) const {
  Tensor result = out;
  at::index_select_out(result, rows, -2, places(steps));
}

void RunningRows::scatter(const Tensor& out, const Tensor& gathered, const Steps& steps) const {
  Tensor result = out;
  result.index_copy_(-2, places(steps), gathered);
}

Tensor RunningRows::of_step(const Tensor& gathered, const Steps& steps, int64_t t) const {
  return gathered.narrow(0, end_of_[t] - end_of_[steps.begin], count({t, 1}));
}

// Counted from the first of these steps' rows.
Tensor RunningRows::places(const Steps& steps) const {
  const auto part = [&](const Tensor& of_rows) { return of_rows.narrow(0, end_of_[steps.begin], count(steps)); };
  return steps.n == 1 ? part(samples_) : part(places_) - steps.begin * B_;
}

}  // namespace rnndrop
