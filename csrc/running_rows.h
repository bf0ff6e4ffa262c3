// The rows of a batch that still run at a step, where so many have ended that gathering the others is worth while.
//
// A row past its sequence's end is not multiplied then: neither with W_ih nor with W_hh, forward and backward.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "layer_inputs.h"
#include "primitives.h"

namespace rnndrop {

class RunningRows {
 public:
  // Of a call whose lengths the host may read; nothing where there are none, or skipping costs more than it saves.
  static std::optional<RunningRows> of(const CheckedInputs& in, const Primitives& backend);

  // How many they are in these steps, all together.
  int64_t count(const Steps& steps) const { return end_of_[steps.begin + steps.n] - end_of_[steps.begin]; }
  // Those of these steps' rows[...,n*B,K] that run.
  at::Tensor gather(const at::Tensor& rows, const Steps& steps) const;
  void gather(const at::Tensor& out, const at::Tensor& rows, const Steps& steps) const;
  // The inverse: to their places in out[...,n*B,K], of which the others are left as they are.
  void scatter(const at::Tensor& out, const at::Tensor& gathered, const Steps& steps) const;
  // Step t's part of what was gathered from `steps`.
  at::Tensor of_step(const at::Tensor& gathered, const Steps& steps, int64_t t) const;

 private:
  explicit RunningRows(const CheckedInputs& in);
  at::Tensor places(const Steps& steps) const;

  int64_t B_;
  std::vector<int64_t> end_of_;  // [T+1]: how many run in all steps before
  at::Tensor samples_, places_;  // int64, of each running row in the order of time: b, and t * B + b
};

}  // namespace rnndrop
