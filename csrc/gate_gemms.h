// Products with the weights of all gates: the recurrent ones of a step, and those that need no recurrence, which are
// taken over many steps at once.
#pragma once

#include "layer_call.h"
#include "primitives.h"

namespace rnndrop {

// A mask that the batch shares (m_x[I], m_h[P]) multiplies the columns of the weight instead: the same product, and
// neither x nor h is touched; so does one for each gate (m_x[4,1,I]), on the rows of its gate. W [4H,K] so masked;
// without such a mask W itself. Dense.
at::Tensor masked_columns(const Primitives& backend, const at::Tensor& W, const OptionalTensor& mask, Dtype dtype);

// Rows [n*B,K] of these steps in a tensor [T,B,K], or [4,n*B,K] in one [4,T,B,K].
at::Tensor rows_of(const at::Tensor& sequence, const Steps& steps);

// "in" is x~ or h~: [M,K], or [4,M,K] where each gate has one of its own.
// a [M,4H] (+)= in W^T
void multiply_gates(const Primitives& backend, const at::Tensor& a, const at::Tensor& in, const at::Tensor& W,
                    bool accumulate);
// din = da W
void input_gradient(const Primitives& backend, const at::Tensor& din, const at::Tensor& da, const at::Tensor& W);

// from_x = W_ih x~, of any steps. What it multiplies is made when it is, on the current stream.
class InputProjection {
 public:
  InputProjection(const CheckedInputs& in, const Primitives& backend);
  // from_x [n,B,4H]
  void project(const Steps& steps, const at::Tensor& from_x) const;

 private:
  const Primitives& backend_;
  at::Tensor x_tilde_, W_ih_;
};

// dx, dW_ih, dW_hh and db of a call, from the gradients of its pre-activations.
class SequenceGradients {
 public:
  SequenceGradients(const BackwardCall& call, const Primitives& backend);
  // What da [n,B,4H] of these steps adds to them.
  void add(const Steps& steps, const at::Tensor& da);
  // When all steps are there: the masks that the products leave out, and the second bias' gradient.
  void finish() const;

 private:
  // Where in some steps, counted from their beginning, those are that follow on a y, and the one that follows on h_0.
  struct Places {
    bool has_first;
    int64_t first;
    Steps others;
  };
  Places places_of(const Steps& steps) const;
  void add_dx(const Steps& steps, const at::Tensor& da_rows) const;
  void add_dW_hh(const Steps& steps, const at::Tensor& da) const;
  void add_db(const at::Tensor& da_rows) const;
  at::Tensor h_tilde(const Steps& steps) const;

  const BackwardCall& call_;
  const Primitives& backend_;
  at::Tensor x_tilde_, W_ih_;
  bool masks_dx_ = false;  // behind its product, and not W_ih before it
  bool accumulate_ = false;
};

}  // namespace rnndrop
