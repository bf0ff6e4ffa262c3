// Products with the weights of all gates: the recurrent ones of a step, and those that need no recurrence, which are
// taken over all steps at once.
#pragma once

#include "cuda/primitives.h"
#include "layer_call.h"

namespace rnndrop::cuda {

// A mask that the batch shares (m_x[I], m_h[P]) multiplies the columns of the weight instead: the same product, and
// neither x nor h is touched; so does one for each gate (m_x[4,1,I]), on the rows of its gate. W [4H,K] so masked;
// without such a mask W itself. Dense.
at::Tensor masked_columns(const Primitives& gpu, const at::Tensor& W, const OptionalTensor& mask, Dtype dtype);

// [T,B,K] as [T*B,K], and [4,T,B,K] as [4,T*B,K]. Dense.
at::Tensor as_rows(const at::Tensor& sequence);

// "in" is x~ or h~: [M,K], or [4,M,K] where each gate has one of its own.
// a [M,4H] (+)= in W^T
void multiply_gates(const Primitives& gpu, const at::Tensor& a, const at::Tensor& in, const at::Tensor& W,
                    bool accumulate);
// din = da W
void input_gradient(const Primitives& gpu, const at::Tensor& din, const at::Tensor& da, const at::Tensor& W);

// from_x [T,B,4H] = W_ih x~
void project_input(const Primitives& gpu, const CheckedInputs& in, const at::Tensor& from_x);

// dx, dW_ih, dW_hh and db of a call, from the gradients of its pre-activations, da [T,B,4H].
void sequence_gradients(const Primitives& gpu, const BackwardCall& call, const at::Tensor& da);

}  // namespace rnndrop::cuda
